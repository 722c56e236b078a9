"""Studies of many trainings, each done once: it leaves a table, on this machine or in a file that the repository carries."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd
from joblib import Parallel, delayed, parallel_config

from balancer.files import new_directory, write_text
from benchmarks.parts import sets_option
from classifier.config import TrainingConfig


class Keyed(Protocol):
    """A unit of work that is known by a key, and spoken of in a line."""

    @property
    def key(self) -> str: ...

    @property
    def seed(self) -> int: ...

    def __str__(self) -> str: ...


U = TypeVar("U", bound=Keyed)


def key_of(config: TrainingConfig, **about: Any) -> str:
    """SHA-256 (hex, 16 digits) over what a training depends on: `about` it, and the settings that are not the default.

    A setting that comes later, and is the default in all that was trained before, changes no key.
    """
    default = asdict(TrainingConfig())
    settings = {name: value for name, value in asdict(config).items() if value != default[name]}
    return hashlib.sha256(json.dumps(about | {"config": settings}, sort_keys=True).encode()).hexdigest()[:16]


class Kept:
    """Finished trainings: a table for each under OUT/jobs, with a column `key`, and those of the carried file."""

    def __init__(self, out: Path, carried: Path) -> None:
        self.jobs = out / "jobs"
        self.carried = carried

    def _tables(self) -> list[Path]:
        """Those under OUT/jobs that are finished: what is being written lies in a hidden folder."""
        return sorted(self.jobs.glob("[!.]*/predictions.parquet"))

    def done(self) -> set[str]:
        """Keys of the finished trainings."""
        here = {path.parent.name for path in self._tables()}
        return here | (
            set(pd.read_parquet(self.carried, columns=["key"])["key"]) if self.carried.is_file() else set()
        )

    def add(self, table: pd.DataFrame) -> None:
        """Keep the table of one training, whole or not at all."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        with new_directory(self.jobs / table["key"].iat[0], overwrite=True) as aside:
            table.to_parquet(aside / "predictions.parquet", index=False)

    def read(self, known: Collection[str]) -> pd.DataFrame:
        """The tables of all finished trainings with these keys, one after another."""
        paths = self._tables()
        tables = [pd.read_parquet(path) for path in paths]
        if self.carried.is_file():
            carried = pd.read_parquet(self.carried)
            tables.append(carried[~carried["key"].isin({path.parent.name for path in paths})])
        found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"key": []})
        return found[found["key"].isin(known)].reset_index(drop=True)

    def carry(self, table: pd.DataFrame) -> None:
        """Write the file that the repository carries."""
        aside = self.carried.with_suffix(".aside")
        table.to_parquet(aside, index=False, compression="zstd")
        aside.rename(self.carried)


def labelled(found: pd.DataFrame, units: Iterable[Keyed], names: Sequence[str]) -> pd.DataFrame:
    """Tables with what their training stands for, its attributes `names`; once for each unit that has the training's key."""
    rows = [{"key": unit.key} | {name: getattr(unit, name) for name in names} for unit in units]
    return pd.DataFrame(rows).merge(found, on="key")


def do_all(
    units: Iterable[U], do: Callable[[U], pd.DataFrame], kept: Kept, workers: int, budget: float | None
) -> None:
    """Do the units that are not done, seed after seed, by processes of one thread each; none begins after `budget` minutes."""
    done = kept.done()
    left = {unit.key: unit for unit in units if unit.key not in done}
    end = time.monotonic() + 60 * budget if budget is not None else float("inf")

    def one(unit: U) -> None:
        if time.monotonic() < end and unit.key not in kept.done():  # another process may have done it
            begun = time.monotonic()
            kept.add(do(unit))
            now, took = time.strftime("%H:%M:%S"), time.monotonic() - begun
            print(f"{now} {unit} ({took:.0f} s)", file=sys.stderr, flush=True)

    with parallel_config("loky", inner_max_num_threads=1):
        # A study that is cut short has one seed of each.
        Parallel(workers)(delayed(one)(unit) for unit in sorted(left.values(), key=lambda unit: unit.seed))


class Study(Protocol):
    """What a module of a study's trainings holds."""

    STAGES: Sequence[str]
    trainings: Callable[[str], Iterable[Any]]  # those of a stage
    every: Callable[[], Sequence[Any]]  # all of them
    prepare_all: Callable[
        [Iterable[Any], Path, Path], None
    ]  # the data of trainings, from the sets, in the output
    do: Callable[..., pd.DataFrame]  # one training, with `sets` and `out`


def main(
    package: str, doc: str | None, study: Study, page: Callable[[pd.DataFrame], str], results: Path
) -> None:
    """The command line of a study: `run` does its trainings, `table` writes `results`.parquet and `results`.md."""
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=doc)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(study.STAGES))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes of one thread each")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="none begins after that")
    sets_option(parser)
    options = parser.parse_intermixed_args()
    unknown = set(options.stages) - set(study.STAGES)
    if unknown:
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; known: {', '.join(study.STAGES)}")
    sets, out = options.sets.resolve(), options.out
    kept = Kept(out, results.with_suffix(".parquet"))
    if options.command == "run":
        units = [unit for stage in options.stages or study.STAGES for unit in study.trainings(stage)]
        study.prepare_all(units, sets, out)
        do_all(units, partial(study.do, sets=sets, out=out), kept, options.workers, options.budget)
        return
    found = kept.read({unit.key for unit in study.every()})
    if found.empty:
        parser.error(f"{out} holds no finished training yet; begin with `run`")
    text = page(found)
    results.parent.mkdir(exist_ok=True)
    kept.carry(found)
    write_text(results.with_suffix(".md"), text)
    print(text)
