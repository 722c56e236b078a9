"""What a generator run is told: one typed table, checked before any work is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from balancer.errors import InputError, unknown_name

LONGEST = 1e9  # kimg: a trillion images, far beyond any training, and few enough for every count of steps
CONDITIONS = ("class", "attributes")


@dataclass(frozen=True)
class GeneratorConfig:
    """Settings of a generator run. Lengths are in kimg: thousands of real images shown to the discriminator.

    What is None is the family's default, which may depend on the resolution: `family.resolve` puts it in.
    """

    generator: str = "stylegan2-ada"
    condition: str = "class"  # what the networks are told of an image: its class, or its attributes
    kimg: float = 200.0
    batch_size: int = 16
    learning_rate: float | None = None
    gamma: float | None = None  # weight of the gradient penalty
    path_length_weight: float = 0.0  # official for small images; 2 is the paper's for large ones
    style_mixing: float = 0.0  # probability; 0.9 is the paper's for large images
    ema_kimg: float = 10.0  # half-life of the weight average
    ema_rampup: float = 0.1  # the half-life is at most this share of the images seen so far
    augmentation: str | None = (
        None  # what the discriminator sees: a set of ADA's operations, diffaugment or none
    )
    augmentation_p: float | None = None  # fixed probability; None: adapted to the discriminator's overfitting
    ada_target: float = 0.6  # of the mean sign of the discriminator's outputs on real images
    ada_kimg: float = 100.0  # kimg in which p can go from 0 to 1
    symmetries: bool = True  # show real images mirrored and quarter-turned: cells have no up
    freeze_discriminator: int = 0  # blocks of the discriminator, from the image on, that keep their weights
    only: tuple[str, ...] = ()  # train on these classes alone; empty: on all
    balance: float = 1.0  # a class of n images is drawn in proportion to n^(1 − balance): 0 natural, 1 even
    unconditional_kimg: float = 0.0  # train without classes so long, …
    ramp_kimg: float = 0.0  # … then let the condition grow from 0 to 1 over so many (arXiv 2201.06578)
    classless_resolution: int = 0  # layers up to this resolution do not see the class (UTLO)
    embedding_noise: float = (
        0.0  # standard deviation of noise on class embeddings (NoisyTwins, arXiv 2304.05866)
    )
    decorrelation: float = 0.0  # weight of NoisyTwins' decorrelation between the latents of one class
    accumulate: int = 1  # forward and backward passes over which a batch is divided
    stop_on_collapse: bool = (
        False  # end, with the best checkpoint, when a class collapses or training diverges
    )
    channel_base: int | None = None  # channels of a layer: base / resolution, at most channel_max
    channel_max: int | None = None
    latent: int | None = None
    mapping_layers: int | None = None  # of the network that maps latents to styles
    ticks: int = 20  # lines of metrics.jsonl, sample sheets and checkpoints over the whole run
    seed: int = 0

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise unknown_name("condition", self.condition, CONDITIONS)
        for name, value in asdict(self).items():
            if isinstance(value, float) and not isfinite(value):
                raise InputError(f"{name} must be a finite number, not {value}.")
        for name in (
            "kimg",
            "learning_rate",
            "gamma",
            "ema_kimg",
            "ada_kimg",
            "channel_base",
            "channel_max",
            "latent",
            "mapping_layers",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be above 0, not {value}.")
        if self.batch_size < 4 or self.batch_size % 4:
            raise InputError(
                f"A batch of {self.batch_size} does not divide into the groups of 4 over which the discriminator "
                "compares images; choose a multiple of 4."
            )
        if self.kimg > LONGEST:
            raise InputError(f"kimg must be at most {LONGEST:g}, not {self.kimg:g}.")
        if self.kimg * 1000 < self.batch_size:
            raise InputError(
                f"{self.kimg} kimg is less than one batch of {self.batch_size} images; train longer."
            )
        if self.accumulate < 1 or self.batch_size % (4 * self.accumulate):
            raise InputError(
                f"A batch of {self.batch_size} does not divide into {self.accumulate} parts that are multiples of 4; "
                "choose another --batch-size or --accumulate."
            )
        if self.ticks < 1:
            raise InputError(f"ticks must be at least 1, not {self.ticks}.")

    @property
    def steps(self) -> int:
        """Number of updates of the generator in the whole run."""
        return max(1, round(self.kimg * 1000 / self.batch_size))

    def with_defaults(self, **defaults: Any) -> GeneratorConfig:
        """The same settings, with these values for what was left open."""
        left_open = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **left_open)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, as it stands in `config.json`."""
        return asdict(self) | {"only": list(self.only)}
