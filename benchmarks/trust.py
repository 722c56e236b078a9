"""How far can a classifier's answers be trusted? Calibration, coverage and warnings, on PBC and on what is not PBC.

    python -m benchmarks.trust [--out DIR] [--sets DIR] [--steps N]

One training each at 64 px with balanced sampling, as `classifier train` ends it: the temperature, the conformal scores and the
limit of unlikeness from validation, all else from test. On whole PBC, and on PBC with 15 basophils and monocytes in
train and a validation split that is thinned with it, so that it is no sample of what test is.

- coverage: the share of test images whose set of classes holds the true one, for what is asked.
- flagged: the share of images called unlike training, of the test split, rendered cells, noise, images of one colour, test
  images with colours inverted or red and blue swapped, and real cells of other sets.

The table goes to stdout and to benchmarks/results/trust.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from balancer.data import PreparedDataset
from balancer.files import write_text
from balancer.smear import CLASSES, draw_cells, render
from benchmarks.classifiers.study import LIMITED, fitted, prepared
from benchmarks.parts import markdown_table, training_parser
from classifier import calibration, evaluation, reliability
from classifier.training import Fitted
from classifier.transforms import Images

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {  # column → data, settings
    "resnet18": ("pbc", {"arch": "resnet18"}),
    "hybrid": ("pbc", {"arch": "hybrid"}),
    "convnextv2, reinhard": ("pbc", {"arch": "convnextv2", "preprocessing": ("reinhard",)}),
    f"convnextv2, {' and '.join(f'{n} {label}s' for label, n in LIMITED.items())}": (
        "pbc-15",
        {"arch": "convnextv2"},
    ),
}
OTHERS = ("segwbc", "all_idb2", "all4")
COVERAGES = (0.8, 0.9, 0.95, 0.99)
MADE = 200  # images of each kind that is made
RESULTS = Path(__file__).parent / "results" / "trust.md"


def strange(data: PreparedDataset, others: Mapping[str, PreparedDataset]) -> dict[str, Images]:
    """Images that are not like those of `data`."""
    rng, side = np.random.default_rng(0), data.resolution
    cells = draw_cells(dict.fromkeys(CLASSES, MADE // len(CLASSES) + 1), seed=0)[:MADE]
    own = data.images("test")[:MADE]
    made = {
        "rendered cells": render(cells, side)[0],
        "noise": rng.integers(256, size=(MADE, side, side, 3), dtype=np.uint8),
        "one colour": np.tile(rng.integers(256, size=(MADE, 1, 1, 3), dtype=np.uint8), (1, side, side, 1)),
        "colours inverted": 255 - own,
        "red and blue swapped": own[..., ::-1].copy(),
    }
    return made | {name: other.images("train") for name, other in others.items()}


def figures(of: Fitted, data: PreparedDataset, unlike: Mapping[str, Images]) -> dict[str, str]:
    """What a training's answers are worth, by name."""
    model, labels = of.model, data.labels("test")
    found = reliability.calibrate(model, of.validation_probabilities, data)
    answers = reliability.answers(model, data.images("test"))
    p = answers.probabilities
    before = calibration.scaled(p, 1 / model.temperature)
    matrix = evaluation.confusion(labels, p.argmax(axis=1), len(data.classes))
    rows = {
        "macro-F1 on test": f"{evaluation.score(matrix, 'macro_f1'):.3f}",
        "temperature": f"{model.temperature:.2f}",
        "expected calibration error: before, after": ", ".join(
            f"{calibration.expected_calibration_error(q, labels):.3f}" for q in (before, p)
        ),
    }
    for coverage in COVERAGES:
        held = calibration.conformal_sets(p, calibration.conformal_limit(found.scores, coverage))
        covered = held[np.arange(len(labels)), labels]
        rows[f"coverage realised for {coverage:g}"] = f"{covered.mean():.3f}"
        if coverage == 0.9:
            rows["coverage of the class covered least at 0.9"] = (
                f"{min(covered[labels == k].mean() for k in np.unique(labels)):.3f}"
            )
        if coverage == 0.95:
            alone = held.sum(axis=1) == 1
            rows["one class alone at 0.95, and how often it is right"] = (
                f"{alone.mean():.3f}, {covered[alone].mean():.3f}"
            )
    rows["flagged of the test images"] = f"{found.unlike_training(answers).mean():.1%}"
    for name, images in unlike.items():
        flagged = found.unlike_training(reliability.answers(model, images))
        rows[f"flagged of {name}"] = f"{flagged.mean():.1%}"
    return rows


def table(sets: Path, out: Path, steps: int) -> str:
    """The table in Markdown."""
    others = {name: prepared(sets, out, name) for name in OTHERS}
    columns = {}
    for name, (folder, settings) in NETWORKS.items():
        data = prepared(sets, out, folder)
        columns[name] = figures(fitted(data, steps, **settings), data, strange(data, others))
    rows = [(what, *(column[what] for column in columns.values())) for what in next(iter(columns.values()))]
    return markdown_table(("", *columns), rows)


def main() -> None:
    options = training_parser("benchmarks.trust", __doc__, 400).parse_args()
    with tempfile.TemporaryDirectory() as aside:
        found = table(options.sets.resolve(), options.out or Path(aside), options.steps)
    text = (
        f"# How far a classifier's answers can be trusted\n\n{found}\n\n`python -m benchmarks.trust --steps {options.steps}`: PBC at 64 px, "
        f"one training of {options.steps} steps each, balanced sampling, seed 0.\n"
    )
    write_text(RESULTS, text)
    print(text)


if __name__ == "__main__":
    main()
