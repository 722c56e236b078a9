"""The commands that made the builtin generators.

    python -m benchmarks.builtin half SRC --out HALF.csv
    balancer prepare HALF.csv --keep-splits --resolution 64 --licence "CC BY 4.0" --out DATA
    balancer train --data DATA --generator projected --out RUN …
    python -m benchmarks.builtin package RUN --hardware "2 CPU cores" --out balancer/generators/builtin/64

`half` lists the images of a folder of class folders. The hash of an image's file decides where it goes: to train where
its first hexadecimal digit is even, else a quarter to validation (the second digit is a multiple of four) and the rest to
test. So anybody who has the same files gets the same halves, and a file keeps its half whatever is added.

`package` makes of a finished run what is shipped: float16 weights, the hashes of all that they have seen, the gate's
judgement of every class against images that they have not seen, and a model card of all this.

`judge DIR --unseen DATA` judges what is shipped again when the gate has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from balancer.console import print_table
from balancer.data import PreparedDataset, data_of, expand_paths
from balancer.data.seen import PERCEPTUAL_HASH, Seen
from balancer.errors import InputError
from balancer.files import new_directory, read_json, refuse_existing, write_csv, write_json, write_text
from balancer.generators import load_generator
from balancer.generators.checkpoints import TrainedGenerator, load_tensors, save_tensors
from balancer.imaging.perceptual_hash import middle, perceptual_hashes
from balancer.quality.features import FeatureExtractor, inception
from balancer.quality.gate import gate_document, judge_candidates

CANDIDATES = 150  # of each class, judged by the gate
DATA = "PBC Barcelona (Acevedo et al. 2020), the half whose SHA-256 begins with an even digit"
BLOODMNIST = 200 / 256  # BloodMNIST shows the middle 200 px of PBC's images, where these here show 256
PROBES = 16  # images by which float16 weights are compared with float32


def split_of(sha256: str) -> str:
    """train, validation or test, by the first two digits of the hash of an image's file."""
    if int(sha256[0], 16) % 2 == 0:
        return "train"
    return "validation" if int(sha256[1], 16) % 4 == 0 else "test"


def halve(source: Path) -> pd.DataFrame:
    """The images of class folders: file_name (absolute), label, split."""
    source = Path(source).absolute()
    paths = [path for path in expand_paths([source]) if path.parent.parent == source]
    if not paths:
        raise InputError(f"{source} has no folders with images in them; one folder per class is needed.")
    splits = [split_of(hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
    return pd.DataFrame(
        {"file_name": map(str, paths), "label": [p.parent.name for p in paths], "split": splits}
    )


def package(
    run: Path,
    out: Path,
    hardware: str,
    *,
    unseen: PreparedDataset | None = None,
    labels: Sequence[str] = (),
    candidates: int = CANDIDATES,
    remark: str = "",
    extractor: FeatureExtractor | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write what is shipped of a finished run to `out`, and return its `gate.json`.

    The gate compares with the validation and held-out images of `unseen`, by default of the data that the run names,
    and looks for copies of its train images; the run must have seen no image of the former. `labels`: classes to
    judge, by default all that the run knows. Raises InputError where something does not fit.
    """
    run, out = Path(run), Path(out)
    refuse_existing(out, overwrite, [run])
    data = data_of(run)
    seen = pd.read_csv(run / "seen.csv", dtype=str)[["source_sha256", "label", "file_name"]]
    train = data.tables["train"]
    if set(seen["source_sha256"]) != set(train["source_sha256"]):
        raise InputError(
            f"{run} has seen other images than the train split of {data.root}; train it on that alone."
        )
    images = data.images("train")[:]
    hashes = map(
        " ".join, zip(perceptual_hashes(images), perceptual_hashes(middle(images, BLOODMNIST)), strict=True)
    )
    seen[PERCEPTUAL_HASH] = seen["source_sha256"].map(dict(zip(train["source_sha256"], hashes, strict=True)))
    unseen = unseen or data
    known_to_it = Seen(frozenset(seen["source_sha256"]), tuple(" ".join(seen[PERCEPTUAL_HASH]).split()))
    for split in ("validation", "heldout"):
        found = known_to_it.among(unseen, split)
        if found:
            raise InputError(
                f"{run} has seen {len(found)} images of {unseen.root / split} ({found[0]}), so that they cannot judge it; "
                "give others with --unseen."
            )
    with new_directory(out, overwrite) as folder:
        trained = load_generator(run)
        about = _described(trained)
        _save_half(folder / "generator.safetensors", dict(trained.network.state_dict()), about)
        _save_half(folder / "discriminator.safetensors", _discriminator(run), about)
        shipped = load_generator(folder)
        write_csv(folder / "seen.csv", seen)
        extractor = extractor or inception()
        labels = list(labels) or trained.info["known"]
        made = {label: shipped.generate(label, list(range(candidates))) for label in labels}
        gate = gate_document(judge_candidates(unseen, made, extractor), extractor)
        write_json(folder / "gate.json", gate)
        config = read_json(run / "config.json") | {"data": about["data"], "kimg": about["kimg"]}
        write_json(folder / "config.json", config)
        size = sum(path.stat().st_size for path in folder.iterdir())
        card = model_card(
            config, gate, seen, stages(run), hardware, remark, _rounding(trained, shipped), size
        )
        write_text(folder / "MODEL_CARD.md", card)
    return gate


def stages(run: Path) -> list[str]:
    """Commands that made a run, oldest first: its own after those of the runs that its weights came from."""
    config = read_json(run / "config.json")
    source = (config.get("init") or {}).get("path")
    before = stages(Path(source)) if source and (Path(source) / "config.json").is_file() else []
    trained = load_generator(run).info["kimg"]
    time = hours(run)
    took = f"{60 * time:.0f} minutes" if time is not None else "time not kept"
    return [*before, f"{training_command(config, run)}  # {trained:g} kimg, {took}"]


def hours(run: Path) -> float | None:
    """The time that a run trained for, by the speed that its `metrics.jsonl` has for every tick; None without one."""
    if not (run / "metrics.jsonl").is_file():
        return None
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    since = [0.0, *(line["kimg"] for line in lines[:-1])]
    return sum(
        1000 * (line["kimg"] - begun) / line["images_per_second"] for begun, line in zip(since, lines, strict=True)
    ) / 3600  # fmt: skip


def training_command(config: Mapping[str, Any], run: Path) -> str:
    """The `balancer train` that gives this configuration, less what is its default."""
    from cli import train

    source = (config.get("init") or {}).get("path")
    told = config["training"] | {"init": source and Path(source).name}
    words = [f"balancer train --data DATA --out {run.name}"]
    for option in train.params:
        value = told.get(option.name)
        if option.name not in told or value in (None, [], False) or value == option.default:
            continue
        for each in value if isinstance(value, list) else [value]:
            words.append(option.opts[0] if each is True else f"{option.opts[0]} {each}")
    return " ".join(words)


def model_card(
    config: Mapping[str, Any],
    gate: Mapping[str, Any],
    seen: pd.DataFrame,
    made_by: Sequence[str],
    hardware: str,
    remark: str,
    rounding: float,
    size: int,
) -> str:
    """The model card, in Markdown."""
    resolution, training = config["resolution"], config["training"]
    return f"""# A generator of single stained blood cells, {resolution} px

A class-conditional generator ({training["generator"]}) of images of single blood cells at {resolution}×{resolution} px. Classes:
{", ".join(config["known"])}. It is there to start from: `balancer train --init builtin` fine-tunes it to other classes and
other laboratories, and `balancer synth --run builtin` uses it as it is.

## What it was trained on

{len(seen):,} images of the PBC Barcelona set: A. Acevedo, A. Merino, S. Alférez, Á. Molina, L. Boldú, J. Rodellar, "A dataset of
microscopic peripheral blood cell images for development of automatic recognition systems", Data in Brief 30, 105474 (2020),
licensed CC BY 4.0. The images were cut to the middle 256 px, resized to 128 px and from there to {resolution} px. Of the set's
images those were taken whose file has a SHA-256 that begins with an even digit; `seen.csv` lists all of them, with a
perceptual hash of its own and one of the crop that BloodMNIST shows. `classifier compare` refuses test images that are
among them, at any resolution, in PBC's own frame and in BloodMNIST's.

The discriminator looks at images through EfficientNet-Lite0 trained on ImageNet (Apache-2.0), whose weights are not part of
this folder. The features that the gate measures in, Inception's, were trained on ImageNet too, which may flatter
this generator beside one that never met ImageNet.

{_quality(gate, seen)}

## Intended use and limits

To fill up rare classes of a training set for research, behind the gate and with a comparison that says whether it
helped; not for diagnosis, and not to judge any classifier by. The images come from one laboratory, one stain (May
Grünwald-Giemsa), one analyser, and healthy donors: nothing that is rare or sick is among them. Groups of patients
are not known, so that one person's cells may be in both halves. {resolution} px show colour, size and shape of nucleus and cell,
no fine chromatin.

## How it was made

    python -m benchmarks.builtin half PBC --out HALF.csv
    balancer prepare HALF.csv --keep-splits --resolution {resolution} --licence "CC BY 4.0" --out DATA
    {(chr(10) + "    ").join(made_by)}
    python -m benchmarks.builtin package RUN --hardware "{hardware}" --out balancer/generators/builtin/{resolution}

On {hardware}; seed {training["seed"]}; all settings of the last step in `config.json`. {remark}The weights are float16, which moves a pixel by at most {rounding:.0f} of 255 grey levels; they compute in float32. The folder has {size / 1e6:.1f} MB.

## Licence

The weights are under the licence of this project, Apache-2.0; the images that they were made from are under CC BY 4.0, whose
authors are named above.
"""


def _quality(gate: Mapping[str, Any], seen: pd.DataFrame) -> str:
    """The card's section on what the gate says of the images."""
    counts = seen["label"].value_counts()
    rows = [
        f"| {label} | {counts.get(label, 0)} | {_kid(judged, 'value', 'ci')} | "
        f"{_kid(judged, 'real_vs_real', 'real_vs_real_ci')} | {_share(judged, 'copies')} | "
        f"{_share(judged, 'label_agreement')} | {judged['verdict']} |"
        for label, judged in gate["classes"].items()
    ]
    first = next(iter(gate["classes"].values()))
    return f"""## How good its images are

{first["n_candidates"]} images of each class, as the float16 weights make them, judged by the gate against images of the same set that the
generator has not seen. A KID is worth something only beside what two samples of real images of these sizes score
(real-vs-real). Copies: the share of images that are near-copies of an image it was trained on. Label agreement: the
share that a linear probe trained on real images takes for their class. In brackets, 95 % intervals.

| class | images seen | KID | KID, real-vs-real | copies | label agreement | verdict |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

{_reasons(gate)}"""


def judge_again(
    folder: Path, unseen: PreparedDataset, extractor: FeatureExtractor | None = None
) -> dict[str, Any]:
    """Judge what is shipped in `folder` by the gate as it is now: writes its gate.json and that section of the card.

    As many images of each class as were judged before, by the validation and held-out images of `unseen`, whose train
    split is what the generator was trained on. Raises InputError where the card has no such section.
    """
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    found = re.search(r"## How good its images are\n.*?(?=\n\n## )", card, re.DOTALL)
    if found is None:
        raise InputError(
            f"{folder / 'MODEL_CARD.md'} has no section 'How good its images are'; package the run again."
        )
    shipped, extractor = load_generator(folder), extractor or inception()
    before = read_json(folder / "gate.json")["classes"]
    made = {label: shipped.generate(label, list(range(old["n_candidates"]))) for label, old in before.items()}
    gate = gate_document(judge_candidates(unseen, made, extractor), extractor)
    section = _quality(gate, pd.read_csv(folder / "seen.csv", dtype=str))
    write_json(folder / "gate.json", gate)
    write_text(folder / "MODEL_CARD.md", card.replace(found[0], section))
    return gate


def _described(trained: TrainedGenerator) -> dict[str, Any]:
    """The metadata of the weights, with the data by its name instead of a place on somebody's disk."""
    return trained.info | {"data": trained.data | {"path": DATA}}


def _save_half(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    half = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    broken = [name for name, t in half.items() if not torch.isfinite(t).all()]
    if broken:
        raise InputError(f"{broken[0]} does not fit into float16; {path.name} cannot be packaged.")
    save_tensors(path, half, about)


def _discriminator(run: Path) -> dict[str, Tensor]:
    tensors, _ = load_tensors(run / "state.safetensors")
    prefix = "module/D/"
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _rounding(exact: TrainedGenerator, shipped: TrainedGenerator) -> float:
    """By how many grey levels float16 moves a pixel at most, over a few images of every class."""
    seeds = list(range(PROBES))
    return max(
        float(np.abs(exact.generate(label, seeds).astype(int) - shipped.generate(label, seeds)).max())
        for label in exact.info["known"]
    )


def _kid(judged: Mapping[str, Any], value: str, interval: str) -> str:
    metric = judged["metrics"].get("kid") or {}
    if metric.get(value) is None:
        return "–"
    ci = metric.get(interval)
    return f"{metric[value]:.4f}" + (f" ({ci[0]:.4f} to {ci[1]:.4f})" if ci else "")


def _share(judged: Mapping[str, Any], name: str) -> str:
    value = (judged["metrics"].get(name) or {}).get("value")
    return "–" if value is None else f"{100 * value:.0f} %"


def _reasons(gate: Mapping[str, Any]) -> str:
    return "\n".join(
        f"- {label}, {judged['verdict']}: {judged['reasons'][0]}"
        for label, judged in gate["classes"].items()
        if judged["verdict"] != "pass"
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.builtin", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    half = commands.add_parser(
        "half", help="list the images of class folders with the half that each belongs to"
    )
    half.add_argument("source", type=Path, metavar="SRC")
    half.add_argument("--out", type=Path, metavar="CSV", required=True)
    pack = commands.add_parser("package", help="make of a finished run what is shipped")
    pack.add_argument("run", type=Path, metavar="RUN")
    pack.add_argument("--out", type=Path, metavar="DIR", required=True)
    pack.add_argument("--hardware", required=True, help="what the run was trained on, for the model card")
    pack.add_argument(
        "--unseen", type=Path, metavar="DATA", help="prepared dataset to judge by; default: the run's"
    )
    pack.add_argument(
        "--class", dest="labels", action="append", default=[], metavar="LABEL", help="judge this class"
    )
    pack.add_argument("--candidates", type=int, default=CANDIDATES, help="images to judge of each class")
    pack.add_argument("--remark", default="", help="sentences about how it was made, for the model card")
    pack.add_argument("--overwrite", action="store_true")
    again = commands.add_parser("judge", help="judge what is shipped by the gate as it is now")
    again.add_argument("folder", type=Path, metavar="DIR")
    again.add_argument(
        "--unseen", type=Path, metavar="DATA", required=True, help="prepared dataset to judge by"
    )
    given = parser.parse_args(words)
    try:
        if given.command == "half":
            table = halve(given.source)
            write_csv(given.out, table)
            counts = table.groupby(["label", "split"]).size().unstack(fill_value=0)
            print_table(
                ("class", *counts.columns),
                counts.reset_index().to_numpy().tolist(),
            )
            return
        unseen = PreparedDataset.load(given.unseen) if given.unseen else None
        if given.command == "judge":
            assert unseen is not None
            gate = judge_again(given.folder, unseen)
        else:
            gate = package(
                given.run,
                given.out,
                given.hardware,
                unseen=unseen,
                labels=given.labels,
                candidates=given.candidates,
                remark=given.remark and f"{given.remark} ",
                overwrite=given.overwrite,
            )
    except InputError as error:
        parser.exit(2, f"Error: {error}\n")
    rows = [
        (
            label,
            judged["verdict"],
            _kid(judged, "value", "ci"),
            _kid(judged, "real_vs_real", "real_vs_real_ci"),
        )
        for label, judged in gate["classes"].items()
    ]
    print_table(("class", "verdict", "KID", "real-vs-real"), rows)


if __name__ == "__main__":
    main()
