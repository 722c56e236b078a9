"""Print the tables of what is claimed about the gate.

    python -m benchmarks.gate [PART …] [--sets DIR] [--out DIR]

PART: copies, defects, proof, speed; all without any. --sets holds the real image sets (default:
$HEMABALANCE_REAL_DATA, else ../shared/data); a part says what it could not find there.
proof takes long: it keeps under --out what is done, and goes on from there. speed takes --images of each class on
either side (default: 300).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.parts import chosen_parts, parser, print_part

PACKAGE = "benchmarks.gate"
PARTS = ("copies", "defects", "proof", "speed")


def main() -> None:
    made = parser(PACKAGE, __doc__, PARTS)
    made.add_argument("--out", type=Path, metavar="DIR", help="for what proof has done")
    made.add_argument("--images", type=int, default=300, metavar="N", help="for speed [default: 300]")
    options = made.parse_intermixed_args()
    if options.images < 10:
        made.error(f"--images {options.images} are fewer than the 10 that the gate needs")
    parts = chosen_parts(made, options, PARTS)
    if "proof" in parts and options.out is None:
        made.error("proof needs --out DIR, a folder for what is done")
    for part in parts:
        print_part(
            PACKAGE, part, options.sets, *{"proof": [options.out], "speed": [options.images]}.get(part, [])
        )


if __name__ == "__main__":
    main()
