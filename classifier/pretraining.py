"""Pretraining on train images without their labels: the masked autoencoder, and its run on disk."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import timm.optim
import torch
from PIL import Image

from balancer.data import PreparedDataset
from balancer.data.seen import seen_rows
from balancer.devices import choose_device
from balancer.errors import InputError, unknown_name
from balancer.files import claimed, new_directory, write_csv, write_json
from balancer.generators.checkpoints import write_tensors
from balancer.generators.processes import alone
from balancer.progress import note, track
from classifier.config import PRECISIONS, check_optimisation
from classifier.imbalance import batches
from classifier.models import resolve_size
from classifier.models.fcmae import MaskedAutoencoder
from classifier.optimisation import set_learning_rate
from classifier.pretrained import ENCODER, FORMAT, KIND, SEEN, PretrainedEncoder
from classifier.state import Progress, StateFile
from classifier.training import autocast, check_footing
from classifier.transforms import Images, Transform

ARCH = "fcmae-wpat"
SAMPLES = Path("samples") / "reconstructions.png"
_LINES = 20  # of metrics.jsonl
_SAMPLES = 8  # images in the sheet of samples


@dataclass(frozen=True)
class PretrainingConfig:
    """All that a pretraining depends on besides its images. Raises InputError for impossible values."""

    size: str = "auto"
    steps: int = 2000
    batch_size: int = 64
    mask_ratio: float = 0.6  # share of the patches that is hidden
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of the steps over which the learning rate rises; then a cosine to 0
    clip: float = 1.0  # largest norm of the gradient
    augmentation: str = "flips"
    precision: str = "auto"  # bfloat16 where the processor computes in it, else float32
    seed: int = 0

    def __post_init__(self) -> None:
        Transform(self.augmentation)  # refuses one that does not exist
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        check_optimisation(self, {"steps": 1, "batch_size": 2})  # batch norm needs two
        if not 0 < self.warmup < 1:
            raise InputError(f"warmup is a share of the steps, above 0 and below 1; got {self.warmup}.")
        if not 0 < self.mask_ratio < 1:
            raise InputError(
                f"mask_ratio is the share of hidden patches, above 0 and below 1; got {self.mask_ratio}."
            )


@dataclass(frozen=True)
class Pretrained:
    """A finished pretraining."""

    model: MaskedAutoencoder  # in eval mode
    history: list[dict[str, float]]  # up to 20 entries: step, and the mean loss since the one before


def pretrain(
    data: PreparedDataset, config: PretrainingConfig, out: Path, overwrite: bool = False, resume: bool = False
) -> Path:
    """Pretrain the encoder of `fcmae-wpat` on the train images of `data`, and write the run to `out`.

    Until its end `out` holds the state of a longer training, from which `resume` goes on. The run appears whole then: config.json, metrics.jsonl, encoder.safetensors (config in its metadata), seen.csv
    (the train images: source_sha256, label, split and perceptual_hash; labels are not used) and a sheet of reconstructions. Returns
    `out`. Raises InputError for an `out` that exists, where there are no train images, and as `fit_autoencoder` does.
    """
    out = Path(out)
    alone("A pretraining run")
    with claimed(out):
        state = StateFile(out, _pretraining_of(data, config), overwrite, resume)
        if resume and (out / ENCODER).is_file():
            state.check_begun(_pretrained_with(PretrainedEncoder.load(out)))
            note(f"{out} has been trained to its end already; nothing is left to do.")
            return out
        state.refuse([data.root])
        if data.tables["train"].empty:
            raise InputError(f"{data.root / 'train'} has no images; prepare a dataset with more images.")
        size = resolve_size(ARCH, config.size, data.resolution)
        images = data.images("train")
        fitted = fit_autoencoder(config, images, state=state)
        with new_directory(out, overwrite or state.path.is_file()) as folder:
            described = _describe(data, config, size, fitted.model)
            write_json(folder / "config.json", described)
            lines = "".join(json.dumps(entry) + "\n" for entry in fitted.history)
            (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
            save_encoder(folder / ENCODER, fitted.model, described)
            write_csv(folder / SEEN, seen_rows(data, "train"))
            (folder / SAMPLES).parent.mkdir()
            save_reconstructions(folder / SAMPLES, fitted.model, images, config)
    return out


def _pretraining_of(data: PreparedDataset, config: PretrainingConfig) -> dict[str, Any]:
    """What a resume has to agree with."""
    about = {
        "fingerprint": data.fingerprint,
        "resolution": data.resolution,
        "treatment": data.treatment,
    }
    return {"data": about, "training": asdict(config)}


def _pretrained_with(run: PretrainedEncoder) -> dict[str, Any]:
    """`_pretraining_of` a finished run."""
    origin = run.config["data"]
    about = {
        "fingerprint": origin["fingerprint"],
        "resolution": run.config["resolution"],
        "treatment": origin["treatment"],
    }
    return {"data": about, "training": run.config["pretraining"]}


def fit_autoencoder(
    config: PretrainingConfig,
    images: Images,
    device: str | torch.device | None = None,
    state: StateFile | None = None,
) -> Pretrained:
    """Train a masked autoencoder on images uint8 N×R×R×3.

    AdamW (no decay on norms and biases; β2 0.95), linear warm-up, cosine to 0. The same arguments on the same machine
    with the same number of threads give the same numbers; torch's global generator is left as it was. With `state` the training
    goes on from it, where it exists, to the bit as if it had not been interrupted. Raises
    InputError as `check_footing` does.
    """
    device = torch.device(device) if device else choose_device(None)
    transform = Transform(config.augmentation)
    report_at = {math.ceil(config.steps * (i + 1) / _LINES) for i in range(_LINES)}
    resolution = images[np.arange(1)].shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = MaskedAutoencoder(resolve_size(ARCH, config.size, resolution), resolution)
        model = model.to(device).to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW(
            timm.optim.param_groups_weight_decay(model, config.weight_decay), betas=(0.9, 0.95), fused=True
        )
        training = Progress(model, optimizer, config.seed)
        if state is not None:
            state.restore(training)
        order = batches(np.zeros(len(images), np.int64), config.batch_size, "natural", config.seed)
        drawn = islice(order, training.step, None)
        steps = range(training.step + 1, config.steps + 1)
        for step in track(steps, "Pretraining", total=len(steps)):
            pixels = transform.augment(torch.from_numpy(images[next(drawn)]), training.generator)
            visible = model.draw(len(pixels), config.mask_ratio, training.generator).to(device)
            with autocast(device, config.precision):
                loss = model.loss(transform.normalise(pixels.to(device)), visible)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            set_learning_rate(config, optimizer, step - 1)
            optimizer.step()
            training.step = step
            training.losses.append(loss.detach())
            if step in report_at:
                mean = torch.stack(training.losses).mean().item()
                training.losses.clear()
                check_footing("Pretraining", step, [mean], model, config.learning_rate)
                training.history.append({"step": step, "loss": mean})
            if state is not None and state.due():
                state.save(training)
        model.eval()
        # What the last update made of the weights is in no loss yet.
        pixels = torch.from_numpy(images[np.arange(min(config.batch_size, len(images)))]).to(device)
        drawing = torch.Generator().manual_seed(config.seed)
        visible = model.draw(len(pixels), config.mask_ratio, drawing).to(device)
        with torch.inference_mode(), autocast(device, config.precision):
            last = model.loss(transform.normalise(pixels), visible).item()
        check_footing("Pretraining", config.steps, [last], model, config.learning_rate)
    return Pretrained(model, training.history)


def save_encoder(path: Path, model: MaskedAutoencoder, config: dict[str, Any]) -> None:
    """Write the encoder's weights as safetensors with `config` as JSON in the metadata."""
    write_tensors(path, model.encoder.state_dict(), {"config": json.dumps(config)})


@torch.inference_mode()
def save_reconstructions(
    path: Path, model: MaskedAutoencoder, images: Images, config: PretrainingConfig
) -> None:
    """Write a sheet of up to 8 of the images: as they are, what the encoder sees, and with the hidden patches predicted.

    A prediction lacks the mean and the deviation of its patch, which are given back to it here.
    """
    device = next(model.parameters()).device
    transform = Transform("none")
    chosen = np.linspace(0, len(images) - 1, min(_SAMPLES, len(images))).astype(int)
    pixels = torch.from_numpy(images[chosen]).to(device)
    visible = model.draw(len(pixels), config.mask_ratio, torch.Generator().manual_seed(config.seed)).to(
        device
    )
    normalised = transform.normalise(pixels)
    _, mean, deviation = model.targets(normalised)
    whole = model.canvas(normalised)
    seen = torch.nn.functional.interpolate(visible.float(), size=whole.shape[-2:])
    predicted = model(normalised, visible) * deviation + mean
    columns = [whole, whole * seen, torch.lerp(predicted, whole, seen)]
    scale, offset = (torch.tensor(values, device=device) for values in (transform.std, transform.mean))
    sheet = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2).permute(1, 2, 0)
    shown = ((sheet * scale + offset) * 255).round().clamp(0, 255).to(torch.uint8)
    Image.fromarray(shown.cpu().numpy()).save(path)


def _describe(
    data: PreparedDataset, config: PretrainingConfig, size: str, model: MaskedAutoencoder
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": KIND,
        "arch": ARCH,
        "size": size,
        "resolution": data.resolution,
        "patch": model.patch,
        "grid": model.grid,
        "pretraining": asdict(config),
        "data": {
            "path": str(data.root.absolute()),
            "fingerprint": data.fingerprint,
            "source": data.source,
            "treatment": data.treatment,
            "images": len(data.tables["train"]),
        },
    }
