"""Synthesis: generate candidates, let the gate judge them, write a synthetic set with its provenance."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from balancer.data import PreparedDataset, SyntheticSet, data_of, find_runs, newest_generator
from balancer.data.attributes import attribute_values, check_attributes, check_consistent, completed
from balancer.data.dataset import FORMAT, read_table
from balancer.data.seen import Seen
from balancer.errors import InputError, unknown_name
from balancer.files import (
    claimed,
    new_directory,
    read_json,
    refuse_existing,
    write_csv,
    write_json,
    write_text,
)
from balancer.generators.checkpoints import TrainedGenerator, load_generator
from balancer.generators.transfer import BUILTIN, builtin
from balancer.progress import note, track
from balancer.quality.backbones import FeatureFile
from balancer.quality.features import FeatureExtractor, inception
from balancer.quality.gate import GOOD, Gate, Judgement, fit_gate, gate_document, load_rules
from balancer.quality.gate_page import GATE_JSON, GATE_PAGE, render
from balancer.quality.reference import HELD_OUT, seen_outside_train

_FEWEST_MORE = 16  # candidates made at once
_MOST_OF_IT = 0.99  # of a training, from which it is at its end
_MOST_CANDIDATES = 10_000_000  # of a class, all of which are held in memory
_WHOLE_CLASS = "the class's verdict is "  # begins the reason of an image that has no defect of its own
# Per cent of the class's real train images that a candidate must fit the text as well as: what is kept fits it better than
# three of four real images do, so that the text tells; and of a faithful generator's candidates one in four is left, of
# the five that are made for each image asked for.
_PERCENTILE = 75
_UNFIT = "fits the text less than three of four real images of the class"  # begins the reason of the others
_FITS = 0.5  # how likely a text must mean a class, beside the likeliest, to fit it
_MOST_REAL = 512  # of these, drawn by seed: that place in their order is then certain to about two per cent


class Scorer(Protocol):
    """How well images fit a text, by a model of images and texts that this room does not know."""

    @property
    def text(self) -> str: ...

    @property
    def path(self) -> Path:
        """Of the model's run."""
        ...

    @property
    def sha256(self) -> str:
        """Of the model's weights."""
        ...

    @property
    def attributes(self) -> Mapping[str, str]:
        """What the text states, in the vocabulary of `balancer.data.attributes`; empty for nothing."""
        ...

    @property
    def named(self) -> tuple[str, ...]:
        """Labels of classes that the text names."""
        ...

    def scores(self, images: np.ndarray) -> np.ndarray:
        """How similar each image, uint8 N×R×R×3, is to the text: float N, higher for more, each of its image alone."""
        ...

    def likely(self, labels: Sequence[str]) -> Mapping[str, float]:
        """Of these classes those that the model knows, and how likely the text means each, in [0, 1]; the likeliest first."""
        ...

    def trained_on(self, data: PreparedDataset, split: str) -> list[str]:
        """File names of the images of a split that the model was trained on, be it in other files."""
        ...


@dataclass(frozen=True)
class Synthesis:
    """What one call of `synthesise` did: the set, and the gate's judgement of each class asked for.

    Candidates that fit a text too little are not among those that are judged.
    """

    out: Path
    judgements: dict[str, Judgement]
    made: dict[str, int]  # candidates per class, judged or not
    written: dict[str, int]  # images per class in train/
    source: str  # of the data behind the generator: real | rendered
    advice: list[str]  # what may help the classes that did not pass

    def passed(self, label: str) -> bool:
        """Whether the class's verdict lets its images into the set."""
        return self.judgements[label].verdict in GOOD

    def to_json(self) -> dict[str, Any]:
        """What the command line prints with --json."""
        classes = {
            label: {
                "verdict": judged.verdict,
                "reasons": judged.reasons,
                "n_real": judged.n_real,
                "n_made": self.made[label],
                "n_candidates": judged.n_candidates,
                "n_written": self.written[label],
            }
            for label, judged in self.judgements.items()
        }
        return {
            "out": str(self.out),
            "source": self.source,
            "gate": str(self.out / GATE_JSON),
            "classes": classes,
            "advice": self.advice,
        }


def choose_generator(
    run: Path | None, data: Path | None, labels: Sequence[str]
) -> tuple[Path, PreparedDataset]:
    """The generator run and the data to make images of `labels` (none: of any) with; notes say what was chosen.

    Without `run` the newest under ./runs that knows the labels is taken, of those that were trained on `data` where it is
    given, and where there are none the builtin generator, as for a `run` of the name `builtin`. Without `data` that of the
    run is taken; the builtin has none.
    """
    given = PreparedDataset.load(data) if data is not None else None
    own = given.fingerprint if given else None
    if run is None and any(own in (None, found.fingerprint) for found in find_runs(kind="generator")):
        run = newest_generator(labels, fingerprint=own)
        knows = f" that knows {', '.join(labels)}" if labels else ""
        note(f"Generator: {run}, the newest under ./runs{knows}.")
    if run is None or str(run) == BUILTIN.name:
        if given is None:
            why = "" if run else "There is no generator run under ./runs; "
            raise InputError(
                f"{why}{'T' if run else 't'}he builtin generator comes without images: give --data, a prepared dataset "
                "whose images the gate compares with."
            )
        shipped = builtin(given.resolution)
        known = ", ".join(read_json(shipped / "config.json")["known"])
        note(f"Generator: the builtin one of {shipped.name} px, which knows {known}.")
        return shipped, given
    if given is not None:
        return run, given
    dataset = data_of(run)
    note(f"Data: {dataset.root} ({dataset.source} images), which the generator was trained on.")
    return run, dataset


def classes_for(scorer: Scorer, run: Path, data: PreparedDataset) -> tuple[str, ...]:
    """The classes that the text fits, of those that the generator run knows and `data` has: the likeliest, and what is at least
    half as likely; a note says which."""
    config = read_json(run / "config.json")
    known = [label for label in config.get("known", config.get("classes", ())) if label in data.classes]
    if not known:
        raise InputError(
            f"{run} and {data.root} have no class in common; give the data that it was trained on."
        )
    if lacking := [label for label in scorer.named if label not in known]:
        raise InputError(
            f"The text names {' and '.join(lacking)}, of which {run} makes no images for {data.root}; name a class that both have "
            f"({', '.join(known)}), or give --class."
        )
    likely = scorer.likely(known)
    if not likely:
        raise InputError(
            f"The scorer knows none of the classes of {run} ({', '.join(known)}), so that it cannot choose one; give --class."
        )
    if strange := [label for label in known if label not in likely]:
        note(f"The scorer was not trained on {', '.join(strange)}: they are not chosen; --class does.")
    fit = tuple(label for label, p in likely.items() if p >= _FITS * max(likely.values()))
    said = ", ".join(f"{label} {p:.0%}" for label, p in likely.items())
    note(f"By the text: {' and '.join(fit)} (how likely it means each class: {said}); --class chooses.")
    return fit


@dataclass(frozen=True)
class _Wish:
    """What is asked of candidates beside their class: attributes, and a text.

    `least`: the similarity to the text, by class, below which a candidate is rejected.
    """

    attributes: Mapping[str, str] = field(default_factory=dict)
    scorer: Scorer | None = None
    least: Mapping[str, float] = field(default_factory=dict)

    def similarity(self, images: np.ndarray) -> np.ndarray:
        """How similar the images are to the text, float N; NaN where there is none."""
        return self.scorer.scores(images) if self.scorer else np.full(len(images), np.nan)

    def to_json(self, label: str) -> dict[str, Any]:
        """What the set says of it: `attributes` and `text`, where they were asked for."""
        asked: dict[str, Any] = {"attributes": dict(self.attributes)} if self.attributes else {}
        if self.scorer is None:
            return asked
        return asked | {
            "text": {
                "text": self.scorer.text,
                "scorer_sha256": self.scorer.sha256,
                "scorer_path": str(self.scorer.path.absolute()),
                "percentile": _PERCENTILE,
                "least": round(self.least[label], 6),
            }
        }


@dataclass(frozen=True)
class _Candidates:
    """The candidates of one class, and what is thought of them."""

    images: np.ndarray  # uint8 N×R×R×3
    similarity: np.ndarray  # to the text, float N; NaN where there is none
    least: float  # of these, that a candidate needs
    judgement: Judgement  # of those that have it

    @property
    def fits(self) -> np.ndarray:
        """Whether each fits the text, bool N."""
        return ~(self.similarity < self.least)  # NaN is not less

    @property
    def reasons(self) -> list[str | None]:
        """Why each is rejected by itself; None where nothing speaks against it."""
        judged = iter(self.judgement.rejected)
        return [
            next(judged) if fits else f"{_UNFIT} (similarity {value:.3f}, theirs {self.least:.3f})"
            for fits, value in zip(self.fits, self.similarity, strict=True)
        ]


def synthesise(
    data: PreparedDataset,
    run: Path,
    labels: Sequence[str],
    n: int,
    out: Path,
    *,
    max_candidates: int = 5,
    truncation: float = 1.0,
    seed: int = 0,
    allow_unverified: bool = False,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    extractor: FeatureExtractor | None = None,
    attributes: Mapping[str, str] | None = None,
    scorer: Scorer | None = None,
) -> Synthesis:
    """Make `n` accepted synthetic images of each class in `labels`, from at most `max_candidates`·n candidates.

    `run` is one that was trained on `data`, or the folder of a builtin generator (`generators.builtin`), which was
    trained on images of its own. A set at `out` that came from the same data and generator gains the classes; any other is refused unless
    `overwrite`. Images of a class whose verdict is fail or insufficient-data go to `rejected/`, unless
    `allow_unverified`, which marks their rows. Raises InputError before any work when something does not fit.

    A generator that is told attributes can be asked for `attributes`, and for those that the scorer's text states. With
    a `scorer`, candidates that fit its text less than three of four real train images of the class are rejected before
    the gate sees them. The gate judges what is left as ever, against all real images of the class: what text or attributes
    narrow differs from these, so that it is the more likely to be rejected.
    """
    out = Path(out)
    labels = list(dict.fromkeys(labels))
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    if max_candidates < 1:
        raise InputError(f"--max-candidates must be at least 1, not {max_candidates}.")
    if n * max_candidates > _MOST_CANDIDATES:
        raise InputError(
            f"--n {n} with --max-candidates {max_candidates} asks for up to {n * max_candidates:,} candidates of a class; up to "
            f"{_MOST_CANDIDATES:,} are made."
        )
    if not 0 <= truncation <= 1:
        raise InputError(f"--truncation must be from 0 to 1, not {truncation}.")
    generator = load_generator(run, device)
    _check_fit(generator, data, labels)
    done, planned = generator.info.get("kimg"), generator.info.get("config", {}).get("kimg")
    if planned and done < _MOST_OF_IT * planned and not _is_builtin(generator):
        note(
            f"The weights of {generator.path} are of {done:g} of {planned:g} thousand images of its training."
        )
    asked = _asked(generator, attributes or {}, scorer)
    if scorer:
        _check_scorer(scorer, data)
    inputs = [data.root, generator.path]
    with claimed(out):
        refuse_existing(out, True, inputs)
        extractor = extractor or inception(device)
        if isinstance(extractor, FeatureFile):
            raise InputError(
                f"{extractor.path} cannot have features of images that are yet to be made; leave out --features here, and "
                "judge the set that is made with `balancer gate --features`."
            )
        present = None if overwrite else _set_to_extend(out, data, generator, labels, extractor)
        if data.source == "rendered":
            note(
                "These images stem from rendered cells, not from real ones: good for trying out, not for research."
            )

        if scorer and (strange := [label for label in labels if not scorer.likely([label])]):
            note(
                f"The scorer was not trained on {', '.join(strange)}: how well such images fit the text, it can only guess."
            )
        least = {label: least_similarity(scorer, data, label, seed) for label in labels} if scorer else {}
        wish = _Wish(asked, scorer, least)
        gate = fit_gate(data, labels, extractor, seed, _seen_outside_train(generator, data))
        seeds = {label: _seeds(seed, data.class_index(label), n * max_candidates) for label in labels}
        made = {
            label: _judged(generator, gate, label, seeds[label], n, truncation, allow_unverified, wish)
            for label in labels
        }
        judgements = {label: candidates.judgement for label, candidates in made.items()}
        rows = {
            label: _rows(generator, made[label], seeds[label], truncation, n, allow_unverified, wish)
            for label in labels
        }
        classes: dict[str, dict[str, Any]] = {
            label: {
                "n": n,
                "seed": seed,
                "truncation": truncation,
                "verdict": judgements[label].verdict,
                "candidates": len(made[label].images),
                "written": int((table["split"] == "train").sum()),
                "rejected": int((table["split"] == "rejected").sum()),
                **wish.to_json(label),
            }
            for label, table in rows.items()
        }
        document = gate_document(judgements, extractor)
        replaces = overwrite or present is not None
        refuse_existing(out, replaces, inputs)  # what has come there meanwhile stays
        with new_directory(out, replaces) as folder:
            if present is not None:
                shutil.copytree(out, folder, dirs_exist_ok=True)
                classes = present.info["synthesis"] | classes
                document["classes"] = present.gate["classes"] | document["classes"]
            for label in labels:
                _write_images(folder, rows[label], made[label].images, generator, wish)
            _write_tables(folder, list(rows.values()))
            shutil.copy(generator.path / "seen.csv", folder / "seen.csv")
            write_json(folder / GATE_JSON, document)
            write_text(folder / GATE_PAGE, render(document, _shown(folder), data))
            write_json(
                folder / "dataset.json",
                {
                    "format": FORMAT,
                    "kind": "synthetic",
                    "classes": list(data.classes),
                    "resolution": generator.resolution,
                    "counts": {"train": {label: values["written"] for label, values in classes.items()}},
                    "data": {
                        "path": str(data.root.absolute()),
                        "fingerprint": data.fingerprint,
                        "source": data.source,
                        "treatment": data.treatment,
                    },
                    "generator": _origin(generator),
                    "synthesis": classes,
                },
            )
        written = {label: classes[label]["written"] for label in labels}
        counts = {label: len(candidates.images) for label, candidates in made.items()}
        advice = _advice(generator, data, judgements, scorer is not None)
        return Synthesis(out, judgements, counts, written, data.source, advice)


def _asked(
    generator: TrainedGenerator, attributes: Mapping[str, str], scorer: Scorer | None
) -> dict[str, str]:
    """The attributes to ask of the generator; of one that is told classes none, and it is refused to name some."""
    attributes = check_attributes(attributes)
    check_consistent(attributes)
    if generator.info.get("attributes") is None:
        if attributes:
            raise InputError(
                f"{generator.path} was trained with --condition class, so that no attributes can be asked of it; leave out "
                "--attributes, or train one with `balancer train --condition attributes`."
            )
        return {}
    stated = dict(scorer.attributes) if scorer else {}
    for name, value in attributes.items():
        if stated.get(name, value) != value:
            raise InputError(
                f"The text states {name}={stated[name]}, and --attributes {name}={value}; give one of them."
            )
    check_consistent(stated | attributes)
    asked = completed(stated | attributes)
    if scorer:
        listed = ", ".join(f"{name}={value}" for name, value in asked.items())
        note(f"Attributes that the generator is asked for: {listed or 'none (the text states none)'}.")
    return asked


def _check_scorer(scorer: Scorer, data: PreparedDataset) -> None:
    """Refuse a scorer that knows the images which are to judge: what it keeps would be chosen by them."""
    for split in ("test", *HELD_OUT):
        if known := scorer.trained_on(data, split):
            named = ", ".join(known[:3]) + (", …" if len(known) > 3 else "")
            raise InputError(
                f"The scorer was trained on {len(known)} images of {data.root / split} ({named}), be it in other files: what it "
                f"keeps would be chosen by images that are to judge. Train it on the train split of {data.root}."
            )


def least_similarity(scorer: Scorer, data: PreparedDataset, label: str, seed: int) -> float:
    """The similarity to the text that candidates of a class need: `_PERCENTILE` of that of its real train images."""
    real, _ = data.images_of(label, ["train"])
    if not len(real):
        raise InputError(
            f"{data.root} has no train image of {label} to hold the text against; leave out --text for this class."
        )
    rng = np.random.default_rng([seed, data.class_index(label)])
    drawn = np.sort(rng.permutation(len(real))[:_MOST_REAL])
    return float(np.percentile(scorer.scores(real[drawn]), _PERCENTILE))


def _tuning(data: PreparedDataset) -> str:
    return f"`balancer train --init builtin --data {data.root} --unconditional 1 --ramp 1.5 --kimg 20`"


def _advice(
    generator: TrainedGenerator, data: PreparedDataset, judgements: dict[str, Judgement], by_text: bool
) -> list[str]:
    """What may help the classes that did not pass: more of what they had too little of, else training, or less asked for."""
    sizes = load_rules()["sizes"]
    helps: dict[str, list[str]] = {}  # what may help, and the classes that it may help
    told = " --condition attributes" if generator.info.get("attributes") is not None else ""
    training = (
        f"fine-tuning ({_tuning(data)})"
        if _is_builtin(generator)
        else f"a longer training (`balancer train --data {data.root} --init {generator.path} --kimg 20{told}`)"
    )
    for label, judged in judgements.items():
        if judged.verdict in GOOD:
            continue
        what = f"{training}, more real images" + (
            ", or no --text, which narrows the class" if by_text else ""
        )
        if judged.n_real < sizes["fewest_real"]:
            what = f"more real images ({judged.n_real} are too few to judge by, and to train on)"
        elif by_text and judged.n_candidates < sizes["fewest_candidates"]:
            what = "a larger --n or --max-candidates, or no --text, which left too few candidates to judge"
        elif judged.verdict == "insufficient-data" and _too_few(judged, sizes["fewest_candidates"]):
            what = "a larger --n or --max-candidates, for more candidates to judge"
        helps.setdefault(what, []).append(label)
    return [f"What may help {' and '.join(some)}: {what}." for what, some in helps.items()]


def _too_few(judged: Judgement, fewest: int) -> bool:
    """Whether more candidates could decide: those that are left are few, or fewer than real ones, and most were left."""
    left = judged.rejected.count(None)
    return left < max(fewest, judged.n_real) and 2 * left >= judged.n_candidates


def _is_builtin(generator: TrainedGenerator) -> bool:
    return generator.path.parent == BUILTIN


def _check_fit(generator: TrainedGenerator, data: PreparedDataset, labels: Sequence[str]) -> None:
    """Refuse classes that the generator or the data does not know, and data that the generator is not for."""
    known, run = generator.info["known"], generator.path
    shipped = _is_builtin(generator)
    tuning = f"fine-tune it to your data with {_tuning(data)}"
    for label in labels:
        if label not in known and shipped:
            raise InputError(
                f"The builtin generator knows no class '{label}', only {', '.join(known)}; {tuning}."
            )
        if label not in known:
            raise unknown_name("class", label, known)
        if label not in data.classes:
            raise InputError(
                f"The dataset {data.root} has no class '{label}', only {', '.join(data.classes)}; give one of these, or "
                "a dataset with that class."
            )
    if shipped:
        if data.source != generator.data["source"]:
            raise InputError(
                f"The builtin generator makes {generator.data['source']} cells, and {data.root} has {data.source} ones, "
                f"which never mix in one set; {tuning}."
            )
        if data.resolution != generator.resolution:
            raise InputError(
                f"The builtin generator makes images of {generator.resolution} px, and {data.root} has images of "
                f"{data.resolution} px; prepare the data with --resolution {generator.resolution}, or {tuning}."
            )
    elif generator.data["fingerprint"] is None:
        raise InputError(
            f"{run} holds imported weights, and what they were trained on is unknown: nothing can tell whether their "
            f"images are copies. Train on your data first, with `balancer train --init {run}`."
        )
    elif generator.data["fingerprint"] != data.fingerprint:
        raise InputError(
            f"{run} was trained on other data ({generator.data['path']}) than {data.root}; give that data, so that "
            "the gate compares with images of the same split."
        )
    elif differing := data.treated_otherwise(generator.data.get("treatment")):
        raise InputError(
            f"{run} was trained on images that `balancer prepare` treated otherwise than those of {data.root} "
            f"({differing}); give the data that it was trained on ({generator.data['path']})."
        )


def _seen_outside_train(generator: TrainedGenerator, data: PreparedDataset) -> list[str]:
    """Names (split/file_name) of images outside train that the generator was trained on all the same, with a note."""
    seen = Seen.read(generator.path / "seen.csv")
    names = seen_outside_train(seen, data)
    found = {split: sum(name.startswith(f"{split}/") for name in names) for split in HELD_OUT}
    found["test"] = len(seen.among(data, "test"))
    if any(found.values()):
        counts = ", ".join(f"{n} of {split}" for split, n in found.items() if n)
        note(
            f"The generator was trained on images of {data.root} outside train ({counts}): the gate counts them as train "
            "images, and `classifier compare` refuses the set. Take a generator that was trained on the train split alone."
        )
    return names


def _set_to_extend(
    out: Path,
    data: PreparedDataset,
    generator: TrainedGenerator,
    labels: Sequence[str],
    extractor: FeatureExtractor,
) -> SyntheticSet | None:
    if not (out / "dataset.json").is_file():
        refuse_existing(out, overwrite=False)
        return None
    present = SyntheticSet.load(out)
    if (
        present.data_fingerprint != data.fingerprint
        or data.treated_otherwise(present.info["data"].get("treatment"))
        or present.info["generator"]["sha256"] != generator.sha256
    ):
        raise InputError(
            f"{out} holds images of another dataset or generator; choose another --out or give --overwrite."
        )
    judged_in = present.gate.get("features")
    if judged_in != {"name": extractor.name, "sha256": extractor.sha256}:
        raise InputError(
            f"{out} was judged in other features ({judged_in}) than {extractor.name} ({extractor.sha256}), and results "
            "of different features are not compared; choose another --out, the same --features, or --overwrite."
        )
    again = [label for label in labels if label in present.info["synthesis"]]
    if again:
        raise InputError(
            f"{out} holds {', '.join(again)} already; choose another --out, or --overwrite to replace the whole set."
        )
    return present


def _seeds(seed: int, index: int, count: int) -> list[int]:
    """Seeds of the candidates of the class `index`, uint32."""
    return [int(s) for s in np.random.SeedSequence([seed, index]).generate_state(count, np.uint32)]


def _judged(
    generator: TrainedGenerator,
    gate: Gate,
    label: str,
    seeds: list[int],
    n: int,
    truncation: float,
    allow_unverified: bool,
    wish: _Wish,
) -> _Candidates:
    """Candidates, one for each of the first `seeds`, and the judgement of those that fit the text.

    More are made until `n` of them are not rejected one by one and those that are left can be judged as a set, or the
    seeds are used up. A class that is bound to be rejected as a whole is given up, unless `allow_unverified` keeps its images.
    """
    images = np.empty((0, generator.resolution, generator.resolution, 3), dtype=np.uint8)
    similarity, least = np.empty(0), wish.least.get(label, -math.inf)
    wanted, sizes = n, gate.rules["sizes"]
    while True:
        chunk = seeds[len(images) : len(images) + max(wanted, _FEWEST_MORE)]
        parts = [
            _made(generator, label, chunk[i : i + 64], truncation, wish.attributes)
            for i in track(range(0, len(chunk), 64), f"Generating {label}")
        ]
        images = np.concatenate([images, *parts])
        similarity = np.concatenate([similarity, *map(wish.similarity, parts)])
        judgement = gate.judge(label, images[~(similarity < least)])
        left = judgement.rejected.count(None)
        wanted = max(n, sizes["fewest_candidates"]) - left
        if judgement.verdict == "insufficient-data" and wanted <= 0:
            wanted = min(left, judgement.n_real - left)  # more than real ones would hardly tell more
        hopeless = judgement.verdict == "fail" or judgement.n_real < sizes["fewest_real"]
        if wanted <= 0 or len(images) == len(seeds) or (hopeless and not allow_unverified):
            candidates = _Candidates(images, similarity, least, judgement)
            return _with_unfit(candidates, wish.scorer, n) if wish.scorer else candidates
        wanted = math.ceil(wanted * len(images) / max(left, 1))  # at the share that was accepted so far


def _made(
    generator: TrainedGenerator,
    label: str,
    seeds: list[int],
    truncation: float,
    attributes: Mapping[str, str],
) -> np.ndarray:
    if attributes:
        return generator.generate_attributes(attributes, seeds, truncation, label=label)
    return generator.generate(label, seeds, truncation)


def _with_unfit(candidates: _Candidates, scorer: Scorer, n: int) -> _Candidates:
    """The candidates, whose judgement says as a last reason how many the text left out; a note says it too."""
    judged, unfit = candidates.judgement, int((~candidates.fits).sum())
    if not unfit:
        return candidates
    sentence = f"{unfit} of {len(candidates.images)} candidates were not judged: each {_UNFIT} (text: {scorer.text})."
    more = " A larger --max-candidates makes more." if judged.rejected.count(None) < n else ""
    note(f"{judged.label}: {sentence}{more}")
    return replace(candidates, judgement=replace(judged, reasons=[*judged.reasons, sentence]))


def _rows(
    generator: TrainedGenerator,
    candidates: _Candidates,
    seeds: list[int],
    truncation: float,
    n: int,
    allow_unverified: bool,
    wish: _Wish,
) -> pd.DataFrame:
    """A row per candidate to write: where it goes (`split`), why, and where it comes from.

    Candidates that were accepted beyond the `n` asked for are left out.
    """
    judgement, images = candidates.judgement, candidates.images
    label = judgement.label
    table = judgement.scores.set_axis(np.flatnonzero(candidates.fits)).reindex(range(len(images)))
    table["index"] = range(len(images))
    if wish.scorer:
        table["text_similarity"] = candidates.similarity.round(6)
    table["reason"] = candidates.reasons
    accepted = table["reason"].isna()
    table = table[~accepted | (accepted.cumsum() <= n)]
    good = judgement.verdict in GOOD
    if not good and not allow_unverified:
        why = f"{_WHOLE_CLASS}{judgement.verdict}: {judgement.reasons[0]}"
        table["reason"] = table["reason"].fillna(why)
    told = {}
    if generator.combinations is not None:
        drawn = generator.combinations.draw(wish.attributes, [seeds[i] for i in table["index"]], label)
        told["told"] = [",".join(f"{k}={v}" for k, v in attribute_values(row).items()) for row in drawn]
    names = [f"{label}/{generator.sha256[:8]}_{seeds[i]:010d}.png" for i in table["index"]]
    head = pd.DataFrame(
        {
            "file_name": names,
            "label": label,
            "group": [Path(name).stem for name in names],
            "source": "synthetic",
            "source_sha256": [hashlib.sha256(images[i].tobytes()).hexdigest() for i in table["index"]],
            "generator_sha256": generator.sha256,
            "seed": [seeds[i] for i in table["index"]],
            "truncation": truncation,
            "verdict": judgement.verdict,
            "unverified": not good,
            "split": np.where(table["reason"].isna(), "train", "rejected"),
        }
        | told,
        index=table.index,
    )
    return pd.concat([head, table], axis=1)


def _origin(generator: TrainedGenerator) -> dict[str, Any]:
    return {
        "name": generator.info["generator"],
        "sha256": generator.sha256,
        "path": str(generator.path.absolute()),
        "kimg": generator.info["kimg"],
        "init": generator.info.get("init"),
    }


def _write_images(
    folder: Path, rows: pd.DataFrame, images: np.ndarray, generator: TrainedGenerator, wish: _Wish
) -> None:
    """Write PNGs to train/ and rejected/, each with its provenance in its text chunks."""
    for label, split in itertools.product(rows["label"].unique(), ("train", "rejected")):
        (folder / split / label).mkdir(parents=True, exist_ok=True)
    for row in track(rows.to_dict("records"), "Writing images"):
        text = PngInfo()
        text.add_text("source", "synthetic")
        text.add_text("Software", "hemabalance")
        provenance = {key: row[key] for key in ("label", "seed", "truncation", "verdict")}
        provenance |= {"told": row["told"]} if "told" in row else {}
        provenance |= {"generator": _origin(generator), "data": generator.data}
        provenance |= wish.to_json(row["label"])
        if "text_similarity" in row:
            provenance["text"]["similarity"] = row["text_similarity"]
        text.add_text("hemabalance", json.dumps(provenance))
        Image.fromarray(images[row["index"]]).save(folder / row["split"] / row["file_name"], pnginfo=text)


def _write_tables(folder: Path, rows: list[pd.DataFrame]) -> None:
    """Add rows to train/metadata.csv and rejected/rejected.csv; only the latter has a column `reason`."""
    for split, name, dropped in (("train", "metadata.csv", ["reason"]), ("rejected", "rejected.csv", [])):
        path = folder / split / name
        before = [read_table(path)] if path.exists() else []
        new = [table[table["split"] == split].drop(columns=["split", "index", *dropped]) for table in rows]
        filled = [table for table in [*before, *new] if len(table)] or new
        write_csv(path, pd.concat(filled, ignore_index=True))


def _shown(folder: Path) -> pd.DataFrame:
    """A row for each image of the set in `folder`, as the gate's page shows them."""
    tables = []
    for split, name in (("train", "metadata.csv"), ("rejected", "rejected.csv")):
        table = read_table(folder / split / name).reindex(
            columns=["file_name", "label", "reason", "nearest_train"]
        )
        tables.append(table.assign(path=[folder / split / name for name in table["file_name"]]))
    rows = pd.concat([table.astype(object) for table in tables], ignore_index=True)
    rows = rows[~rows["reason"].astype(str).str.startswith(_UNFIT)]  # the gate did not see these
    whole_class = rows["reason"].astype(str).str.startswith(_WHOLE_CLASS)
    return rows.assign(reason=rows["reason"].where(~whole_class))
