"""Synthesis: generate candidates, let the gate judge them, write a synthetic set with its provenance."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from balancer.data import PreparedDataset, SyntheticSet, data_of, find_runs, newest_generator
from balancer.data.dataset import FORMAT, read_table
from balancer.data.seen import Seen
from balancer.errors import InputError, unknown_name
from balancer.files import new_directory, read_json, refuse_existing, write_csv, write_json, write_text
from balancer.generators.checkpoints import TrainedGenerator, load_generator
from balancer.generators.transfer import BUILTIN, builtin
from balancer.progress import note, track
from balancer.quality.backbones import FeatureFile
from balancer.quality.features import FeatureExtractor, inception
from balancer.quality.gate import GOOD, Gate, Judgement, fit_gate, gate_document, load_rules
from balancer.quality.gate_page import GATE_JSON, GATE_PAGE, render
from balancer.quality.reference import HELD_OUT, seen_outside_train

_FEWEST_MORE = 16  # candidates made at once
_WHOLE_CLASS = "the class's verdict is "  # begins the reason of an image that has no defect of its own


@dataclass(frozen=True)
class Synthesis:
    """What one call of `synthesise` did: the set, and the gate's judgement of each class asked for."""

    out: Path
    judgements: dict[str, Judgement]
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
    """The generator run and the data to make images of `labels` with; notes say what was chosen.

    Without `run` the newest under ./runs that knows the labels is taken, and where there are no runs the builtin
    generator, as for a `run` of the name `builtin`. Without `data` that of the run is taken; the builtin has none.
    """
    if run is None and find_runs(kind="generator"):
        run = newest_generator(labels)
        note(f"Generator: {run}, the newest under ./runs that knows {', '.join(labels)}.")
    if run is None or str(run) == BUILTIN.name:
        if data is None:
            why = "" if run else "There is no generator run under ./runs; "
            raise InputError(
                f"{why}{'T' if run else 't'}he builtin generator comes without images: give --data, a prepared dataset "
                "whose images the gate compares with."
            )
        dataset = PreparedDataset.load(data)
        shipped = builtin(dataset.resolution)
        known = ", ".join(read_json(shipped / "config.json")["known"])
        note(f"Generator: the builtin one of {shipped.name} px, which knows {known}.")
        return shipped, dataset
    if data is not None:
        return run, PreparedDataset.load(data)
    dataset = data_of(run)
    note(f"Data: {dataset.root} ({dataset.source} images), which the generator was trained on.")
    return run, dataset


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
) -> Synthesis:
    """Make `n` accepted synthetic images of each class in `labels`, from at most `max_candidates`·n candidates.

    `run` is one that was trained on `data`, or the folder of a builtin generator (`generators.builtin`), which was
    trained on images of its own. A set at `out` that came from the same data and generator gains the classes; any other is refused unless
    `overwrite`. Images of a class whose verdict is fail or insufficient-data go to `rejected/`, unless
    `allow_unverified`, which marks their rows. Raises InputError before any work when something does not fit.
    """
    out = Path(out)
    labels = list(dict.fromkeys(labels))
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    if max_candidates < 1:
        raise InputError(f"--max-candidates must be at least 1, not {max_candidates}.")
    if not 0 <= truncation <= 1:
        raise InputError(f"--truncation must be from 0 to 1, not {truncation}.")
    generator = load_generator(run, device)
    _check_fit(generator, data, labels)
    refuse_existing(out, True, [data.root, generator.path])
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

    gate = fit_gate(data, labels, extractor, seed, _seen_outside_train(generator, data))
    seeds = {label: _seeds(seed, data.class_index(label), n * max_candidates) for label in labels}
    judged = {
        label: _judged(generator, gate, label, seeds[label], n, truncation, allow_unverified)
        for label in labels
    }
    images = {label: made for label, (made, _) in judged.items()}
    judgements = {label: judgement for label, (_, judgement) in judged.items()}
    rows = {
        label: _rows(
            generator, judgements[label], images[label], seeds[label], truncation, n, allow_unverified
        )
        for label in labels
    }
    classes: dict[str, dict[str, Any]] = {
        label: {
            "n": n,
            "seed": seed,
            "truncation": truncation,
            "verdict": judgements[label].verdict,
            "candidates": len(images[label]),
            "written": int((table["split"] == "train").sum()),
            "rejected": int((table["split"] == "rejected").sum()),
        }
        for label, table in rows.items()
    }
    document = gate_document(judgements, extractor)
    with new_directory(out, overwrite=True) as folder:
        if present is not None:
            shutil.copytree(out, folder, dirs_exist_ok=True)
            classes = present.info["synthesis"] | classes
            document["classes"] = present.gate["classes"] | document["classes"]
        for label in labels:
            _write_images(folder, rows[label], images[label], generator)
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
    return Synthesis(out, judgements, written, data.source, _advice(generator, data, judgements))


def _tuning(data: PreparedDataset) -> str:
    return f"`balancer train --init builtin --data {data.root} --unconditional 1 --ramp 1.5 --kimg 20`"


def _advice(
    generator: TrainedGenerator, data: PreparedDataset, judgements: dict[str, Judgement]
) -> list[str]:
    """What may help the classes that did not pass: more of what they had too little of, else training."""
    sizes = load_rules()["sizes"]
    helps: dict[str, list[str]] = {}  # what may help, and the classes that it may help
    training = (
        f"fine-tuning ({_tuning(data)})"
        if _is_builtin(generator)
        else f"a longer training (`balancer train --data {data.root} --init {generator.path} --kimg 20`)"
    )
    for label, judged in judgements.items():
        if judged.verdict in GOOD:
            continue
        what = f"{training}, more real images"
        if judged.n_real < sizes["fewest_real"]:
            what = f"more real images ({judged.n_real} are too few to judge by, and to train on)"
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
            "images, and `classifier compare` refuses the set. Prepare the data without these images."
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
) -> tuple[np.ndarray, Judgement]:
    """Candidates, one for each of the first `seeds`, and their judgement.

    More are made until `n` of them are not rejected one by one and those that are left can be judged as a set, or the
    seeds are used up. A class that is bound to be rejected as a whole is given up, unless `allow_unverified` keeps its images.
    """
    images = np.empty((0, generator.resolution, generator.resolution, 3), dtype=np.uint8)
    wanted, sizes = n, gate.rules["sizes"]
    while True:
        chunk = seeds[len(images) : len(images) + max(wanted, _FEWEST_MORE)]
        parts = [
            generator.generate(label, chunk[i : i + 64], truncation)
            for i in track(range(0, len(chunk), 64), f"Generating {label}")
        ]
        images = np.concatenate([images, *parts])
        judgement = gate.judge(label, images)
        left = judgement.rejected.count(None)
        wanted = max(n, sizes["fewest_candidates"]) - left
        if judgement.verdict == "insufficient-data" and wanted <= 0:
            wanted = min(left, judgement.n_real - left)  # more than real ones would hardly tell more
        hopeless = judgement.verdict == "fail" or judgement.n_real < sizes["fewest_real"]
        if wanted <= 0 or len(images) == len(seeds) or (hopeless and not allow_unverified):
            return images, judgement
        wanted = math.ceil(wanted * len(images) / max(left, 1))  # at the share that was accepted so far


def _rows(
    generator: TrainedGenerator,
    judgement: Judgement,
    images: np.ndarray,
    seeds: list[int],
    truncation: float,
    n: int,
    allow_unverified: bool,
) -> pd.DataFrame:
    """A row per candidate to write: where it goes (`split`), why, and where it comes from.

    Candidates that were accepted beyond the `n` asked for are left out.
    """
    label = judgement.label
    table = judgement.scores.reset_index(drop=True)
    table["index"] = range(len(images))
    table["reason"] = judgement.rejected
    accepted = table["reason"].isna()
    table = table[~accepted | (accepted.cumsum() <= n)]
    good = judgement.verdict in GOOD
    if not good and not allow_unverified:
        why = f"{_WHOLE_CLASS}{judgement.verdict}: {judgement.reasons[0]}"
        table["reason"] = table["reason"].fillna(why)
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
        },
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


def _write_images(folder: Path, rows: pd.DataFrame, images: np.ndarray, generator: TrainedGenerator) -> None:
    """Write PNGs to train/ and rejected/, each with its provenance in its text chunks."""
    for label, split in itertools.product(rows["label"].unique(), ("train", "rejected")):
        (folder / split / label).mkdir(parents=True, exist_ok=True)
    for row in track(rows.to_dict("records"), "Writing images"):
        text = PngInfo()
        text.add_text("source", "synthetic")
        text.add_text("Software", "hemabalance")
        provenance = {key: row[key] for key in ("label", "seed", "truncation", "verdict")}
        provenance |= {"generator": _origin(generator), "data": generator.data}
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
    whole_class = rows["reason"].astype(str).str.startswith(_WHOLE_CLASS)
    return rows.assign(reason=rows["reason"].where(~whole_class))
