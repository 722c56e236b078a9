"""What the benchmarks that consist of parts have in common: their command line, and how a part is printed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def parser(package: str, doc: str | None, parts: Sequence[str]) -> argparse.ArgumentParser:
    """The command line of `package`: its parts, and where the real image sets are."""
    made = argparse.ArgumentParser(
        prog=f"python -m {package}", description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    sets_option(made)
    return made


def training_parser(package: str, doc: str | None, steps: int) -> argparse.ArgumentParser:
    """The command line of a benchmark that trains networks by itself: --out, --steps, and where the real image sets are."""
    made = argparse.ArgumentParser(
        prog=f"python -m {package}", description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--out", type=Path, metavar="DIR", help="where the prepared data stay")
    made.add_argument("--steps", type=int, default=steps, metavar="N", help=f"[default: {steps}]")
    sets_option(made)
    return made


def sets_option(made: argparse.ArgumentParser) -> None:
    """Add --sets, the folder with the real image sets."""
    default = Path(
        os.environ.get("HEMABALANCE_REAL_DATA", Path(__file__).resolve().parents[2] / "shared/data")
    )
    made.add_argument("--sets", type=Path, default=default, metavar="DIR", help=f"[default: {default}]")


def chosen_parts(
    made: argparse.ArgumentParser, options: argparse.Namespace, parts: Sequence[str]
) -> Sequence[str]:
    """The parts that were asked for, all without any; an unknown one ends the command."""
    unknown = set(options.parts) - set(parts)
    if unknown:
        made.error(f"there is no part {', '.join(sorted(unknown))}; known: {', '.join(parts)}")
    return options.parts or parts


def print_part(package: str, part: str, sets: Path, *options: Any) -> None:
    """Print the table of one part, under its name."""
    table = import_module(f"{package}.{part}").table(sets, *options)
    print(f"## {part.capitalize()}\n\n{table}\n", flush=True)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, without a line end."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])
