"""All that a classifier's training depends on besides its images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol
from urllib.parse import urlsplit

from balancer.errors import InputError, unknown_name
from classifier.augmentation import AUGMENTATIONS
from classifier.imbalance import CORRECTING, LOSSES, SAMPLINGS
from classifier.mixing import MIXINGS
from classifier.models import check_name, recipe
from classifier.models.vision_language import CLASS, HEADS
from classifier.text_encoders import SMALL, check_reader
from classifier.transforms import preprocessing_steps

PRECISIONS = ("auto", "float32", "bfloat16")
CAPTIONS = ("templates", "measured", "llm")
_EVEN = (1.0, 1.0, 1.0, 1.0)
ONE_LINEAR_LAYER = ("ldam", "logit-adjustment")  # losses that change the last layer of a network of one head
AUTO = "auto"


@dataclass(frozen=True)
class TrainingConfig:
    """All that a training depends on besides its images. Raises InputError for impossible values."""

    arch: str = "hybrid"
    size: str = "auto"
    pretrained: bool = False
    init: str | None = (
        None  # a pretraining run (`classifier pretrain`), whose encoder the network starts from
    )
    steps: int = 500
    batch_size: int = 64
    accumulate: int = 1  # passes over which a batch is divided, to save memory
    learning_rate: float = 2e-3
    layer_decay: float = 1.0  # factor of the learning rate from a layer to the one before it
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of the steps over which the learning rate rises; then a cosine to 0
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.0  # decay, a step, of the running average of the weights that is then kept; 0: no average
    head: str = CLASS  # what classifies: the network's own head, or one of `models.vision_language.HEADS`
    text_encoder: str = SMALL
    captions: str = (
        "templates"  # measured: of images without attributes by morphology; llm: worded by the `endpoints`
    )
    endpoints: tuple[str, ...] = ()  # MODEL@URL of language models
    sentences: str | None = None  # a file of one's own sentences for the classes
    joint_weights: tuple[float, float, float, float] = _EVEN
    # … of the losses of the head `joint`: class, text, contrastive, attributes
    loss: str = "cross-entropy"
    sampling: str = "natural"  # auto: natural where the loss corrects for the imbalance, else balanced
    mixing: str = "none"
    augmentation: str = AUTO  # that of the network's paper, else flips
    preprocessing: tuple[str, ...] = (AUTO,)  # that of the network's paper, or of `transforms.PREPROCESSING`
    evaluations: int = 5  # how many times validation is looked at, evenly, the last time after the last step
    precision: str = "auto"  # bfloat16 where the processor computes in it, else float32
    seed: int = 0

    def __post_init__(self) -> None:
        check_name(self.arch)
        for kind, value, known in (
            ("head", self.head, (CLASS, *HEADS)),
            ("kind of captions", self.captions, CAPTIONS),
            ("loss", self.loss, LOSSES),
            ("sampling", self.sampling, (AUTO, *SAMPLINGS)),
            ("mixing", self.mixing, MIXINGS),
            ("augmentation", self.augmentation, (AUTO, *AUGMENTATIONS)),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise unknown_name(kind, value, known)
        for name in ("endpoints", "joint_weights", "preprocessing"):  # lists, where they come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.preprocessing != (AUTO,):
            object.__setattr__(self, "preprocessing", preprocessing_steps(self.preprocessing))
        check_optimisation(self, {"steps": 1, "batch_size": 2, "accumulate": 1, "evaluations": 1})
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay is a factor above 0, at most 1; got {self.layer_decay}.")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema is a decay, at least 0 and below 1; got {self.ema}.")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup is a share of the steps, at least 0 and below 1; got {self.warmup}.")
        if self.pretrained and self.init is not None:
            raise InputError(
                "pretrained starts from published weights and init from those of a run; give one of the two."
            )
        self._check_language()
        self.share(1)

    def _check_language(self) -> None:
        """InputError for settings of the text side that do not go with the head, or with each other."""
        check_reader(self.text_encoder)
        if self.captions == "llm" and not self.endpoints:
            raise InputError(
                "With --captions llm language models write the captions: name one with --endpoint MODEL@URL."
            )
        if self.endpoints and self.captions != "llm":
            raise InputError("An --endpoint is for --captions llm; give that too, or leave it out.")
        for endpoint in self.endpoints:
            url = f"http{endpoint.partition('@http')[2]}"
            try:
                place = urlsplit(url)
            except ValueError as error:
                raise InputError(
                    f"The endpoint's URL {url} is none ({error}); give one like http://localhost:8000/v1."
                ) from None
            if "@" in place.netloc or place.query or place.fragment:
                raise InputError(
                    "The endpoint's URL holds a user, a password, a query or a fragment, which would be written into the run; give it without, "
                    "and the key in HEMABALANCE_LLM_KEY."
                )
        if len(self.joint_weights) != 4 or not all(0 < w < math.inf for w in self.joint_weights):
            raise InputError(
                f"The joint weights are four numbers above 0, since all four heads answer; got {self.joint_weights}. Take a small "
                "number for what shall hardly count, or another head."
            )
        own: dict[str, Any] = {"text_encoder": SMALL, "captions": "templates", "sentences": None}
        given = [name for name, value in own.items() if getattr(self, name) != value]
        if self.sentences == "":
            raise InputError("--sentences names no file; give one, or leave it out.")
        if idle := [name for name in given if not self._reads(name)]:
            raise InputError(
                f"--{idle[0].replace('_', '-')} does nothing with the head {self.head}, which does not read "
                f"{'captions' if idle[0] == 'captions' and self.head != CLASS else 'texts'}; give another --head, or leave it out."
            )
        if self.joint_weights != _EVEN and self.head != "joint":
            raise InputError(
                f"The joint weights are those of the head joint, not {self.head}; leave them out."
            )
        if self.head == CLASS:
            return
        if self.loss in ONE_LINEAR_LAYER:
            raise InputError(
                f"The loss {self.loss} changes the last layer of a network of one head; with the head {self.head} take "
                "class-weights, balanced-softmax or another, or the head class."
            )
        if not reads_loss(self.head, self.loss):
            raise InputError(
                f"The head contrastive learns no classes, so that the loss {self.loss} does nothing with it; leave it out, or "
                "balance by --sampling (arms: balanced-sampling, square-root-sampling)."
            )
        if self.mixing != "none":
            raise InputError(
                f"Mixed images have no sentence of their own: with the head {self.head} leave out the mixing {self.mixing}."
            )

    def _reads(self, name: str) -> bool:
        """Whether the head has a use for what the setting `name` gives."""
        if name == "captions" and self.captions == "measured":
            return self.head in ("contrastive", "attributes", "joint")  # measured attributes are learned too
        return (
            self.head
            in {
                "text_encoder": ("text", "contrastive", "joint"),
                "captions": ("contrastive", "joint"),
                "sentences": HEADS,
            }[name]
        )

    def resolved(self) -> TrainingConfig:
        """This configuration with what it leaves to the network's paper, and to the loss, filled in."""
        own = recipe(self.arch)
        sampling = "natural" if self.loss in CORRECTING else "balanced"
        return replace(
            self,
            sampling=sampling if self.sampling == AUTO else self.sampling,
            augmentation=own.augmentation if self.augmentation == AUTO else self.augmentation,
            preprocessing=own.preprocessing if self.preprocessing == (AUTO,) else self.preprocessing,
        )

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON values: what reading them again gives."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def share(self, processes: int) -> int:
        """Images of a batch in one pass of one process; InputError where it does not divide (batch norm needs two)."""
        images, rest = divmod(self.batch_size, processes * self.accumulate)
        if rest or images < 2:
            over = f"{processes} processes and " if processes > 1 else ""
            raise InputError(
                f"A batch of {self.batch_size} does not divide over {over}{self.accumulate} passes into equal parts of "
                "2 images or more; choose another batch size, --accumulate or number of processes."
            )
        return images


class Optimisation(Protocol):
    """What `check_optimisation` looks at of a configuration."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip(self) -> float: ...


def check_optimisation(config: Optimisation, least: Mapping[str, int]) -> None:
    """InputError for a count (a field named in `least`) that is too small, and for impossible rates, norms and decays."""
    for name, fewest in least.items():
        if getattr(config, name) < fewest:
            raise InputError(f"{name} must be at least {fewest}; got {getattr(config, name)}.")
    for name in ("learning_rate", "clip"):
        if not 0 < getattr(config, name) < math.inf:
            raise InputError(f"{name} must be a positive number; got {getattr(config, name)}.")
    if not 0 <= config.weight_decay < math.inf:
        raise InputError(f"weight_decay must be 0 or more; got {config.weight_decay}.")


def reads_loss(head: str, loss: str) -> bool:
    """Whether a loss makes a difference with a head: contrastive learns no classes, but their frequencies can be taken off its answers."""
    return head != "contrastive" or loss in ("cross-entropy", "logit-adjustment")
