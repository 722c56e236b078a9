"""One training loop for every network and every arm."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from balancer.devices import choose_device, computes_bfloat16
from balancer.errors import InputError
from balancer.generators.processes import average_over_processes, buffers_together, own_device, processes
from balancer.generators.seeds import derive
from balancer.progress import track
from classifier import evaluation
from classifier.attributes import embed_images
from classifier.batches import Batch, training_batches
from classifier.calibration import unseen_rule
from classifier.config import TrainingConfig
from classifier.imbalance import LDAM_SCALE, LOSSES, log_shares
from classifier.language import Language
from classifier.models import create_model, reads_mask
from classifier.models.classifier import Classifier
from classifier.models.heads import adjustable_head, with_adjusted_logits, with_cosine_head
from classifier.models.vision_language import CLASS, WIDTH, VisionLanguage
from classifier.objectives import Classification, LanguageObjective
from classifier.optimisation import set_learning_rate
from classifier.pretrained import PretrainedEncoder
from classifier.state import StateFile, Training
from classifier.transforms import Images, Prepared, Transform

REMEMBERED = 1024  # train images, evenly over all, that new ones are compared with where a class has none
ENOUGH_TO_SELECT = 10  # validation images of every class, below which a macro-F1 is too noisy to choose by


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
    state: StateFile | None = None,
    language: Language | None = None,
) -> Fitted:
    """Train a network on `train` (labels int64 N in [0, classes)) and keep the best weights by `validation`.

    Best is the highest validation macro-F1 over the classes with train images, of equals the lower validation loss.
    Where one of these has fewer than 10 validation images, that choice would be noise: the weights after the last step
    of the fixed schedule are kept. AdamW (no decay on norms and biases), linear warm-up, cosine to 0. The same arguments on the same
    machine with the same number of threads give the same numbers; torch's global generator is left as it was.
    With `state` the training goes on from it, where it exists, and writes it every now and then: the weights are to
    the bit those of a training that was not interrupted. Under `torchrun` or `accelerate launch` the processes share
    every batch, and the first alone writes. `language` is what is said of the train images, for a head that is not `class`.
    Raises InputError when there is nothing to train on, when a batch does not
    divide, or as `check_footing` does.
    """
    for name, images, labels in (
        ("train", train, train_labels),
        ("validation", validation, validation_labels),
    ):
        if len(images) == 0:
            raise InputError(f"There is no image to use as {name} split; prepare a dataset with more images.")
        if len(images) != len(labels):
            raise InputError(f"The {name} split has {len(images)} images and {len(labels)} labels.")
    config = config.resolved()
    device = torch.device(device) if device else choose_device(None)
    group, device = processes(device), own_device(device)
    config.share(group.num_processes)
    counts = np.bincount(train_labels, minlength=classes)
    objective = Classification(LOSSES[config.loss](counts))
    if language is not None:
        objective = LanguageObjective(objective.criterion, language, config)
    # A class without a train image is not to be chosen by: it has no part in the training.
    judged = np.flatnonzero(counts[validation_labels] > 0)
    if not len(judged):
        raise InputError(
            "No validation image is of a class that has train images; prepare a dataset with more images."
        )
    select = selects(config.head, np.bincount(validation_labels, minlength=classes)[counts > 0])
    evaluate_at = {math.ceil(config.steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        transform = Transform(config.augmentation, config.preprocessing, reads_mask(config.arch)).fitted(
            train
        )
        train, validation = Prepared(train, transform), Prepared(validation, transform)
        training = Training(
            config, build(config, classes, train[np.arange(1)].shape[1], transform, language).to(device)
        )
        if state is not None:
            state.restore(training)
        steps = range(training.step, config.steps)
        drawn = training_batches(train, train_labels, config, transform, training.generator, training.step)
        for step in track(steps, f"Training {config.arch}", total=len(steps)):
            update(training, next(drawn), objective, config)
            if training.step in evaluate_at:
                candidate = what_would_be_kept(training, config, counts)
                metrics = {"step": training.step, "loss": torch.stack(training.losses).mean().item()}
                training.losses.clear()
                probabilities = predict_probabilities(candidate, validation, precision=config.precision)
                metrics |= validation_metrics(probabilities[judged], validation_labels[judged])
                losses = (metrics["loss"], metrics["validation_loss"])
                check_footing("Training", step + 1, losses, candidate, config.learning_rate)
                if not select or all(_key(metrics) > _key(before) for before in training.history):
                    training.best_step, training.best = step + 1, copy.deepcopy(candidate.state_dict())
                training.history.append(metrics)
            if state is not None and group.is_main_process and state.due():
                state.save(training)
    for name, images in (("train", train), ("validation", validation)):
        images.say_what_is_left(name)
    model = training.model
    model.load_state_dict(training.best)
    model.eval()
    if language is not None and not language.present.all() and len(judged) > 1:
        let_unseen_in(model, train, validation, judged, language.present)
    return Fitted(model, training.history, training.best_step, predict_probabilities(model, validation))


def selects(head: str, validation_counts: Iterable[int]) -> bool:
    """Whether the weights of the best validation macro-F1 are kept, and not those after the last step.

    Of fewer than 10 images of a class a macro-F1 says too little; with the head `attributes` it is not what is learned.
    """
    return head != "attributes" and min(validation_counts) >= ENOUGH_TO_SELECT


def check_footing(
    what: str, step: int, losses: Iterable[float], model: torch.nn.Module, learning_rate: float
) -> None:
    """Raise InputError when a loss, or a weight after the last update, is no longer a finite number."""
    lost = [f"the loss is {loss}" for loss in losses if not math.isfinite(loss)]
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        lost.append("the weights are no finite numbers")
    if lost:
        raise InputError(
            f"{what} lost its footing by step {step} ({lost[0]}); take a learning_rate below {learning_rate}."
        )


def let_unseen_in(
    model: Classifier, train: Prepared, validation: Prepared, of_seen: np.ndarray, present: np.ndarray
) -> None:
    """Let classes be predicted that are known by their sentences alone.

    `present`: bool K, which have train images; `of_seen`: int M, the validation images of these.
    """
    assert isinstance(model.network, VisionLanguage)
    head = model.network.by_sentence
    remembered = np.unique(np.linspace(0, len(train) - 1, REMEMBERED).astype(int))
    memory = torch.from_numpy(embed_images(model, train, remembered)).to(head.rule.device)
    z = torch.from_numpy(embed_images(model, validation, of_seen)).to(memory)
    with torch.inference_mode():
        logits = head(z)  # those of the sentences: nothing is remembered yet
        head.memory = memory
        novelty = head.novelty(z)
    head.rule = torch.from_numpy(unseen_rule(logits.cpu().numpy(), novelty.cpu().numpy(), present)).to(memory)


def _key(metrics: dict[str, float]) -> tuple[float, float]:
    return metrics["validation_macro_f1"], -metrics["validation_loss"]


def update(training: Training, batch: Batch, objective: Classification, config: TrainingConfig) -> None:
    """One step: the gradient of the batch's loss, clipped, moves the weights.

    The batch is divided over the processes and over `accumulate` passes; what a pass draws (dropout) depends on the
    step and the number of the part alone, so that two processes do what one does with twice the passes, but for the
    running statistics of batch norm: the passes of a process move them one after another, and what the processes make of
    them is averaged.
    """
    model, optimizer, step, group = training.model, training.optimizer, training.step, processes()
    device, size = next(model.parameters()).device, config.share(group.num_processes)
    targets = tuple((labels.to(device), share) for labels, share in batch.targets)
    batch = Batch(batch.pixels.to(device), targets, batch.indices)
    set_learning_rate(config, optimizer, step)
    optimizer.zero_grad()
    model.train()
    mean = torch.zeros((), device=device)
    with buffers_together([model]):
        for k in range(config.accumulate):
            number = group.process_index * config.accumulate + k
            part = slice(number * size, (number + 1) * size)
            torch.manual_seed(derive(config.seed, "step", step, number))
            with autocast(device, config.precision):
                loss = objective(model, batch, part, step, step / config.steps)
            loss = loss * group.num_processes  # what follows is a mean over them
            loss.backward()
            mean += loss.detach()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    average_over_processes([*gradients, mean])
    for parameters in trained_apart(model):
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
    optimizer.step()
    training.step += 1
    training.losses.append(mean)
    if training.average is not None:
        training.average.update(model, training.step)


def trained_apart(model: Classifier) -> list[list[torch.nn.Parameter]]:
    """The parameters in groups that do not influence each other; together they are clipped only within one."""
    network, everything = model.network, list(model.parameters())
    if not (isinstance(network, VisionLanguage) and network.head == "attributes"):
        return [everything]
    read_off = list(network.class_head.parameters())
    return [read_off, [p for p in everything if all(p is not other for other in read_off)]]


def what_would_be_kept(training: Training, config: TrainingConfig, counts: np.ndarray) -> Classifier:
    """The classifier that a training would end with now: averaged, and its logits adjusted, where that is asked for."""
    model = training.average.module if training.average is not None else training.model
    if isinstance(model.network, VisionLanguage):
        model.network.keep_classes()
    if config.loss == "logit-adjustment":
        return Classifier(with_adjusted_logits(model.network, log_shares(counts)), model.transform)
    return model


def build(
    config: TrainingConfig,
    classes: int,
    resolution: int,
    transform: Transform,
    language: Language | None = None,
) -> Classifier:
    """The untrained network that `config` names, behind its transform, with `language` beside it where its head needs it."""
    network = build_network(config, classes, resolution)
    if config.head != CLASS:
        assert language is not None
        tower = language.reader.tower(WIDTH)
        network = VisionLanguage(network, classes, config.head, tower, language.read_sentences)
    return Classifier(network.to(memory_format=torch.channels_last), transform)


def build_network(config: TrainingConfig, classes: int, resolution: int) -> torch.nn.Module:
    """The untrained network alone, with what `config` starts it from and the last layer that its loss needs.

    Raises InputError where one of these does not fit the network.
    """
    network = create_model(config.arch, classes, resolution, config.size, config.pretrained)
    if config.init is not None:
        PretrainedEncoder.load(config.init).start(network, resolution)
    if config.loss == "ldam":
        network = with_cosine_head(network, classes, LDAM_SCALE)
    if config.loss == "logit-adjustment":
        adjustable_head(network, classes)  # raises before the training what its end would
    return network


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
