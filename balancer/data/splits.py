"""Who goes into train, validation and test: stratified by class, groups on one side only; and thinning of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from balancer.data.wording import number
from balancer.imaging.duplicates import clusters

RATIOS = (0.70, 0.15, 0.15)
STUDY_SPLITS = ("train", "validation", "test")
FEW = 10


def join_groups(columns: Sequence[np.ndarray], pairs: Sequence[tuple[int, ...]], n: int) -> np.ndarray:
    """Number the groups: images are together when they share a value in any column, or a pair (i, j, …).

    Each column holds `n` texts, None or NaN where unknown (an unknown value joins nothing). Returns int64 n.
    """
    links = [pair[:2] for pair in pairs]
    for column in columns:
        codes, _ = pd.factorize(np.asarray(column, dtype=object))
        known = np.flatnonzero(codes >= 0)
        ordered = known[np.argsort(codes[known], kind="stable")]
        same = codes[ordered[1:]] == codes[ordered[:-1]]
        links += list(zip(ordered[:-1][same].tolist(), ordered[1:][same].tolist(), strict=True))
    return clusters(n, links)


def assign_splits(
    labels: Sequence[str] | np.ndarray,
    groups: np.ndarray,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
) -> tuple[np.ndarray, list[str]]:
    """Distribute images over train, validation and test in the given ratios, stratified by class.

    Iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label data") over groups: the
    class with the fewest groups first, its largest groups first, each to the split that lacks most of what the group
    holds, as shares of the classes.
    A class needs as many groups as there are splits with a ratio above 0, so that each gets one; a class with fewer
    goes to train as a whole, and is named in the notes. `groups` is int n. Returns the split names (n) and the notes.
    """
    names = np.array(labels)
    classes, label_index = np.unique(names, return_inverse=True)
    group_ids, group_index = np.unique(groups, return_inverse=True)
    wanted = [i for i, ratio in enumerate(ratios) if ratio > 0]
    share = np.array(ratios, dtype=float) / sum(ratios)
    content = np.zeros((len(group_ids), len(classes)), dtype=np.int64)
    np.add.at(content, (group_index, label_index), 1)
    images = content.sum(0)
    lacking = share[:, None] * images
    rng = np.random.default_rng(seed)
    assigned = np.full(len(group_ids), -1)
    notes = []

    def assign(group: int, split: int) -> None:
        assigned[group] = split
        lacking[split] -= content[group]

    for c in np.argsort((content > 0).sum(0), kind="stable"):
        members = rng.permutation(np.flatnonzero(content[:, c]))
        members = members[np.argsort(-content[members, c], kind="stable")]
        if len(members) < len(wanted):
            for group in members[assigned[members] < 0]:
                assign(group, 0)
            notes.append(
                f"Class {classes[c]} has {number(int(images[c]), 'image', 'images')} in "
                f"{number(len(members), 'group', 'groups')}, too few for {len(wanted)} splits; it is in train as far as its groups are free."
            )
            continue
        for position, group in enumerate(members):
            if assigned[group] >= 0:
                continue
            empty = [s for s in wanted if not (assigned[members] == s).any()]
            left = int((assigned[members[position:]] < 0).sum())
            choice = empty if left <= len(empty) else wanted
            need = (lacking[choice] / images**2) @ content[group]
            assign(group, choice[int(np.argmax(need))])
        missing = [STUDY_SPLITS[s] for s in wanted if not (assigned[members] == s).any()]
        if missing:
            notes.append(
                f"Class {classes[c]} has no image in {' and '.join(missing)}: its groups hold other classes too."
            )
    return np.array(STUDY_SPLITS, dtype=object)[assigned[group_index]], notes


def long_tail_limits(counts: Mapping[str, int], ratio: float) -> dict[str, int]:
    """Exponential profile (Cui et al. 2019): class k of K by size keeps n_max·ratio^(−k/(K−1)) images, at least 1.

    The largest class keeps all, the rarest 1/ratio of that; a class that has fewer images keeps what it has.
    """
    order = sorted(counts, key=lambda label: (-counts[label], label))
    largest = counts[order[0]]
    last = max(len(order) - 1, 1)
    return {
        label: min(counts[label], max(1, round(largest * ratio ** (-k / last))))
        for k, label in enumerate(order)
    }


def few_images(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Sentences on classes with fewer than 10 images in train or in test, by counts {split: {class: n}}."""
    meaning = {
        "train": "little can be learned of them, and a generator may only copy them",
        "test": "a single image moves their results by a tenth or more, and no interval will be narrow",
    }
    sentences = []
    for split, consequence in meaning.items():
        few = [f"{label} ({n})" for label, n in counts[split].items() if 0 < n < FEW]
        if few:
            sentences.append(f"Fewer than {FEW} images in {split}: {', '.join(few)}; {consequence}.")
    return sentences


def thin(
    labels: Sequence[str] | np.ndarray, splits: np.ndarray, limits: Mapping[str, int], seed: int = 0
) -> np.ndarray:
    """Move images to heldout until each class in `limits` has at most that many in train.

    Validation is thinned in the same proportion and keeps at least 1 image if it had any; test is left alone.
    Returns the new split names (n).
    """
    names = np.array(labels)
    thinned = splits.copy()
    for label in sorted(limits):
        rng = np.random.default_rng([seed, *label.encode()])
        train = np.flatnonzero((names == label) & (splits == "train"))
        keep = min(limits[label], len(train))
        if keep == len(train):
            continue
        validation = np.flatnonzero((names == label) & (splits == "validation"))
        keep_validation = min(len(validation), max(1, round(len(validation) * keep / len(train))))
        for members, kept in ((train, keep), (validation, keep_validation)):
            thinned[rng.permutation(members)[kept:]] = "heldout"
    return thinned
