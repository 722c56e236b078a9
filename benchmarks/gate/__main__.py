"""Print the tables of what is claimed about the gate.

    python -m benchmarks.gate [PART …] [--sets DIR]

PART: defects; all without any. DIR holds the real image sets (default:
$HEMABALANCE_REAL_DATA, else ../shared/data); a part says what it could not find there.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path

PARTS = ("defects",)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    default = Path(
        os.environ.get("HEMABALANCE_REAL_DATA", Path(__file__).resolve().parents[3] / "shared/data")
    )
    parser.add_argument("--sets", type=Path, default=default, metavar="DIR", help=f"[default: {default}]")
    chosen = parser.parse_args()
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    for part in chosen.parts or PARTS:
        print(
            f"## {part.capitalize()}\n\n{import_module(f'benchmarks.gate.{part}').table(chosen.sets)}\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
