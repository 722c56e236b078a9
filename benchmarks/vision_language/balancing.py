"""Does language help, with balancing and without? A comparison for each head, on rendered cells with AML and CLL rare.

    balancer demo --out DEMO
    python -m benchmarks.vision_language.balancing --demo DEMO --out DIR

The demo's data, the synthetic images that its gate let through, and its comparison of the class head; the same comparison of the
heads `text` and `joint`, whose captions come from the renderer's true attributes, and those of synthetic images, which have none,
from the sentences of their class. Comparisons that are there are not made again. Writes results/vision-language-balancing.md.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from balancer.data import PreparedDataset, SyntheticSet
from balancer.errors import InputError
from balancer.files import read_json, write_text
from balancer.quality.features import file_sha256
from benchmarks.classifiers.tables import estimate
from benchmarks.parts import markdown_table
from classifier.arms import ARMS
from classifier.compare import PREDICTIONS, compare
from classifier.config import TrainingConfig
from classifier.models.vision_language import CLASS

HEADS = ("text", "joint")
RESULTS = Path(__file__).parents[1] / "results/vision-language-balancing.md"


def compared(demo: Path, out: Path) -> dict[str, Path]:
    """The finished comparison of each head. Raises InputError where `demo` holds no finished demo."""
    reports = {CLASS: demo / "report"}
    if not (reports[CLASS] / "report.json").is_file():
        raise InputError(f"{demo} holds no finished demo; make one with `balancer demo --out {demo}`.")
    data, synthetic = PreparedDataset.load(demo / "data"), SyntheticSet.load(demo / "synthetic")
    study = read_json(reports[CLASS] / "report.json")["study"]
    kept = out / file_sha256(reports[CLASS] / "report.json")[:16]  # another demo, other reports
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in study["config"].items()}
    config = TrainingConfig(**settings)
    for head in HEADS:
        reports[head] = kept / head
        if not (reports[head] / "report.json").is_file():
            arms, seeds = list(study["arms"]), len(study["seeds"])
            compare(data, [synthetic], reports[head], arms, seeds, replace(config, head=head))
    return reports


def table(predictions: dict[str, pd.DataFrame], classes: list[str]) -> str:
    """Macro-F1 by arm and head, and what each head is better than the class head by: Markdown.

    `predictions` by head: those of a comparison, with the columns arm, seed, split, file_name, group, label, predicted.
    """
    asked = [(head,) for head in predictions] + [(head, CLASS) for head in predictions if head != CLASS]
    of = {
        head: dict(iter(_test(rows, classes).groupby("arm", sort=False)))
        for head, rows in predictions.items()
    }

    def figure(arm: str, heads: tuple[str, ...]) -> str:
        known = [of[head][arm] for head in heads if arm in of[head]]
        return estimate(known[0], minus=known[1] if known[1:] else None) if len(known) == len(heads) else "–"

    body = [(arm, *(figure(arm, heads) for heads in asked)) for arm in ARMS if arm in of[CLASS]]
    return markdown_table(["arm", *(" minus ".join(heads) for heads in asked)], body)


def _test(predictions: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Those of the test split, an order of images for all seeds, classes by number."""
    rows = predictions[predictions["split"] == "test"].sort_values(["seed", "file_name"])
    numbers = {column: rows[column].map(classes.index) for column in ("label", "predicted")}
    return rows.assign(**numbers, classes=len(classes))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision_language.balancing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--demo", type=Path, default=Path("runs/demo"), metavar="DIR", help="[default: runs/demo]"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    reports = compared(options.demo, options.out)
    documents = {head: read_json(report / "report.json") for head, report in reports.items()}
    study = documents[CLASS]["study"]
    primary = {head: document["conclusion"]["primary"] for head, document in documents.items()}
    under = ", ".join(f"{head} on {found['b']}" for head, found in primary.items() if found)
    predictions = {head: pd.read_parquet(report / PREDICTIONS) for head, report in reports.items()}
    counts = ", ".join(f"{n} {label}" for label, n in study["data"]["counts"]["train"].items())
    accepted = ", ".join(f"{n} {label}" for s in study["synthetic"] for label, n in s["counts"].items())
    text = (
        "# Does language help, with balancing and without?\n\n"
        f"{table(predictions, study['data']['classes'])}\n\n"
        f"Macro-F1 on test, mean of {len(study['seeds'])} seeds and 95 % interval, paired by image and seed. Rendered cells of "
        f"{study['data']['resolution']} px; train: {counts}; synthetic images: {accepted}; {study['config']['arch']}, "
        f"{study['config']['steps']} steps. The arm `gan` adds the synthetic images to the cheap arm that is best on validation, which may differ "
        f"by head: {under or 'none'}. `python -m benchmarks.vision_language.balancing` after `balancer demo`.\n"
    )
    write_text(RESULTS, text)
    print(text)


if __name__ == "__main__":
    main()
