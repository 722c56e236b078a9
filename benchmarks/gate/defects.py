"""Which share of painted defects the gate's checks of single images catch, and which share of real images they reject.

Of each class some images are judged, as they are and painted, by limits from `FITTED` others, a quarter of which count as
images that no generator was trained on, as in a gate. Limits hang on which images happen to set them, so that these are drawn
`DRAWS` times and shares are means over the draws. Near-duplicates are not kept apart.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import binomtest

from balancer.data.sources import IMAGE_SUFFIXES
from balancer.imaging.segmentation import segment
from balancer.quality import defects
from balancer.quality.measures import measures
from benchmarks.gate.painting import DEFECTS, Scene

Array = np.ndarray
# Fields of many cells are not judged at 64 px, where a cell of theirs measures five pixels.
SETS = {128: ("pbc", "segwbc", "all_idb2", "all4"), 64: ("pbc", "segwbc", "all_idb2")}
FITTED = 200  # real images of a class that its limits come from at most,
UNSEEN, FEWEST_UNSEEN = 0.25, 15  # share of these that count as held out, and how many at least
POOL = 400  # that they are drawn from, two in three of a small class
JUDGED = 150  # others at most
DRAWS = 5
PAINTED = 16  # of each class and defect at most
CONFIDENCE = 0.95
SEGMENTED = ("neutrophil", "eosinophil")
GRANULES = {"eosinophil": "orange", "basophil": "purple"}
WITHOUT_CELL = ("platelet", "Benign", "Early", "Pre", "Pro")  # platelets, and fields of many cells
# What a painted defect may rightly be called besides its own name: a second nucleus may be another cell's, and so on.
SAME = {
    "two nuclei": ("two nuclei", "second cell", "foreign lobes"),
    "second cell": ("second cell", "two nuclei", "cut off"),
    "open membrane": ("open membrane", "missing membrane"),
    "missing membrane": ("open membrane", "missing membrane"),
}
OF_THE_IMAGE = ("seam", "checkerboard", "stain off", "blur", "noise")


class Part(NamedTuple):
    """Images of one class, as they are or with a defect painted: what each was rejected for, None if not, draw by draw."""

    set: str
    label: str
    defect: str  # "" when real
    found: list[str | None]


def read_class(folder: Path, resolution: int, most: int = POOL + JUDGED) -> list[Array]:
    """At most `most` images of a class in an order drawn by its name, uint8 R×R×3, resampled as `balancer prepare` does."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    order = np.random.default_rng(zlib.crc32(folder.name.encode())).permutation(len(paths))
    size = (resolution, resolution)
    return [
        np.asarray(Image.open(paths[i]).convert("RGB").resize(size, Image.Resampling.LANCZOS))
        for i in order[:most]
    ]


def judge(root: Path, resolution: int) -> tuple[list[Part], list[str]]:
    """Judge all of a set; also what it cost, and the notes of the classes whose limits are not their own alone."""
    classes = {
        folder.name: read_class(folder, resolution) for folder in sorted(root.iterdir()) if folder.is_dir()
    }
    pools = {label: min(POOL, 2 * len(images) // 3) for label, images in classes.items()}
    started = time.process_time()
    measured = {label: measures(images) for label, images in classes.items()}
    cost = 1e3 * (time.process_time() - started) / sum(map(len, classes.values()))
    tables = {
        (label, defect): measures(painted)
        for label, images in classes.items()
        for defect, painted in paint(images[pools[label] :], label).items()
        if painted
    }
    tables |= {(label, ""): table[pools[label] :] for label, table in measured.items()}
    rng = np.random.default_rng(0)
    found: dict[tuple[str, str], list[str | None]] = {key: [] for key in tables}
    for _ in range(DRAWS):
        drawn = {label: measured[label].iloc[rng.permutation(pool)[:FITTED]] for label, pool in pools.items()}
        unseen = {label: max(FEWEST_UNSEEN, int(UNSEEN * len(table))) for label, table in drawn.items()}
        limits = defects.fit(
            {label: table[: unseen[label]] for label, table in drawn.items()},
            {label: table[unseen[label] :] for label, table in drawn.items()},
        )
        for (label, defect), table in tables.items():
            if limits.limits[label] is not None:
                found[label, defect] += _found(table, label, limits)
    parts = [Part(root.name, *key, names) for key, names in found.items() if names]
    notes = [note for label, note in limits.notes.items() if min(FITTED, pools[label]) < defects.ENOUGH]
    return parts, [f"{root.name}: {cost:.0f} ms of one core's time to measure an image.", *notes]


def _found(measured: pd.DataFrame, label: str, limits: defects.Limits) -> list[str | None]:
    surprises = defects.surprises(measured, label, limits)
    reasons = defects.check(measured, label, limits)
    return [
        str(name) if reason else None for name, reason in zip(surprises.idxmax(axis=1), reasons, strict=True)
    ]


def paint(images: list[Array], label: str) -> dict[str, list[Array]]:
    """Each defect painted into at most `PAINTED` of the images, where they offer a place for it."""
    found = segment(images)
    rng = np.random.default_rng(0)
    painted: dict[str, list[Array]] = {}
    for defect, brush in DEFECTS.items():
        painted[defect] = []
        if label in WITHOUT_CELL and defect not in OF_THE_IMAGE:
            continue
        for i in range(len(images)):
            donor = (i + 1 + int(rng.integers(max(len(images) - 1, 1)))) % len(images)
            if len(painted[defect]) == PAINTED:
                break
            if found[i].flag or found[donor].flag:
                continue
            scene = Scene(
                images[i],
                found[i].mask,
                images[donor],
                found[donor].mask,
                label in SEGMENTED,
                GRANULES.get(label, ""),
            )
            image = brush(scene, rng)
            if image is not None:
                painted[defect].append(image)
    return painted


def caught(parts: list[Part]) -> str:
    """Share of painted images rejected, each defect: all classes of a set together, with an interval over all sets."""
    sets = list(dict.fromkeys(part.set for part in parts))
    lines = [
        f"| painted defect | images | caught | {CONFIDENCE:.0%} interval | named as such | {' | '.join(sets)} |",
        "|---" * (5 + len(sets)) + "|",
    ]
    for defect in DEFECTS:
        rows = [part for part in parts if part.defect == defect]
        if rows:
            found = _joined(part for part in rows)
            own = np.mean([name in SAME.get(defect, (defect,)) for name in found])
            cells = [_share(_joined(part for part in rows if part.set == name)) for name in sets]
            lines.append(
                f"| {defect} | {len(found) // DRAWS} | {_share(found)} | {_interval(found)} | {own:.0%} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def by_class(parts: list[Part]) -> str:
    """Share of painted images rejected, class by class."""
    classes = list(dict.fromkeys((part.set, part.label) for part in parts))
    lines = [f"| class | {' | '.join(DEFECTS)} |", "|---" * (1 + len(DEFECTS)) + "|"]
    for name, label in classes:
        found = {part.defect: part.found for part in parts if (part.set, part.label) == (name, label)}
        lines.append(
            f"| {name} {label} | {' | '.join(_share(found.get(defect, [])) for defect in DEFECTS)} |"
        )
    return "\n".join(lines)


def rejected(parts: list[Part]) -> str:
    """Share of real unseen images rejected, class by class and together, and what for."""
    real = [part for part in parts if not part.defect]
    rows = [(f"{part.set} {part.label}", part.found) for part in real]
    for name in dict.fromkeys(part.set for part in real):
        rows.append((f"**{name}**", _joined(part for part in real if part.set == name)))
    rows.append(("**all**", _joined(part for part in real)))
    lines = [
        f"| real | images | rejected | {CONFIDENCE:.0%} interval | for |",
        "|---|---|---|---|---|",
    ]
    for name, found in rows:
        reasons = Counter(reason for reason in found if reason)
        told = ", ".join(f"{reason} {count / DRAWS:.1f}" for reason, count in reasons.most_common(4)) or "–"
        lines.append(f"| {name} | {len(found) // DRAWS} | {_share(found, 1)} | {_interval(found)} | {told} |")
    return "\n".join(lines)


def _joined(parts: Iterable[Part]) -> list[str | None]:
    return [name for part in parts for name in part.found]


def _share(found: list[str | None], digits: int = 0) -> str:
    return f"{np.mean([name is not None for name in found]):.{digits}%}" if found else "–"


def _interval(found: list[str | None]) -> str:
    """Of as many images as were judged, whatever the number of draws: their judgements are not independent."""
    count = sum(name is not None for name in found)
    interval = binomtest(round(count / DRAWS), len(found) // DRAWS).proportion_ci(CONFIDENCE, method="wilson")
    return f"{interval.low:.1%} to {interval.high:.1%}"


def table(sets: Path) -> str:
    """The tables, as markdown."""
    texts = []
    for resolution, names in SETS.items():
        judged = [judge(sets / name, resolution) for name in names if (sets / name).is_dir()]
        missing = [f"Not found under {sets}: {name}." for name in names if not (sets / name).is_dir()]
        if judged:
            texts.append(page(resolution, judged))
        texts += missing
    return "\n\n".join(texts)


def page(resolution: int, judged: list[tuple[list[Part], list[str]]]) -> str:
    """What was found at one resolution: parts and notes of each set."""
    parts = [part for one, _ in judged for part in one]
    notes = [f"- {note}" for _, told in judged for note in told]
    return "\n\n".join(
        [f"### {resolution} px", caught(parts), by_class(parts), rejected(parts), "\n".join(notes)]
    )
