"""A comparison: arms × seeds → one table of predictions → statistics → report.

The order of events keeps the conclusion honest. All cheap arms are trained first; the best of them is chosen on
validation; only then are `gan` and `full-data` trained, which are that arm with more images. Every training
predicts the test split once, at its end, and nothing is chosen by those predictions. The contrast on which the
conclusion rests, `gan` minus that best cheap arm, is fixed before anything runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import TemplateError

from balancer.data import PreparedDataset, SyntheticSet
from balancer.errors import InputError, unknown_name
from balancer.files import read_json, write_json, write_with
from balancer.generators.processes import alone
from balancer.progress import note, stage
from balancer.quality.gate import GOOD
from classifier import evaluation, training
from classifier.arms import ARMS, CHEAP, DEFAULT_CHEAP, FULL_DATA, GAN, Arm, full_data, gan, usable_heldout
from classifier.config import ONE_LINEAR_LAYER, TrainingConfig, reads_loss
from classifier.jobs import Job, code_version, digest, remove_stale
from classifier.language import Language, language_for
from classifier.models import resolve_size
from classifier.pretrained import PretrainedEncoder, checked_encoder
from classifier.provenance import check_synthetic
from classifier.report import save_examples, signed, write_report

FORMAT = 1
FEW = 10  # test images of a class, below which its own figures say little
JOBS = "jobs"
PREDICTIONS = "predictions.parquet"
_TRAINING = "training"  # the kind of its jobs
# All that a comparison writes, folders too. Hidden files outside examples/ and the jobs are nothing it would remove.
_OWN = re.compile(
    r"report\.(json|html)|predictions\.parquet|examples(/(real|accepted|rejected)(/[^/]+\.png)?)?"
    r"|jobs(/training-[0-9a-f]{16}(/(job\.json|history\.json|predictions\.parquet))?)?"
    r"|(jobs/)?\..*|.*/\.DS_Store"
)
Report = dict[str, Any]


def compare(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    out: Path,
    arms: Sequence[str] | None = None,
    seeds: int = 3,
    config: TrainingConfig | None = None,
    margin: float = 0.01,
    overwrite: bool = False,
) -> Report:
    """Train every arm with every seed, write the comparison to `out`, and return what `report.json` holds.

    `arms`: names in `classifier.arms.ARMS`; by default `unbalanced`, `class-weights`, `balanced-sampling`, `gan`
    where there are accepted synthetic images, and `full-data` where there are held-out images. `config` gives
    steps, schedule, augmentation and the first seed; loss and sampling are the arms' own. `margin`: the smallest
    macro-F1 difference worth having. An unfinished comparison at `out` goes on where it stopped; a finished one is
    refused unless `overwrite`, and so is an `out` that holds anything that a comparison does not write. Raises
    InputError before any training when something does not fit.
    """
    out = Path(out)
    config = (config or TrainingConfig()).resolved()
    encoder, cheap, extra = check_comparison(data, synthetic, out, arms, seeds, config, margin, overwrite)

    all_seeds = [config.seed + i for i in range(seeds)]
    trainer = _Trainer(
        data, synthetic, encoder, config, all_seeds, out / JOBS, (len(cheap) + len(extra)) * seeds
    )
    tables = [trainer.predictions(name, CHEAP[name]) for name in cheap]
    plan = {name: CHEAP[name] for name in cheap}
    best = best_on_validation(pd.concat(tables), data.classes, cheap)
    note(f"Best on validation among the cheap arms: {best}.")
    for name, make in ((GAN, gan), (FULL_DATA, full_data)):
        if name in extra:
            plan[name] = make(best)
            tables.append(trainer.predictions(name, plan[name]))

    study = {
        "version": code_version(),
        "data": {
            "path": str(data.root),
            "fingerprint": data.fingerprint,
            "source": data.source,
            "resolution": data.resolution,
            "classes": list(data.classes),
            "counts": {split: data.counts(split) for split in data.tables},
            "patients": patients_kept_apart(data),
        },
        "synthetic": [
            {
                "path": str(images.root),
                "source": images.source,
                "generator": images.info["generator"],
                "seen_known": images.seen_known,
                "counts": {str(k): int(v) for k, v in images.table["label"].value_counts().items()},
                "gate": images.gate,
            }
            for images in synthetic
        ],
        "arms": {name: asdict(arm) for name, arm in plan.items()},
        "seeds": all_seeds,
        "margin": margin,
        "config": config.to_json(),
    }
    predictions = pd.concat(tables, ignore_index=True)
    (out / "report.json").unlink(missing_ok=True)
    write_with(out / PREDICTIONS, lambda aside: predictions.to_parquet(aside, index=False))
    save_examples(data, synthetic, out / "examples")
    report = _write(out, predictions, study)
    remove_stale(out / JOBS, _TRAINING, trainer.used)  # those of an earlier comparison here
    return report


def check_comparison(
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    out: Path,
    arms: Sequence[str] | None,
    seeds: int,
    config: TrainingConfig,
    margin: float,
    overwrite: bool,
) -> tuple[PretrainedEncoder | None, list[str], list[str]]:
    """The encoder, the cheap arms and the others of a comparison; InputError for what is refused. Nothing is written."""
    alone("A comparison")
    if seeds < 2:
        raise InputError(f"A comparison needs at least 2 seeds for an interval, not {seeds}; give --seeds 3.")
    if not 0 <= margin < 1:
        raise InputError(f"The margin is a difference of macro-F1, at least 0 and below 1, not {margin}.")
    check_synthetic(data, synthetic)
    encoder = checked_encoder(config.init, data)
    for split in ("train", "validation", "test"):
        if not len(data.tables[split]):
            raise InputError(f"{data.root} has no {split} images, without which there is no comparison.")
    accepted = sum(len(images.table) for images in synthetic)
    cheap, extra = _choose(arms, data, synthetic, accepted, config.head)
    resolve_size(config.arch, config.size, data.resolution, config.pretrained)
    for name in cheap:
        _check_arm(CHEAP[name].config(config, config.seed), data)
    _refuse(out, overwrite)
    return encoder, cheap, extra


def report_again(out: Path) -> Report:
    """Compute everything in a finished comparison's report from its predictions again, and write it again."""
    out = Path(out)
    if not (out / "report.json").is_file() or not (out / PREDICTIONS).is_file():
        raise InputError(
            f"{out} is no finished comparison; run `classifier compare` with --out {out} to finish it."
        )
    study = _read_report(out)["study"]
    try:
        return _write(out, pd.read_parquet(out / PREDICTIONS), study)
    # Whatever computing and showing figures of what no comparison wrote may raise.
    except (ArithmeticError, AttributeError, LookupError, TemplateError, TypeError, ValueError) as error:
        raise InputError(
            f"{out / 'report.json'} and {PREDICTIONS} do not hold what a comparison writes ({type(error).__name__}: {error}); "
            "run `classifier compare` again, with --overwrite."
        ) from error


def _read_report(out: Path) -> Report:
    report = read_json(out / "report.json")
    about, version = (report.get("study"), report.get("format", 0)) if isinstance(report, dict) else (None, 0)
    if not isinstance(about, dict) or not isinstance(version, int):
        raise InputError(f"{out / 'report.json'} is not of a comparison; give another folder.")
    if version > FORMAT:
        raise InputError(f"{out} has report format {version}, newer than this version; update hemabalance.")
    return report


def _write(out: Path, predictions: pd.DataFrame, study: dict[str, Any]) -> Report:
    report = summarise(predictions, study)
    write_report(report, out)
    write_json(out / "report.json", report)  # last: it marks a finished comparison
    return report


def _choose(
    arms: Sequence[str] | None,
    data: PreparedDataset,
    synthetic: Sequence[SyntheticSet],
    accepted: int,
    head: str,
) -> tuple[list[str], list[str]]:
    """The cheap arms, and which of `gan` and `full-data` are run, in the order of ARMS."""
    heldout = usable_heldout(data).any()
    default = [name for name in DEFAULT_CHEAP if reads_loss(head, CHEAP[name].loss)]
    wanted = [*default, GAN, *([FULL_DATA] if heldout else [])] if arms is None else arms
    for name in wanted:
        if name not in ARMS:
            raise unknown_name("arm", name, ARMS)
    cheap = [name for name in CHEAP if name in wanted]
    if not cheap:
        raise InputError(f"A comparison needs a cheap arm to compare with; add one of {', '.join(CHEAP)}.")
    if arms is not None and GAN in wanted and not synthetic:
        raise InputError("The arm gan needs synthetic images; give a synthetic set with --synthetic.")
    if FULL_DATA in wanted and not heldout:
        raise InputError(
            f"The arm full-data needs held-out images, and {data.root} has none that may be used."
        )
    if synthetic and not accepted:
        note("Nothing passed the gate, so the arm gan is not run.")
    return cheap, [name for name in (GAN, FULL_DATA) if name in wanted and (name != GAN or accepted)]


def _check_arm(config: TrainingConfig, data: PreparedDataset) -> None:
    """Raise InputError where the network has no last layer of the kind that the loss of an arm changes."""
    if config.loss in ONE_LINEAR_LAYER:
        with torch.random.fork_rng():
            plain = replace(config, pretrained=False, init=None)
            training.build_network(plain, len(data.classes), data.resolution)


def _refuse(out: Path, overwrite: bool) -> None:
    """Raise InputError unless `out` is new, an unfinished comparison, or a finished one to overwrite, and no more."""
    if not out.exists():
        return
    if (out / "report.json").exists():
        if not overwrite:
            raise InputError(
                f"{out} holds a finished comparison; choose another --out or give --overwrite to replace it."
            )
        _read_report(out)
    elif out.is_file() or (any(out.iterdir()) and not (out / JOBS).is_dir()):
        raise InputError(f"{out} exists and is no comparison; choose another --out.")
    inside = (path.relative_to(out).as_posix() for path in out.rglob("*"))
    foreign = list(islice((name for name in inside if not _OWN.fullmatch(name)), 3))
    if foreign:
        raise InputError(
            f"{out} holds what no comparison writes ({', '.join(foreign)}); move it away or choose another --out."
        )


def patients_kept_apart(data: PreparedDataset) -> bool:
    """Whether patients are known, none of test is in another split, and images of one are in one group."""
    if any("patient_id" not in table for table in data.tables.values()):
        return False
    test = data.tables["test"]
    elsewhere = pd.concat([data.tables[split]["patient_id"] for split in data.tables if split != "test"])
    return bool(
        test["patient_id"].notna().all()
        and not test["patient_id"].isin(elsewhere).any()
        and (test.groupby("patient_id")["group"].nunique() == 1).all()
    )


class _Trainer:
    """Runs the trainings of one comparison, each a cached job."""

    def __init__(
        self,
        data: PreparedDataset,
        synthetic: Sequence[SyntheticSet],
        encoder: PretrainedEncoder | None,
        config: TrainingConfig,
        seeds: Sequence[int],
        cache: Path,
        trainings: int,
    ) -> None:
        self.data, self.synthetic, self.config, self.seeds, self.cache = data, synthetic, config, seeds, cache
        self.encoder = encoder
        self.trainings = trainings
        self.seconds: list[float] = []  # of each training that was not in the cache
        self.images = {split: data.images(split) for split in ("validation", "test")}
        self.labels = {split: data.labels(split) for split in self.images}
        self.hashes = {split: digest(self.images[split], self.labels[split]) for split in self.images}
        self.used: set[Path] = set()
        self.languages: dict[str, Language | None] = {}  # by what an arm adds to the train images

    def predictions(self, name: str, arm: Arm) -> pd.DataFrame:
        """Train one arm with every seed; the predictions of all, with the columns `arm` and `seed`."""
        train, labels = arm.train_split(self.data, self.synthetic)
        trained_on = digest(train, labels)
        if arm.adds not in self.languages:  # the same for all arms that train on the same images
            rows = arm.rows(self.data, self.synthetic)
            self.languages[arm.adds] = language_for(
                self.config, rows, lambda: train, self.data.classes, self.data.root
            )
        language = self.languages[arm.adds]
        tables = []
        for i, seed in enumerate(self.seeds):
            self._announce(f"Arm {name}, seed {i + 1} of {len(self.seeds)}")
            config = arm.config(self.config, seed)
            job = Job(
                _TRAINING,
                {
                    "arm": asdict(arm),
                    "config": config.to_json(),
                    "init": self.encoder.to_json() if self.encoder else None,
                    "data": self.data.fingerprint,
                    "classes": list(self.data.classes),
                    "train": trained_on,
                    "language": language.digest() if language else None,
                    **self.hashes,
                    "code": code_version(),
                },
            )

            def work(folder: Path, config: TrainingConfig = config) -> None:
                fitted = training.fit(
                    config,
                    train,
                    labels,
                    self.images["validation"],
                    self.labels["validation"],
                    len(self.data.classes),
                    language=language,
                )
                test = training.predict_probabilities(fitted.model, self.images["test"])
                table = pd.concat(
                    [self._table("validation", fitted.validation_probabilities), self._table("test", test)]
                )
                table.to_parquet(folder / PREDICTIONS, index=False)
                write_json(
                    folder / "history.json", {"best_step": fitted.best_step, "history": fitted.history}
                )

            begun, cached = time.monotonic(), job.done(self.cache)
            folder = job.run(self.cache, work)
            if not cached:
                self.seconds.append(time.monotonic() - begun)
            self.used.add(folder)
            table = pd.read_parquet(folder / PREDICTIONS)
            table.insert(0, "arm", name)
            table.insert(1, "seed", seed)
            tables.append(table)
        return pd.concat(tables)

    def _announce(self, what: str) -> None:
        """Name the training that begins, and about how long this one and all after it will take."""
        done = len(self.used)
        left = ""
        if self.seconds:
            minutes = np.mean(self.seconds) * (self.trainings - done) / 60
            left = f", about {max(minutes, 1):.0f} min left"
        stage(f"{what}: training {done + 1} of {self.trainings}{left}")

    def _table(self, split: str, probabilities: np.ndarray) -> pd.DataFrame:
        rows, classes = self.data.tables[split], np.array(self.data.classes)
        table = pd.DataFrame(
            {
                "split": split,
                "file_name": rows["file_name"].to_numpy(),
                "group": rows["group"].fillna(rows["file_name"]).to_numpy(),
                "label": rows["label"].to_numpy(),
                "predicted": classes[probabilities.argmax(1)],
            }
        )
        return table.assign(**{f"p_{name}": probabilities[:, k] for k, name in enumerate(self.data.classes)})


class _Split:
    """The predictions of one split as arrays, images in one order: labels N, groups N, predicted of an arm S×N."""

    def __init__(self, predictions: pd.DataFrame, split: str, classes: Sequence[str]) -> None:
        self.classes = len(classes)
        index = {label: k for k, label in enumerate(classes)}
        rows = predictions[predictions["split"] == split].sort_values(["arm", "seed", "file_name"])
        runs = dict(iter(rows.groupby(["arm", "seed"], sort=False)))
        first = next(iter(runs.values()))
        known = first[["file_name", "label", "group"]].to_numpy()
        self.labels = first["label"].map(index).to_numpy(dtype=np.int64)
        self.groups = pd.factorize(first["group"])[0]
        found: dict[str, list[np.ndarray]] = {}
        for (arm, _), run in runs.items():
            if not np.array_equal(run[["file_name", "label", "group"]].to_numpy(), known):
                raise InputError(
                    f"The predictions of {arm} are not of the same {split} images as the others'."
                )
            found.setdefault(str(arm), []).append(run["predicted"].map(index).to_numpy(dtype=np.int64))
        self.predicted = {arm: np.stack(by_seed) for arm, by_seed in found.items()}

    def confusion(self, arm: str) -> np.ndarray:
        """int64 S×K×K."""
        return evaluation.confusion(self.labels, self.predicted[arm], self.classes)

    def contrast(self, weights: dict[str, float], **options: Any) -> evaluation.Interval:
        """Interval of a weighted sum over arms."""
        predicted = np.stack([self.predicted[arm] for arm in weights])
        of_arms = np.array(list(weights.values()))
        return evaluation.contrast(self.labels, self.groups, predicted, of_arms, self.classes, **options)


def best_on_validation(predictions: pd.DataFrame, classes: Sequence[str], cheap: Sequence[str]) -> str:
    """The cheap arm with the highest validation macro-F1, mean over the seeds; of equals the first."""
    validation = _Split(predictions, "validation", classes)
    return max(cheap, key=lambda arm: evaluation.score(validation.confusion(arm), "macro_f1").mean())


def summarise(predictions: pd.DataFrame, study: dict[str, Any]) -> Report:
    """All of `report.json` from the predictions of every arm and seed: a pure function.

    `predictions`: the columns arm, seed, split, file_name, group, label, predicted, p_<class>… `study`: what was
    compared (data, synthetic sets, arms, seeds, margin, config); it is repeated under `study` in the report.
    """
    classes, margin = study["data"]["classes"], study["margin"]
    arms = [name for name in ARMS if name in study["arms"]]
    test = _Split(predictions, "test", classes)
    validation = _Split(predictions, "validation", classes)
    best = best_on_validation(predictions, classes, [name for name in arms if name in CHEAP])

    differences = {(a, b): test.contrast({a: 1.0, b: -1.0}) for b, a in combinations(arms, 2)}
    adjusted = evaluation.holm(np.array([d.p for d in differences.values()]))
    paired = [
        {"a": a, "b": b, "delta": d.value, "ci": _cut(d, -1.0), "p": d.p, "p_holm": float(p)}
        for ((a, b), d), p in zip(differences.items(), adjusted, strict=True)
    ]
    primary = None
    if GAN in arms:
        difference = differences[GAN, best]
        primary = {
            "a": GAN,
            "b": best,
            "delta": difference.value,
            "ci": _cut(difference, -1.0),
            "margin": margin,
        }
    helped = conclude(primary)
    report: Report = {
        "format": FORMAT,
        "conclusion": {"helped": helped, "primary": primary, "statement": ""},
        "arms": {arm: _arm(arm, test, validation, classes) for arm in arms},
        "paired": paired,
        "best_on_validation": best,
        "gap": _gap(test, differences, best) if {GAN, FULL_DATA} <= set(arms) else None,
        "test": {"images": len(test.labels), "groups": int(test.groups.max() + 1)},
        "study": study,
    }
    report["notes"] = _notes(report, test, validation)
    report["conclusion"]["statement"] = statement(report)
    return report


def conclude(primary: dict[str, Any] | None) -> bool | None:
    """True (helped) when the primary interval lies above the margin, False when below it, else None."""
    if primary is None:
        return None
    low, high = primary["ci"]
    if low > primary["margin"]:
        return True
    return False if high < primary["margin"] else None


def _cut(interval: evaluation.Interval, lowest: float) -> list[float]:
    """The interval, within the metric's range."""
    return [max(interval.low, lowest), min(interval.high, 1.0)]


def _arm(arm: str, test: _Split, validation: _Split, classes: Sequence[str]) -> dict[str, Any]:
    matrix = test.confusion(arm)
    present = matrix[0].sum(1)

    def estimate(metric: evaluation.Metric, only: int | None = None) -> dict[str, Any]:
        interval = test.contrast({arm: 1.0}, metric=metric, only=only)
        return {"mean": interval.value, "ci": _cut(interval, 0.0)}

    per_class = {}
    for k, label in enumerate(classes):
        if present[k]:
            per_class[label] = {
                "n": int(present[k]),
                "recall": estimate("balanced_accuracy", k),
                "precision": {"mean": float(evaluation.precision(matrix)[:, k].mean())},
                "f1": estimate("macro_f1", k),
            }
        else:
            per_class[label] = {"n": 0, "recall": None, "precision": None, "f1": None}
    of_validation = evaluation.score(validation.confusion(arm), "macro_f1")
    return {
        "macro_f1": estimate("macro_f1") | {"by_seed": evaluation.score(matrix, "macro_f1").tolist()},
        "balanced_accuracy": estimate("balanced_accuracy"),
        "validation_macro_f1": {"mean": float(of_validation.mean()), "by_seed": of_validation.tolist()},
        "per_class": per_class,
        "confusion": matrix.sum(0).tolist(),
    }


def _gap(test: _Split, differences: dict[tuple[str, str], evaluation.Interval], best: str) -> dict[str, Any]:
    """The share of the gap between the best cheap arm and `full-data` that `gan` closes; null when the gap may be 0."""
    gap = differences[FULL_DATA, best]
    result: dict[str, Any] = {"a": FULL_DATA, "b": best, "delta": gap.value, "ci": _cut(gap, -1.0)}
    if gap.low <= 0 <= gap.high:
        return result | {"closed": None, "closed_ci": None}
    share = differences[GAN, best].value / gap.value
    # The ratio's first-order change is that of (gan − best) − share·(full-data − best), divided by the gap.
    weights = {GAN: 1 / gap.value, best: (share - 1) / gap.value, FULL_DATA: -share / gap.value}
    spread = test.contrast(weights)
    half = (spread.high - spread.low) / 2
    return result | {"closed": share, "closed_ci": [share - half, share + half]}


def _notes(report: Report, test: _Split, validation: _Split) -> list[str]:
    """What a reader must know before believing the figures, a sentence each."""
    study = report["study"]
    classes = study["data"]["classes"]
    counts = np.bincount(test.labels, minlength=len(classes))
    notes = []
    if study["data"]["source"] == "rendered":
        notes.append("The images are rendered cells, not real ones: nothing here carries over to real blood.")
    absent = [label for label, n in zip(classes, counts, strict=True) if n == 0]
    if absent:
        notes.append(
            f"No test image: {', '.join(absent)}. Macro-F1 and balanced accuracy are means over the other classes."
        )
    few = [f"{label} ({n})" for label, n in zip(classes, counts, strict=True) if 0 < n < FEW]
    if few:
        notes.append(
            f"Fewer than {FEW} test images: {', '.join(few)}. What is said of them alone is uncertain."
        )
    in_validation = np.bincount(validation.labels, minlength=len(classes))
    few = [f"{label} ({n})" for label, n in zip(classes, in_validation, strict=True) if n < FEW]
    if few:
        notes.append(
            f"Fewer than {FEW} validation images: {', '.join(few)}. The best cheap arm was chosen on little."
        )
    single = [
        label
        for k, label in enumerate(classes)
        if counts[k] > 1 and len(np.unique(test.groups[test.labels == k])) == 1
    ]
    if single:
        notes.append(
            f"All test images from one group: {', '.join(single)}. For these the intervals speak of further images of "
            "that group, not of other patients."
        )
    if not study["data"]["patients"]:
        notes.append(
            "Patients are not known, or were not kept apart by --group-by: images of one patient may lie in train and "
            "in test, and the intervals treat images as independent unless their group says otherwise."
        )
    if any(_blind(images) for images in study["synthetic"]):
        notes.append(
            "The generator started from weights of which nobody knows what they were trained on: should test images be "
            "among that, the result is too good."
        )
    unverified = [
        f"{label} ({verdict['verdict']})"
        for images in study["synthetic"]
        for label, verdict in images["gate"]["classes"].items()
        if verdict["verdict"] not in GOOD and images["counts"].get(label)
    ]
    if unverified:
        notes.append(
            f"Synthetic images were used although their class did not pass: {', '.join(unverified)}."
        )
    return notes


def _blind(synthetic: dict[str, Any]) -> bool:
    return not synthetic.get("seen_known", True)  # reports before that field know of no such weights


def statement(report: Report) -> str:
    """The conclusion in one sentence."""
    study, primary = report["study"], report["conclusion"]["primary"]
    cells = "; the cells are rendered, not real" if study["data"]["source"] == "rendered" else ""
    if primary is not None and any(_blind(images) for images in study["synthetic"]):
        cells += "; whether the generator's first weights had seen test images is unknown"
    if primary is None:
        if study["synthetic"] and not any(images["counts"] for images in study["synthetic"]):
            return (
                "It is undecided whether balancing with synthetic images helps: nothing passed the gate, so that there is "
                f"nothing to compare, and these synthetic images are not recommended{cells}."
            )
        return (
            f"Whether balancing with synthetic images helps was not examined: the arm gan was not run{cells}."
        )
    verdict = {
        True: "Balancing with synthetic images helped",
        False: "Balancing with synthetic images did not help",
        None: "It is undecided whether balancing with synthetic images helped",
    }[report["conclusion"]["helped"]]
    low, high = primary["ci"]
    return (
        f"{verdict}: macro-F1 of {primary['a']} minus {primary['b']} = {signed(primary['delta'])} "
        f"(95 % interval {signed(low)} to {signed(high)}; margin {primary['margin']:g}), "
        f"{len(study['seeds'])} seeds, {report['test']['images']} test images{cells}."
    )
