"""The page of the benchmark of vision and language, from what its trainings gave."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from balancer.data.attributes import ATTRIBUTES
from benchmarks.classifiers.tables import calibration_error, estimate
from benchmarks.kept import labelled
from benchmarks.parts import markdown_table
from benchmarks.vision_language.study import (
    CLASS_PREDICTION,
    CLASSES,
    NAMES,
    NEW_WORDS,
    RETRIEVAL,
    SEEDS,
    UNSEEN,
    every,
)
from classifier import calibration, evaluation
from classifier.models.vision_language import CLASS

CHANCE = 1 / len(CLASSES)
METRICS = ("R@1", "R@5", "R@10", "mAP")
PUBLISHED = (0.9409, 0.9127)  # accuracy and macro-F1, WBCAtt's ResNet-50 with ImageNet weights at 224 px


def page(found: pd.DataFrame) -> str:
    """The Markdown page: a section for each stage that has results. `found` as `study.do` gives it."""
    hours = found.groupby("key")["seconds"].first().sum() / 3600
    rows = labelled(found, every(), NAMES)
    head = (
        "# Vision and language, measured\n\n"
        f"{found['key'].nunique()} of {len({unit.key for unit in every()})} trainings, {hours:.1f} hours of one core, from scratch on PBC with WBCAtt's "
        "attributes: trained on its train split, chosen on one half of its val split, reported on the other (by a hash of the "
        f"file's name). Mean of {len(SEEDS)} seeds and 95 % interval over images and seeds; fewer seeds are named, and one has "
        f"no interval. `{UNSEEN}` was not trained on; its own scale and stain are left as they are.\n"
    )
    parts = [head]
    for stage, write in (
        ("attributes", _attributes),
        ("zero-shot", _zero_shot),
        ("retrieval", _retrieval),
        ("language", _language),
    ):
        of = rows[rows["stage"] == stage]
        if len(of):
            parts.append(f"## {stage.capitalize()}\n\n{write(of)}\n")
    return "\n".join(parts)


def _seeds(count: int) -> str:
    return "" if count == len(SEEDS) else f", {count} seed{'s' * (count > 1)}"


def _attributes(rows: pd.DataFrame) -> str:
    parts = []
    for name, of in rows.groupby("name"):
        body, accuracies, scores = [], [], []
        for attribute in ATTRIBUTES:
            one = of[(of["what"] == attribute) & (of["test"] == "wbcatt")]
            if not len(one):
                continue
            accuracy = (one["label"] == one["predicted"]).mean()
            macro = estimate(one, "macro_f1")
            accuracies.append(accuracy)
            scores.append(float(macro.split()[0]))
            body.append((attribute.replace("_", " "), f"{accuracy:.3f}", macro, calibration_error(one)))
        body.append(("mean", f"{np.mean(accuracies):.3f}", f"{np.mean(scores):.3f}", ""))
        table = markdown_table(("attribute", "accuracy", "macro-F1", "calibration error"), body)
        parts.append(f"### Head `{name}`\n\n{table}")
    published = " and ".join(f"{value:.4f}" for value in PUBLISHED)
    return (
        f"ResNet-18, 128 px. Published, ResNet-50 at 224 px with ImageNet weights: {published}.\n\n"
        + "\n\n".join(parts)
    )


def _zero_shot(rows: pd.DataFrame) -> str:
    parts = []
    for name, of in rows.groupby("name", sort=False):
        body, means = [], []
        for left_out in CLASSES:
            one = of[(of["left_out"] == left_out) & (of["what"] == CLASS_PREDICTION)]
            if not len(one):
                continue
            cells = []
            for test in ("wbcatt", UNSEEN):
                images = one[(one["test"] == test) & (one["label"] == CLASSES.index(left_out))]
                hit = (images["predicted"] == images["label"]).to_numpy(dtype=float)
                cells.append(
                    f"{interval(hit, images['seed'].to_numpy())} of {len(images) // images['seed'].nunique()}"
                )
                if test == "wbcatt":
                    means.append(hit.mean())
            words = of[(of["left_out"] == left_out) & (of["what"] == NEW_WORDS)]["value"].mean()
            body.append((left_out, *cells, f"{words:.0f}"))
        body.append(("mean", f"{np.mean(means):.3f}", "", ""))
        header = ("class left out", "recall", f"recall on {UNSEEN}", "words that no other class has")
        parts.append(f"### {name}\n\n{markdown_table(header, body)}")
    said = (
        f"A class has no image in train and validation, and is one of {len(CLASSES)} possible answers: chance is {CHANCE:.2f}. Its "
        "sentences do not name it. An image is given to it that is like its sentences and unlike the train images, by the sum of both, at "
        f"a price of {calibration.UNSEEN_SHARE:.0%} of the validation images (`docs/language.md`)."
    )
    return f"{said}\n\n" + "\n\n".join(parts)


def _retrieval(rows: pd.DataFrame) -> str:
    parts = []
    of = rows[rows["what"] == RETRIEVAL]
    for test, there in of.groupby("test", sort=False):
        body = []
        for (name, way), one in there.assign(way=there["metric"].str.split(",").str[0]).groupby(
            ["name", "way"]
        ):
            cells = []
            for metric in METRICS:
                values = one[one["metric"] == f"{way}, {metric}"]
                cells.append(interval(values["value"].to_numpy(), values["seed"].to_numpy()))
            body.append((f"`{name}`", way, *cells))
        captions = int(there["answers"].iat[0])
        what = "distinct captions" if test == "wbcatt" else "class sentences, no attribute being known"
        table = markdown_table(("head", "way", *METRICS), body)
        parts.append(f"### {test}: {captions} {what}\n\n{table}")
    return "\n\n".join(parts)


def _language(rows: pd.DataFrame) -> str:
    """What each head reaches, and by how much it is better than the class head of the same network and sampling."""
    of = rows[(rows["what"] == CLASS_PREDICTION) & (rows["test"] == "wbcatt")]
    shares = sorted(of["share"].unique())
    by = dict(iter(of.groupby(["name", "share"])))
    reached, better = [], []
    for name in dict.fromkeys(of["name"]):
        network, head, sampling = name.split(", ")
        own = [by.get((name, share)) for share in shares]
        reached.append((network, head, sampling, *("–" if one is None else estimate(one) for one in own)))
        plain = [by.get((f"{network}, {CLASS}, {sampling}", share)) for share in shares]
        if head != CLASS:
            cells = (
                "–" if one is None or other is None else estimate(one, minus=other)
                for one, other in zip(own, plain, strict=True)
            )
            better.append((network, head, sampling, *cells))
    header = ("network", "head", "sampling", *(f"{share:.0%} of the labels" for share in shares))
    return (
        f"Macro-F1.\n\n{markdown_table(header, reached)}\n\nBetter than the head `{CLASS}`, with the same images and seeds, by\n\n"
        f"{markdown_table(header, better)}"
    )


def interval(values: np.ndarray, seeds: np.ndarray) -> str:
    """Mean of one number per image (or query) and seed, float N in the same order for each seed, with its 95 % interval.

    The variance of the images' means over the seeds, and of the seeds' means, each over its number; Student's t with Welch
    and Satterthwaite's degrees of freedom, cut to [0, 1].
    """
    table = np.stack([values[seeds == seed] for seed in np.unique(seeds)])  # seeds × images
    mean, (count, images) = table.mean(), table.shape
    if count == 1 or images == 1:
        return f"{mean:.3f} ({count} seed{'s' * (count > 1)})"
    parts = np.array([table.mean(axis=0).var(ddof=1) / images, table.mean(axis=1).var(ddof=1) / count])
    if not parts.any():
        return f"{mean:.3f} (no variation{_seeds(count)})"
    df = parts.sum() ** 2 / (parts**2 / np.array([images - 1, count - 1])).sum()
    half = stats.t.ppf((1 + evaluation.LEVEL) / 2, df) * parts.sum() ** 0.5
    return f"{mean:.3f} ({max(mean - half, 0):.3f} to {min(mean + half, 1):.3f}{_seeds(count)})"
