"""Suspect labels: how many labels that were flipped on purpose are found, and what is suspected of the labels as they are."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from balancer.data import SPLITS, PreparedDataset, prepare
from balancer.quality.features import FeatureExtractor, inception
from balancer.quality.labels import check_labels, out_of_fold, rank

PBC_IMAGES = 1500
FLIPPED = 0.03
DRAWS = 5
RESOLUTION = 128
AS_THEY_ARE = ("segwbc", "all_idb2")
KNOWN = "monocyte/268.png"  # of segwbc: a label known to be wrong, at which nothing was tuned


def table(sets: Path) -> str:
    """Markdown: precision and recall of random flips in `sets/pbc`, and the suspects of the other sets.

    1,500 images of PBC, drawn at random, of which 3 % get one of the other labels at random, in five draws of which the
    mean is given. Inception features take one to three minutes on one core the first time.
    """
    extractor = inception()
    with tempfile.TemporaryDirectory() as folder:
        return "\n\n".join(
            [_flips(sets / "pbc", Path(folder), extractor), _as_they_are(sets, Path(folder), extractor)]
        )


def _flips(source: Path, folder: Path, extractor: FeatureExtractor) -> str:
    files = sorted(path for path in source.rglob("*.jpg"))
    chosen = np.random.default_rng(0).choice(len(files), PBC_IMAGES, replace=False)
    rows = [(files[i], files[i].relative_to(source).parts[0]) for i in sorted(chosen)]
    pd.DataFrame(rows, columns=["file_name", "label"]).to_csv(folder / "pbc.csv", index=False)
    prepare(folder / "pbc.csv", folder / "pbc", resolution=RESOLUTION)
    data = PreparedDataset.load(folder / "pbc")

    features = np.concatenate(
        [extractor(data.images(split)[:]) for split in SPLITS if len(data.tables[split])]
    )
    labels = np.concatenate([data.labels(split) for split in SPLITS])
    groups = pd.factorize(pd.concat([data.tables[split]["group"] for split in SPLITS]))[0]
    n = round(FLIPPED * len(labels))
    depths = {f"first {n // 2}": [], f"first {n}, as many as flips": [], f"first {2 * n}": [], "suspects": []}
    for draw in range(DRAWS):
        given, flipped = flip(labels, n, len(data.classes), np.random.default_rng(draw))
        order, suspects = rank(given, out_of_fold(features, given, groups, seed=draw))
        for shown, depth in zip(depths.values(), (n // 2, n, 2 * n, suspects), strict=True):
            hits = flipped[order[:depth]].sum()
            shown.append((depth, hits / depth, hits / n))
    lines = [
        f"| {name} | {depth:.0f} | {precision:.2f} | {recall:.2f} |"
        for name, shown in depths.items()
        for depth, precision, recall in [np.mean(shown, axis=0)]
    ]
    return "\n".join(
        [
            f"| {len(labels):,} PBC images, {n} labels flipped at random, mean of {DRAWS} draws | images | precision | recall |",
            "|---|---|---|---|",
            *lines,
            "",
            f"Precision is the share of flips among the first images of the list ({n / len(labels):.2f} in a list in random order), "
            "recall the share of the flips that are among them.",
        ]
    )


def flip(labels: np.ndarray, n: int, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Give `n` of the labels (int N) one of the other classes at random: the new labels, and bool N, which were flipped."""
    flipped = np.zeros(len(labels), dtype=bool)
    flipped[rng.choice(len(labels), n, replace=False)] = True
    given = labels.copy()
    given[flipped] = (labels[flipped] + rng.integers(1, classes, n)) % classes
    return given, flipped


def _as_they_are(sets: Path, folder: Path, extractor: FeatureExtractor) -> str:
    lines = []
    for name in AS_THEY_ARE:
        prepare(sets / name, folder / name, resolution=RESOLUTION if name == "all_idb2" else 64)
        check = check_labels(PreparedDataset.load(folder / name), extractor)
        known = check.table.loc[check.table["file_name"].str.endswith(KNOWN), "rank"]
        recall = np.mean([value for value in check.recall.values() if value is not None])
        lines.append(
            f"| {name} | {len(check.table)} | {recall:.2f} | {len(check.suspects)} | {known.iloc[0] if len(known) else '–'} |"
        )
    return "\n".join(
        [
            "| labels as they are | judged | mean recall of the probe | suspects | rank of a label known to be wrong |",
            "|---|---|---|---|---|",
            *lines,
            "",
            f"The label known to be wrong is {KNOWN} of segwbc.",
        ]
    )
