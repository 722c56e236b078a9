"""Trainings of a study that are done once: each leaves a table, on this machine or in a file that the repository carries."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

import pandas as pd
from joblib import Parallel, delayed, parallel_config

from balancer.files import new_directory


class Keyed(Protocol):
    """A unit of work that is known by a key, and spoken of in a line."""

    @property
    def key(self) -> str: ...

    @property
    def seed(self) -> int: ...

    def __str__(self) -> str: ...


U = TypeVar("U", bound=Keyed)


class Kept:
    """Finished trainings: a table for each under OUT/jobs, with a column `key`, and those of the carried file."""

    def __init__(self, out: Path, carried: Path) -> None:
        self.jobs = out / "jobs"
        self.carried = carried

    def done(self) -> set[str]:
        """Keys of the finished trainings."""
        here = {path.name for path in self.jobs.iterdir()} if self.jobs.is_dir() else set()
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
        paths = sorted(self.jobs.glob("*/predictions.parquet")) if self.jobs.is_dir() else []
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


def do_all(
    units: Iterable[U], do: Callable[[U], pd.DataFrame], kept: Kept, workers: int, budget: float | None
) -> None:
    """Do the units that are not done, seed after seed, by processes of one thread each; none begins after `budget` minutes."""
    done = kept.done()
    left = {unit.key: unit for unit in units if unit.key not in done}
    end = time.monotonic() + 60 * budget if budget is not None else float("inf")

    def one(unit: U) -> None:
        if time.monotonic() < end:
            begun = time.monotonic()
            kept.add(do(unit))
            now, took = time.strftime("%H:%M:%S"), time.monotonic() - begun
            print(f"{now} {unit} ({took:.0f} s)", file=sys.stderr, flush=True)

    with parallel_config("loky", inner_max_num_threads=1):
        # A study that is cut short has one seed of each.
        Parallel(workers)(delayed(one)(unit) for unit in sorted(left.values(), key=lambda unit: unit.seed))
