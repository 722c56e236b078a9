"""Print the tables of what is claimed about cell images.

    python -m benchmarks.imaging [PART …] [--sets DIR]

PART: segmentation, morphology, stain, duplicates, labels; all without any. DIR holds the real image sets (default:
$HEMABALANCE_REAL_DATA, else ../shared/data); a part says what it could not find there.
"""

from __future__ import annotations

from benchmarks.parts import chosen_parts, parser, print_part

PACKAGE = "benchmarks.imaging"
PARTS = ("segmentation", "morphology", "stain", "duplicates", "labels")


def main() -> None:
    made = parser(PACKAGE, __doc__, PARTS)
    options = made.parse_intermixed_args()
    for part in chosen_parts(made, options, PARTS):
        print_part(PACKAGE, part, options.sets)


if __name__ == "__main__":
    main()
