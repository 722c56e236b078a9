"""What the gate says of sets whose verdict is known: good ones, copies, collapsed ones, bad ones, painted defects.

Every draw of a class is judged by `gate.judge_candidates` as a prepared dataset would be: against held-out images, with the
train images to seek copies among, beside the other classes of its set with all their images. Draws are jobs that are kept
under a folder, so that an interrupted run goes on where it was; the tables are of all draws that are done.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from balancer.errors import InputError, unknown_name
from balancer.files import read_json, write_json
from balancer.quality import memory, repeats
from balancer.quality.features import FeatureExtractor, inception
from balancer.quality.gate import GOOD as LET_THROUGH
from balancer.quality.gate import Judgement, judge_candidates
from balancer.quality.metrics import share_interval
from balancer.quality.verdicts import SEVERITY, kind_of
from benchmarks.gate import made
from benchmarks.gate.defects import paint, read_class
from benchmarks.gate.made import CASES, GOOD, Cut
from classifier.jobs import Job

Array = np.ndarray
RESOLUTION = {
    "pbc": 128,
    "segwbc": 120,
    "all_idb2": 128,
    "all4": 128,
}  # of the files, so that nothing is resized
SIZES = (15, 30, 100, 300)
POOL = 360  # images of a class at most,
LARGE = ("eosinophil", "ig", "neutrophil")  # but for these classes of PBC, which have enough for n = 300
LARGE_POOL = 720
REAL_DRAWS = {
    15: 72,
    30: 72,
    100: 72,
    300: 12,
}  # draws of good sets, all classes and sets together, or a few more
EVERY_DRAWS = {15: 30, 30: 26, 100: 16, 300: 4}  # of these with all cases; at 300 those without new images
LARGEST_CHANGED = 100  # n up to which images are changed: each one has to be embedded
TOGETHER = (
    4  # classes of a set at most that are judged at once, which saves time; one where many images are new
)
PAINTED_ON = (("pbc", "basophil"), ("segwbc", "neutrophil"))
PAINTED_SET = 20  # images of a set with painted ones
PAINTED_SHARES = (0.05, 0.2, 1.0)
PAINTED_HELD_OUT = 200
CONFIDENCE = 0.95

# What a failing sentence of each metric says.
SENTENCES = {
    "copies": ("more than chance makes of it", "that are allowed for"),
    "distance": ("lies above the margin",),
    "collapse": ("less than 0.5 of that", "most of the set is repetition"),
    "labels": ("less than 0.5 times as often",),
    "single images": ("times as many",),
}
Pools = Mapping[str, Array]  # class → uint8 N×R×R×3


@dataclass(frozen=True)
class Drawing:
    """The real images of a set as one draw leaves them: `judged` classes as they are cut, the others whole."""

    pools: Pools
    cuts: Mapping[str, Cut]
    root = Path("real images of a draw")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.pools)

    @property
    def resolution(self) -> int:
        return int(next(iter(self.pools.values())).shape[1])

    def class_index(self, label: str) -> int:
        if label not in self.pools:
            raise unknown_name("class", label, self.pools)
        return self.classes.index(label)

    def images_of(self, label: str, splits: Sequence[str]) -> tuple[Array, pd.DataFrame]:
        pool = self.pools[label]
        side = made.train_side(len(pool))
        rows = {"train": np.arange(side), "heldout": np.arange(side, len(pool))}
        if label in self.cuts:
            rows = {"train": self.cuts[label].train, "heldout": self.cuts[label].held_out}
        chosen = [(split, i) for split in splits if split in rows for i in rows[split]]
        table = pd.DataFrame(
            [(split, f"{label}/{i}.png") for split, i in chosen], columns=["split", "file_name"]
        )
        return pool[[i for _, i in chosen]], table


@dataclass(frozen=True)
class Draw:
    """Classes of a set that are judged together, `n` images each, in all `cases`."""

    set: str
    labels: tuple[str, ...]
    n: int
    number: int
    cases: tuple[str, ...]

    def judged(self, pools: Pools, extractor: FeatureExtractor) -> list[dict[str, Any]]:
        """What the gate says: a row for each case and class."""
        cuts = {label: made.cut(label, pools[label], self.n, self.number) for label in self.labels}
        rows = []
        for name in self.cases:
            sets = {label: CASES[name].make(one, pools) for label, one in cuts.items()}
            for label, found in judge_candidates(Drawing(pools, cuts), sets, extractor).items():
                rows.append({"set": self.set, "label": label, "n": self.n, "case": name} | told(found))
        return rows


@dataclass(frozen=True)
class Painting:
    """One class of a set with every defect painted into a share of its images."""

    set: str
    label: str

    def judged(self, pools: Pools, extractor: FeatureExtractor) -> list[dict[str, Any]]:
        """What the gate says: a row for each defect and share, with how many of the painted images were rejected."""
        pool = pools[self.label]
        unseen = len(pool) - made.train_side(len(pool))
        whole = min(PAINTED_HELD_OUT, unseen - 2 * PAINTED_SET)
        draw = made.cut(self.label, pool, 2 * PAINTED_SET, 0, whole)
        drawing = Drawing(pools, {self.label: draw})
        good = pool[draw.synthetic[PAINTED_SET:]]
        rows = []
        for defect, painted in paint(list(pool[draw.synthetic]), self.label).items():
            for share in PAINTED_SHARES if painted else ():
                count = min(round(share * PAINTED_SET), len(painted))
                images = np.stack([*painted[:count], *good[: round((1 - share) * PAINTED_SET)]])
                found = judge_candidates(drawing, {self.label: images}, extractor)[self.label]
                caught = sum(reason is not None for reason in found.rejected[:count])
                row = {"set": self.set, "label": self.label, "defect": defect, "share": share}
                rows.append(row | {"painted": count, "caught": caught} | told(found))
        return rows


def told(found: Judgement) -> dict[str, Any]:
    """A judgement as it is counted: its verdict, what it was failed for, and what its images were rejected as."""
    causes = [
        name
        for name, pieces in SENTENCES.items()
        if any(piece in reason for piece in pieces for reason in found.reasons)
    ]
    assert bool(causes) == (found.verdict == "fail"), found.reasons
    rejected = Counter(kind_of(reason) for reason in found.rejected if reason is not None)
    return {
        "verdict": found.verdict,
        "causes": causes,
        "images": found.n_candidates,
        "rejected": dict(rejected),
    }


def table(sets: Path, out: Path) -> str:
    """The tables, as markdown; the draws that are not yet under `out` are made first."""
    every = {name: read_pools(sets / name, name) for name in RESOLUTION if (sets / name).is_dir()}
    if not every:
        raise InputError(
            f"There is none of {', '.join(RESOLUTION)} under {sets}; give their folder as --sets."
        )
    extractor = inception()
    version = code_version()
    digest = {name: _digest(pools) for name, pools in every.items()}
    rows: list[dict[str, Any]] = []
    for work in schedule(every):
        inputs = vars(work) | {"images": digest[work.set], "features": extractor.name, "code": version}
        job = Job(type(work).__name__.lower(), inputs)
        folder = job.run(
            out,
            lambda aside, work=work: write_json(
                aside / "judged.json", {"rows": work.judged(every[work.set], extractor)}
            ),
        )
        rows += read_json(folder / "judged.json")["rows"]
    missing = [f"Not found under {sets}: {name}." for name in RESOLUTION if name not in every]
    return "\n\n".join([page(pd.DataFrame(rows)), *missing])


def read_pools(root: Path, name: str) -> dict[str, Array]:
    """The pools of a set by class, uint8 N×R×R×3, in an order drawn by the class's name; each picture once."""
    pools = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        most = LARGE_POOL if name == "pbc" and folder.name in LARGE else POOL
        images = np.stack(read_class(folder, RESOLUTION[name], most))
        pools[folder.name] = images[np.sort(np.unique(repeats.kinds(images), return_index=True)[1])]
    return pools


def schedule(every: Mapping[str, Pools]) -> list[Draw | Painting]:
    """All work, such that each part of it is spread over all of the run."""
    planned: list[tuple[float, Draw | Painting]] = []
    for n in SIZES:
        cases = tuple(name for name, case in CASES.items() if n <= LARGEST_CHANGED or not case.costly)
        done, first = 0, 0
        for set_, labels, number in _turns(every, n, TOGETHER if n < LARGEST_CHANGED else 1):
            if done >= EVERY_DRAWS[n]:
                break
            planned.append((done / EVERY_DRAWS[n], Draw(set_, labels, n, number, cases)))
            done, first = done + len(labels), number + 1
        for set_, labels, number in _turns(every, n, TOGETHER, first):
            if done >= REAL_DRAWS[n]:
                break
            planned.append((done / REAL_DRAWS[n], Draw(set_, labels, n, number, (GOOD,))))
            done += len(labels)
    there = [(name, label) for name, label in PAINTED_ON if label in every.get(name, ())]
    planned += [((i + 1) / (len(there) + 1), Painting(*one)) for i, one in enumerate(there)]
    return [work for _, work in sorted(planned, key=lambda one: one[0])]


def _turns(
    every: Mapping[str, Pools], n: int, together: int, first: int = 0
) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """A set, up to `together` classes of it and a draw's number from `first` on, over and over, the sets by turns."""
    groups = {}
    for name, pools in every.items():
        large = [label for label, pool in pools.items() if made.fits(len(pool), n)]
        groups[name] = [tuple(large[i : i + together]) for i in range(0, len(large), together)]
    for turn in itertools.count() if any(groups.values()) else ():
        for name, of_set in groups.items():
            if of_set:
                yield name, of_set[turn % len(of_set)], first + turn // len(of_set)


def code_version() -> str:
    """SHA-256 (hex) over the code that a judgement, and the sets that are judged, depend on."""
    state = hashlib.sha256(memory.code_version().encode())
    for source in (Path(made.__file__), Path(made.__file__).with_name("painting.py")):
        state.update(source.read_bytes())
    return state.hexdigest()


def _digest(pools: Pools) -> str:
    state = hashlib.sha256()
    for pool in pools.values():
        state.update(pool.tobytes())
    return state.hexdigest()


# Tables


def page(rows: pd.DataFrame) -> str:
    """All tables of the rows that draws gave."""
    drawn = rows[rows["case"].notna()] if "case" in rows else rows[:0]
    parts = []
    if len(drawn):
        parts += [verdicts(drawn), by_set(drawn)]
    if "defect" in rows and rows["defect"].notna().any():
        parts.append(painted(rows[rows["defect"].notna()]))
    return "\n\n".join(parts)


def verdicts(rows: pd.DataFrame) -> str:
    """Each case at each n: how often each verdict, how often let through, and whether for its own reason."""
    lines = [
        f"| set | n | draws | {' | '.join(SEVERITY)} | let through | {CONFIDENCE:.0%} interval | own reason named | "
        "images rejected one by one |",
        "|---" * (len(SEVERITY) + 7) + "|",
    ]
    for name in CASES:
        of_case = rows[rows["case"] == name]
        sizes = sorted(of_case["n"].astype(int).unique())
        for n in [*sizes, *(["all"] if len(sizes) > 1 else [])]:
            chosen = of_case if n == "all" else of_case[of_case["n"] == n]
            count = [int((chosen["verdict"] == verdict).sum()) for verdict in SEVERITY]
            through = int(chosen["verdict"].isin(LET_THROUGH).sum())
            own = "–" if name == GOOD else _share(int(chosen.apply(_named, axis=1).sum()), len(chosen))
            cells = [
                name,
                n,
                len(chosen),
                *count,
                _share(through, len(chosen)),
                _interval(through, len(chosen)),
                own,
            ]
            lines.append(f"| {' | '.join(map(str, [*cells, _rejected(chosen)]))} |")
    return "\n".join(lines)


def by_set(rows: pd.DataFrame) -> str:
    """Of each real set: good draws that were failed, bad ones that were let through."""
    lines = [
        f"| images of | good sets | failed | {CONFIDENCE:.0%} interval | bad sets | let through | {CONFIDENCE:.0%} interval |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: Iterable[tuple[str, pd.DataFrame]] = [*rows.groupby("set"), ("all", rows)]
    for name, chosen in groups:
        good, bad = chosen[chosen["case"] == GOOD], chosen[chosen["case"] != GOOD]
        failed = int((good["verdict"] == "fail").sum())
        through = int(bad["verdict"].isin(LET_THROUGH).sum())
        cells = [name, len(good), failed, _interval(failed, len(good))]
        lines.append(f"| {' | '.join(map(str, [*cells, len(bad), through, _interval(through, len(bad))]))} |")
    return "\n".join(lines)


def painted(rows: pd.DataFrame) -> str:
    """Each painted defect: images caught, by the share of the set that has it, and verdicts where all of it has."""
    shares = sorted(rows["share"].unique())
    lines = [
        f"| painted defect | {' | '.join(f'caught at {share:.0%}' for share in shares)} | {CONFIDENCE:.0%} interval at "
        f"{shares[-1]:.0%} | verdicts at {shares[-1]:.0%} |",
        "|---" * (len(shares) + 3) + "|",
    ]
    for defect, chosen in [*rows.groupby("defect", sort=False), ("all", rows)]:
        counts = {
            share: (int(one["caught"].sum()), int(one["painted"].sum()))
            for share, one in chosen.groupby("share")
        }
        last = chosen[chosen["share"] == shares[-1]]
        found = Counter(last["verdict"])
        told = ", ".join(f"{found[verdict]} {verdict}" for verdict in SEVERITY if found[verdict])
        caught = " | ".join(_share(*counts[share]) for share in shares)
        lines.append(f"| {defect} | {caught} | {_interval(*counts[shares[-1]])} | {told} |")
    return "\n".join(lines)


def _named(row: pd.Series) -> bool:
    """Whether the gate says what is wrong: in a failing sentence, or in rejecting half of the images for it."""
    case = CASES[row["case"]]
    rejected = sum(row["rejected"].get(name, 0) for name in case.rejected_as)
    return bool(set(row["causes"]) & set(case.causes)) or (
        bool(case.rejected_as) and rejected >= row["images"] / 2
    )


def _rejected(rows: pd.DataFrame) -> str:
    total = int(rows["images"].sum())
    found = sum((Counter(one) for one in rows["rejected"]), Counter())
    told = ", ".join(f"{name} {count / total:.1%}" for name, count in found.most_common(3))
    return f"{sum(found.values()) / total:.1%}" + (f" ({told})" if told else "")


def _share(count: int, total: int) -> str:
    return f"{count} of {total} ({count / total:.0%})"


def _interval(count: int, total: int) -> str:
    if not total:
        return "–"
    low, high = share_interval(count, total, CONFIDENCE)
    return f"{low:.1%} to {high:.1%}"
