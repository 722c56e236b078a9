"""Which default for a rare class? A staged study that screens with short runs and spends on the survivors.

    python -m benchmarks.rare_class run --pbc SRC --builtin RUN --out DIR [--sets DIR] [--method NAME …] [--workers N]
                                        [--budget MINUTES]
    python -m benchmarks.rare_class table --out DIR

SRC is a source of PBC images that the builtin has not seen, RUN a generator run without basophil and monocyte, `--sets`
a folder with segwbc/, all_idb2/ and all4/. A killed study goes on where it stopped. The stages:

1. Every family from scratch and, where its networks allow, from the builtin, with 15 images of each rare class.
2. The best of these with each measure for few images.
3. The best three with 60, 15 and 8 images.
4. The best two on the other sets, where a leukaemia class is rare.
5. The best two for longer, with 60, 15 and 8 images. The default is chosen here.
6. Macro-F1 beyond balanced sampling, then 5 and 6 for the other sets.

With `--method` the search is left out: these methods, named as the tables name them, go through 4 to 6 on the other sets.

Choices rest on real images that are neither train nor test images; test images judge macro-F1 alone. Which
setting is better is decided by `benchmarks.rare_class_rules`.
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from balancer.data import PreparedDataset, prepare
from balancer.errors import InputError
from balancer.files import new_directory, read_json, write_csv, write_json, write_text
from balancer.generators import GeneratorConfig, load_generator, registry, train
from balancer.generators.transfer import read_source
from balancer.quality import gate
from balancer.quality.features import inception
from benchmarks import rare_class_rules as rules
from classifier import evaluation, training
from classifier.config import TrainingConfig
from classifier.jobs import Job

Limits = tuple[tuple[str, int], ...]

FAMILIES = ("stylegan2-ada", "acdb", "r3gan", "projected")
TRANSFERABLE = ("stylegan2-ada", "acdb", "projected")  # r3gan has other networks than the builtin
SCHEDULED = ("r3gan",)  # the schedules scale with the run's length: a longer run is no continuation
MEASURES: dict[str, dict[str, Any]] = {
    "none": {},
    "ramp": {"unconditional_kimg": 1.0, "ramp_kimg": 1.5},
    "classless-8": {"classless_resolution": 8},
    "noisy-twins": {"embedding_noise": 0.1, "decorrelation": 0.05},
    "diffaugment": {"augmentation": "diffaugment"},
    "ada": {"augmentation": "bgc"},
    "no-augmentation": {"augmentation": "none"},
    "freeze-d": {"freeze_discriminator": 2},
    "balance-0.5": {"balance": 0.5},
    "balance-0": {"balance": 0.0},
    "rare-only": {},  # `only` the rare classes, which depend on the case
    "mixing-0.5": {"style_mixing": 0.5},
}
CHOOSING = "12345"  # the stages that the default rests on
LEFT_OUT = {"segwbc": ("basophil",)}  # classes with too few images to be split
SPEED = {"stylegan2-ada": 22, "acdb": 22, "r3gan": 14, "projected": 45}  # img/s of one thread at 64 px
SECONDS = {"point": 25, "training": 60}  # of measuring a generator, and of training a classifier


@dataclass(frozen=True)
class Case:
    """A dataset of which some classes are limited to so many train images."""

    dataset: str
    limits: Limits

    @property
    def name(self) -> str:
        return f"{self.dataset}-" + "-".join(f"{label}{n}" for label, n in self.limits)


@dataclass(frozen=True)
class Method:
    """A family, what its weights start from, and a measure for few images."""

    family: str
    init: str = "scratch"  # scratch | builtin
    measure: str = "none"

    @property
    def name(self) -> str:
        return f"{self.family} {self.init} {self.measure}"

    @classmethod
    def named(cls, name: str) -> Method:
        return cls(*name.split())


@dataclass(frozen=True)
class Point:
    """A generator of one length, to be trained, sampled and judged."""

    case: Case
    method: Method
    kimg: float
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """A classifier trained with balanced sampling, with a generator's images added to the rare classes or without."""

    case: Case
    point: Point | None
    seed: int


Unit = Point | Training


@dataclass(frozen=True)
class Study:
    """Sizes and sources of a study. What is no size of the shipped study is for tests."""

    sources: Mapping[str, str]  # dataset → what `prepare` reads
    builtin: str | None  # a generator run; None: everything from scratch
    methods: tuple[str, ...] = ()  # measured on the other sets instead of a search
    pbc: tuple[Limits, ...] = tuple((("basophil", n), ("monocyte", n)) for n in (15, 60, 8))  # screen first
    others: tuple[tuple[str, Limits], ...] = (
        ("segwbc", (("eosinophil", 15), ("monocyte", 15))),
        ("all_idb2", (("lymphoblast", 15),)),
        ("all4", (("Early", 15), ("Pro", 15))),
        ("all4", (("Benign", 15), ("Pre", 15))),
        ("segwbc", (("monocyte", 30),)),
        ("all_idb2", (("lymphoblast", 45),)),
        ("all4", (("Benign", 8), ("Pre", 8))),
        ("segwbc", (("eosinophil", 8), ("monocyte", 8))),
        ("all_idb2", (("lymphoblast", 8),)),
        ("all4", (("Early", 8), ("Pro", 8))),
    )
    families: tuple[str, ...] = FAMILIES
    measures: tuple[str, ...] = tuple(MEASURES)[1:]
    screen: tuple[float, ...] = (2.0, 5.0)  # kimg
    long: float = 20.0
    images: int = 100  # generated of each rare class
    resolution: int = 64
    survivors: int = 3
    finalists: int = 2
    classifier: Mapping[str, Any] = field(default_factory=lambda: {"arch": "resnet18", "steps": 150})
    seeds: tuple[int, ...] = (0, 1, 2)  # of the classifiers
    generator: Mapping[str, Any] = field(default_factory=dict)  # of every generator's configuration

    def job(self, unit: Unit) -> Job:
        inputs = asdict(unit) | {"resolution": self.resolution, "images": self.images}
        if isinstance(unit, Training):
            return Job("training", inputs | {"classifier": dict(self.classifier)})
        settings = MEASURES[unit.method.measure] | dict(self.generator)
        return Job("point", inputs | {"settings": settings})

    def seconds(self, units: Sequence[Unit], folder: Folder) -> float:
        """About how much processor time these take in their order; a longer training goes on from the shorter one."""
        total, trained = 0.0, 0.0
        for unit in units:
            if isinstance(unit, Training):
                total += SECONDS["training"]
                continue
            shorter = [replace(unit, kimg=kimg) for kimg in self.screen if kimg < unit.kimg]
            if unit.method.family not in SCHEDULED:
                trained = max([trained, *(p.kimg for p in shorter if self.job(p).done(folder.jobs))])
            total += SECONDS["point"] + (unit.kimg - trained) * 1000 / SPEED[unit.method.family]
            trained = unit.kimg
        return total


class Folder:
    """The study on disk: data/, runs/, jobs/ and the builtin as it was when the study began."""

    def __init__(self, root: Path) -> None:
        self.root, self.jobs = Path(root).absolute(), Path(root).absolute() / "jobs"

    @property
    def builtin(self) -> Path:
        return self.root / "builtin"

    def begin(self, study: Study) -> Study:
        """Fix the sources: a study that goes on has those that it began with, and the same builtin."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.jobs.mkdir(exist_ok=True)
        about = self.root / "study.json"
        origin: dict[str, Any] = {
            "sources": dict(study.sources),
            "builtin": study.builtin,
            "methods": list(study.methods),
        }
        if about.is_file():
            begun = read_json(about)
            if {name: begun[name] for name in origin} != origin:
                raise InputError(
                    f"{self.root} holds a study of other sources or methods ({about}); choose another --out."
                )
        else:
            if study.builtin:
                # A run that still trains goes on changing: the study keeps what it began with.
                names = ("config.json", "seen.csv", "state.safetensors", "generator.safetensors")
                with new_directory(self.builtin, overwrite=True) as aside:
                    for name in names:
                        if (Path(study.builtin) / name).is_file():
                            shutil.copy(Path(study.builtin) / name, aside / name)
                source = load_generator(self.builtin)
                origin["builtin_is"] = {
                    "sha256": source.sha256,
                    "generator": source.info["generator"],
                    "kimg": source.info.get("kimg"),
                    "classes": source.info["known"],
                }
            write_json(about, origin)
        return study

    @contextmanager
    def held(self) -> Iterator[None]:
        """One study at a time works here; the lock goes with the process."""
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"Another process works on {self.root}; wait for it or stop it.") from None
            yield

    def results(self) -> list[dict[str, Any]]:
        """Every finished job: its kind, inputs and result."""
        return [
            read_json(path.parent / "job.json") | {"result": read_json(path)}
            for path in sorted(self.jobs.glob("*/result.json"))
            if (path.parent / "job.json").is_file()
        ]

    def spent(self) -> float:
        """Processor seconds of all finished jobs."""
        return sum(job["result"]["cpu_seconds"] for job in self.results())

    def data(self, case: Case) -> Path:
        return self.root / "data" / case.name

    def run(self, study: Study, point: Point) -> Path:
        """Where the generator trains: lengths of one training share the folder, except where schedules depend on it."""
        kimg = point.kimg if point.method.family in SCHEDULED else 0.0
        return study.job(replace(point, kimg=kimg)).folder(self.root / "runs")


def prepare_case(study: Study, root: Path, case: Case) -> None:
    """Prepare the data of a case once; refuse images that the builtin has seen."""
    folder = Folder(root)
    out = folder.data(case)
    if (out / "dataset.json").is_file():
        return
    mapping = None
    if case.dataset in LEFT_OUT:
        mapping = folder.root / f"without-{case.name}.csv"
        write_text(mapping, "from,to\n" + "".join(f"{label},\n" for label in LEFT_OUT[case.dataset]))
    source = Path(study.sources[case.dataset])
    prepare(
        source, out, resolution=study.resolution, limits=dict(case.limits), mapping=mapping, overwrite=True
    )
    if study.builtin and (folder.builtin / "seen.csv").is_file():
        data = PreparedDataset.load(out)
        seen = set(pd.read_csv(folder.builtin / "seen.csv")["source_sha256"])
        both = sum(int(table["source_sha256"].isin(seen).sum()) for table in data.tables.values())
        if both:
            shutil.rmtree(out)
            raise InputError(f"The builtin has seen {both} images of {source}; give images that it has not.")


def measure_point(study: Study, folder: Folder, point: Point, out: Path) -> dict[str, Any]:
    """Train to the point's length, from where a shorter one stopped, generate, and let the gate judge."""
    data = PreparedDataset.load(folder.data(point.case))
    labels = [label for label, _ in point.case.limits]
    settings = MEASURES[point.method.measure] | dict(study.generator)
    if point.method.measure == "rare-only":
        settings |= {"only": tuple(labels)}
    config = GeneratorConfig(
        point.method.family,
        kimg=point.kimg,
        seed=point.seed,
        ticks=max(1, round(point.kimg / 2.5)),
        **settings,
    )
    init = read_source(folder.builtin, data.resolution) if point.method.init == "builtin" else None
    run = folder.run(study, point)
    run.parent.mkdir(exist_ok=True)
    before = load_generator(run).info["step"] if (run / "generator.safetensors").is_file() else 0
    if before > config.steps:  # its shorter lengths were not all measured
        shutil.rmtree(run)
        before = 0
    clock = time.process_time()
    train(data, config, run, init=init, resume=True)
    used, trained = time.process_time() - clock, config.steps - before
    generator = load_generator(run)
    seeds = list(range(study.images))
    images = {label: generator.generate(label, seeds) for label in labels}
    extractor = inception()
    judgements = gate.judge_candidates(data, images, extractor)
    accepted = {
        label: images[label][[reason is None for reason in judgements[label].rejected]] for label in labels
    }
    added = [np.full(len(x), data.class_index(label)) for label, x in accepted.items()]
    np.savez(out / "images.npz", images=np.concatenate(list(accepted.values())), labels=np.concatenate(added))
    fewest = gate.load_rules()["sizes"]["fewest_held_out"]
    return {
        # Of the whole length, on one processor; unknown where it was killed between training and measuring.
        "training_seconds": used * config.steps / trained if trained else None,
        "classes": {
            label: found
            | {
                "train": data.counts("train")[label],
                "held_out": data.counts("heldout")[label] + data.counts("validation")[label] >= fewest,
            }
            for label, found in gate.gate_document(judgements, extractor)["classes"].items()
        },
    }


def train_classifier(study: Study, folder: Folder, unit: Training) -> dict[str, Any]:
    """Train with balanced sampling, with the generator's images or without, and predict the test split."""
    data = PreparedDataset.load(folder.data(unit.case))
    images, labels = data.images("train")[:], data.labels("train")
    if unit.point is not None:
        with np.load(study.job(unit.point).folder(folder.jobs) / "images.npz") as added:
            images = np.concatenate([images, added["images"]])
            labels = np.concatenate([labels, added["labels"]])
    settings: dict[str, Any] = {"sampling": "balanced", "evaluations": 1} | dict(study.classifier)
    fitted = training.fit(
        TrainingConfig(**settings, seed=unit.seed),
        images,
        labels,
        data.images("validation"),
        data.labels("validation"),
        len(data.classes),
        "cpu",
    )
    probabilities = training.predict_probabilities(fitted.model, data.images("test"))
    return {
        "classes": list(data.classes),
        "labels": data.labels("test").tolist(),
        "groups": pd.factorize(data.tables["test"]["group"])[0].tolist(),
        "predicted": probabilities.argmax(1).tolist(),
    }


def run_units(study: Study, root: Path, units: Sequence[Unit]) -> None:
    """Do units one after another, each unless it is done. What the library refuses, and divergence, are results."""
    folder = Folder(root)
    for unit in units:

        def work(aside: Path, unit: Unit = unit) -> None:
            begun, clock = time.process_time(), time.monotonic()
            try:
                if isinstance(unit, Training):
                    result = train_classifier(study, folder, unit)
                else:
                    result = measure_point(study, folder, unit, aside)
            except InputError as error:
                if isinstance(unit, Training):  # nothing of it is the method's doing
                    raise
                result = {"refused": str(error)}
            except RuntimeError as error:
                if "diverged" not in str(error):
                    raise
                result = {"diverged": str(error)}
            used = {"cpu_seconds": time.process_time() - begun, "seconds": time.monotonic() - clock}
            write_json(aside / "result.json", result | used)

        study.job(unit).run(folder.jobs, work)


def points_table(results: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per class of each measured generator, as `benchmarks.rare_class_rules` takes it."""
    rows = []
    for job in results:
        inputs, result = job["inputs"], job["result"]
        if job["kind"] != "point" or "refused" in result:
            continue
        limits = inputs["case"]["limits"]
        known = {
            "dataset": inputs["case"]["dataset"],
            "limits": _limits(limits),
            "method": Method(**inputs["method"]).name,
            "kimg": inputs["kimg"],
        }
        for label, n in limits:
            found = result.get("classes", {}).get(label)
            row = known | {"label": label, "n": found["train"] if found else n}
            metrics = found["metrics"] if found else {}
            for name, metric in (("kid", "kid"), ("coverage", "coverage"), ("copies", "copies")) + (
                ("agreement", "label_agreement"),
            ):
                value = metrics.get(metric) or {}
                row |= {name: value.get("value"), f"{name}_real": value.get("real_vs_real")}
                low, high = value.get("ci") or (None, None)
                row |= {f"{name}_low": low, f"{name}_high": high}
            row |= {
                "verdict": found["verdict"] if found else None,
                "held_out": found["held_out"] if found else True,
                "seconds": result.get("training_seconds"),
                "failed": result.get("diverged"),
            }
            rows.append(row)
    columns = ["dataset", "limits", "label", "n", "method", "kimg", "held_out", "failed", "seconds"]
    columns += [
        f"{name}{part}"
        for name in ("kid", "coverage", "copies", "agreement")
        for part in ("", "_low", "_high", "_real")
    ]
    table = pd.DataFrame(rows, columns=[*columns, "verdict"])
    numbers = columns[8:]
    return table.astype(dict.fromkeys(numbers, float)).astype({"failed": object})


def gains_table(results: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Macro-F1 and the rare classes' F1 with synthetic images beside balanced sampling, paired by seed."""
    found: dict[tuple[str, str, str, float], dict[int, dict[str, Any]]] = {}
    cases: dict[tuple[str, str], list[str]] = {}
    for job in results:
        if job["kind"] != "training":
            continue
        inputs = job["inputs"]
        case = (inputs["case"]["dataset"], _limits(inputs["case"]["limits"]))
        cases[case] = [label for label, _ in inputs["case"]["limits"]]
        point = inputs["point"]
        method, kimg = (Method(**point["method"]).name, point["kimg"]) if point else ("", 0.0)
        found.setdefault((*case, method, kimg), {})[inputs["seed"]] = job["result"]
    rows = []
    for (dataset, limits, method, kimg), arm in found.items():
        baseline = found.get((dataset, limits, "", 0.0), {})
        seeds = sorted(arm.keys() & baseline.keys())
        if not method or len(seeds) < 2:
            continue
        one = arm[seeds[0]]
        labels, groups, classes = np.array(one["labels"]), np.array(one["groups"]), one["classes"]
        predicted = np.array([[runs[s]["predicted"] for s in seeds] for runs in (arm, baseline)])
        for what in ("macro-F1", *cases[dataset, limits]):
            only = None if what == "macro-F1" else classes.index(what)
            weights = np.array([[1.0, -1.0], [1.0, 0.0], [0.0, 1.0]])
            change, with_, without = (
                evaluation.contrast(labels, groups, predicted, w, len(classes), only=only) for w in weights
            )
            rows.append(
                {
                    "dataset": dataset,
                    "limits": limits,
                    "what": what if only is None else f"F1 of {what}",
                    "method": method,
                    "kimg": kimg,
                    "with": with_.value,
                    "without": without.value,
                    "delta": change.value,
                    "low": change.low,
                    "high": change.high,
                    "seeds": len(seeds),
                }
            )
    columns = ["dataset", "limits", "what", "method", "kimg", "with", "without", "delta", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "seeds"])


def _limits(limits: Iterable[Sequence[Any]]) -> str:
    return ", ".join(f"{label} {n}" for label, n in limits)


def chain(case: Case, method: Method, lengths: Iterable[float]) -> list[Unit]:
    """A training measured at these lengths, shortest first; without those at which its class still grows in."""
    settings = MEASURES[method.measure]
    until = settings.get("unconditional_kimg", 0.0) + settings.get("ramp_kimg", 0.0)
    return [Point(case, method, kimg) for kimg in sorted(lengths) if kimg > until]


def chosen(study: Study, points: pd.DataFrame) -> dict[str, list[Method]]:
    """The best method of stage 1, the survivors of stages 1 and 2, and the finalists of stage 3; empty where unknown."""
    last = points[(points["dataset"] == "pbc") & (points["kimg"] == study.screen[-1])]
    screened = last[last["limits"] == _limits(study.pbc[0])]
    plain = screened[screened["method"].map(lambda name: Method.named(name).measure == "none")]
    survivors = rules.best(screened, study.survivors)
    finalists = rules.best(last[last["method"].isin(survivors)], study.finalists)
    names = {"best": rules.best(plain, 1), "survivors": survivors, "finalists": finalists}
    return {stage: [Method.named(name) for name in found] for stage, found in names.items()}


def stages(study: Study, folder: Folder) -> Iterator[tuple[str, list[list[Unit]]]]:
    """The stages in turn, each planned from the results of those before: its name, and chains of units to do in order."""
    others = [Case(name, limits) for name, limits in study.others if name in study.sources]
    if study.methods:
        chosen_before = [Method.named(name) for name in study.methods]
        for kimg in (study.screen[-1], study.long):
            yield (
                f"other sets, {kimg:g} kimg",
                [chain(case, method, [kimg]) for method in chosen_before for case in others],
            )
            yield f"macro-F1, {kimg:g} kimg", trainings(study, folder, others, chosen_before, [kimg])
        return

    rare = [Case("pbc", limits) for limits in study.pbc]
    methods = [Method(name) for name in study.families]
    if study.builtin:
        methods += [Method(name, "builtin") for name in study.families if name in TRANSFERABLE]
    plans = [chain(rare[0], method, study.screen) for method in methods]
    # Schedules that depend on the length make every length a training of its own.
    yield (
        "1 families",
        [p for units in plans for p in ([[u] for u in units] if _scheduled(units) else [units])],
    )

    best = chosen(study, points_table(folder.results()))["best"]
    yield (
        "2 measures",
        [
            chain(rare[0], replace(method, measure=name), study.screen[-1:])
            for method in best
            for name in study.measures
            if _differs(study, method, name) and (name != "freeze-d" or _keeps_discriminator(folder, method))
        ],
    )

    survivors = chosen(study, points_table(folder.results()))["survivors"]
    yield "3 sizes", [chain(case, method, study.screen) for case in rare for method in survivors]

    finalists = chosen(study, points_table(folder.results()))["finalists"]
    middle = study.screen[-1:]
    yield "4 other sets", [chain(case, method, middle) for case in others for method in finalists]

    long = f"{study.long:g} kimg"
    yield f"5 {long}", [chain(case, method, [study.long]) for case in rare for method in finalists]

    yield "6 macro-F1", trainings(study, folder, rare, survivors, middle)
    yield f"6 macro-F1 at {long}", trainings(study, folder, rare, finalists, [study.long])
    yield "6 macro-F1 on other sets", trainings(study, folder, others, finalists, middle)
    yield (
        f"6 {long} on other sets",
        [chain(case, method, [study.long]) for case in others for method in finalists],
    )
    yield f"6 macro-F1 at {long} on other sets", trainings(study, folder, others, finalists, [study.long])


def _scheduled(units: Sequence[Unit]) -> bool:
    return any(isinstance(u, Point) and u.method.family in SCHEDULED for u in units)


def _differs(study: Study, method: Method, measure: str) -> bool:
    """Whether the measure is not what the family does anyway."""
    if not MEASURES[measure]:  # it depends on the case
        return True
    family = registry.family(method.family)
    with_, without = (
        family.resolve(GeneratorConfig(method.family, **settings), study.resolution)
        for settings in (MEASURES[measure], {})
    )
    return with_ != without


def _keeps_discriminator(folder: Folder, method: Method) -> bool:
    """Whether the training starts from a discriminator that has learned, so that freezing it has a meaning."""
    if method.init != "builtin":
        return False
    return load_generator(folder.builtin).info["generator"] == method.family != "projected"


def trainings(
    study: Study, folder: Folder, cases: Sequence[Case], methods: Sequence[Method], lengths: Sequence[float]
) -> list[list[Unit]]:
    """Classifiers for the generators that were measured, and those without synthetic images to hold them against."""
    chains: list[list[Unit]] = []
    for case in cases:
        points = [Point(case, method, kimg) for method in methods for kimg in lengths]
        points = [p for p in points if (study.job(p).folder(folder.jobs) / "images.npz").is_file()]
        if points:
            chains += [[Training(case, p, seed)] for p in (None, *points) for seed in study.seeds]
    return chains


def run(study: Study, root: Path, workers: int = 2, budget: float | None = None) -> None:
    """Do the stages. A chain begins only where its estimate still fits into the budget, in processor minutes of all."""
    folder = Folder(root)
    folder.begin(study)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # the workers' libraries read it when they are loaded
    with (
        folder.held(),
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _be_a_worker) as pool,
    ):
        for name, chains in stages(study, folder):
            open_ = [[u for u in units if not study.job(u).done(folder.jobs)] for units in chains]
            open_ = [units for units in open_ if units]
            _say(
                f"Stage {name}: {sum(map(len, open_))} of {sum(map(len, chains))} jobs to do, about "
                f"{sum(study.seconds(units, folder) for units in open_) / 60:.0f} min; "
                f"{folder.spent() / 60:.0f} min spent"
            )
            _run_stage(study, folder, pool, workers, open_, budget)


def _run_stage(
    study: Study,
    folder: Folder,
    pool: ProcessPoolExecutor,
    workers: int,
    chains: list[list[Unit]],
    budget: float | None,
) -> None:
    running: dict[Future[None], tuple[str, float]] = {}
    left_out = 0
    while chains or running:
        while chains and len(running) < workers:
            units = chains.pop(0)
            cost = study.seconds(units, folder)
            expected = folder.spent() + sum(seconds for _, seconds in running.values()) + cost
            if budget is not None and expected > budget * 60:
                left_out += len(units)
                continue
            case = units[0].case
            try:
                prepare_case(study, folder.root, case)
            except InputError as error:
                if case.dataset == "pbc":
                    raise
                _say(f"  {case.name} is left out: {error}")
                continue
            future = pool.submit(run_units, study, folder.root, units)
            running[future] = (f"{case.name}: {_name(units)}", cost)
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            name, _ = running.pop(future)
            failure = future.exception()
            _say(f"  {name}" + (f" failed: {failure!r}; it is tried again next time" if failure else ""))
    if left_out:
        _say(f"  {left_out} jobs do not fit into the budget and are left out")


def _name(units: Sequence[Unit]) -> str:
    first = units[0]
    if isinstance(first, Training):
        of = f"{first.point.method.name}, {first.point.kimg:g} kimg" if first.point else "real images alone"
        return f"classifier, {of}, seed {first.seed}"
    lengths = "/".join(f"{u.kimg:g}" for u in units if isinstance(u, Point))
    return f"{first.method.name}, {lengths} kimg"


def _be_a_worker() -> None:
    """One thread, and an end with the process that began it."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def table(root: Path, results: Path, study: Study) -> str:
    """Write rare-class.md, rare-class.csv and rare-class-f1.csv to `results`, of chosen methods rare-class-others.*;
    returns the page."""
    folder = Folder(root)
    finished = folder.results()
    points, gains = points_table(finished), gains_table(finished)
    if points.empty:
        raise InputError(f"{root} holds no finished job yet.")
    found = {} if study.methods else chosen(study, points)
    finalists = list(study.methods) or [
        m.name for m in found["finalists"] or found["survivors"] or found["best"]
    ]
    refused = [
        (Method(**job["inputs"]["method"]).name, job["result"]["refused"])
        for job in finished
        if job["kind"] == "point" and "refused" in job["result"]
    ]
    begun = read_json(folder.root / "study.json")
    left = {
        name: sum(not study.job(unit).done(folder.jobs) for units in chains for unit in units)
        for name, chains in stages(study, folder)
    }
    open_ = [name for name, n in left.items() if n]
    lengths = (study.screen[-1], study.long)
    conclusion = rules.best_sentence(points, finalists, lengths, default=not study.methods)
    if not study.methods and any(name[0] in CHOOSING for name in open_):
        conclusion = "No default is named yet: stages that it rests on are not finished."
    about = _about(study, begun, finished, found)
    if open_:
        jobs = ", ".join(f"{name} ({left[name]})" for name in open_)
        about.append(f"Not finished, with so many jobs to do: {jobs}.")
    name = "rare-class-others" if study.methods else "rare-class"
    title = "The finalists on other sets" if study.methods else "Which default for a rare class?"
    page = rules.markdown(title, points, gains, refused, about, conclusion)
    results.mkdir(parents=True, exist_ok=True)
    write_csv(results / f"{name}.csv", points)
    write_csv(results / f"{name}-f1.csv", gains)
    write_text(results / f"{name}.md", page)
    return page


def _about(
    study: Study,
    begun: Mapping[str, Any],
    finished: Sequence[Mapping[str, Any]],
    found: Mapping[str, Sequence[Method]],
) -> list[str]:
    minutes = sum(job["result"]["cpu_seconds"] for job in finished) / 60
    about = [
        f"{len(finished)} jobs, {minutes:.0f} processor minutes on single threads; images of {study.resolution} px, "
        f"{study.images} generated of each rare class and judged against held-out and validation images as the gate "
        "does it; near-copies are left out before. Each generator was trained once, with seed 0: the intervals know of "
        "the images, not of other trainings. Macro-F1 is of test images, on which nothing was chosen: "
        f"{study.classifier['arch']}, {study.classifier['steps']} steps of 64, {len(study.seeds)} seeds, paired, with the "
        "generated images that are no near-copies added.",
        "A method is a family, what it starts from, and a measure. From scratch a family has its default sizes, from the "
        "builtin the builtin's. A longer training goes on from the shorter one; only r3gan, whose schedules scale with "
        "the length, is trained anew for each. Distances in Inception features may flatter `projected`, whose "
        "discriminators see features of a network that was trained on ImageNet too (arXiv 2203.06026). Freeze-D is measured "
        "where a training starts from a discriminator that has learned; those of `projected` see frozen features anyway.",
    ]
    if source := begun.get("builtin_is"):
        about.append(
            f"The builtin is a {source['generator']} generator of {source['kimg']:g} kimg that knows "
            f"{', '.join(source['classes'])}; it has seen no image of these sets."
        )
    about += [
        f"Chosen by the rule below as {name}: {'; '.join(m.name for m in methods)}."
        for name, methods in found.items()
        if methods
    ]
    return about


def _say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rare_class", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("run", help="begin or go on")
    start.add_argument("--pbc", required=True, type=Path, help="PBC images that the builtin has not seen")
    start.add_argument("--builtin", type=Path, help="generator run without basophil and monocyte")
    start.add_argument("--sets", type=Path, help="folder with segwbc/, all_idb2/ and all4/")
    start.add_argument(
        "--method", action="append", default=[], metavar="NAME", help="no search: this one on --sets"
    )
    start.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    start.add_argument("--budget", type=float, metavar="MINUTES", help="processor minutes of all jobs")
    show = commands.add_parser("table", help="print the table and write it to benchmarks/results")
    show.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    for command in (start, show):
        command.add_argument("--out", required=True, type=Path, help="folder of the study")
    options = parser.parse_args(arguments)
    try:
        if options.command == "table":
            begun = read_json(options.out / "study.json")
            study = Study(begun["sources"], begun["builtin"], tuple(begun["methods"]))
            print(table(options.out, options.results, study))
            return
        sources = {"pbc": str(options.pbc.absolute())}
        for name in ("segwbc", "all_idb2", "all4"):
            if options.sets and (options.sets / name).is_dir():
                sources[name] = str((options.sets / name).absolute())
        builtin = str(options.builtin.absolute()) if options.builtin else None
        try:
            methods = tuple(Method.named(name).name for name in options.method)
        except TypeError:
            raise InputError(
                'A method is named as "projected builtin ramp": family, start, measure.'
            ) from None
        run(Study(sources, builtin, methods), options.out, options.workers, options.budget)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
