"""The gate: one verdict per class with its reasons, one reason per rejected candidate."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from balancer.errors import InputError
from balancer.quality import copies, defects, memory, metrics, probe, verdicts
from balancer.quality.cell_measures import cell_measures
from balancer.quality.features import FeatureExtractor
from balancer.quality.metrics import Metric
from balancer.quality.reference import RealClass, RealImages, Rules, drawn, real_classes
from balancer.quality.verdicts import SEVERITY, Finding

FORMAT = 1
GOOD = ("pass", "warn")  # verdicts that let a class through
_BLANK = 10  # grey levels: what varies by less in every colour is noise or rounding, and shows nothing

# A check image by image, of images (uint8 N×R×R×3) of a class: N reasons to reject, None for an image that is fine.
Check = Callable[[np.ndarray, str], Sequence[str | None]]


@dataclass(frozen=True)
class Judgement:
    """What the gate found about the candidates of one class.

    `rejected` holds a reason or None for each candidate; `scores` has a row for each. `n_accepted` counts the
    candidates that are not rejected one by one, and is 0 where the verdict lets none through.
    """

    label: str
    verdict: str  # pass | warn | fail | insufficient-data
    reasons: list[str]
    n_real: int
    n_candidates: int
    n_accepted: int
    metrics: dict[str, Metric] = field(repr=False)
    rejected: list[str | None] = field(repr=False)
    scores: pd.DataFrame = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, from which `from_json` makes an equal one."""
        scores = {
            name: [None if pd.isna(x) else x for x in column.tolist()] for name, column in self.scores.items()
        }
        return vars(self) | {"scores": scores}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Judgement:
        """The judgement that `to_json` wrote."""
        types = copies.none_sought(0).table().dtypes
        columns = {name: pd.Series(column, dtype=types[name]) for name, column in value["scores"].items()}
        return cls(**{**value, "scores": pd.DataFrame(columns)})


def load_rules() -> Rules:
    """The gate's thresholds, from `rules.toml` beside this file, where their reasons stand."""
    return tomllib.loads(resources.files(__package__).joinpath("rules.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Gate:
    """Real images by class, and all that candidates are held against."""

    classes: Mapping[str, RealClass]
    linear: probe.Probe | None
    extractor: FeatureExtractor
    rules: Rules
    seed: int = 0
    checks: Sequence[Check] = ()  # image by image; their limits come from `fitting` of the real classes
    key: str | None = None  # of all of the above, by which judgements are kept on disk; None: they are not

    def judge(self, label: str, candidates: np.ndarray) -> Judgement:
        """Judge the candidates (uint8 N×R×R×3) of one class; what was judged before comes from disk."""
        if self.key is None:
            return self._judge(label, candidates)
        key = memory.key_of(self.key, label, candidates)
        return memory.remembered(
            key, lambda: self._judge(label, candidates), Judgement.to_json, Judgement.from_json
        )

    def _judge(self, label: str, candidates: np.ndarray) -> Judgement:
        """First image by image: copies of train images are rejected, then what the `checks` object to. Then as a set: those
        that are left are compared with the class's reference, and what all of them would score stands beside it. KID,
        copies, collapse and label agreement make the verdict, by `rules`; the other metrics depend on the sample sizes and
        are reported beside what real images of the same sizes score.
        """
        sizes = self.rules["sizes"]
        real = self.classes.get(label)
        n_real = real.n_real if real else 0
        findings: list[Finding] = []
        found: dict[str, Metric] = {}
        rejected: list[str | None] = [None] * len(candidates)
        scores = copies.none_sought(len(candidates)).table()

        if real is None or n_real < sizes["fewest_real"]:
            findings.append(
                (
                    "insufficient-data",
                    f"{n_real} real images, where at least {sizes['fewest_real']} are needed.",
                )
            )
        if real is not None and len(candidates):
            features = self.extractor(candidates)
            detector, among_real = copies.fit(real, self.extractor, self.rules, self.seed)
            copied = detector.find(candidates, features, self.extractor)
            scores = copied.table()
            if len(real.train):
                found["copies"], finding = verdicts.on_copies(copied, among_real, real.held_out, self.rules)
                findings.append(finding)
            rejected = _first_reasons(copied.reasons, [check(candidates, label) for check in self.checks])
            of_real = None
            if real.held_out:
                of_real = _first_reasons(
                    among_real.reasons, [check(real.reference.pixels, label) for check in self.checks]
                )
            found["acceptance"] = metrics.acceptance(rejected, of_real, self.rules)
            findings.append(verdicts.on_acceptance(found["acceptance"], rejected, self.rules))
        left = np.flatnonzero([reason is None for reason in rejected])
        if len(left) < sizes["fewest_candidates"]:
            findings.append(
                (
                    "insufficient-data",
                    f"{len(left)} of {len(candidates)} candidates are left to be judged as a set, where at least "
                    f"{sizes['fewest_candidates']} are needed.",
                )
            )
        if (
            real is not None
            and n_real >= sizes["fewest_real"]
            and len(candidates) >= sizes["fewest_candidates"]
        ):
            before = drawn(len(candidates), sizes["most_candidates"], self.seed)
            if len(left) >= sizes["fewest_candidates"]:
                scored = left[drawn(len(left), sizes["most_candidates"], self.seed)]
                found |= self._of_set(label, real, candidates, features, scored, before)
                findings.append(
                    verdicts.on_distance(found["kid"], len(scored), real, self.classes, self.rules)
                )
                findings += verdicts.on_collapse(found, self.rules)
                findings.append(verdicts.on_labels(found["label_agreement"], label, self.rules))
                if len(scored) < len(left):
                    findings.append(
                        ("pass", f"{len(scored)} of {len(left)} candidates, drawn by seed, were scored.")
                    )
                findings.append(("pass", real.note))
            else:
                every = self._of_set(label, real, candidates, features, before, before)
                found |= {name: metric | {"value": None, "ci": None} for name, metric in every.items()}

        verdict = max((level for level, _ in findings), key=SEVERITY.index)
        return Judgement(
            label=label,
            verdict=verdict,
            reasons=[sentence for _, sentence in sorted(findings, key=lambda f: -SEVERITY.index(f[0]))],
            n_real=n_real,
            n_candidates=len(candidates),
            n_accepted=len(left) if verdict in GOOD else 0,
            metrics=found,
            rejected=rejected,
            scores=scores,
        )

    def _of_set(
        self,
        label: str,
        real: RealClass,
        candidates: np.ndarray,
        features: np.ndarray,
        scored: np.ndarray,
        before: np.ndarray,
    ) -> dict[str, Metric]:
        """The metrics of the candidates `scored`, and `before` the rejections (indices)."""
        y, y_before, rules, seed = features[scored], features[before], self.rules, self.seed
        return {
            "kid": metrics.distance(y, y_before, real, rules, seed),
            **metrics.size_dependent(y, y_before, real, rules, seed),
            "authenticity": metrics.authentic(y, y_before, real, rules),
            "repeats": metrics.repeated(candidates[scored], candidates[before], real, rules, seed),
            "label_agreement": metrics.label_agreement(y, y_before, label, self.linear, rules),
        }


def fit_gate(
    dataset: RealImages,
    labels: Collection[str],
    extractor: FeatureExtractor,
    seed: int = 0,
    seen: Collection[str] = (),
) -> Gate:
    """The gate for candidates of the classes `labels`: the real images of `dataset` embedded, the limits learned.

    `seen` names images (split/file_name) outside train that the generator was trained on: they count as train images.
    Raises InputError for a class that the dataset does not have.
    """
    for label in labels:
        dataset.class_index(label)
    rules = load_rules()
    classes = real_classes(dataset, labels, extractor, rules, seed, seen)
    linear = _linear_probe(classes, rules, seed)
    most = rules["sizes"]["most_measured"]
    fitting = [real.fitting.pixels for real in classes.values()]
    known = [
        real.trained_on.drawn(max(0, most - len(real.fitting)) if real.held_out else 0, seed).pixels
        for real in classes.values()
    ]
    measured = _measured([*fitting, *known])
    limits = defects.fit(
        dict(zip(classes, measured[: len(classes)], strict=True)),
        dict(zip(classes, measured[len(classes) :], strict=True)),
    )
    classes = {
        label: replace(real, note=f"{real.note} {limits.notes[label]}") for label, real in classes.items()
    }

    def defective(images: np.ndarray, label: str) -> list[str | None]:
        return defects.check(cell_measures(images), label, limits)

    key = _key(classes, extractor, rules, seed)
    return Gate(classes, linear, extractor, rules, seed, (_blank, defective), key)


def judge_candidates(
    dataset: RealImages,
    candidates: Mapping[str, np.ndarray],
    extractor: FeatureExtractor,
    seed: int = 0,
    seen: Collection[str] = (),
) -> dict[str, Judgement]:
    """Judge candidates (uint8 N×R×R×3 by class) by a gate fitted to `dataset` (`fit_gate`).

    Raises InputError for a class that the dataset does not have, and for images of another size than its own.
    """
    for label, images in candidates.items():
        dataset.class_index(label)
        expected = (dataset.resolution, dataset.resolution, 3)
        if images.shape[1:] != expected or images.dtype != np.uint8:
            raise InputError(
                f"The candidates of {label} are {images.dtype} of shape {images.shape}, where uint8 images of "
                f"{dataset.resolution}×{dataset.resolution}×3 as in {dataset.root} are needed."
            )
    gate = fit_gate(dataset, candidates.keys(), extractor, seed, seen)
    return {label: gate.judge(label, images) for label, images in candidates.items()}


def gate_document(judgements: Mapping[str, Judgement], extractor: FeatureExtractor) -> dict[str, Any]:
    """`gate.json` as a dictionary: format 1, the features' name and hash, and each class's judgement; no NaN."""
    return {
        "format": FORMAT,
        "features": {"name": extractor.name, "sha256": extractor.sha256},
        "classes": {
            label: {
                "verdict": judgement.verdict,
                "reasons": judgement.reasons,
                "n_real": judgement.n_real,
                "n_candidates": judgement.n_candidates,
                "n_accepted": judgement.n_accepted,
                "metrics": judgement.metrics,
            }
            for label, judgement in judgements.items()
        },
    }


def _key(classes: Mapping[str, RealClass], extractor: FeatureExtractor, rules: Rules, seed: int) -> str:
    """By what a gate is known that was fitted to these classes."""
    of_classes: list[Any] = []
    for label, real in classes.items():
        of_classes += [label, real.n_real, real.held_out, real.note]
        for part in (real.reference, real.fitting, real.trained_on, real.train, real.pool):
            of_classes += [part.pixels, part.names, part.groups]
    return memory.key_of(
        memory.code_version(), extractor.name, extractor.sha256, dict(rules), seed, *of_classes
    )


def _blank(images: np.ndarray, label: str) -> list[str | None]:
    """Images that show nothing: hardly any measure of a cell is defined on them, so that no other limit need find them."""
    ranges = np.ptp(images, axis=(1, 2)).max(axis=1, initial=0)
    return [f"blank: its colours vary by {grey} grey levels" if grey < _BLANK else None for grey in ranges]


def _linear_probe(classes: Mapping[str, RealClass], rules: Rules, seed: int) -> probe.Probe | None:
    """A probe of the train images, or of all real images of a class that has few of them."""
    sizes = rules["sizes"]
    rows = {
        label: real.trained_on.drawn(sizes["most_real"], seed)
        if len(real.trained_on) >= sizes["fewest_held_out"]
        else real.pool
        for label, real in classes.items()
    }
    return probe.fit(
        {label: part.features for label, part in rows.items()},
        {label: part.groups for label, part in rows.items()},
        seed,
    )


def _measured(parts: Sequence[np.ndarray]) -> list[pd.DataFrame]:
    """`cell_measures` of each part, all of them at once, as many images are spread over processes."""
    ends = np.cumsum([len(part) for part in parts])
    every = cell_measures(np.concatenate(parts))
    return [
        every[end - len(part) : end].reset_index(drop=True) for part, end in zip(parts, ends, strict=True)
    ]


def _first_reasons(reasons: Sequence[str | None], others: Sequence[Sequence[str | None]]) -> list[str | None]:
    """For each image the first reason that anything gives to reject it."""
    return [next((reason for reason in row if reason), None) for row in zip(reasons, *others, strict=True)]
