"""The page of the benchmark of classifiers, from the predictions of its trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from benchmarks.classifiers.study import COMPARED, LONG, NAMES, SEEDS, STEPS, UNSEEN, every
from benchmarks.kept import labelled
from benchmarks.parts import markdown_table
from classifier import calibration, evaluation

_TITLES = {
    "pbc": "PBC, whole",
    "pbc-15": "PBC, 15 basophils and 15 monocytes",
    "segwbc": "segwbc, without its one basophil",
    "all4": "all4",
    "all_idb2": "all_idb2",
}


def page(predictions: pd.DataFrame) -> str:
    """The Markdown page: a section for each stage that has results. `predictions` as `study.do` gives them."""
    done = predictions.groupby("key").first()
    hours = done["seconds"].sum() / 3600
    planned = len({unit.key for unit in every()})
    predictions = labelled(predictions, every(), NAMES)
    head = (
        "# The classifiers, measured\n\n"
        f"{len(done)} of {planned} trainings at 64 px from scratch, {hours:.1f} hours of one core. Mean of {len(SEEDS)} seeds and 95 % "
        "interval over test images and seeds (`classifier.evaluation.contrast`); fewer seeds are named, and one has no interval. "
        "Batches of 64, balanced sampling; steps: "
        + ", ".join(f"{name} {steps}" for name, steps in STEPS.items())
        + ". The expected calibration error (ECE, 15 bins) is that of the network as "
        "trained, and with the temperature that was fitted to validation.\n"
    )
    parts = [head]
    for stage, write in (
        ("entries", _entries),
        ("pretraining", _pretraining),
        ("preprocessing", _compared),
        ("remedies", _compared),
        ("long", _long),
        ("stain", _stain),
    ):
        rows = predictions[predictions["stage"] == stage]
        if len(rows):
            parts.append(f"## {stage.capitalize()}\n\n{write(rows, predictions)}\n")
    return "\n".join(parts)


def estimate(
    rows: pd.DataFrame, metric: evaluation.Metric = "macro_f1", minus: pd.DataFrame | None = None
) -> str:
    """Mean over the seeds, with its interval where there are several, of the predictions of one setting.

    `rows`: seed, group, label and predicted (int), classes (their number), in the same order of images for each seed.
    With `minus`, those of another setting, paired by seed and image, by how much the first is better.
    """
    of = [rows] if minus is None else [rows, minus]
    seeds = sorted(set.intersection(*(set(part["seed"]) for part in of)))
    if not seeds:
        return "–"
    labels = rows.loc[rows["seed"] == seeds[0], "label"].to_numpy(dtype=np.int64)
    predicted = np.stack(
        [[part.loc[part["seed"] == seed, "predicted"] for seed in seeds] for part in of]
    ).astype(np.int64)
    weights, classes = np.array([1.0, -1.0][: len(of)]), int(rows["classes"].iat[0])
    sign, lowest = ("", 0.0) if minus is None else ("+", -1.0)
    if len(seeds) == 1:
        values = evaluation.score(evaluation.confusion(labels, predicted[:, 0], classes), metric)
        return f"{weights @ values:{sign}.3f} (1 seed)"
    groups = rows.loc[rows["seed"] == seeds[0], "group"].to_numpy()
    found = evaluation.contrast(labels, groups, predicted, weights, classes, metric)
    low, high = max(found.low, lowest), min(found.high, 1.0)
    fewer = "" if len(seeds) == len(SEEDS) else f", {len(seeds)} seeds"
    return f"{found.value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f}{fewer})"


def calibration_error(rows: pd.DataFrame, confidence: str = "confidence") -> str:
    """Mean over the seeds; the error depends on the probability of the predicted class, the column `confidence`, alone."""
    values = []
    for _, part in rows.groupby("seed"):
        predicted = part["predicted"].to_numpy(dtype=np.int64)
        top = np.zeros((len(part), int(part["classes"].iat[0])))
        top[np.arange(len(part)), predicted] = part[confidence]
        values.append(calibration.expected_calibration_error(top, part["label"].to_numpy(dtype=np.int64)))
    return f"{np.mean(values):.3f}"


def _table(rows: pd.DataFrame, first: str, names: Iterable[str], key: Callable[[str], pd.DataFrame]) -> str:
    body = []
    for name in names:
        of = key(name)
        if len(of):
            seconds = of.groupby("key")["seconds"].first().mean()
            body.append(
                (
                    f"`{name}`",
                    estimate(of, "macro_f1"),
                    estimate(of, "balanced_accuracy"),
                    f"{calibration_error(of)} / {calibration_error(of, 'calibrated')}",
                    f"{seconds:.0f}",
                )
            )
    return markdown_table(
        (first, "macro-F1", "balanced accuracy", "ECE / with temperature", "seconds of one core"), body
    )


def _in_order(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows["name"]))


def _entries(rows: pd.DataFrame, every: pd.DataFrame) -> str:
    parts = []
    for dataset, title in _TITLES.items():
        of = rows[(rows["dataset"] == dataset) & (rows["test"] == dataset)]
        if len(of):
            images = len(of[of["key"] == of["key"].iat[0]])
            table = _table(of, "network", sorted(set(of["name"])), lambda name, of=of: of[of["name"] == name])
            parts.append(f"### {title} ({images} test images)\n\n{table}")
    return "\n\n".join(parts)


def _compared(rows: pd.DataFrame, every: pd.DataFrame) -> str:
    parts = []
    for dataset, of in rows.groupby("dataset", sort=False):
        of = of[of["test"] == dataset]
        table = _table(of, "setting", _in_order(of), lambda name, of=of: of[of["name"] == name])
        parts.append(f"### {_TITLES[str(dataset)]}, `{COMPARED}`\n\n{table}")
    return "\n\n".join(parts)


def _long(rows: pd.DataFrame, every: pd.DataFrame) -> str:
    """Validation is what a setting is chosen by."""
    of = rows[rows["test"] == rows["dataset"]]
    chosen = of.groupby("name", sort=False)["validation_macro_f1"].mean()
    said = "; ".join(f"{name} {value:.3f}" for name, value in chosen.items())
    table = _table(of, "setting", _in_order(of), lambda name: of[of["name"] == name])
    return f"Whole PBC, {LONG} steps, running average of the weights (decay 0.999). Macro-F1 on validation: {said}.\n\n{table}"


def _pretraining(rows: pd.DataFrame, every: pd.DataFrame) -> str:
    own = rows[rows["test"] == rows["dataset"]]
    body = []
    for share, of in own.groupby("share"):
        cells = [
            estimate(part, "macro_f1") if len(part := of[of["name"] == name]) else "–"
            for name in ("from scratch", "pretrained")
        ]
        body.append((f"{share:.0%}", *cells))
    return markdown_table(("labels", "macro-F1 from scratch", "macro-F1 with the pretrained encoder"), body)


def _stain(rows: pd.DataFrame, every: pd.DataFrame) -> str:
    """Trained on PBC and tested on all images of the unseen set: as ever, with stain augmentation, with stains normalised."""
    plain = every[(every["stage"] == "entries") & (every["dataset"] == "pbc")]
    body = []
    for name in sorted(set(rows["name"])):
        cells = []
        for of in (plain[plain["name"] == name], rows[rows["name"] == name]):
            for test in ("pbc", UNSEEN["pbc"]):
                part = of[of["test"] == test]
                cells.append(estimate(part, "macro_f1") if len(part) else "–")
        body.append((f"`{name}`", *cells))
    header = (
        "network",
        "PBC",
        f"{UNSEEN['pbc']}, unseen",
        "PBC, other stains",
        f"{UNSEEN['pbc']}, unseen, other stains",
    )
    return (
        "Macro-F1 over the classes that both sets have; any other answer is an error there. The unseen set is taken at its "
        "own scale. *Other stains*: with stain augmentation, or, where the row names a preprocessing, with that.\n\n"
        + markdown_table(header, body)
    )
