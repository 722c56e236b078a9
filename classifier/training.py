"""One training loop for every network and every arm."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import timm.optim
import torch
from torch import Tensor

from balancer.devices import choose_device, computes_bfloat16
from balancer.errors import InputError, unknown_name
from balancer.progress import track
from classifier import evaluation
from classifier.imbalance import LOSSES, SAMPLINGS, batches
from classifier.models import available, create_model
from classifier.models.classifier import Classifier
from classifier.transforms import AUGMENTATIONS, Images, Prepared, Transform, preprocessing_steps

PRECISIONS = ("auto", "float32", "bfloat16")
ENOUGH_TO_SELECT = 10  # validation images of every class, below which a macro-F1 is too noisy to choose by


@dataclass(frozen=True)
class TrainingConfig:
    """All that a training depends on besides its images. Raises InputError for impossible values."""

    arch: str = "hybrid"
    size: str = "auto"
    pretrained: bool = False
    steps: int = 500
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of the steps over which the learning rate rises; then a cosine to 0
    clip: float = 1.0  # largest norm of the gradient
    loss: str = "cross-entropy"
    sampling: str = "natural"
    augmentation: str = "flips"
    preprocessing: tuple[str, ...] = ()  # of `transforms.PREPROCESSING`, in training and prediction alike
    evaluations: int = 5  # how many times validation is looked at, evenly, the last time after the last step
    precision: str = "auto"  # bfloat16 where the processor computes in it, else float32
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("classifier network", self.arch, available()),
            ("loss", self.loss, LOSSES),
            ("sampling", self.sampling, SAMPLINGS),
            ("augmentation", self.augmentation, AUGMENTATIONS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise unknown_name(kind, value, known)
        object.__setattr__(self, "preprocessing", preprocessing_steps(self.preprocessing))
        for name, least in (("steps", 1), ("batch_size", 2), ("evaluations", 1)):  # batch norm needs two
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a positive number; got {getattr(self, name)}.")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay must be 0 or more; got {self.weight_decay}.")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup is a share of the steps, at least 0 and below 1; got {self.warmup}.")


@dataclass(frozen=True)
class Fitted:
    """A finished training."""

    model: Classifier  # the weights of `best_step`, in eval mode
    history: list[
        dict[str, float]
    ]  # an entry per evaluation: step, loss, validation_loss, validation_macro_f1
    best_step: int
    validation_probabilities: np.ndarray  # float32 N×K, of `model`


def fit(
    config: TrainingConfig,
    train: Images,
    train_labels: np.ndarray,
    validation: Images,
    validation_labels: np.ndarray,
    classes: int,
    device: str | torch.device | None = None,
    on_metrics: Callable[[dict[str, float]], object] | None = None,
) -> Fitted:
    """Train a network on `train` (labels int64 N in [0, classes)) and keep the best weights by `validation`.

    Best is the highest validation macro-F1, of equals the lower validation loss. Where a class has fewer than
    10 validation images, that choice would be noise: the weights after the last step of the fixed schedule are
    kept. AdamW (no decay on norms and biases), linear warm-up, cosine to 0. The same arguments on the same
    machine with the same number of threads give the same numbers; torch's global generator is left as it was.
    `on_metrics` is called with each new entry of the history. Raises InputError when there is nothing to train
    on, or when the loss is no longer finite.
    """
    for name, images, labels in (
        ("train", train, train_labels),
        ("validation", validation, validation_labels),
    ):
        if len(images) == 0:
            raise InputError(f"There is no image to use as {name} split; prepare a dataset with more images.")
        if len(images) != len(labels):
            raise InputError(f"The {name} split has {len(images)} images and {len(labels)} labels.")
    device = torch.device(device) if device else choose_device(None)
    criterion = LOSSES[config.loss](np.bincount(train_labels, minlength=classes))
    select = np.bincount(validation_labels, minlength=classes).min() >= ENOUGH_TO_SELECT
    evaluate_at = {math.ceil(config.steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    generator = torch.Generator().manual_seed(config.seed)
    history: list[dict[str, float]] = []
    best_step, best_key, best_state = 0, (-math.inf, -math.inf), {}

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        transform = Transform(config.augmentation, config.preprocessing).fitted(train)
        train, validation = Prepared(train, transform), Prepared(validation, transform)
        model = build(config, classes, train[np.arange(1)].shape[1], transform).to(device)
        optimizer = torch.optim.AdamW(
            timm.optim.param_groups_weight_decay(model, config.weight_decay), lr=config.learning_rate
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(config, step)
        )
        losses: list[Tensor] = []
        order = batches(train_labels, config.batch_size, config.sampling, config.seed)
        for step in track(range(1, config.steps + 1), f"Training {config.arch}", total=config.steps):
            indices = next(order)
            pixels = model.transform.augment(torch.from_numpy(train[indices]), generator).to(device)
            model.train()
            with autocast(device, config.precision):
                logits = model(pixels)
            labels = torch.from_numpy(train_labels[indices]).to(device)
            weights = criterion.weights(labels, (step - 1) / config.steps)
            loss = (weights * criterion(logits, labels)).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            if step not in evaluate_at:
                continue
            metrics = {"step": step, "loss": torch.stack(losses).mean().item()}
            losses.clear()
            if not math.isfinite(metrics["loss"]):
                raise InputError(
                    f"Training lost its footing by step {step} (the loss is {metrics['loss']}); "
                    f"take a learning_rate below {config.learning_rate}."
                )
            probabilities = predict_probabilities(model, validation, precision=config.precision)
            metrics |= validation_metrics(probabilities, validation_labels)
            history.append(metrics)
            if on_metrics is not None:
                on_metrics(metrics)
            key = (metrics["validation_macro_f1"], -metrics["validation_loss"])
            if not select or key > best_key:
                best_step, best_key, best_state = step, key, copy.deepcopy(model.state_dict())
    for name, images in (("train", train), ("validation", validation)):
        images.say_what_is_left(name)
    model.load_state_dict(best_state)
    return Fitted(model.eval(), history, best_step, predict_probabilities(model, validation))


def build(config: TrainingConfig, classes: int, resolution: int, transform: Transform) -> Classifier:
    """The untrained network that `config` names, behind its transform."""
    network = create_model(config.arch, classes, resolution, config.size, config.pretrained)
    return Classifier(network.to(memory_format=torch.channels_last), transform)


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """Share of the learning rate at `step` (from 0): a linear rise over `warmup`, then half a cosine to 0."""
    rise = config.warmup * config.steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / (config.steps - rise))))


def validation_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Macro-F1 over the classes that have images, and cross-entropy in nats."""
    matrix = evaluation.confusion(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    p_label = probabilities[np.arange(len(labels)), labels]
    return {
        "validation_loss": float(-np.log(np.maximum(p_label, 1e-12)).mean()),
        "validation_macro_f1": float(evaluation.score(matrix, "macro_f1")),
    }


def predict_probabilities(
    model: Classifier,
    images: Images,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    precision: str = "float32",
) -> np.ndarray:
    """Softmax probabilities, float32 N×K, in the order of `images`; the model's mode is left as it was.

    `images` are prepared by the model's transform, unless they are `Prepared`. `device` is where the model is by
    default. In float32 by default, so that other machines agree.
    """
    prepared = images if isinstance(images, Prepared) else Prepared(images, model.transform)
    device = torch.device(device) if device else next(model.parameters()).device
    model.to(device)
    was_training = model.training
    model.eval()
    probabilities = []
    with torch.inference_mode(), autocast(device, precision):
        for start in range(0, len(images), batch_size):
            indices = np.arange(start, min(start + batch_size, len(images)))
            pixels = torch.from_numpy(prepared[indices]).to(device)
            probabilities.append(model(pixels).softmax(dim=1).cpu().numpy())
    model.train(was_training)
    return np.concatenate(probabilities)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Mixed precision for what runs inside: bfloat16, or with `auto` only where the processor has it."""
    enabled = precision == "bfloat16" or (precision == "auto" and computes_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
