"""The page of the benchmark of vision and language, from what its trainings gave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from balancer.data.attributes import ATTRIBUTES
from benchmarks.classifiers.tables import calibration_error, estimate
from benchmarks.kept import labelled
from benchmarks.parts import markdown_table
from benchmarks.vision_language.study import (
    BLIND,
    CLASS_AND_ATTRIBUTES,
    CLASS_PREDICTION,
    CLASSES,
    COMMONEST,
    COMMONEST_OF_CLASS,
    CONTROL,
    NAMES,
    NEAREST,
    NEW_WORDS,
    NO_SENTENCE,
    NOT_THERE,
    NOVELTY_ALONE,
    OUTSIDERS,
    OWN_ALONE,
    RETRIEVAL,
    SEEDS,
    UNCERTAIN_ALONE,
    UNSEEN,
    every,
)
from classifier import calibration, evaluation
from classifier.models.vision_language import CLASS

CHANCE = 1 / len(CLASSES)
CONTROLS = (OWN_ALONE, UNCERTAIN_ALONE, NO_SENTENCE, NOVELTY_ALONE, OUTSIDERS, NEAREST)
_RULE = "the rule"
_Values = tuple[np.ndarray, np.ndarray]  # one number per image (or query) and seed, and the seeds
METRICS = ("R@1", "R@5", "R@10", "mAP")
PUBLISHED = (0.9409, 0.9127)  # accuracy and macro-F1, WBCAtt's ResNet-50 with ImageNet weights at 224 px


def page(found: pd.DataFrame) -> str:
    """The Markdown page: a section for each stage that has results. `found` as `study.do` gives it."""
    hours = found.groupby("key")["seconds"].first().sum() / 3600
    rows = labelled(found, every(), NAMES)
    head = (
        "# Vision and language, measured\n\n"
        f"{found['key'].nunique()} of {len({unit.key for unit in every()})} trainings, {hours:.1f} hours of one core in training, by "
        f"{found['code'].nunique()} versions of the code, from scratch on PBC with WBCAtt's attributes: trained on its train split, "
        "chosen on one half of its val split, reported on the other (507 images, by a hash of the file's name; four of them have a "
        f"near-duplicate in train). Mean of {len(SEEDS)} seeds and 95 % interval over images and seeds; fewer seeds are named, and "
        f"one has no interval. `{UNSEEN}` was not trained on; its own scale and stain are left as they are, and its "
        "images, 299 in 286 groups, are taken as independent.\n"
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
        blind: dict[str, list[tuple[float, float]]] = {COMMONEST: [], COMMONEST_OF_CLASS: []}
        for attribute in ATTRIBUTES:
            every_rule = of[(of["what"] == attribute) & (of["test"] == "wbcatt")]
            one = every_rule[every_rule["metric"].isna()]
            for rule, found in blind.items():
                said = every_rule[
                    (every_rule["metric"] == rule) & (every_rule["seed"] == every_rule["seed"].min())
                ]
                right = (said["label"] == said["predicted"]).mean()
                found.append((right, _shares_of_f1(said).mean()))
            seeds = one["seed"].to_numpy()
            hits.append((one["label"] == one["predicted"]).to_numpy(dtype=float))
            scores.append(
                np.concatenate([_shares_of_f1(part) for _, part in one.groupby("seed", sort=False)])
            )
            known = (interval(hits[-1], seeds), interval(scores[-1], seeds), calibration_error(one))
            without = (f"{found[-1][0]:.3f} / {found[-1][1]:.3f}" for found in blind.values())
            body.append((attribute.replace("_", " "), *known, *without))
        means = (interval(np.mean(values, axis=0), seeds) for values in (hits, scores))
        without = ("{:.3f} / {:.3f}".format(*np.mean(found, axis=0)) for found in blind.values())
        body.append(("mean", *means, "", *without))
        table = markdown_table(("attribute", "accuracy", "macro-F1", "calibration error", *blind), body)
        parts.append(f"### Head `{name}`\n\n{table}")
    published = " and ".join(f"{value:.4f}" for value in PUBLISHED)
    return (
        f"ResNet-18, 128 px. Published, ResNet-50 at 224 px with ImageNet weights, on WBCAtt's own test images: {published}. Without "
        "looking at the images (accuracy / macro-F1): the value that is commonest in train, of all images or of those of the true class.\n\n"
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
    for name, of in rows.groupby("name", sort=False):
        body, elsewhere = [], []
        hits: dict[str, list[_Values]] = {way: [] for way in (_RULE, *CONTROLS)}
        for left_out in (label for label in CLASSES if label in set(of["left_out"])):
            one, k = of[of["left_out"] == left_out], CLASSES.index(left_out)
            own, price, _, images, seeds = _given(one, k, "wbcatt")
            hits[_RULE].append((own, seeds))
            cells = [f"{interval(own, seeds)} of {images}", f"{price:.3f}"]
            for control in CONTROLS:
                said = one[(one["what"] == CONTROL) & (one["metric"] == control)]
                is_own, value = said["label"] == k, said["value"]
                hits[control].append((value[is_own].to_numpy(), seeds))
                cells.append(f"{value[is_own].mean():.3f} / {value[~is_own].mean():.3f}")
            words = one[one["what"] == NEW_WORDS]["value"].mean()
            body.append((left_out, *cells, f"{words:.0f}"))
            own, price, right, images, seeds = _given(one, k, UNSEEN)
            cells = [f"{interval(own, seeds)} of {images}", f"{price:.3f}", f"{right:.3f}"]
            elsewhere.append((left_out, *cells))
        pairs = [*((_RULE, control) for control in CONTROLS), (OWN_ALONE, UNCERTAIN_ALONE)]
        means = [(_RULE, mean_interval(hits[_RULE]))]
        means += [
            (f"{one} minus {two}", mean_interval(_minus(hits[one], hits[two]), -1.0)) for one, two in pairs
        ]
        columns = ("class left out", "recall, of how many", "others given to it")
        parts.append(
            f"### {name}\n\n{markdown_table((*columns, *CONTROLS, 'words that no other class has'), body)}\n\n"
            f"Mean recall over the {len(body)} classes, and differences, paired by image and seed:\n\n{markdown_table(('', 'recall'), means)}\n\n"
            f"On `{UNSEEN}`:\n\n{markdown_table((*columns, 'others rightly named'), elsewhere)}"
        )
    return f"{_ZERO_SHOT}\n\n" + "\n\n".join(parts)


def _minus(one: Sequence[_Values], two: Sequence[_Values]) -> list[_Values]:
    return [(a - b, seeds) for (a, seeds), (b, _) in zip(one, two, strict=True)]


def _given(one: pd.DataFrame, k: int, test: str) -> tuple[np.ndarray, float, float, int, np.ndarray]:
    """Of the class k left out: which images of its own it is given, and their seeds; the shares of the others that are given to it,
    and that are rightly named; and how many images it has."""
    said = one[(one["what"] == CLASS_PREDICTION) & (one["test"] == test)]
    own, others = said[said["label"] == k], said[said["label"] != k]
    return (
        (own["predicted"] == k).to_numpy(dtype=float),
        float((others["predicted"] == k).mean()),
        float((others["predicted"] == others["label"]).mean()),
        len(own) // own["seed"].nunique(),
        own["seed"].to_numpy(),
    )


_ZERO_SHOT = (
    f"A class has no image in train and validation, and is one of {len(CLASSES)} possible answers: chance is {CHANCE:.2f}. Its "
    "sentences do not name it. An image is given to it that is like its sentences and unlike the train images, by the sum of both, at "
    f"a price: {calibration.UNSEEN_SHARE:.0%} of the validation images of the other classes (`docs/language.md`); a rule that draws at "
    f"random would have a recall of {calibration.UNSEEN_SHARE:.2f}. What the others pay on the report half stands beside the recall. The controls "
    f"(recall / others given to it) are at the same price on validation: *{OWN_ALONE}*, without novelty; *{UNCERTAIN_ALONE}*, where a constant "
    f"takes the place of the likeness to its own, without novelty; *{NO_SENTENCE}*, this with novelty; *{NOVELTY_ALONE}*; *{OUTSIDERS}*, the rule "
    f"with the sentences of {', '.join(NOT_THERE)} in place of its own, on "
    f"average. *{NEAREST}* has no price: the largest of the {len(CLASSES)} cosines. "
    "The last column counts the words of its sentences that are in no training caption and in no sentence of the others."
)


def _retrieval(rows: pd.DataFrame) -> str:
    parts = []
    of = rows[rows["what"] == RETRIEVAL]
    for test, there in of.groupby("test", sort=False):
        there = there.assign(way=there["metric"].str.rsplit(", ", n=1).str[0])
        # The same whatever the training.
        once = there[there["way"].isin(BLIND)].drop_duplicates(["metric", "query"])
        body = []
        for (name, way), one in pd.concat([there[~there["way"].isin(BLIND)], once]).groupby(["name", "way"]):
            cells = []
            for metric in METRICS:
                values = one[one["metric"] == f"{way}, {metric}"]
                cells.append(interval(values["value"].to_numpy(), values["seed"].to_numpy()))
            if way in BLIND:
                body.append(("none", f"{BLIND[way]}, {way}", *(cell.split()[0] for cell in cells)))
            else:
                body.append((f"`{name}`", way, *cells))
        if test == UNSEEN:
            labels = rows[(rows["what"] == CLASS_PREDICTION) & (rows["test"] == UNSEEN)]
            there_are = labels[labels["key"] == labels["key"].iat[0]]["label"].value_counts().to_numpy()
            for way, relevant, answers in (
                ("image to text", np.ones(1), len(CLASSES)),
                ("text to image", there_are, there_are.sum()),
            ):
                chance = (f"{value:.3f}" for value in at_random(relevant, answers))
                body.append(("none", f"at random, {way}", *chance))
        captions = int(there["answers"].iat[0])
        what = "distinct captions" if test == "wbcatt" else "class sentences, no attribute being known"
        table = markdown_table(("head", "way", *METRICS), sorted(body))
        parts.append(f"### {test}: {captions} {what}\n\n{table}")
    return (
        "R@K is the share of queries of which one right answer is among the first K, mAP the mean of the average precision. Captions are ranked by cosine, or by that and how often train images have them, as `classifier search` does (*frequency "
        "counted*). Without a head: who does not look at the image names the captions that are most frequent in train, or those that are "
        "among the images of its class; and for a text takes images in any order, or those of the classes that have it most often.\n\n"
        + "\n\n".join(parts)
    )


def at_random(relevant: np.ndarray, answers: int) -> tuple[float, ...]:
    """What is expected of `METRICS` where N queries have so many right answers (int N) of so many, which come in any order."""
    ranks = np.arange(1, answers + 1)
    first = [1 - hypergeom.pmf(0, answers, relevant, min(k, answers)) for k in (1, 5, 10)]
    # The share of right answers among the first r, where that at r is one.
    among = 1 + (ranks - 1) * ((relevant - 1) / (answers - 1))[:, None]
    return (*(float(p.mean()) for p in first), float((among / ranks).mean(axis=1).mean()))


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

    def against(first: str, second: str) -> tuple[str, ...]:
        pairs = [(by.get((first, share)), by.get((second, share))) for share in shares]
        return tuple("–" if one is None or two is None else estimate(one, minus=two) for one, two in pairs)

    texts = [
        (f"joint minus {CLASS_AND_ATTRIBUTES}", "convnextv2, joint", f"convnextv2, {CLASS_AND_ATTRIBUTES}")
    ]
    texts += [
        (f"resnet18 minus convnextv2, {head}", f"resnet18, {head}", f"convnextv2, {head}")
        for head in (CLASS, "text", "joint")
    ]
    more = [(what, *against(f"{one}, balanced", f"{two}, balanced")) for what, one, two in texts]
    return (
        "Macro-F1. A share of the labels is one of the train images; the weights are chosen by all validation images, as ever. The head `joint` "
        f"learns eleven attributes of each train image beside its class: *{CLASS_AND_ATTRIBUTES}* is this head with hardly any weight on "
        f"texts.\n\n{markdown_table(header, reached)}\n\nBetter than the head `{CLASS}`, with the same images and seeds, by\n\n"
        f"{markdown_table(header, better)}\n\nWhat texts bring beyond attributes, and which network does better with few labels (balanced "
        f"sampling):\n\n{markdown_table(('', *header[3:]), more)}"
    )


def interval(values: np.ndarray, seeds: np.ndarray) -> str:
    """Mean of one number per image (or query) and seed, float N in the same order for each seed, with its 95 % interval, cut to
    [0, 1]; the variance is that of `_variance`."""
    return mean_interval([(values, seeds)])


def mean_interval(of: Sequence[_Values], lowest: float = 0.0) -> str:
    """The mean over independent sets of trainings of such means, with its 95 % interval, cut to [lowest, 1], where every set has
    several seeds and images; the fewest seeds of a set are named."""
    counts = [len(np.unique(seeds)) for _, seeds in of]
    value, count = float(np.mean([values.mean() for values, _ in of])), min(counts)
    if count == 1 or any(len(seeds) == n for (_, seeds), n in zip(of, counts, strict=True)):
        return f"{value:.3f} ({count} seed{'s' * (count > 1)})"
    found = [_variance(values, seeds) for values, seeds in of]
    parts = np.concatenate([variances for variances, _ in found]) / len(of) ** 2
    if not parts.any():
        return f"{value:.3f} (no variation{_seeds(count)})"
    half, _ = evaluation.half_width(parts, np.concatenate([dfs for _, dfs in found]))
    return f"{value:.3f} ({max(value - half, lowest):.3f} to {min(value + half, 1):.3f}{_seeds(count)})"


def _variance(values: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variance of the mean, in two parts, and their degrees of freedom: that of the images' means over the seeds, and that
    of the seeds' means, each over its number."""
    table = np.stack([values[seeds == seed] for seed in np.unique(seeds)])  # seeds × images
    count, images = table.shape
    parts = np.array([table.mean(axis=0).var(ddof=1) / images, table.mean(axis=1).var(ddof=1) / count])
    return parts, np.array([images - 1, count - 1])
