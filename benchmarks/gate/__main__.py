"""Print the tables of what is claimed about the gate.

    python -m benchmarks.gate [PART …] [--sets DIR] [--out DIR]

PART: defects, proof, speed; all without any. --sets holds the real image sets (default:
$HEMABALANCE_REAL_DATA, else ../shared/data); a part says what it could not find there.
proof takes long: it keeps under --out what is done, and goes on from there. speed takes --images of each class on
either side (default: 300).
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path

PARTS = ("defects", "proof", "speed")


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
    parser.add_argument("--out", type=Path, metavar="DIR", help="for what proof has done")
    parser.add_argument("--images", type=int, default=300, metavar="N", help="for speed [default: 300]")
    chosen = parser.parse_args()
    if chosen.images < 10:
        parser.error(f"--images {chosen.images} are fewer than the 10 that the gate needs")
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    parts = chosen.parts or PARTS
    if "proof" in parts and chosen.out is None:
        parser.error("proof needs --out DIR, a folder for what is done")
    for part in parts:
        options = {"proof": [chosen.out], "speed": [chosen.images]}.get(part, [])
        print(
            f"## {part.capitalize()}\n\n{import_module(f'benchmarks.gate.{part}').table(chosen.sets, *options)}\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
