"""How many synthetic images per class: from the counts, and from what they bring a linear probe on frozen features."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.model_selection import StratifiedGroupKFold

from balancer.data import PreparedDataset, SyntheticSet, new_output
from balancer.data.splits import fold_groups
from balancer.data.wording import number
from balancer.errors import InputError
from balancer.generators.transfer import BUILTIN
from balancer.progress import stage, track
from balancer.quality.features import FeatureExtractor
from balancer.quality.gate import load_rules
from balancer.quality.probe import FOLDS, fit_linear
from balancer.quality.reference import Rules, drawn


@dataclass(frozen=True)
class Trial:
    """What `synthetic` images of one class brought: macro-F1 with them less without them, and its interval."""

    synthetic: int
    gain: float
    ci: tuple[float, float]


@dataclass(frozen=True)
class ClassPlan:
    """How many synthetic images of a class to make, and why; `trials` is empty where nothing was tuned."""

    label: str
    real: int  # in train
    synthetic: int
    why: str
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The plan of a prepared dataset, class by class, in their order."""

    data: PreparedDataset
    tuned: SyntheticSet | None
    classes: tuple[ClassPlan, ...]
    notes: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        """The `balancer synth` commands that carry it out, into one set; none where the plan is to make no images."""
        wanted: dict[int, list[str]] = {}
        for of_class in self.classes:
            if of_class.synthetic:
                wanted.setdefault(of_class.synthetic, []).append(of_class.label)
        out = new_output("synth-plan")
        return [
            shlex.join(
                [
                    *("balancer", "synth", *(word for label in labels for word in ("--class", label))),
                    *("--n", str(n), "--data", str(self.data.root), *self._run(), "--out", str(out)),
                ]
            )
            for n, labels in wanted.items()
        ]

    def _run(self) -> list[str]:
        if self.tuned is None:
            return []
        path = Path(self.tuned.info["generator"]["path"])
        return ["--run", BUILTIN.name if path.parent == BUILTIN else str(path)]

    def to_json(self) -> dict[str, Any]:
        """What the command line prints with --json."""
        return {
            "format": 1,
            "data": {"path": str(self.data.root), "fingerprint": self.data.fingerprint},
            "tuned_with": str(self.tuned.root) if self.tuned else None,
            "classes": {
                of_class.label: {key: value for key, value in asdict(of_class).items() if key != "label"}
                for of_class in self.classes
            },
            "commands": self.commands,
            "notes": list(self.notes),
        }


def make_plan(
    data: PreparedDataset,
    synthetic: SyntheticSet | None = None,
    extractor: FeatureExtractor | None = None,
    seed: int = 0,
) -> Plan:
    """Plan synthetic images for the rare classes of `data` by its counts, and for those of `synthetic` by tuning.

    Tuning needs an `extractor`. Raises InputError when the synthetic set does not belong to `data`, holds no images,
    or has only classes with too few real images to cross-validate.
    """
    rules = load_rules()
    classes, notes = by_counts(data.counts("train"), rules), []
    if synthetic is not None:
        assert extractor is not None
        _check(data, synthetic)
        tuning = _Tuning(data, synthetic, extractor, rules, seed)
        for label in tuning.labels:
            classes[label] = replace(classes[label], **tuning.tune(label))
        notes = tuning.notes
    return Plan(data, synthetic, tuple(classes.values()), tuple(notes))


def by_counts(counts: Mapping[str, int], rules: Rules) -> dict[str, ClassPlan]:
    """The plan of each class from the numbers of real train images alone."""
    rule = rules["plan"]
    present = [n for n in counts.values() if n]
    median, most = (float(np.median(present)), max(present)) if present else (0.0, 0)
    plans = {}
    for label, real in counts.items():
        synthetic = min(round(rule["ratio"] * real), most - real)
        if not real:
            synthetic, why = 0, "no real images to learn from"
        elif real >= rule["rare"] * median:
            synthetic, why = 0, f"not rare: at least {rule['rare']:g} times the median class ({median:g})"
        elif real < rule["fewest_real"]:
            synthetic = 0
            why = (
                f"too few real images to be worth it: below {rule['fewest_real']} a generator tends to harm; collect more, or "
                "show with --tune that its images help"
            )
        elif real < rule["safe_real"]:
            why = (
                f"a start, to be tuned: with fewer than {rule['safe_real']} real images a generator may still harm "
                "(`balancer plan --tune`)"
            )
        else:
            why = "a start, to be tuned (`balancer plan --tune`): full balance is seldom the best"
        plans[label] = ClassPlan(label, real, synthetic, why)
    return plans


def gain(
    labels: np.ndarray,
    groups: np.ndarray,
    without: np.ndarray,
    with_synthetic: np.ndarray,
    confidence: float,
    freedom: int,
) -> tuple[float, tuple[float, float]]:
    """Macro-F1 of out-of-fold predictions with synthetic images less without, mean over repeats, and its interval.

    `labels` is int N in [0, K) with every class present, `groups` any N, the predictions int R×N. The variance is that of
    the delete-one-group jackknife over the images, plus that between the repeats over R; Student's t with `freedom`.
    """
    k = int(labels.max()) + 1
    units, unit = np.unique(groups, return_inverse=True)
    differences = []
    for predicted in (without, with_synthetic):
        tables = np.zeros((len(units), len(predicted), k, k))
        for r, row in enumerate(predicted):
            np.add.at(tables[:, r], (unit, labels, row), 1)
        total = tables.sum(0)
        differences.append(_macro_f1(np.concatenate([total[None], total - tables])))  # (1 + groups) × R
    difference = differences[1] - differences[0]
    value, deleted = float(difference[0].mean()), difference[1:].mean(1)
    variance = (len(units) - 1) / len(units) * ((deleted - deleted.mean()) ** 2).sum()
    if len(without) > 1:
        variance += difference[0].var(ddof=1) / len(without)
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom) * np.sqrt(variance))
    return value, (value - half, value + half)


def _macro_f1(matrix: np.ndarray) -> np.ndarray:
    """Macro-F1, …, of confusion matrices …×K×K; a class that neither occurs nor is predicted counts as 0."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    either = matrix.sum(-1) + matrix.sum(-2)
    return np.divide(2 * hits, either, out=np.zeros_like(hits, dtype=float), where=either > 0).mean(-1)


def _check(data: PreparedDataset, synthetic: SyntheticSet) -> None:
    if synthetic.data_fingerprint != data.fingerprint:
        raise InputError(
            f"{synthetic.root} was made from other data than {data.root} (another fingerprint); give the data of the set."
        )
    if synthetic.resolution != data.resolution:
        raise InputError(
            f"The images in {synthetic.root} are {synthetic.resolution} px wide and those in {data.root} {data.resolution} px; "
            "give a set of the same resolution."
        )
    if not len(synthetic.table):
        raise InputError(
            f"{synthetic.root} holds no accepted images, so that there is nothing to tune with; `balancer synth` with "
            "--allow-unverified keeps those of classes that did not pass."
        )


class _Tuning:
    """Cross-validation of the probe on train and validation images, with synthetic ones in the training folds only.

    Neither test nor held-out images are looked at.
    """

    def __init__(
        self,
        data: PreparedDataset,
        synthetic: SyntheticSet,
        extractor: FeatureExtractor,
        rules: Rules,
        seed: int,
    ) -> None:
        self.rules, self.seed, self.notes = rules, seed, []
        stage("Tuning the number of synthetic images")
        tables, features = [], []
        for label in data.classes:
            images, table = data.images_of(label, ("validation", "train"))
            chosen = drawn(len(images), rules["plan"]["most_real"], seed)
            tables.append(table.iloc[chosen])
            features.append(extractor(images[chosen]))
        rows = pd.concat(tables, ignore_index=True)
        self.x = np.concatenate(features)
        self.classes = [label for label in data.classes if (rows["label"] == label).any()]
        self.y = (
            rows["label"].map({label: k for k, label in enumerate(self.classes)}).to_numpy(dtype=np.int64)
        )
        self.groups = fold_groups(rows)
        self.counts = data.counts("train")
        self.seen = self._seen(data, synthetic, rows)

        of_class = synthetic.table["label"].to_numpy()
        groups = {label: len(np.unique(self.groups[rows["label"] == label])) for label in np.unique(of_class)}
        self.labels = [label for label, n in groups.items() if n >= FOLDS]
        few = ", ".join(f"{label} ({n})" for label, n in groups.items() if n < FOLDS)
        if few:
            self.notes.append(f"Not tuned, with real images in fewer than {FOLDS} groups: {few}.")
        if not self.labels or len(self.classes) < 2:
            raise InputError(
                f"Nothing can be tuned with {synthetic.root}: that takes two classes, and real images of a synthetic class in "
                f"at least {FOLDS} groups{f', and there are {few}' if few else ''}."
            )
        store = synthetic.images()
        self.synthetic = {label: extractor(store[np.flatnonzero(of_class == label)]) for label in self.labels}
        self.without = self._predict(None, 0)

    def tune(self, label: str) -> dict[str, Any]:
        """`synthetic`, `why` and `trials` of the class's plan."""
        rule, real, own = self.rules["plan"], self.counts[label], self.y == self.classes.index(label)
        most = min(len(self.synthetic[label]), max(self.counts.values()) - real)
        sizes = sorted({min(round(ratio * real), most) for ratio in rule["ratios"]} - {0})
        if not sizes:
            return {"synthetic": 0, "why": "the largest class already"}
        unseen = own & ~self.seen
        fair = unseen.sum() >= self.rules["sizes"]["fewest_held_out"]
        scored = ~own | unseen if fair else np.ones(len(own), dtype=bool)
        freedom = max(len(np.unique(self.groups[scored & own])) - 1, 1)
        trials = []
        for n in sizes:
            difference, ci = gain(
                self.y[scored],
                self.groups[scored],
                self.without[:, scored],
                self._predict(label, n)[:, scored],
                1 - (1 - rule["confidence"]) / len(sizes),
                freedom,
            )
            trials.append(Trial(n, difference, ci))
        best = max(trials, key=lambda trial: trial.gain)
        found = f"{best.gain:+.3f} [{best.ci[0]:+.3f}, {best.ci[1]:+.3f}] macro-F1 with {number(best.synthetic, 'image', 'images')}"
        judged = f"on {number(int((scored & own).sum()), 'real image', 'real images')} of the class"
        if best.ci[0] <= 0:
            why = f"none: the best of {len(sizes)} numbers gained {found}, {judged}, which may be nothing"
            return {"synthetic": 0, "why": why, "trials": tuple(trials)}
        why = f"tuned: gained {found}, {judged}"
        if not fair:
            why += (
                f"; at most that, since the generator was trained on {int((own & self.seen).sum())} of these"
            )
        if real < rule["fewest_real"]:
            why += f"; with fewer than {rule['fewest_real']} real images beware all the same"
        return {"synthetic": best.synthetic, "why": why, "trials": tuple(trials)}

    def _seen(self, data: PreparedDataset, synthetic: SyntheticSet, rows: pd.DataFrame) -> np.ndarray:
        """Which rows the generator was trained on; all of train where that is not known."""
        names = {split: set(synthetic.seen.among(data, split)) for split in ("train", "validation")}
        found = [
            name in names[split] or (split == "train" and not synthetic.seen_known)
            for split, name in zip(rows["split"], rows["file_name"], strict=True)
        ]
        return np.array(found)

    def _predict(self, label: str | None, n: int) -> np.ndarray:
        """Out-of-fold predictions, int repeats × N, with `n` synthetic images of `label` in every training fold."""
        repeats = self.rules["plan"]["repeats"]
        predicted = np.empty((repeats, len(self.y)), dtype=np.int64)
        what = f"Probe with {n} images of {label}" if label else "Probe without synthetic images"
        for r in track(range(repeats), what):
            extra = np.empty((0, self.x.shape[1]), dtype=self.x.dtype)
            if label is not None:
                order = np.random.default_rng([self.seed, r]).permutation(len(self.synthetic[label]))
                extra = self.synthetic[label][order[:n]]
            x = np.concatenate([self.x, extra])
            y = np.concatenate([self.y, np.full(len(extra), self.classes.index(label) if label else -1)])
            folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=self.seed + r)
            for train, held_out in folds.split(self.x, self.y, self.groups):
                train = np.concatenate([train, np.arange(len(self.x), len(x))])
                predicted[r, held_out] = fit_linear(x[train], y[train], self.seed).predict(x[held_out])
        return predicted
