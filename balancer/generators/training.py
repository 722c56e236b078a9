"""One training loop for every family of generators.

Every step draws from random states derived from the seed and its own number alone, so that a resumed run goes
on exactly where it stopped without any random state being saved, and processes that share a run see one batch.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from balancer.data import PreparedDataset
from balancer.data.attributes import UNKNOWN, attribute_indices
from balancer.data.seen import Seen
from balancer.errors import InputError
from balancer.files import claimed, new_directory, read_json
from balancer.generators import registry
from balancer.generators.adversaries import Adversaries
from balancer.generators.batches import Batches
from balancer.generators.config import GeneratorConfig
from balancer.generators.diversity import spread
from balancer.generators.processes import any_process, average_over_processes, own_device, processes
from balancer.generators.run import RunFolder, check_resumable, describe, refuse, write_head
from balancer.generators.transfer import SIZES, Source, initialise
from balancer.progress import note, track

FEW = 20  # train images of a class below which a generator tends to harm
REAL = 64  # real images of a class, at most, whose spread the generated ones are held against


def train(
    data: PreparedDataset,
    config: GeneratorConfig,
    out: Path,
    *,
    init: Source | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> Path:
    """Train a generator on the train split of `data` and write a generator run to `out`.

    With `init` the weights start from there, and the networks have its sizes where the configuration leaves them
    open; a resume has them already. With `resume` the run at `out` goes on from its last checkpoint with its own
    configuration, of which only `kimg`, `ticks` and `stop_on_collapse` may be others, and its own `init`. Under
    `torchrun` or `accelerate launch` the processes share every batch, each on the device of its own, and the first
    alone writes; they must see one file system. Raises InputError before any work is done when something does not
    fit, RuntimeError when training diverges.
    """
    with claimed(out) if processes(torch.device(device)).is_main_process else nullcontext():
        _train(
            plan(data, config, out, init=init, resume=resume, overwrite=overwrite, device=device),
            init,
            overwrite,
        )
    processes().wait_for_everyone()
    return Path(out)


def _train(planned: Plan, init: Source | None, overwrite: bool) -> None:
    run, adversaries, start, device = planned.run, planned.adversaries, planned.start, planned.device
    config, out, group = run.config, run.path, processes()
    group.wait_for_everyone()  # all have seen whether `out` may be written, before it is
    writes = group.is_main_process
    if writes and not planned.resume:
        with new_directory(out, overwrite) as folder:
            write_head(folder, planned.data, config, init)
    wrong = run.settle(adversaries, start) if planned.resume and writes else {}
    if config.stop_on_collapse and any_process(bool(wrong), device):
        if writes:
            _end(run, f"{', '.join(wrong)}; resume without stop_on_collapse to go on")
        return
    if start >= config.steps:
        kimg = start * config.batch_size / 1000
        note(f"{out} has been trained for {kimg:g} kimg already; nothing is left to do.")

    ticks = np.unique(np.linspace(0, config.steps, min(config.ticks, config.steps) + 1).round().astype(int))[
        1:
    ]
    totals: dict[str, Tensor] = {}
    since, clock = start, time.monotonic()
    for step in track(range(start, config.steps), f"Training {config.generator}", config.steps - start):
        logged = adversaries.step(step, planned.batches.chunks(step, device))
        totals = {name: totals.get(name, 0) + value.detach().float() for name, value in logged.items()}
        done = step + 1
        if done not in ticks:
            continue
        means = _means(totals, done - since)
        bad = [name for name, value in means.items() if not np.isfinite(value)]
        if bad:
            diverged = f"training diverged ({', '.join(bad)} is no number any more at step {done})"
            if not (config.stop_on_collapse and since):
                kept = f"the checkpoint in {out} is from before" if since else f"{out} has no checkpoint yet"
                raise RuntimeError(
                    f"{diverged[0].upper()}{diverged[1:]}; {kept}. Lower the learning rate or raise gamma."
                )
            if writes:
                _end(run, diverged)
            break
        line = {"step": done, "kimg": round(done * config.batch_size / 1000, 3)} | means
        speed = (done - since) * config.batch_size / (time.monotonic() - clock)
        if writes:
            before, wrong = wrong, run.tick(adversaries, line | {"images_per_second": round(speed, 1)})
            for reason in [reason for reason in wrong if reason not in before]:
                note(wrong[reason])
        if config.stop_on_collapse and any_process(bool(wrong), device):
            if writes:
                _end(run, ", ".join(wrong))
            break
        totals, since, clock = {}, done, time.monotonic()


@dataclass(frozen=True)
class Plan:
    """A run that may be trained, up to its first step; nothing of it is written yet."""

    run: RunFolder  # with the complete configuration
    data: PreparedDataset  # with the train images alone that are trained on
    batches: Batches
    adversaries: Adversaries
    start: int  # steps that are done
    resume: bool  # whether there is a run to go on with
    device: torch.device  # of this process


def plan(
    data: PreparedDataset,
    config: GeneratorConfig,
    out: Path,
    *,
    init: Source | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> Plan:
    """What `train` does with these arguments before it writes: every check, with InputError, and the networks."""
    out, device = Path(out), torch.device(device)
    family = registry.family(config.generator)
    if resume and overwrite:
        raise InputError("--resume goes on with a run and --overwrite begins it anew; give one of the two.")
    if resume and not (out / "config.json").is_file():
        note(f"There is no run at {out} to go on with: it begins now.")
        resume = False
    if resume:
        begun = read_json(out / "config.json")
        origin, sizes = begun.get("init"), begun.get("training", {})
    else:
        origin, sizes = (init.to_json(), init.network_defaults()) if init else (None, {})
    config = config.with_defaults(**{name: sizes.get(name) for name in SIZES})
    config = family.resolve(config, data.resolution)
    if config.augmentation == "none" and config.augmentation_p is not None:
        raise InputError(
            "augmentation_p does nothing where augmentation is none; leave it out, or name an augmentation."
        )
    data = _chosen(data, config)
    if resume:
        check_resumable(out, data, config)
        if init and (origin or {}).get("sha256") != init.sha256:
            whence = f"from {origin['path']}" if origin else "from scratch"
            raise InputError(f"{out} was begun {whence}, not from {init.path}; resume it without --init.")
    else:
        refuse(out, data, overwrite, init)
    group, device = processes(device), own_device(device)
    images, labels = data.images("train"), data.labels("train")
    attributes = _attributes(data) if config.condition == "attributes" else None
    batches = Batches(images, labels, config, group.process_index, group.num_processes, attributes)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        adversaries = family.adversaries(config, len(data.classes), data.resolution, device)
    if init and not resume:
        started = initialise(adversaries, init, data.classes)
        if group.is_main_process:
            note(started)
            _say_what_was_seen(init, data)
    about = describe(data, config, origin)
    real = {label: spread(batches.views(data.class_index(label), REAL)) for label in about["known"]}
    run = RunFolder(out, family, config, about, real)
    start = run.restore(adversaries) if resume else 0
    return Plan(run, data, batches, adversaries, start, resume, device)


def _say_what_was_seen(init: Source, data: PreparedDataset) -> None:
    """Tell beforehand when a comparison will refuse what the run makes, for what its first weights were trained on."""
    seen = Seen.of(init.seen)
    known = {split: len(seen.among(data, split)) for split in ("validation", "test")}
    if any(known.values()):
        counts = " and ".join(f"{n} of {split}" for split, n in known.items() if n)
        note(
            f"The weights of {init.path} were trained on images of {data.root} outside its train split ({counts}), be it in other "
            "files: `classifier train` and `compare` will refuse the synthetic images of this run. Train from scratch."
        )


def _attributes(data: PreparedDataset) -> np.ndarray:
    """The attributes of the train images, int64 N×11."""
    return attribute_indices(data.tables["train"], data.root / "train/metadata.csv")


def _chosen(data: PreparedDataset, config: GeneratorConfig) -> PreparedDataset:
    """The data with those train images alone that the run is to be trained on; says what is left out and what is scarce."""
    labels = config.only
    for label in labels:
        data.class_index(label)
    if labels:
        table = data.tables["train"]
        train = table[table["label"].isin(labels)].reset_index(drop=True)
        data = replace(data, tables={**data.tables, "train": train})
    what = "train image"
    if config.condition == "attributes":
        data, what = _with_attributes(data), "train image with attributes"
    counts = data.counts("train")
    empty = [label for label in labels if counts[label] == 0]
    if empty or not any(counts.values()):
        which = f" of class {empty[0]}" if empty else ""
        raise InputError(
            f"{data.root} has no train images{which}; prepare it with more images or other ratios."
        )
    for label, n in counts.items():
        if n == 0 and not labels:
            note(f"Class {label} has no {what}: the generator will not know it.")
        elif 0 < n < FEW:
            note(
                f"Class {label} has {n} train images; below about {FEW} a generator tends to harm rather than help."
            )
    return data


def _with_attributes(data: PreparedDataset) -> PreparedDataset:
    """The data with those train images alone of which an attribute is known."""
    table = data.tables["train"]
    known = (_attributes(data) != UNKNOWN).any(1)
    if len(table) and not known.any():
        raise InputError(
            f"{data.root / 'train/metadata.csv'} has no attribute of any train image (columns such as cell_size and "
            "nucleus_shape), so that a generator cannot be conditioned on them; train with --condition class."
        )
    if not known.all():
        left_out = table["label"][~known].value_counts(sort=False)
        counts = ", ".join(f"{n} of {label}" for label, n in left_out.items())
        note(f"Train images without any attribute are left out: {counts}.")
    return replace(data, tables={**data.tables, "train": table[known].reset_index(drop=True)})


def _means(totals: dict[str, Tensor], steps: int) -> dict[str, float]:
    """The logged values' means over the steps and the processes."""
    means = [total / steps for total in totals.values()]
    average_over_processes(means)
    return {name: round(float(value), 6) for name, value in zip(totals, means, strict=True)}


def _end(run: RunFolder, reason: str) -> None:
    """End a run before its time, with its best checkpoint."""
    kimg = run.take_best()
    note(
        f"Training ended: {reason}. {run.path / 'generator.safetensors'} is the best checkpoint, of {kimg:g} kimg."
    )
