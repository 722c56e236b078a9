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
_FIGURES = ("macro-F1", "balanced accuracy", "ECE", "ECE with temperature")
RESAMPLES = 200  # of the images, for the calibration error's interval


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
        "trained, and with the temperature that was fitted to validation. Trained by "
        f"{done['code'].nunique()} versions of the code, which for these settings differ in speed and in the order of sums.\n"
    )
    parts = [head]
    for stage, write in (
        ("entries", _entries),
        ("pretraining", _pretraining),
        ("preprocessing", _compared("none")),
        ("remedies", _compared("unbalanced")),
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
    With `minus`, those of another setting, paired by seed and image, by how much the first is better. – without predictions.
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
    """Mean over the seeds, with its interval where there are several: images by the bootstrap, and seeds.

    It depends on the probability of the predicted class alone, the column `confidence`.
    """
    by_seed = [part for _, part in rows.groupby("seed")]
    p = np.stack([part[confidence].to_numpy() for part in by_seed])
    right = np.stack([(part["label"] == part["predicted"]).to_numpy() for part in by_seed])
    seeds, images = p.shape

    def gaps(chosen: np.ndarray) -> np.ndarray:
        return np.array([calibration.calibration_gap(p[s, chosen], right[s, chosen]) for s in range(seeds)])

    values, rng = gaps(np.arange(images)), np.random.default_rng(0)
    if seeds == 1:
        return f"{values.mean():.3f}"
    drawn = [gaps(rng.integers(images, size=images)).mean() for _ in range(RESAMPLES)]
    parts = np.array([np.var(drawn, ddof=1), values.var(ddof=1) / seeds])
    half = evaluation.half_width(parts, np.array([images - 1, seeds - 1]))[0] if parts.any() else 0.0
    low, high = max(values.mean() - half, 0), min(values.mean() + half, 1)
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def _figures(rows: pd.DataFrame) -> tuple[str, ...]:
    """What is said of every setting, in the order of `_FIGURES`."""
    errors = (calibration_error(rows), calibration_error(rows, "calibrated"))
    return estimate(rows, "macro_f1"), estimate(rows, "balanced_accuracy"), *errors


def _table(rows: pd.DataFrame, first: str, names: Iterable[str], better_than: str | None = None) -> str:
    """A row for each of `names`, and where it is asked for by how much its macro-F1 is better than that of another."""
    of = dict(iter(rows.groupby("name")))
    body = []
    for name in names:
        cells = [f"`{name}`", *_figures(of[name])]
        if better_than is not None:
            known = name != better_than and better_than in of
            cells.append(estimate(of[name], minus=of[better_than]) if known else "")
        body.append(cells)
    more = () if better_than is None else (f"macro-F1 better than `{better_than}` by",)
    return markdown_table((first, *_FIGURES, *more), body)


def _in_order(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows["name"]))


def _entries(rows: pd.DataFrame, every: pd.DataFrame) -> str:
    parts = []
    for dataset, title in _TITLES.items():
        of = rows[(rows["dataset"] == dataset) & (rows["test"] == dataset)]
        if len(of):
            images = len(of[of["key"] == of["key"].iat[0]])
            parts.append(
                f"### {title} ({images} test images)\n\n{_table(of, 'network', sorted(set(of['name'])))}"
            )
    return "\n\n".join(parts)


def _compared(better_than: str) -> Callable[[pd.DataFrame, pd.DataFrame], str]:
    def write(rows: pd.DataFrame, every: pd.DataFrame) -> str:
        parts = []
        for dataset, of in rows.groupby("dataset", sort=False):
            of = of[of["test"] == dataset]
            table = _table(of, "setting", _in_order(of), better_than)
            parts.append(f"### {_TITLES[str(dataset)]}, `{COMPARED}`\n\n{table}")
        return "\n\n".join(parts)

    return write


def _long(rows: pd.DataFrame, every: pd.DataFrame) -> str:
    """Validation is what a setting is chosen by."""
    of = rows[rows["test"] == rows["dataset"]]
    chosen = of.groupby("name", sort=False)["validation_macro_f1"].mean()
    said = "; ".join(f"{name} {value:.3f}" for name, value in chosen.items())
    table = _table(of, "setting", _in_order(of))
    return f"Whole PBC, {LONG} steps, running average of the weights (decay 0.999). Macro-F1 on validation: {said}.\n\n{table}"


def _pretraining(rows: pd.DataFrame, every: pd.DataFrame) -> str:
    own = rows[rows["test"] == rows["dataset"]]
    body = []
    for share, of in own.groupby("share"):
        parts = [of[of["name"] == name] for name in ("from scratch", "pretrained")]
        body.append((f"{share:.0%}", *map(estimate, parts), estimate(parts[1], minus=parts[0])))
    header = ("labels", "macro-F1 from scratch", "macro-F1 with the pretrained encoder", "better by")
    return (
        "Of the train split's labels; validation, by which weights and temperature are chosen, keeps all of its own.\n\n"
        + markdown_table(header, body)
    )


def _stain(rows: pd.DataFrame, every: pd.DataFrame) -> str:
    """Trained on PBC and tested on all images of the unseen set: as ever, with stain augmentation, with stains normalised."""
    plain = every[(every["stage"] == "entries") & (every["dataset"] == "pbc")]
    body = []
    for name in sorted(set(plain["name"]) | set(rows["name"])):
        network, _, preprocessing = name.partition(", ")
        for how, of in (("as ever", plain), (preprocessing or "stain augmentation", rows)):
            part = of[of["name"] == name]
            tests = [part[part["test"] == test] for test in ("pbc", UNSEEN["pbc"])]
            if all(map(len, tests)):
                body.append((f"`{network}`", how, estimate(tests[0]), *_figures(tests[1])))
    header = ("network", "stains", "macro-F1 on PBC", *(f"{figure}, {UNSEEN['pbc']}" for figure in _FIGURES))
    return (
        "Over the classes that both sets have; any other answer is an error there. The unseen set is taken at its "
        "own scale. *Stains*: as ever, with stain augmentation, or with a preprocessing.\n\n"
        + markdown_table(header, body)
    )
