"""How fast a classifier trains, beside a plain loop of timm's parts with the same network, batch and images.

    python -m benchmarks.classifier_speed [--resolution PX] [--steps N] [--turns N] [--threads T]

The plain loop is what timm's train.py does on a CPU: `timm.create_model`, timm's loader with images that are decoded
already and flipped both ways, AdamW by `timm.optim.create_optimizer_v2`, in float32 and, as with --amp, in bfloat16. Ours is `classifier.training.update`
on `classifier.batches.training_batches`, with flips, quarter turns and shifts, gradients clipped, in the precision that
it chooses itself, in float32, and compiled by `torch.compile`, whose first step is told apart: after how many steps it has
paid for itself. The networks, timm's own, are the same on all sides, but for
the order in which ours takes ConvNeXt V2's response norm. They are measured by turns in
one run (A B C, C B A, …); a ratio is the median over the turns, with its quartiles beside it, by the clock and by
processor time, which other work disturbs less.

The table goes to stdout and to benchmarks/results/classifier-speed.md.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import timm
import timm.data
import timm.optim
import torch
from PIL import Image
from torch import Tensor

from balancer.devices import computes_bfloat16
from balancer.files import write_text
from balancer.smear import CLASSES, draw_cells, render
from benchmarks.generators import by_turns, seconds, summary
from benchmarks.parts import markdown_table
from classifier.batches import training_batches
from classifier.config import TrainingConfig
from classifier.imbalance import LOSSES
from classifier.objectives import Classification
from classifier.state import Training
from classifier.training import build, update
from classifier.transforms import Transform

NETWORKS = ("resnet18", "convnextv2_atto")
IMAGES = 128  # rendered cells of each of four classes
BATCH = 64
RESULTS = Path(__file__).parent / "results" / "classifier-speed.md"
CPU = torch.device("cpu")


class Pictures(torch.utils.data.Dataset):
    """Decoded images as timm's loader wants them: PIL images and labels."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.pictures = [Image.fromarray(image) for image in images]
        self.labels = labels
        self.transform = None  # set by `create_loader`

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        assert self.transform is not None
        return self.transform(self.pictures[index]), int(self.labels[index])


def plain_loop(
    name: str, images: np.ndarray, labels: np.ndarray, workers: int, amp: bool
) -> Callable[[], None]:
    """A step of timm's: what is called is one update of the weights; with `amp` in bfloat16."""
    resolution = images.shape[1]
    model = timm.create_model(name, num_classes=int(labels.max()) + 1).train()
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    criterion = torch.nn.CrossEntropyLoss()
    loader = timm.data.create_loader(
        Pictures(images, labels), (3, resolution, resolution), BATCH, is_training=True, scale=(1, 1), ratio=(1, 1),
        hflip=0.5, vflip=0.5, color_jitter=0, num_workers=workers, device=CPU, persistent_workers=workers > 0,
    )  # fmt: skip

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    drawn = endless()

    def step() -> None:
        pixels, of = next(drawn)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = criterion(model(pixels), of)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_loop(
    name: str, images: np.ndarray, labels: np.ndarray, precision: str, compiled: bool = False
) -> Callable[[], None]:
    """A step of ours."""
    config = TrainingConfig(
        arch=f"timm:{name}", steps=10**6, batch_size=BATCH, precision=precision
    ).resolved()
    transform = Transform(config.augmentation)
    training = Training(config, build(config, int(labels.max()) + 1, images.shape[1], transform))
    if compiled:
        training.model.network.compile(dynamic=False)
    objective = Classification(LOSSES[config.loss](np.bincount(labels)))
    drawn = training_batches(images, labels, config, transform, training.generator, 0)

    def step() -> None:
        update(training, next(drawn), objective, config)
        training.losses.clear()

    return step


def table(resolution: int, steps: int, turns: int) -> str:
    """The table in Markdown."""
    cells = draw_cells(dict.fromkeys(list(CLASSES)[:4], IMAGES), seed=0)
    images, _ = render(cells, resolution)
    labels = np.unique(cells["label"], return_inverse=True)[1]

    def many(step: Callable[[], None], turn: int) -> np.ndarray:
        def work() -> None:
            for _ in range(steps):
                step()

        return seconds(work, CPU)

    own = "bfloat16" if computes_bfloat16(CPU) else "float32"
    rows = []
    for name in NETWORKS:
        ours = {
            f"{own}, as chosen": ("auto", False),
            "float32": ("float32", False),
            f"{own}, compiled": ("auto", True),
        }
        loops = [our_loop(name, images, labels, *how) for how in ours.values()]
        compiling = float(seconds(loops[-1], CPU)[0])
        loops += [plain_loop(name, images, labels, n, amp) for amp in (False, True) for n in (0, 1)]
        took = by_turns([partial(many, step) for step in loops], turns)
        plain = took[len(ours) :].reshape(2, 2, *took.shape[1:])  # float32 and bfloat16, loader processes
        fastest, in_bfloat16 = (of[np.median(of[..., 0], axis=1).argmin()] for of in plain)
        for k, what in enumerate(ours):
            figures = summary(took[k], fastest, steps * BATCH)
            low, high = figures["ratio_quartiles"]
            # No time in a loader process that is not counted.
            alone = summary(took[k], plain[0, 0], steps * BATCH)
            with_amp = summary(took[k], in_bfloat16, steps * BATCH)
            least_amp, most_amp = with_amp["ratio_quartiles"]
            least, most = alone["processor_ratio_quartiles"]
            saved = float(np.median(took[0][:, 0] - took[k][:, 0])) / steps  # seconds a step
            worth = (
                f"{compiling:.0f} s, {compiling / saved:.0f} steps"
                if saved > 0
                else f"{compiling:.0f} s, never"
            )
            rows.append(
                (
                    name,
                    what,
                    f"{figures['images_per_second']:.0f}",
                    f"{figures['plain_images_per_second']:.0f}",
                    f"{figures['ratio']:.2f} ({low:.2f} to {high:.2f})",
                    f"{alone['processor_ratio']:.2f} ({least:.2f} to {most:.2f})",
                    f"{with_amp['plain_images_per_second']:.0f}",
                    f"{with_amp['ratio']:.2f} ({least_amp:.2f} to {most_amp:.2f})",
                    worth if ours[what][1] else "",
                )
            )
    header = (
        "network",
        "our precision",
        "ours, images/s",
        "timm's loop, images/s",
        "ratio (quartiles)",
        "ratio by processor time",
        "timm's loop in bfloat16, images/s",
        "ratio (quartiles)",
        "compiling, paid back after",
    )
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.classifier_speed",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--resolution", type=int, default=64, metavar="PX", help="[default: 64]")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="a turn [default: 10]")
    parser.add_argument("--turns", type=int, default=8, metavar="N", help="[default: 8]")
    parser.add_argument("--threads", type=int, metavar="T", help="[default: torch's]")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    text = (
        f"# How fast a classifier trains\n\n{table(options.resolution, options.steps, options.turns)}\n\n"
        f"`{' '.join(['python -m benchmarks.classifier_speed', *sys.argv[1:]])}`: batches of {BATCH} rendered cells of {options.resolution} px, "
        f"{options.turns} turns of {options.steps} steps, {torch.get_num_threads()} threads on {platform.machine()}, "
        f"torch {torch.__version__}, timm {timm.__version__}. timm's loop is the faster of those with 0 and with 1 loader "
        "process, for processor time that with 0; in float32, as timm trains without --amp, where nothing else is said.\n"
    )
    write_text(RESULTS, text)
    print(text)


if __name__ == "__main__":
    main()
