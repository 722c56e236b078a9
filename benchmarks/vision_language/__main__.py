"""What does language bring? Attributes, zero-shot recognition, retrieval, and heads side by side, on PBC with WBCAtt.

    python -m benchmarks.vision_language run --out DIR [STAGE …] [--sets DIR] [--workers N] [--budget MINUTES]
    python -m benchmarks.vision_language table --out DIR

Stages: zero-shot (each class left out in turn), attributes (at 128 px), retrieval (both ways), language (class, text and joint
heads at 1, 10 and 100 % of the labels). Three seeds. A killed study goes on where it stopped; trainings in
results/vision-language.parquet are not done again. `table` writes that file and results/vision-language.md.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.kept import main
from benchmarks.vision_language import study, tables

if __name__ == "__main__":
    main(
        "benchmarks.vision_language",
        __doc__,
        study,
        tables.page,
        Path(__file__).parents[1] / "results/vision-language",
    )
