"""R3GAN as a family of generators: its defaults, its schedules and one training step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import cos, log2, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.devices import computes_bfloat16
from balancer.errors import InputError
from balancer.generators.adversaries import Adversaries, Chunk
from balancer.generators.augmentation import augmentation, p_is_free
from balancer.generators.averaging import average_weights
from balancer.generators.condition import check_condition, condition_share, refuse_attributes
from balancer.generators.config import GeneratorConfig
from balancer.generators.freezing import freeze_blocks, held
from balancer.generators.r3gan.loss import gradient_penalty, relativistic
from balancer.generators.r3gan.networks import Discriminator, Generator

GAMMA = {32: 0.05, 64: 2.0, 256: 150.0}  # at the start, by resolution (arXiv 2501.05441, appendix)
BURN_IN = 0.5  # share of the run over which the schedules go from first to last: our choice
AUGMENTATION = 0.55  # last p: the upper end of the paper's 0.3 to 0.55, for our sets are small
GROUP = 16  # channels of a group of the 3×3 convolutions
EXPANSION = 2
BLOCKS = 2  # residual blocks per resolution


def default_gamma(resolution: int) -> float:
    """The first γ for a resolution: the paper's at 32, 64 and 256 px, log-log linear between and beyond (ours)."""
    sides = sorted(GAMMA)
    low = max([side for side in sides[:-1] if side <= resolution], default=sides[0])
    high = sides[sides.index(low) + 1]
    share = log2(resolution / low) / log2(high / low)
    return GAMMA[low] * (GAMMA[high] / GAMMA[low]) ** share


class R3GAN:
    """The family `r3gan` (arXiv 2501.05441)."""

    def resolve(self, config: GeneratorConfig, resolution: int) -> GeneratorConfig:
        refuse_attributes(config)
        if config.classless_resolution:
            raise InputError(
                f"The class enters the generator of {config.generator} at its first layer, so that no resolution can be "
                "without it; leave out classless_resolution, or take the generator stylegan2-ada."
            )
        for name, use in (
            ("decorrelation", "compares intermediate latents of one class"),
            ("style_mixing", "mixes intermediate latents"),
        ):
            if getattr(config, name):
                raise InputError(
                    f"{name} {use}, and the generator of {config.generator} has none; leave it out, or take the "
                    "generator stylegan2-ada."
                )
        return config.with_defaults(
            learning_rate=2e-4,
            augmentation="bgc",
            gamma=default_gamma(resolution),
            channel_base=2048 if resolution <= 64 else 4096,
            channel_max=160,
            latent=64,
        )

    def network_config(self, config: GeneratorConfig, classes: int, resolution: int) -> dict[str, Any]:
        if resolution < 8 or resolution & (resolution - 1):
            raise InputError(
                f"{config.generator} needs a resolution that is a power of two and at least 8, not {resolution}; "
                "prepare the dataset with --resolution 32, 64 or 128."
            )
        assert config.channel_base and config.channel_max and config.latent
        step = GROUP // EXPANSION
        wanted = [
            min(config.channel_base >> level, config.channel_max)
            for level in range(2, int(log2(resolution)) + 1)
        ]
        widths = [max(step, width // step * step) for width in wanted]
        return {
            "NoiseDimension": config.latent,
            "WidthPerStage": widths,
            "CardinalityPerStage": [width // step for width in widths],
            "BlocksPerStage": [BLOCKS] * len(widths),
            "ExpansionFactor": EXPANSION,
            "ConditionDimension": classes,
            "ConditionEmbeddingDimension": config.latent,
        }

    def adversaries(
        self, config: GeneratorConfig, classes: int, resolution: int, device: torch.device
    ) -> Adversaries:
        return R3GANAdversaries(config, self.network_config(config, classes, resolution), device)

    def generator(self, network: dict[str, Any]) -> Generator:
        return Generator(**network)

    def latents(self, network: dict[str, Any], seeds: list[int]) -> Tensor:
        size = network["NoiseDimension"]
        return torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(s)) for s in seeds])

    def sample(self, generator: nn.Module, z: Tensor, labels: Tensor, truncation: float) -> Tensor:
        """There is no w to truncate: ψ below 1 draws the latents towards their mean instead."""
        assert isinstance(generator, Generator)
        return generator(z * truncation, F.one_hot(labels, generator.c_dim).float())


class R3GANAdversaries(Adversaries):
    """The networks, their optimizers and one step of training them.

    Learning rate, Adam's β₂, γ, the strength of augmentation and the half-life of the average follow a cosine
    over the burn-in. The paper's is of millions of images; here it is a share of the run, whatever its length.

    While the condition grows (`condition_share`), the generator's class embedding is multiplied by λ, and the
    discriminator's logit is a mean of that for the class and those for all classes, with weights λ and 1 − λ.
    """

    def __init__(self, config: GeneratorConfig, network: dict[str, Any], device: torch.device) -> None:
        super().__init__(config)
        check_condition(config)
        self.z_dim, self.c_dim = network["NoiseDimension"], network["ConditionDimension"]
        stages = ("WidthPerStage", "CardinalityPerStage", "BlocksPerStage")
        mirrored = {name: value[::-1] if name in stages else value for name, value in network.items()}
        mirrored["ConditionEmbeddingDimension"] = network["WidthPerStage"][0]
        del mirrored["NoiseDimension"]
        G, D = Generator(**network), Discriminator(**mirrored)
        first, *inner = D.MainLayers[:-1]
        freeze_blocks(
            [[D.ExtractionLayer, first], *([stage] for stage in inner)], config.freeze_discriminator
        )
        G.dtype = D.dtype = torch.bfloat16 if computes_bfloat16(device) else torch.float32
        G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        G_ema.dtype = torch.float32
        self.G, self.D, self.G_ema = G.to(device), D.to(device), G_ema.to(device)
        self.augment = augmentation(config).to(device)
        self.modules = {"G": self.G, "D": self.D, "G_ema": self.G_ema}
        assert config.learning_rate and config.gamma
        self.learning_rate, self.gamma = config.learning_rate, config.gamma
        self.optimizers = {
            name: torch.optim.Adam(self.modules[name].parameters(), lr=self.learning_rate, eps=1e-8)
            for name in ("G", "D")
        }

    def step(self, step: int, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
        """The loss compares pairs, so a generated image has the class of its real one; fake labels are not used."""
        config = self.config
        progress = step / (BURN_IN * config.steps)
        gamma = cosine(progress, self.gamma, self.gamma / 10)
        if p_is_free(config):
            self.augment.p.fill_(cosine(progress, 0.0, AUGMENTATION))
        for optimizer in self.optimizers.values():
            optimizer.param_groups[0]["lr"] = cosine(progress, self.learning_rate, self.learning_rate / 4)
            optimizer.param_groups[0]["betas"] = (0.0, cosine(progress, 0.9, 0.99))

        self.G.condition = self.G_ema.condition = self.D.condition = condition_share(config, step)
        with held(self.D):
            loss_g = self.update("G", (self.generator_loss(chunk) for chunk in chunks))
        logged: dict[str, list[Tensor]] = {"loss_d": [], "r1": [], "r2": [], "real_sign": []}
        self.update("D", (self.discriminator_loss(chunk, gamma, logged) for chunk in chunks))

        half_life = min(
            cosine(progress, 0.0, config.ema_kimg * 1000), (step + 1) * config.batch_size * config.ema_rampup
        )
        average_weights(self.G_ema, self.G, config.batch_size, half_life)
        means = {name: torch.stack(values).mean() for name, values in logged.items()}
        return {"loss_g": loss_g} | means | {"augmentation_p": self.augment.p}

    def judge(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """The discriminator's logits, N, of augmented images."""
        return self.D(self.augment(images, generator=rng), self.condition(labels))

    def generate(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        z = torch.randn(len(labels), self.z_dim, generator=rng, device=rng.device)
        return self.G(z, self.condition(labels), self.config.embedding_noise, rng)

    def condition(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.c_dim).float()

    def generator_loss(self, chunk: Chunk) -> Tensor:
        with torch.no_grad():
            real = self.judge(chunk.real, chunk.labels, chunk.rng)
        fake = self.judge(self.generate(chunk.labels, chunk.rng), chunk.labels, chunk.rng)
        return relativistic(fake, real).mean()

    def discriminator_loss(self, chunk: Chunk, gamma: float, logged: dict[str, list[Tensor]]) -> Tensor:
        """The loss with both penalties; its parts go to `logged`."""
        with torch.no_grad():
            fake = self.generate(chunk.labels, chunk.rng)
        images = torch.cat([chunk.real, fake]).requires_grad_()
        logits = self.judge(images, torch.cat([chunk.labels, chunk.labels]), chunk.rng)
        r1, r2 = gradient_penalty(logits, images).chunk(2)
        logits_real, logits_fake = logits.chunk(2)
        loss = relativistic(logits_real, logits_fake).mean()
        # Of pairs: the loss is the same when all logits are shifted, so that one alone has no sign to speak of.
        sign = (logits_real - logits_fake).sign().mean()
        for name, value in (("loss_d", loss), ("r1", r1.mean()), ("r2", r2.mean()), ("real_sign", sign)):
            logged[name].append(value.detach())
        return loss + gamma / 2 * (r1 + r2).mean()


def cosine(progress: float, first: float, last: float) -> float:
    """From the first value to the last along half a cosine while progress goes from 0 to 1, and then the last."""
    return last + (first - last) * (1 + cos(pi * min(progress, 1.0))) / 2
