"""One training loop for every family of generators.

Every step draws from random states derived from the seed and its own number alone, so that a resumed run goes
on exactly where it stopped without any random state being saved.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from balancer.data import ImageStore, PreparedDataset
from balancer.errors import InputError
from balancer.files import (
    new_directory,
    read_json,
    refuse_existing,
    write_csv,
    write_json,
    write_text,
    write_with,
)
from balancer.generators import registry
from balancer.generators.adversaries import Adversaries, Chunk, processes
from balancer.generators.checkpoints import (
    collect_state,
    load_tensors,
    restore_state,
    save_tensors,
    to_uint8,
)
from balancer.generators.config import GeneratorConfig
from balancer.generators.protocol import GeneratorFamily
from balancer.progress import note, track

_STREAMS = {"data": 1, "step": 2, "samples": 3}


def train(
    data: PreparedDataset,
    config: GeneratorConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> Path:
    """Train a generator on the train split of `data` and write a generator run to `out`.

    With `resume` the run at `out` goes on from its last checkpoint with its own configuration, of which only
    `kimg` may have grown. Raises InputError before any work is done when something does not fit.
    """
    out = Path(out)
    device = torch.device(device)
    family = registry.family(config.generator)
    config = family.resolve(config, data.resolution)
    if resume and not (out / "config.json").is_file():
        note(f"There is no run at {out} to go on with: it begins now.")
        resume = False
    if not resume:
        _refuse(out, data, overwrite)
    counts = data.counts("train")
    if sum(n > 0 for n in counts.values()) == 0:
        raise InputError(f"{data.root} has no train images; prepare it with more images or other ratios.")
    for label, n in counts.items():
        if n == 0:
            note(f"Class {label} has no train image: the generator will not know it.")
        elif n < 20:
            note(
                f"Class {label} has {n} train images; below about 20 a generator tends to harm rather than help."
            )

    classes, resolution = len(data.classes), data.resolution
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        adversaries = family.adversaries(config, classes, resolution, device)
    start = 0
    if resume:
        start = _restore(out, data, config, adversaries)
        if start >= config.steps:
            note(
                f"{out} has been trained for {start * config.batch_size / 1000:g} kimg already; nothing is left to do."
            )
    else:
        with new_directory(out, overwrite) as run:
            _write_head(run, data, config)

    info = {
        "format": 1,
        "generator": config.generator,
        "network": family.network_config(config, classes, resolution),
        "classes": list(data.classes),
        "known": [label for label, n in counts.items() if n > 0],
        "resolution": resolution,
        "data": _identity(data),
        "config": config.to_json(),
    }
    batches = Batches(data.images("train"), data.labels("train"), config)
    ticks = np.unique(np.linspace(0, config.steps, config.ticks + 1).round().astype(int))[1:]
    totals: dict[str, Tensor] = {}
    since, clock = start, time.monotonic()
    for step in track(range(start, config.steps), f"Training {config.generator}", config.steps - start):
        logged = adversaries.step(step, _chunks(batches[step], config, step, device))
        totals = {name: totals.get(name, 0) + value.detach().float() for name, value in logged.items()}
        done = step + 1
        if done in ticks:
            means = {name: round(float(value) / (done - since), 6) for name, value in totals.items()}
            bad = [name for name, value in means.items() if not np.isfinite(value)]
            if bad:
                raise RuntimeError(
                    f"Training diverged ({', '.join(bad)} is no number any more at step {done}); the checkpoint in "
                    f"{out} is from before. Lower the learning rate or raise gamma."
                )
            seconds = time.monotonic() - clock
            kimg = done * config.batch_size / 1000
            line = {"step": done, "kimg": round(kimg, 3)} | means
            line |= {"images_per_second": round((done - since) * config.batch_size / seconds, 1)}
            _checkpoint(out, adversaries, info | {"step": done, "kimg": kimg}, line, family)
            totals, since, clock = {}, done, time.monotonic()
    return out


class Batches:
    """The training batches, each a function of its number: float N×3×R×R in [−1, 1] and int64 labels.

    Classes are drawn evenly (class-balanced sampling), then an image within the class; with `symmetries` each
    is shown in one of the eight orientations of the square.
    """

    def __init__(self, images: ImageStore | np.ndarray, labels: np.ndarray, config: GeneratorConfig) -> None:
        self.images, self.config = images, config
        self.members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.known = np.unique(labels)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng(_seed(self.config.seed, "data", step))
        n = self.config.batch_size
        drawn = rng.integers(len(self.known), size=n)
        chosen = np.array([rng.choice(self.members[c]) for c in drawn])
        pixels = self.images[chosen]
        if self.config.symmetries:
            pixels = _turn(pixels, rng.integers(8, size=n))
        real = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        fake = self.known[rng.integers(len(self.known), size=n)]
        return real, torch.from_numpy(self.known[drawn]), torch.from_numpy(fake)


def _turn(images: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    turned = np.empty_like(images)
    for k in range(8):
        of_k = np.rot90(images[orientation == k], k % 4, axes=(1, 2))
        turned[orientation == k] = of_k[:, :, ::-1] if k >= 4 else of_k
    return turned


def _chunks(
    batch: tuple[Tensor, Tensor, Tensor], config: GeneratorConfig, step: int, device: torch.device
) -> list[Chunk]:
    """This process's part of the batch, cut into `config.accumulate` chunks with random states of their own.

    The chunks of all processes together depend on their number alone: two processes see what one sees with twice
    the accumulation.
    """
    world, rank = processes().num_processes, processes().process_index
    parts = zip(*(t.chunk(config.accumulate * world) for t in batch), strict=True)
    mine = list(enumerate(parts))[rank * config.accumulate : (rank + 1) * config.accumulate]
    chunks = []
    for number, part in mine:
        real, labels, fake_labels = (t.to(device) for t in part)
        rng = torch.Generator(device).manual_seed(_seed(config.seed, "step", step, number))
        chunks.append(Chunk(real, labels, fake_labels, rng))
    return chunks


def _seed(seed: int, stream: str, *numbers: int) -> int:
    return int(
        np.random.SeedSequence([seed, _STREAMS[stream], *numbers]).generate_state(1, np.uint64)[0] >> 1
    )


def _refuse(out: Path, data: PreparedDataset, overwrite: bool) -> None:
    """Refuse an output that exists; a generator run can be continued, which is said."""
    config = read_json(out / "config.json") if (out / "config.json").is_file() else {}
    if config.get("kind") == "generator" and not overwrite:
        raise InputError(
            f"{out} holds a generator run; give --resume to go on with it, or --overwrite to begin anew."
        )
    refuse_existing(out, overwrite, [data.root])


def _identity(data: PreparedDataset) -> dict[str, Any]:
    return {"path": str(data.root.absolute()), "fingerprint": data.fingerprint, "source": data.source}


def _write_head(run: Path, data: PreparedDataset, config: GeneratorConfig) -> None:
    """What stands before the first step: the configuration, and what the run will have seen."""
    write_json(
        run / "config.json",
        {
            "format": 1,
            "kind": "generator",
            "classes": list(data.classes),
            "known": [label for label, n in data.counts("train").items() if n > 0],
            "resolution": data.resolution,
            "data": _identity(data),
            "training": config.to_json(),
        },
    )
    table = data.tables["train"]
    write_csv(run / "seen.csv", table[["source_sha256", "label", "file_name"]])
    (run / "samples").mkdir()


def _restore(out: Path, data: PreparedDataset, config: GeneratorConfig, adversaries: Adversaries) -> int:
    """Load the last checkpoint of `out` into `adversaries`, cut the metrics after it, return its step."""
    saved = read_json(out / "config.json")
    if saved.get("kind") != "generator":
        raise InputError(f"{out} is no generator run, so that it cannot be continued; choose another --out.")
    if saved["data"]["fingerprint"] != data.fingerprint or saved["resolution"] != data.resolution:
        raise InputError(f"{out} was trained on other data ({saved['data']['path']}); resume it with that.")
    free = {"kimg", "ticks"}
    differing = [k for k, v in config.to_json().items() if k not in free and saved["training"].get(k) != v]
    if differing:
        raise InputError(f"{out} was begun with another {', '.join(differing)}; a resume keeps the settings.")
    path = out / "state.safetensors"
    if not path.is_file():
        write_text(out / "metrics.jsonl", "")
        return 0
    tensors, info = load_tensors(path)
    restore_state(tensors, adversaries.modules, adversaries.optimizers, path)
    metrics = out / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    kept = [line for line in lines if _step_of(line) <= info["step"]]
    write_text(metrics, "".join(f"{line}\n" for line in kept))
    return int(info["step"])


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):  # the line that a kill cut short
        return float("inf")


def _checkpoint(
    out: Path, adversaries: Adversaries, info: dict[str, Any], line: dict[str, Any], family
) -> None:
    metrics = out / "metrics.jsonl"
    before = metrics.read_text() if metrics.exists() else ""
    write_text(metrics, before + json.dumps(line) + "\n")
    save_tensors(out / "state.safetensors", collect_state(adversaries.modules, adversaries.optimizers), info)
    ema = adversaries.modules["G_ema"]
    save_tensors(out / "generator.safetensors", ema.state_dict(), info)
    sheet = sample_sheet(family, ema, info)
    name = f"{round(info['kimg'] * 1000):08d}.png"
    write_with(out / "samples" / name, lambda aside: sheet.save(aside, format="PNG"))


@torch.inference_mode()
def sample_sheet(
    family: GeneratorFamily, network: torch.nn.Module, info: dict[str, Any], columns: int = 12
) -> Image.Image:
    """A sheet of samples: a row per known class, the same latents at every tick."""
    device = next(network.parameters()).device
    rows = []
    for label in info["known"]:
        index = info["classes"].index(label)
        seeds = [_seed(index, "samples", column) for column in range(columns)]
        labels = torch.full((columns,), index, device=device)
        images = to_uint8(
            family.sample(network, family.latents(info["network"], seeds).to(device), labels, 1.0)
        )
        rows.append(np.concatenate(list(images), axis=1))
    return Image.fromarray(np.concatenate(rows))
