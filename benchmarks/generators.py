"""How fast the generators train and synthesise, beside a plain step of the same networks, batch and losses.

    python -m benchmarks.generators [--resolutions 32 64 128] [--generators NAME …] [--steps N] [--threads T] [--json]
    python -m benchmarks.generators --check-loss [--generators NAME …]

What "plain" means is written in `benchmarks.plain`. Both variants are measured by turns in one run (A B, B A, …), so that
whatever else the machine does slows both down; a ratio is the median over the turns, with its quartiles beside
it, by the clock and by processor time, which other work disturbs less. A training step is the mean over a cycle of
the family's regularisation (StyleGAN2's R1 is every 16th step), with the augmentation at work in both variants.

`--check-loss` trains both variants for 200 steps at 32 px from the same seeds on the same rendered cells, three seeds
each, and says whether the mean losses of the last 50 steps differ by more than runs of different seeds do.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_ind
from torch import Tensor

from balancer.devices import choose_device, computes_bfloat16
from balancer.errors import InputError
from balancer.generators import GeneratorConfig, registry
from balancer.generators.adversaries import Chunk
from balancer.generators.batches import Batches
from balancer.smear import CLASSES, draw_cells, render
from benchmarks.plain import plain

IMAGES = 24  # rendered cells of each class
AUGMENTATION_P = (
    0.3  # a usual strength with few images; at 0, where training begins, nothing would be augmented
)
SYNTHESIS_BATCH = 64  # as `balancer synth` does it
CHECK_STEPS, CHECK_LAST, CHECK_SEEDS, CHECK_RESOLUTION = 200, 50, (0, 1, 2), 32
OFFICIAL_SECONDS_PER_KIMG = 12.8  # the official tool's published figure at 128 px on one V100


class Variant:
    """A family's freshly initialised adversaries, and the context within which they compute."""

    def __init__(
        self,
        context: Callable[[], AbstractContextManager[None]],
        config: GeneratorConfig,
        classes: int,
        resolution: int,
        device: torch.device,
    ) -> None:
        self.context = context
        self.family = registry.family(config.generator)
        with context():
            torch.manual_seed(config.seed)
            self.adversaries = self.family.adversaries(config, classes, resolution, device)

    def step(self, step: int, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
        with self.context():
            return self.adversaries.step(step, chunks)

    def sample(self, z: Tensor, labels: Tensor) -> Tensor:
        with self.context(), torch.inference_mode():
            return self.family.sample(self.adversaries.modules["G_ema"], z, labels, 1.0)

    def parameters(self, name: str) -> int:
        return sum(p.numel() for p in self.adversaries.modules[name].parameters())


@dataclass(frozen=True)
class Row:
    """One line of the table: speeds in images per second; ratios are ours over plain, with their quartiles."""

    generator: str
    resolution: int
    what: str  # training | synthesis
    images_per_second: float
    plain_images_per_second: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    processor_ratio: float
    processor_ratio_quartiles: tuple[float, float]
    turns: int
    sizes: str


def measure(config: GeneratorConfig, resolution: int, turns: int, device: torch.device) -> tuple[Row, Row]:
    """Training and synthesis of one family at one resolution, both variants by turns."""
    images, labels = rendered_cells(resolution)
    config = registry.family(config.generator).resolve(
        replace(config, augmentation_p=AUGMENTATION_P), resolution
    )
    classes = int(labels.max()) + 1
    ours, bare = (Variant(c, config, classes, resolution, device) for c in (nullcontext, plain))
    sizes = (
        f"base {config.channel_base}, max {config.channel_max}, latent {config.latent}; "
        f"G {ours.parameters('G') / 1e6:.2f} M, D {ours.parameters('D') / 1e6:.2f} M; "
        f"batch {config.batch_size}; {config.augmentation} p {config.augmentation_p:g}"
    )

    batches = Batches(images, labels, config)
    interval = getattr(ours.adversaries, "r1_interval", None) or 1
    shares = {1: 1 - 1 / interval, 0: 1 / interval} if interval > 1 else {1: 1.0}

    def train(variant: Variant, turn: int) -> np.ndarray:
        cost = np.zeros(2)
        for offset, share in shares.items():
            step = turn * interval + offset
            chunks = batches.chunks(step, device)
            cost += share * seconds(partial(variant.step, step, chunks), device)
        return cost

    family = registry.family(config.generator)
    network = family.network_config(config, classes, resolution)
    z = family.latents(network, list(range(SYNTHESIS_BATCH))).to(device)
    of_z = torch.arange(SYNTHESIS_BATCH, device=device) % classes

    def synthesise(variant: Variant, turn: int) -> np.ndarray:
        return seconds(partial(variant.sample, z, of_z), device)

    def row(what: str, work: Callable[[Variant, int], np.ndarray], n: int, sizes: str) -> Row:
        ours_took, plain_took = by_turns([partial(work, ours), partial(work, bare)], turns)
        figures = summary(ours_took, plain_took, n)
        return Row(config.generator, resolution, what, **figures, turns=turns, sizes=sizes)

    return (
        row("training", train, config.batch_size, sizes),
        row("synthesis", synthesise, SYNTHESIS_BATCH, f"batch {SYNTHESIS_BATCH}"),
    )


def seconds(work: Callable[[], object], device: torch.device) -> np.ndarray:
    """Seconds that `work` takes until the device has done it: by the clock, and of processor time."""

    def now() -> np.ndarray:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return np.array([time.perf_counter(), time.process_time()])

    start = now()
    work()
    return now() - start


def by_turns(works: Sequence[Callable[[int], np.ndarray]], turns: int) -> np.ndarray:
    """What each work returns in each turn, works×turns×…; the order is reversed from turn to turn.

    A turn before the first warms up and is not counted.
    """
    results = np.stack([[work(0) for work in works]] * (turns + 1))
    for turn in range(1, turns + 1):
        order = range(len(works)) if turn % 2 else reversed(range(len(works)))
        for i in order:
            results[turn, i] = works[i](turn)
    return results[1:].swapaxes(0, 1)


def summary(ours: np.ndarray, bare: np.ndarray, images: int) -> dict[str, Any]:
    """Medians over the turns of seconds by the clock and of processor time, each turns×2, that `images` images took."""
    low, median, high = np.quantile(bare / ours, [0.25, 0.5, 0.75], axis=0).tolist()
    return {
        "images_per_second": images / float(np.median(ours[:, 0])),
        "plain_images_per_second": images / float(np.median(bare[:, 0])),
        "ratio": median[0],
        "ratio_quartiles": (low[0], high[0]),
        "processor_ratio": median[1],
        "processor_ratio_quartiles": (low[1], high[1]),
    }


def official_size(config: GeneratorConfig) -> GeneratorConfig:
    """The sizes that the official tool chooses at 128 px for its published time per kimg on one device."""
    return replace(config, channel_base=16384, channel_max=512, latent=512, batch_size=32)


def rendered_cells(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Rendered cells of four classes, uint8 N×R×R×3, and their labels."""
    cells = draw_cells(dict.fromkeys(list(CLASSES)[:4], IMAGES), seed=0)
    images, _ = render(cells, resolution)
    return images, np.unique(cells["label"], return_inverse=True)[1]


@dataclass(frozen=True)
class Agreement:
    """Mean losses at the end of runs of both variants, one a seed, and what separates the variants."""

    generator: str
    loss: str
    ours: list[float]
    plain: list[float]
    difference: float
    interval: tuple[float, float]  # 95 %, of the difference of the means (Welch's t)

    @property
    def agrees(self) -> bool:
        return self.interval[0] <= 0 <= self.interval[1]


def agreement(generator: str, loss: str, ours: Sequence[float], bare: Sequence[float]) -> Agreement:
    """Whether two samples of final losses differ by more than the spread within them explains."""
    interval = ttest_ind(ours, bare, equal_var=False).confidence_interval(0.95)
    difference = float(np.mean(ours) - np.mean(bare))
    return Agreement(
        generator, loss, list(ours), list(bare), difference, (float(interval.low), float(interval.high))
    )


def final_losses(
    context: Callable[[], AbstractContextManager[None]],
    config: GeneratorConfig,
    resolution: int,
    last: int,
    device: torch.device,
) -> dict[str, float]:
    """Train one variant for all of the configuration's steps; the mean of each loss over the `last` ones."""
    images, labels = rendered_cells(resolution)
    config = registry.family(config.generator).resolve(config, resolution)
    variant = Variant(context, config, int(labels.max()) + 1, resolution, device)
    batches = Batches(images, labels, config)
    logged = [variant.step(step, batches.chunks(step, device)) for step in range(config.steps)]
    return {
        name: float(torch.stack([entry[name] for entry in logged[-last:]]).mean())
        for name in ("loss_g", "loss_d")
    }


def check_loss(generator: str, device: torch.device) -> list[Agreement]:
    """Both variants, trained from the same seeds: do they end at the same losses?"""
    ends: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for seed in CHECK_SEEDS:
        config = GeneratorConfig(generator=generator, seed=seed)
        config = replace(config, kimg=CHECK_STEPS * config.batch_size / 1000)
        for name, context in (("ours", nullcontext), ("plain", plain)):
            ends[name].append(final_losses(context, config, CHECK_RESOLUTION, CHECK_LAST, device))
    return [
        agreement(generator, loss, [end[loss] for end in ends["ours"]], [end[loss] for end in ends["plain"]])
        for loss in ("loss_g", "loss_d")
    ]


def machine(device: torch.device) -> dict[str, str | int]:
    """Where the figures come from."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    return {
        "device": device.type,
        "processor": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": "bfloat16" if computes_bfloat16(device) else "float32",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generators", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--resolutions", type=int, nargs="+", default=[32, 64, 128], metavar="R")
    parser.add_argument(
        "--generators", nargs="+", default=list(registry.FAMILIES), choices=registry.FAMILIES, metavar="NAME"
    )
    parser.add_argument("--steps", type=int, default=7, metavar="N", help="turns of each variant (default 7)")
    parser.add_argument("--threads", type=int, metavar="T", help="threads to compute with (PyTorch's choice)")
    parser.add_argument(
        "--check-loss", action="store_true", help="compare the losses of trained variants instead"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    chosen = parser.parse_args(arguments)
    if chosen.steps < 1 or (chosen.threads is not None and chosen.threads < 1):
        parser.error("--steps and --threads must be at least 1.")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = choose_device(None)
    about = machine(device)

    def say(line: str) -> None:
        if not chosen.json:
            print(line, flush=True)

    say(", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    try:
        if chosen.check_loss:
            result: dict[str, Any] = {"losses": _losses(chosen.generators, device, say)}
        else:
            result = _speeds(chosen.generators, chosen.resolutions, chosen.steps, device, say)
    except InputError as error:
        parser.error(str(error))
    if chosen.json:
        print(json.dumps({"machine": about} | result, indent=1))


def _speeds(
    generators: Sequence[str],
    resolutions: Sequence[int],
    turns: int,
    device: torch.device,
    say: Callable[[str], None],
) -> dict[str, Any]:
    say("| generator | px | what | img/s | plain img/s | ratio | quartiles | by processor time | networks |")
    say("|---|---:|---|---:|---:|---:|---|---|---|")
    rows = []
    for resolution in resolutions:
        for name in generators:
            for row in measure(GeneratorConfig(generator=name), resolution, turns, device):
                low, high = row.ratio_quartiles
                low_cpu, high_cpu = row.processor_ratio_quartiles
                say(
                    f"| {name} | {resolution} | {row.what} | {row.images_per_second:.1f} "
                    f"| {row.plain_images_per_second:.1f} | {row.ratio:.2f} | {low:.2f}–{high:.2f} "
                    f"| {row.processor_ratio:.2f} ({low_cpu:.2f}–{high_cpu:.2f}) | {row.sizes} |"
                )
                rows.append(asdict(row))
    result: dict[str, Any] = {"rows": rows}
    if device.type == "cuda" and 128 in resolutions and "stylegan2-ada" in generators:
        row, _ = measure(official_size(GeneratorConfig()), 128, turns, device)
        ours, bare = 1000 / row.images_per_second, 1000 / row.plain_images_per_second
        say(
            f"\nstylegan2-ada at 128 px in the official tool's sizes ({row.sizes}): {ours:.2f} s/kimg, plain float32 "
            f"{bare:.2f}; the official tool, published, on a V100: {OFFICIAL_SECONDS_PER_KIMG} "
            f"({OFFICIAL_SECONDS_PER_KIMG / ours:.1f} times ours)."
        )
        result["official_size"] = asdict(row) | {
            "seconds_per_kimg": ours,
            "plain_seconds_per_kimg": bare,
            "published_seconds_per_kimg": OFFICIAL_SECONDS_PER_KIMG,
        }
    return result


def _losses(
    generators: Sequence[str], device: torch.device, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    say(
        f"Mean losses of the last {CHECK_LAST} of {CHECK_STEPS} steps at {CHECK_RESOLUTION} px, "
        f"seeds {', '.join(map(str, CHECK_SEEDS))}\n"
    )
    say("| generator | loss | ours | plain | difference | 95 % of it by seeds | agree |")
    say("|---|---|---|---|---:|---|---|")
    results = []
    for name in generators:
        for found in check_loss(name, device):
            ours, bare = (", ".join(f"{x:.3f}" for x in values) for values in (found.ours, found.plain))
            say(
                f"| {name} | {found.loss} | {ours} | {bare} | {found.difference:+.3f} "
                f"| {found.interval[0]:+.3f} to {found.interval[1]:+.3f} | {'yes' if found.agrees else 'no'} |"
            )
            results.append(asdict(found) | {"agrees": found.agrees})
    return results


if __name__ == "__main__":
    main()
