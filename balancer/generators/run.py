"""The folder of a generator run: what stands there from the start, what each tick writes, how it is taken up again.

`state.safetensors` is the truth. The line of metrics is written before it, and cut on a resume when the state did
not follow; generator and samples are written after it, and derived again from it on a resume.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from balancer.data import PreparedDataset
from balancer.errors import InputError
from balancer.files import kind_of, read_json, refuse_existing, write_csv, write_json, write_text, write_with
from balancer.generators.adversaries import Adversaries
from balancer.generators.checkpoints import (
    collect_state,
    load_tensors,
    restore_state,
    save_tensors,
    to_uint8,
)
from balancer.generators.combinations import Combinations, told
from balancer.generators.config import GeneratorConfig
from balancer.generators.diversity import diversity, is_best, troubles
from balancer.generators.protocol import GeneratorFamily
from balancer.generators.seeds import derive
from balancer.generators.transfer import Source, seen_with

COLUMNS = 12  # samples of a class on a sheet
GENERATED = 16  # samples of a class whose diversity is measured
FREE = {"kimg", "ticks", "stop_on_collapse"}  # what a resume may change


def refuse(out: Path, data: PreparedDataset, overwrite: bool, init: Source | None) -> None:
    """Refuse an output that exists; a generator run can be continued, which is said."""
    if kind_of(out) == "generator" and not overwrite:
        raise InputError(
            f"{out} holds a generator run; give --resume to go on with it, or --overwrite to begin anew."
        )
    refuse_existing(out, overwrite, [data.root, *([Path(init.path)] if init else [])])


def describe(
    data: PreparedDataset, config: GeneratorConfig, init: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What `config.json` and the metadata of the checkpoints say alike; `init` is what `Source.to_json` gives."""
    about = {
        "format": 1,
        "classes": list(data.classes),
        "known": [label for label, n in data.counts("train").items() if n > 0],
        "resolution": data.resolution,
        "data": {
            "path": str(data.root.absolute()),
            "fingerprint": data.fingerprint,
            "source": data.source,
            "treatment": data.treatment,
        },
    }
    if config.condition == "attributes":
        about["attributes"] = Combinations.of(
            data.tables["train"], data.root / "train/metadata.csv"
        ).to_json()
    return about | {"init": init} if init else about


def write_head(run: Path, data: PreparedDataset, config: GeneratorConfig, init: Source | None) -> None:
    """What stands before the first step: the configuration, and what the run will have seen."""
    about = describe(data, config, init.to_json() if init else None)
    write_json(run / "config.json", about | {"kind": "generator", "training": config.to_json()})
    write_csv(run / "seen.csv", seen_with(data.tables["train"], init))
    (run / "samples").mkdir()


def check_resumable(out: Path, data: PreparedDataset, config: GeneratorConfig) -> None:
    """Raise InputError when `out` is no run that this data and configuration can go on with."""
    saved = read_json(out / "config.json")
    if saved.get("kind") != "generator":
        raise InputError(f"{out} is no generator run, so that it cannot be continued; choose another --out.")
    missing = [name for name in ("data", "resolution", "training") if name not in saved]
    if missing:
        raise InputError(
            f"{out / 'config.json'} is damaged (no {', '.join(missing)}); train anew with another --out."
        )
    if "imported" in saved:
        raise InputError(
            f"{out} holds imported weights, which cannot be resumed; give --init {out} and another --out."
        )
    if saved["data"]["fingerprint"] != data.fingerprint or saved["resolution"] != data.resolution:
        raise InputError(f"{out} was trained on other data ({saved['data']['path']}); resume it with that.")
    if treated := data.treated_otherwise(saved["data"].get("treatment")):
        raise InputError(
            f"{out} was trained on images that `balancer prepare` treated otherwise than those of {data.root} "
            f"({treated}); resume it with {saved['data']['path']}."
        )
    begun = saved["training"].get("generator")
    if begun != config.generator:
        raise InputError(
            f"{out} was begun with --generator {begun}, not {config.generator}; "
            "give the command that began it, with --resume."
        )
    settings = GeneratorConfig().to_json() | saved["training"]  # a run may be older than a setting
    differing = [name for name, v in config.to_json().items() if name not in FREE and settings[name] != v]
    if differing:
        raise InputError(
            f"{out} was begun with another {', '.join(differing)}; give the command that began it, with --resume."
        )
    if saved.get("attributes") != describe(data, config).get("attributes"):
        raise InputError(
            f"The attributes in {data.root / 'train/metadata.csv'} are not those that {out} was begun with, so that it cannot "
            "be continued; train anew with another --out."
        )


@dataclass(frozen=True)
class RunFolder:
    """A begun run: takes it up at its last checkpoint, and writes a tick.

    `real` is the spread of each known class's real images (see `diversity`).
    """

    path: Path
    family: GeneratorFamily
    config: GeneratorConfig
    about: Mapping[str, Any]
    real: Mapping[str, float | None]

    @property
    def network(self) -> dict[str, Any]:
        """Constructor arguments of the generator."""
        classes, resolution = len(self.about["classes"]), self.about["resolution"]
        return self.family.network_config(self.config, classes, resolution)

    def restore(self, adversaries: Adversaries) -> int:
        """Load the last checkpoint, if there is one, into `adversaries`; returns its step. Nothing is written."""
        state = self.path / "state.safetensors"
        if not state.is_file():
            return 0
        tensors, about = load_tensors(state, ["step"])
        restore_state(tensors, adversaries.modules, adversaries.optimizers, state)
        return int(about["step"])

    def settle(self, adversaries: Adversaries, step: int) -> dict[str, str]:
        """Make the folder agree with the checkpoint of that step again; returns what had gone wrong (`troubles`)."""
        lines = [line for line in self.metrics() if line["step"] <= step]
        self._write_metrics(lines)
        if lines:
            self._derive(adversaries, lines, self._samples(adversaries))
        return troubles(lines)

    def tick(self, adversaries: Adversaries, line: dict[str, Any]) -> dict[str, str]:
        """Write the line of metrics, with each class's diversity, and the checkpoint; returns what is wrong (`troubles`)."""
        samples = self._samples(adversaries)
        spreads = {label: diversity(images, self.real[label]) for label, images in samples.items()}
        lines = [*self.metrics(), line | {"diversity": spreads}]
        self._write_metrics(lines)
        state = collect_state(adversaries.modules, adversaries.optimizers)
        save_tensors(self.path / "state.safetensors", state, self._about(line))
        self._derive(adversaries, lines, samples)
        return troubles(lines)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, less a last one that is not whole."""
        path = self.path / "metrics.jsonl"
        texts = path.read_text().splitlines() if path.exists() else []
        lines = []
        for number, text in enumerate(texts, 1):
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                if number < len(texts):
                    raise InputError(
                        f"{path} is damaged: line {number} is no JSON; remove the line."
                    ) from None
        return lines

    def take_best(self) -> float:
        """Put the best checkpoint in the place of `generator.safetensors`; returns its kimg."""
        weights, about = load_tensors(self.path / "best.safetensors")
        save_tensors(self.path / "generator.safetensors", weights, about)
        return about["kimg"]

    def _samples(self, adversaries: Adversaries) -> dict[str, np.ndarray]:
        about = {**self.about, "network": self.network}
        return sample_classes(self.family, adversaries.modules["G_ema"], about, GENERATED)

    def _about(self, line: Mapping[str, Any]) -> dict[str, Any]:
        kimg = line["step"] * self.config.batch_size / 1000
        own = {"generator": self.config.generator, "network": self.network, "config": self.config.to_json()}
        return {**self.about, **own, "step": line["step"], "kimg": kimg}

    def _write_metrics(self, lines: list[dict[str, Any]]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))

    def _derive(
        self, adversaries: Adversaries, lines: list[dict[str, Any]], samples: dict[str, np.ndarray]
    ) -> None:
        """Write what follows from the checkpoint of the last line: generator and samples."""
        about, weights = self._about(lines[-1]), adversaries.modules["G_ema"].state_dict()
        best = self.path / "best.safetensors"
        if self.config.stop_on_collapse and (is_best(lines) or not best.exists()):
            save_tensors(best, weights, about)
        save_tensors(self.path / "generator.safetensors", weights, about)
        sheet = sample_sheet(samples)
        name = f"{round(about['kimg'] * 1000):08d}.png"
        write_with(self.path / "samples" / name, lambda aside: sheet.save(aside, format="PNG"))


@torch.inference_mode()
def sample_classes(
    family: GeneratorFamily, network: torch.nn.Module, about: Mapping[str, Any], n: int
) -> dict[str, np.ndarray]:
    """`n` images of every known class, uint8 N×R×R×3, always from the same latents.

    `about` is a checkpoint's: the generator's constructor arguments (network), classes, known and, of a generator that is
    told attributes, these.
    """
    device = next(network.parameters()).device
    attributes = about.get("attributes")
    combinations = Combinations.from_json(attributes, "The run") if attributes else None
    samples = {}
    for label in about["known"]:
        index = about["classes"].index(label)
        seeds = [derive(index, "samples", number) for number in range(n)]
        z = family.latents(about["network"], seeds).to(device)
        labels = told(about["classes"], combinations, label, seeds).to(device)
        samples[label] = to_uint8(family.sample(network, z, labels, 1.0))
    return samples


def sample_sheet(samples: Mapping[str, np.ndarray]) -> Image.Image:
    """A sheet of samples: a row per class."""
    return Image.fromarray(
        np.concatenate([np.concatenate(list(images[:COLUMNS]), axis=1) for images in samples.values()])
    )
