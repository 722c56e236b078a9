"""How good are the classifiers? Every network on every set, remedies, preprocessing, pretraining, another laboratory.

    python -m benchmarks.classifiers run --out DIR [STAGE …] [--sets DIR] [--workers N] [--budget MINUTES]
    python -m benchmarks.classifiers table --out DIR

Stages: entries (every network on PBC, PBC with 15 basophils and 15 monocytes, segwbc, all4 and all_idb2), pretraining (a
masked autoencoder, with 1, 10 and 100 % of the labels), preprocessing, remedies, long (how far more steps lead), stain
(trained with stain augmentation, for the unseen set). Trainings of one thread each, three seeds. A killed study goes on
where it stopped; trainings in results/classifiers.parquet are not done again. `table` writes that file and
results/classifiers.md.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.classifiers import study, tables
from benchmarks.kept import main

if __name__ == "__main__":
    main(
        "benchmarks.classifiers",
        __doc__,
        study,
        tables.page,
        Path(__file__).parents[1] / "results/classifiers",
    )
