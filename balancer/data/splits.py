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
_DRAWS = 20


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


def fold_groups(rows: pd.DataFrame) -> np.ndarray:
    """Number the groups that may not straddle folds: images of one `group` or, where it is known, of one `patient_id`.

    `rows` is a table of a prepared dataset, or several in one. Returns int64 n.
    """
    patients = rows["patient_id"] if "patient_id" in rows else pd.Series(None, index=rows.index, dtype=object)
    return join_groups(
        [rows["group"].to_numpy(), patients.where(patients != "unknown").to_numpy()], [], len(rows)
    )


def assign_splits(
    labels: Sequence[str] | np.ndarray,
    groups: np.ndarray,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
) -> tuple[np.ndarray, list[str]]:
    """Distribute images over train, validation and test in the given ratios, stratified by class.

    Iterative stratification over groups (`_distribute`), drawn several times; the draw whose shares come nearest to
    the ratios is taken. A class needs as many groups as there are splits with a ratio above 0, so that each gets
    one; a class with fewer goes to train as a whole, and is named in the notes. `groups` is int n. Returns the split
    names (n) and the notes.
    """
    names = np.array(labels)
    classes, label_index = np.unique(names, return_inverse=True)
    group_ids, group_index = np.unique(groups, return_inverse=True)
    content = np.zeros((len(group_ids), len(classes)), dtype=np.int64)
    np.add.at(content, (group_index, label_index), 1)
    share = np.array(ratios, dtype=float) / sum(ratios)
    rng = np.random.default_rng(seed)
    mixed = bool(((content > 0).sum(1) > 1).any())
    draws = [
        _distribute(content, share, by_class, rng)
        for _ in range(max(1, min(_DRAWS, _DRAWS * 1000 // len(group_ids))))
        for by_class in ((False, True) if mixed else (False,))
    ]
    assigned = min(draws, key=lambda draw: round(_deviation(content, share, draw), 3))

    notes = []
    wanted = np.flatnonzero(share > 0)
    for c in range(len(classes)):
        members = np.flatnonzero(content[:, c])
        missing = [STUDY_SPLITS[s] for s in wanted if not (assigned[members] == s).any()]
        if len(members) < len(wanted):
            notes.append(
                f"Class {classes[c]} has {number(int(content[:, c].sum()), 'image', 'images')} in "
                f"{number(len(members), 'group', 'groups')}, too few for {len(wanted)} splits; it is in train as far as its groups are free."
            )
        elif missing:
            notes.append(
                f"Class {classes[c]} has no image in {' and '.join(missing)}: its groups hold other classes too."
            )
    return np.array(STUDY_SPLITS, dtype=object)[assigned[group_index]], notes


def _distribute(
    content: np.ndarray, share: np.ndarray, by_class: bool, rng: np.random.Generator
) -> np.ndarray:
    """One draw of iterative stratification: groups G×K (images per class) to splits, int G.

    Sechidis et al. 2011, "On the stratification of multi-label data": the class with the fewest groups first, its
    largest groups first, each to the split that lacks most images of that class (`by_class`), or most of all that
    the group holds, as shares of the classes.
    """
    wanted = np.flatnonzero(share > 0).tolist()
    images = content.sum(0)
    lacking = share[:, None] * images
    assigned = np.full(len(content), -1)
    for c in np.argsort((content > 0).sum(0), kind="stable"):
        members = rng.permutation(np.flatnonzero(content[:, c]))
        members = members[np.argsort(-content[members, c], kind="stable")]
        for position, group in enumerate(members):
            if assigned[group] >= 0:
                continue
            choice = wanted
            if len(members) < len(wanted):
                choice = wanted[:1]
            elif len(members) - position <= len(wanted):
                empty = [s for s in wanted if not (assigned[members] == s).any()]
                choice = empty if (assigned[members[position:]] < 0).sum() <= len(empty) else wanted
            need = (lacking[choice] / images**2) @ content[group]
            wish = list(zip(lacking[choice, c] if by_class else need, need, strict=True))
            assigned[group] = choice[wish.index(max(wish))]
            lacking[assigned[group]] -= content[group]
    return assigned


def _deviation(content: np.ndarray, share: np.ndarray, assigned: np.ndarray) -> float:
    """Squared distance of the splits' shares from those wanted, summed over the classes and all images together."""
    counts = np.stack([content[assigned == s].sum(0) for s in range(len(share))])
    counts = np.column_stack([counts, counts.sum(1)])
    absent = ((counts == 0) & (share > 0)[:, None]).sum()  # a class that a split lacks outweighs any share
    return float(((counts / counts.sum(0) - share[:, None]) ** 2).sum() + absent)


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
