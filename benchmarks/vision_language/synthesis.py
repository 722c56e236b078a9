"""Do images show the attributes that were asked for? Read by a classifier that chose none of them, beside real images.

    python -m benchmarks.vision_language.synthesis --out DIR [--sets DIR] [--kimg K]

Two ways on PBC with WBCAtt's attributes at 64 px, both begun from the generator in the box: a generator that is told
attributes, asked for combinations of the train images and for some that no image has; and one that is told classes, of
whose images those are kept that fit a text (`balancer synth --text`). The reader is a network of another kind and seed than the
scorer. Runs that are there are not made again. Writes results/vision-language-synthesis.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from balancer.data import PreparedDataset
from balancer.data.attributes import ATTRIBUTES, attribute_indices
from balancer.files import write_text
from balancer.generators import GeneratorConfig, read_source
from balancer.generators import train as train_generator
from balancer.generators.checkpoints import load_generator
from benchmarks.parts import markdown_table, sets_option
from benchmarks.vision_language.study import CLASSES, prepared
from classifier.attributes import attribute_probabilities
from classifier.captions import describe
from classifier.checkpoints import ClassifierRun, load_run
from classifier.config import TrainingConfig
from classifier.runs import train_run
from classifier.vision_language import text_scorer

RESULTS = Path(__file__).parents[1] / "results/vision-language-synthesis.md"
RESOLUTION = 64
IMAGES = 64  # made for each combination
KEPT = 0.25  # of the candidates for a text, as many as fit it better than three of four real images would
FEWEST = 10  # train images of a combination that is asked for
ASKED = ("cell_size", "nucleus_shape", "granule_colour")  # what a combination of the train images is asked by
NEW: tuple[dict[str, str], ...] = (  # no image has them
    {"nucleus_shape": "segmented-multilobed", "granularity": "no"},
    {"nucleus_shape": "segmented-multilobed", "nuclear_cytoplasmic_ratio": "high"},
    {"granule_type": "round", "granule_colour": "purple", "granularity": "yes"},
)


def generator(data: PreparedDataset, out: Path, condition: str, kimg: float) -> Path:
    """The run of a generator that is told `condition`, begun from the builtin one and fine-tuned as the docs advise."""
    run = out / f"generator-{condition}-{kimg:g}"
    if not (run / "generator.safetensors").is_file():
        config = GeneratorConfig(
            generator="projected",
            kimg=kimg,
            condition=condition,
            unconditional_kimg=1.0,
            ramp_kimg=1.5,
            seed=0,
        )
        source = read_source("builtin", RESOLUTION)
        train_generator(data, config, run, init=source, resume=run.exists(), device="cpu")
    return run


def classifier(data: PreparedDataset, out: Path, name: str, **settings: object) -> Path:
    """The classifier run of that name."""
    run = out / name
    if not (run / "classifier.safetensors").is_file():
        train_run(data, [], TrainingConfig(**settings), run, resume=run.exists())  # type: ignore[arg-type]
    return run


def combinations(data: PreparedDataset) -> list[tuple[str, dict[str, str]]]:
    """For each class its commonest and its rarest values of `ASKED` in train, of those that have `FEWEST` images."""
    known = attribute_indices(data.tables["train"], data.root)
    columns = [list(ATTRIBUTES).index(name) for name in ASKED]
    chosen = []
    for label in CLASSES:
        own = known[(data.tables["train"]["label"] == label).to_numpy()][:, columns]
        found, counts = np.unique(own, axis=0, return_counts=True)
        enough = [
            row
            for row, n in sorted(zip(found.tolist(), counts.tolist(), strict=True), key=lambda x: -x[1])
            if n >= FEWEST
        ]
        for row in dict.fromkeys(tuple(row) for row in (enough[0], enough[-1])):
            values = {name: ATTRIBUTES[name][i] for name, i in zip(ASKED, row, strict=True)}
            chosen.append((label, values))
    return chosen


def shown(reader: ClassifierRun, images: np.ndarray, asked: Mapping[str, str]) -> tuple[float, float]:
    """Shares in [0, 1] as read by `reader`: of the attributes asked for that images show, and of images that show them all."""
    read = attribute_probabilities(reader.model, images)
    right = np.stack(
        [
            read[list(ATTRIBUTES).index(name)].argmax(axis=1) == ATTRIBUTES[name].index(value)
            for name, value in asked.items()
        ]
    )
    return float(right.mean()), float(right.all(axis=0).mean())


def having(table: pd.DataFrame, asked: Mapping[str, str], label: str | None = None) -> np.ndarray:
    """Rows (int) of images that have the attributes, of the class where one is named."""
    has = np.ones(len(table), dtype=bool) if label is None else (table["label"] == label).to_numpy()
    for name, value in asked.items():
        has = has & (table[name] == value).to_numpy()
    return np.flatnonzero(has)


def real(data: PreparedDataset, asked: Mapping[str, str], label: str | None) -> np.ndarray:
    """Real images of the reported half that have the attributes, of the class where one is named: uint8 N×R×R×3.

    The reader was chosen on the other half.
    """
    return data.images("test")[having(data.tables["test"], asked, label)]


def unseen(data: PreparedDataset) -> list[dict[str, str]]:
    """`NEW`; ValueError where an image of `data` has one of them."""
    for values in NEW:
        if n := sum(len(having(table, values)) for table in data.tables.values() if len(table)):
            raise ValueError(f"{n} images have {values}, which no image should have")
    return list(NEW)


def page(data: PreparedDataset, out: Path, kimg: float) -> str:
    """The Markdown page; makes the runs that are missing."""
    reader = load_run(
        classifier(
            data, out, "reader", arch="resnet18", head="attributes", steps=1000, seed=1, sampling="balanced"
        )
    )
    scorer = classifier(
        data, out, "scorer", arch="convnextv2", head="joint", steps=1000, seed=0, sampling="balanced"
    )
    told = load_generator(generator(data, out, "attributes", kimg), "cpu")
    plain = load_generator(generator(data, out, "class", kimg), "cpu")
    seeds, many = list(range(IMAGES)), list(range(1000, 1000 + round(IMAGES / KEPT)))
    rows = []
    asked: list[tuple[str | None, dict[str, str]]] = [
        *combinations(data),
        *((None, values) for values in unseen(data)),
    ]
    for label, values in asked:
        cells = [_shares(reader, real(data, values, label), values)]
        cells.append(_shares(reader, told.generate_attributes(values, seeds, label=label), values))
        if label is not None:
            candidates = plain.generate(label, many)
            scores = text_scorer(scorer, describe(values, 0), data).scores(candidates)
            best = np.argsort(-scores, kind="stable")[:IMAGES]
            cells += [_shares(reader, candidates, values), _shares(reader, candidates[best], values)]
        else:
            cells += ["–", "–"]
        rows.append((label or "none has it", ", ".join(f"{k} {v}" for k, v in values.items()), *cells))
    header = ("class", "asked for", "real", "told attributes", "told the class", "… and kept by the text")
    about = (
        f"# Images by a text or by attributes\n\nPBC with WBCAtt's attributes at {RESOLUTION} px, generators of {kimg:g} kimg from the one in "
        f"the box. Share of the attributes asked for that the images show / of images that show all of them, as read by a "
        f"ResNet-18 (head `attributes`, another seed) that chose none of them; real images are those of WBCAtt's reported half with these "
        f"attributes, their number in brackets. {IMAGES} images for each combination; by text the best {KEPT:.0%} of "
        f"{round(IMAGES / KEPT)} are kept, scored by a ConvNeXt V2 (head `joint`). One generator each. The generator in the box "
        "saw a half of PBC, images of WBCAtt's val split among them; nothing here is judged by likeness to these.\n\n"
    )
    return about + markdown_table(header, rows) + "\n"


def _shares(reader: ClassifierRun, images: np.ndarray, values: Mapping[str, str]) -> str:
    if not len(images):
        return "– (0)"
    each, every = shown(reader, images, values)
    return f"{each:.2f} / {every:.2f} ({len(images)})"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision_language.synthesis", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--kimg", type=float, default=20.0, metavar="K", help="thousands of images of fine-tuning"
    )
    sets_option(parser)
    options = parser.parse_args()
    text = page(prepared(options.sets.resolve(), options.out, RESOLUTION), options.out, options.kimg)
    write_text(RESULTS, text)
    print(text)


if __name__ == "__main__":
    main()
