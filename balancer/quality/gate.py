"""The gate: one verdict per class with its reasons, one reason per rejected candidate."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from balancer.errors import InputError
from balancer.quality import authenticity, copies, coverage, density, fid, kid, precision, probe, recall
from balancer.quality.features import FeatureExtractor
from balancer.quality.reference import RealClass, RealImages, Rules, drawn, real_classes
from balancer.quality.resampling import comparable_sizes

FORMAT = 1
GOOD = ("pass", "warn")  # verdicts that let a class through
SEVERITY = ("pass", "warn", "insufficient-data", "fail")
SIZE_DEPENDENT = {
    "fid": fid,
    "precision": precision,
    "recall": recall,
    "density": density,
    "coverage": coverage,
    "authenticity": authenticity,
}
KID_LIES = {
    "pass": "lies below",
    "warn": "lies across",
    "fail": "lies above",
    "insufficient-data": "is less certain than",
}

Metric = dict[str, Any]  # value, ci, real_vs_real, real_vs_real_ci, note; None where it cannot be estimated


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


def load_rules() -> Rules:
    """The gate's thresholds, from `rules.toml` beside this file, where their reasons stand."""
    return tomllib.loads(resources.files(__package__).joinpath("rules.toml").read_text(encoding="utf-8"))


def judge_candidates(
    dataset: RealImages,
    candidates: Mapping[str, np.ndarray],
    extractor: FeatureExtractor,
    seed: int = 0,
) -> dict[str, Judgement]:
    """Judge candidates (uint8 N×R×R×3 by class) against the real images of `dataset`, embedded once for all.

    Raises InputError for a class that the dataset does not have, and for images of another size than its own.
    """
    rules = load_rules()
    for label, images in candidates.items():
        dataset.class_index(label)
        expected = (dataset.resolution, dataset.resolution, 3)
        if images.shape[1:] != expected or images.dtype != np.uint8:
            raise InputError(
                f"The candidates of {label} are {images.dtype} of shape {images.shape}, where uint8 images of "
                f"{dataset.resolution}×{dataset.resolution}×3 as in {dataset.root} are needed."
            )
    classes = real_classes(dataset, candidates.keys(), extractor, rules, seed)
    linear = probe.fit({label: real.features for label, real in classes.items()}, seed)
    return {
        label: judge(label, images, classes, linear, extractor, rules, seed)
        for label, images in candidates.items()
    }


def judge(
    label: str,
    candidates: np.ndarray,
    classes: Mapping[str, RealClass],
    linear: probe.Probe | None,
    extractor: FeatureExtractor,
    rules: Rules,
    seed: int = 0,
) -> Judgement:
    """Judge the candidates (uint8 N×R×R×3) of one class against `classes`, the real ones by name.

    First image by image: near-copies of train images are rejected. Then as a set: those that are left are
    compared with the class's reference. KID, copies and label agreement make the verdict, by `rules`; the
    other metrics depend on the sample sizes and are reported beside what real images of the same sizes score.
    """
    sizes = rules["sizes"]
    real = classes.get(label)
    n_real = real.n_real if real else 0
    findings: list[tuple[str, str]] = []
    metrics: dict[str, Metric] = {}
    rejected: list[str | None] = [None] * len(candidates)
    scores = pd.DataFrame({"nearest_train": None, "similarity": np.nan}, index=range(len(candidates)))

    if real is None or n_real < sizes["fewest_real"]:
        findings.append(
            ("insufficient-data", f"{n_real} real images, where at least {sizes['fewest_real']} are needed.")
        )
    if real is not None and len(candidates):
        found = copies.find(candidates, real.train_images)
        metrics["copies"], finding = _judge_copies(found, real, rules)
        findings.append(finding)
        rejected = _copy_reasons(found, real)
        scores = _copy_scores(found, real)
    left = np.flatnonzero([reason is None for reason in rejected])
    if len(left) < sizes["fewest_candidates"]:
        findings.append(
            (
                "insufficient-data",
                f"{len(left)} of {len(candidates)} candidates are left to be judged as a set, where at least "
                f"{sizes['fewest_candidates']} are needed.",
            )
        )
    if real is not None and n_real >= sizes["fewest_real"] and len(left) >= sizes["fewest_candidates"]:
        scored = left[drawn(len(left), sizes["most_candidates"], seed)]
        y = extractor(candidates[scored])
        metrics["kid"], finding = _judge_kid(y, real, classes, rules, seed)
        findings.append(finding)
        metrics |= _size_dependent(y, real, rules, seed)
        metrics["label_agreement"], finding = _judge_labels(y, label, linear, rules)
        findings.append(finding)
        if len(scored) < len(left):
            findings.append(("pass", f"{len(scored)} of {len(left)} candidates, drawn by seed, were scored."))
        findings.append(("pass", real.note))

    verdict = max((level for level, _ in findings), key=SEVERITY.index)
    return Judgement(
        label=label,
        verdict=verdict,
        reasons=[sentence for _, sentence in sorted(findings, key=lambda f: -SEVERITY.index(f[0]))],
        n_real=n_real,
        n_candidates=len(candidates),
        n_accepted=len(left) if verdict in GOOD else 0,
        metrics=metrics,
        rejected=rejected,
        scores=scores,
    )


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


def _metric(
    value: float | None,
    ci: tuple[float, float] | None,
    real_vs_real: float | None,
    real_vs_real_ci: tuple[float, float] | None,
    note: str,
) -> Metric:
    return {
        "value": value,
        "ci": list(ci) if ci else None,
        "real_vs_real": real_vs_real,
        "real_vs_real_ci": list(real_vs_real_ci) if real_vs_real_ci else None,
        "note": note,
    }


def _judge_copies(found: copies.Copies, real: RealClass, rules: Rules) -> tuple[Metric, tuple[str, str]]:
    rule = rules["copies"]
    among_real, among_real_ci = 0.0, None
    note = "Share of candidates that nearly copy a train image, flips and quarter turns included"
    if real.real_copies is None:
        note += "; no real image was held out to compare with."
    else:
        among_real = real.real_copies.share
        among_real_ci = real.real_copies.interval(rule["confidence"])
        note += "; beside it the share among held-out and validation images."
    ci = found.interval(rule["confidence"])
    metric = _metric(found.share, ci, among_real if among_real_ci else None, among_real_ci, note)
    allowed = max(rule["fail_share"], among_real)
    count = int((found.index >= 0).sum())
    sentence = f"{count} of {len(found.index)} candidates nearly copy a train image"
    if ci[0] > allowed:
        return metric, ("fail", f"{sentence}, more than the {allowed:.0%} that are allowed for.")
    return metric, ("pass", f"{sentence}.")


def _copy_reasons(found: copies.Copies, real: RealClass) -> list[str | None]:
    return [
        f"near-copy of train image {real.train_names[index]} (correlation {similarity:.2f})"
        if index >= 0
        else None
        for index, similarity in zip(found.index, found.similarity, strict=True)
    ]


def _copy_scores(found: copies.Copies, real: RealClass) -> pd.DataFrame:
    names = np.array([*real.train_names, None], dtype=object)  # index -1 is the last: none
    return pd.DataFrame({"nearest_train": names[found.index], "similarity": found.similarity})


def _judge_kid(
    y: np.ndarray, real: RealClass, classes: Mapping[str, RealClass], rules: Rules, seed: int
) -> tuple[Metric, tuple[str, str]]:
    """`kid.decide` by the margin: the rules' share of the KID between the class and its nearest other class."""
    rule = rules["kid"]
    x = real.reference
    value, ci = kid.compute(x, y), kid.interval(x, y, rule["confidence"])
    m, n = comparable_sizes(len(real.features), len(x), len(y))
    draws = kid.real_vs_real(real.features, m, n, rules["sizes"]["draws"], seed)
    note = f"Of {len(x)} real and {len(y)} synthetic images; real-vs-real of {m} and {n}. {real.note}"
    metric = _metric(value, ci, float(draws.mean()), _spread(draws, rule["confidence"]), note)
    others = {
        other.label: kid.compute(real.features, other.features)
        for other in classes.values()
        if other.label != real.label and len(other.features) >= rules["sizes"]["fewest_real"]
    }
    if not others or min(others.values()) <= 0:
        why = "no other real class to set the margin by" if not others else "the classes cannot be told apart"
        return metric, ("insufficient-data", f"KID {value:.4f} cannot be judged: {why} in these features.")
    nearest = min(others, key=others.__getitem__)
    margin = rule["margin"] * others[nearest]
    metric["margin"] = margin
    assert ci is not None  # both sides have at least the fewest images of the rules
    sentence = (
        f"KID {value:.4f} [{ci[0]:.4f}, {ci[1]:.4f}] {{}} the margin {margin:.4f}, {rule['margin']:g} of the KID between "
        f"real {real.label} and {nearest}, the nearest class"
    )
    verdict = kid.decide(ci, margin)
    few = f": {len(x)} real images are too few to decide" if verdict == "insufficient-data" else ""
    return metric, (verdict, sentence.format(KID_LIES[verdict]) + few + ".")


def _size_dependent(y: np.ndarray, real: RealClass, rules: Rules, seed: int) -> dict[str, Metric]:
    """Metrics that change with the sample sizes: means over draws of the sizes that real-vs-real can have."""
    draws = rules["sizes"]["draws"]
    m, n = comparable_sizes(len(real.features), real.n_reference, len(y))
    # In an orthonormal basis of the rows' span all of these metrics are the same, and several times faster.
    rows = np.concatenate([real.features, y]).astype(np.float64)
    pool, y = np.split(np.asarray(np.linalg.qr(rows.T, mode="r")).T, [len(real.features)])
    x = pool[: real.n_reference]
    metrics = {}
    for name, module in SIZE_DEPENDENT.items():
        if min(m, n) <= getattr(module, "K", 1):
            metrics[name] = _metric(None, None, None, None, f"{m} real images are too few for it.")
            continue
        rng = np.random.default_rng(seed)
        values = [
            module.compute(x[rng.permutation(len(x))[:m]], y[rng.permutation(len(y))[:n]])
            for _ in range(draws)
        ]
        among_real = module.real_vs_real(pool, m, n, draws, seed)
        metrics[name] = _metric(
            float(np.mean(values)),
            None,
            float(among_real.mean()),
            _spread(among_real, 0.95),
            f"Mean over {draws} draws of {m} real and {n} synthetic images, the sizes of real-vs-real; no interval, "
            "since the value depends on these sizes.",
        )
    return metrics


def _judge_labels(
    y: np.ndarray, label: str, linear: probe.Probe | None, rules: Rules
) -> tuple[Metric, tuple[str, str]]:
    rule = rules["label_agreement"]
    if linear is None or label not in linear.recognised:
        note = "No linear probe could be fitted: it takes two classes with two real images each."
        return _metric(None, None, None, None, note), ("warn", note)
    share = linear.agreement(y, label)
    ci = copies.share_interval(round(share * len(y)), len(y), rule["confidence"])
    count, total = linear.recognised[label]
    own, own_ci = count / total, copies.share_interval(count, total, rule["confidence"])
    note = f"Share that a cross-fitted linear probe on real features takes for {label}; beside it {total} real images."
    metric = _metric(share, ci, own, own_ci, note)
    sentence = (
        f"{share:.0%} of the candidates are taken for {label} by a linear probe, of its real images {own:.0%}"
    )
    if ci[1] < rule["fail_share_of_recall"] * own:
        return metric, ("fail", f"{sentence}: less than {rule['fail_share_of_recall']:g} times as often.")
    if ci[1] < own_ci[0]:
        return metric, ("warn", f"{sentence}.")
    return metric, ("pass", f"{sentence}.")


def _spread(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)
