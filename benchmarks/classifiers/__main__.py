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

import argparse
from functools import partial
from pathlib import Path

from balancer.files import write_text
from benchmarks.classifiers import tables
from benchmarks.classifiers.study import STAGES, do, keys, prepared, trainings
from benchmarks.kept import Kept, do_all
from benchmarks.parts import sets_option

RESULTS = Path(__file__).parents[1] / "results"
CARRIED = RESULTS / "classifiers.parquet"


def run(stages: list[str], sets: Path, out: Path, workers: int, budget: float | None) -> None:
    """Do the trainings of the stages that are not done yet; none begins after `budget` minutes."""
    units = [unit for stage in stages for unit in trainings(stage)]
    for name in sorted({unit.dataset for unit in units} | {"segwbc"}):
        prepared(sets, out, name)
    do_all(units, partial(do, sets=sets, out=out), Kept(out, CARRIED), workers, budget)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classifiers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes of one thread each")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="none begins after that")
    sets_option(parser)
    options = parser.parse_args()
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; known: {', '.join(STAGES)}")
    if options.command == "run":
        run(options.stages or list(STAGES), options.sets, options.out, options.workers, options.budget)
        return
    kept = Kept(options.out, CARRIED)
    predictions = kept.read(keys())
    if predictions.empty:
        parser.error(f"{options.out} holds no finished training yet; begin with `run`")
    page = tables.page(predictions)
    RESULTS.mkdir(exist_ok=True)
    kept.carry(predictions)
    write_text(RESULTS / "classifiers.md", page)
    print(page)


if __name__ == "__main__":
    main()
