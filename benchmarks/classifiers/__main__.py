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
import sys
import time
from pathlib import Path

from joblib import Parallel, delayed, parallel_config

from balancer.files import write_text
from benchmarks.classifiers import tables
from benchmarks.classifiers.study import STAGES, Results, Training, do, prepared, trainings
from benchmarks.parts import sets_option

RESULTS = Path(__file__).parents[1] / "results"
CARRIED = RESULTS / "classifiers.parquet"


def run(stages: list[str], sets: Path, out: Path, workers: int, budget: float | None) -> None:
    """Do the trainings of the stages that are not done yet; none begins after `budget` minutes."""
    results = Results(out, CARRIED)
    done = results.done()
    units = {unit.key: unit for stage in stages for unit in trainings(stage) if unit.key not in done}
    left = sorted(units.values(), key=lambda unit: unit.seed)  # a study that is cut short has one of each
    for name in sorted({unit.dataset for unit in left} | {"segwbc"}):
        prepared(sets, out, name)
    end = time.monotonic() + 60 * budget if budget is not None else float("inf")
    with parallel_config("loky", inner_max_num_threads=1):
        Parallel(workers)(delayed(_one)(unit, sets, out, end) for unit in left)


def _one(unit: Training, sets: Path, out: Path, end: float) -> None:
    if time.monotonic() >= end:
        return
    begun = time.monotonic()
    Results(out, CARRIED).add(do(unit, sets, out))
    about = f"{unit.stage}: {unit.name}, {unit.dataset}, {unit.share:.0%} of the labels, seed {unit.seed}"
    print(
        f"{time.strftime('%H:%M:%S')} {about} ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True
    )


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
    predictions = Results(options.out, CARRIED).read()
    if predictions.empty:
        parser.error(f"{options.out} holds no finished training yet; begin with `run`")
    page = tables.page(predictions)
    RESULTS.mkdir(exist_ok=True)
    aside = CARRIED.with_suffix(".aside")
    predictions.to_parquet(aside, index=False, compression="zstd")
    aside.rename(CARRIED)
    write_text(RESULTS / "classifiers.md", page)
    print(page)


if __name__ == "__main__":
    main()
