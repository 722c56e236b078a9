"""The page of the benchmark of vision and language, from what its trainings gave."""

from __future__ import annotations

import numpy as np
import pandas as pd

from balancer.data.attributes import ATTRIBUTES
from benchmarks.classifiers.tables import calibration_error, estimate
from benchmarks.kept import labelled
from benchmarks.parts import markdown_table
from benchmarks.vision_language.study import (
    BY_CLASS,
    BY_FREQUENCY,
    CLASS_PREDICTION,
    CLASSES,
    CONTROL,
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
        body, hits, scores = [], [], []
        for attribute in ATTRIBUTES:
            one = of[(of["what"] == attribute) & (of["test"] == "wbcatt")]
            seeds = one["seed"].to_numpy()
            hits.append((one["label"] == one["predicted"]).to_numpy(dtype=float))
            scores.append(
                np.concatenate([_shares_of_f1(part) for _, part in one.groupby("seed", sort=False)])
            )
            known = (interval(hits[-1], seeds), interval(scores[-1], seeds), calibration_error(one))
            body.append((attribute.replace("_", " "), *known))
        means = (interval(np.mean(values, axis=0), seeds) for values in (hits, scores))
        body.append(("mean", *means, ""))
        table = markdown_table(("attribute", "accuracy", "macro-F1", "calibration error"), body)
        parts.append(f"### Head `{name}`\n\n{table}")
    published = " and ".join(f"{value:.4f}" for value in PUBLISHED)
    return (
        f"ResNet-18, 128 px. Published, ResNet-50 at 224 px with ImageNet weights: {published}.\n\n"
        + "\n\n".join(parts)
    )


def _shares_of_f1(part: pd.DataFrame) -> np.ndarray:
    """Numbers of the images of one seed, float N, whose mean is macro-F1 and whose spread is that of its jackknife.

    Macro-F1 plus N times its derivative by the image's cell of the confusion matrix (`classifier.evaluation`).
    """
    labels, predicted = (part[column].to_numpy(dtype=np.int64) for column in ("label", "predicted"))
    classes = int(part["classes"].iat[0])
    matrix = evaluation.confusion(labels, predicted, classes)
    slopes = evaluation.gradient(matrix, "macro_f1", evaluation.class_weights(matrix))
    return evaluation.score(matrix, "macro_f1") + len(part) * slopes[labels, predicted]


def _zero_shot(rows: pd.DataFrame) -> str:
    parts = []
    controls = list(dict.fromkeys(rows.loc[rows["what"] == CONTROL, "metric"]))
    for name, of in rows.groupby("name", sort=False):
        body, means = [], []
        for left_out in CLASSES:
            one = of[of["left_out"] == left_out]
            if not len(one):
                continue
            cells, recalls = [], []
            for test in ("wbcatt", UNSEEN):
                images = one[
                    (one["what"] == CLASS_PREDICTION)
                    & (one["test"] == test)
                    & (one["label"] == CLASSES.index(left_out))
                ]
                hit = (images["predicted"] == images["label"]).to_numpy(dtype=float)
                recalls.append(hit.mean())
                each = len(images) // images["seed"].nunique()
                cells.append(f"{interval(hit, images['seed'].to_numpy())} of {each}")
            for control in controls:
                hits = one[(one["what"] == CONTROL) & (one["metric"] == control)]
                recalls.append(hits["value"].mean())
                cells.append(f"{recalls[-1]:.3f}")
            words = one[one["what"] == NEW_WORDS]["value"].mean()
            means.append(recalls)
            body.append((left_out, *cells, f"{words:.0f}"))
        recall, _, *others = np.mean(means, axis=0)
        body.append(("mean", f"{recall:.3f}", "", *(f"{value:.3f}" for value in others), ""))
        header = (
            "class left out",
            "recall",
            f"recall on {UNSEEN}",
            *controls,
            "words that no other class has",
        )
        parts.append(f"### {name}\n\n{markdown_table(header, body)}")
    said = (
        f"A class has no image in train and validation, and is one of {len(CLASSES)} possible answers: chance is {CHANCE:.2f}. Its "
        "sentences do not name it. An image is given to it that is like its sentences and unlike the train images, by the sum of both, at "
        f"a price of {calibration.UNSEEN_SHARE:.0%} of the validation images (`docs/language.md`): a rule that draws at random would have "
        f"a recall of {calibration.UNSEEN_SHARE:.2f}. The controls are recalls at the same price: by the sentences alone, by novelty alone, "
        "which reads no text, and by both with the sentences of each other class in place of its own."
    )
    return f"{said}\n\n" + "\n\n".join(parts)


def _retrieval(rows: pd.DataFrame) -> str:
    parts = []
    of = rows[rows["what"] == RETRIEVAL]
    for test, there in of.groupby("test", sort=False):
        there = there.assign(way=there["metric"].str.rsplit(", ", n=1).str[0])
        unlooked = there["way"].isin((BY_FREQUENCY, BY_CLASS))
        first = there["key"] == there["key"].iat[0]  # the same whatever the training
        body = []
        for (name, way), one in there[~unlooked | first].groupby(["name", "way"]):
            cells = []
            for metric in METRICS:
                values = one[one["metric"] == f"{way}, {metric}"]
                cells.append(interval(values["value"].to_numpy(), values["seed"].to_numpy()))
            if way in (BY_FREQUENCY, BY_CLASS):
                body.append(("none", f"image to text, {way}", *(cell.split()[0] for cell in cells)))
            else:
                body.append((f"`{name}`", way, *cells))
        captions = int(there["answers"].iat[0])
        what = "distinct captions" if test == "wbcatt" else "class sentences, no attribute being known"
        table = markdown_table(("head", "way", *METRICS), sorted(body))
        parts.append(f"### {test}: {captions} {what}\n\n{table}")
    return (
        "Captions are ranked by cosine, or by that and how often train images have them, as `classifier search` does (*frequency "
        "counted*). Without a head: who does not look at the image names the captions that are most frequent in train, or those that are "
        "among the images of its class.\n\n" + "\n\n".join(parts)
    )


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
    half, _ = evaluation.half_width(parts, np.array([images - 1, count - 1]))
    return f"{mean:.3f} ({max(mean - half, 0):.3f} to {min(mean + half, 1):.3f}{_seeds(count)})"
