"""Projected GAN as a family of generators: StyleGAN2-ADA's step with other discriminators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import vendor.stylegan2_ada as sg
from balancer.devices import computes_bfloat16
from balancer.errors import InputError
from balancer.generators.adversaries import Adversaries, Chunk
from balancer.generators.config import GeneratorConfig
from balancer.generators.freezing import held
from balancer.generators.projected.features import FeaturePyramid
from balancer.generators.projected.networks import Discriminator
from balancer.generators.stylegan2_ada import StyleGAN2ADA, StyleGAN2Adversaries

RANGE_WEIGHT = 10.0  # of the squared excess of pixels over [−1, 1]: the features alone do not hold them there


class ProjectedGAN(StyleGAN2ADA):
    """The family `projected` (arXiv 2111.01007) with the generator and the logistic loss of StyleGAN2-ADA.

    The discriminators see frozen features of a network trained on ImageNet, which tells cells from blobs from the first
    step on. Inception, in which the gate and the field measure, was trained on ImageNet too: distances in it may
    flatter this family beside one that never saw ImageNet (arXiv 2203.06026).
    """

    def resolve(self, config: GeneratorConfig, resolution: int) -> GeneratorConfig:
        if config.gamma is not None:
            raise InputError(
                f"{config.generator} has no gradient penalty (its discriminators are normalised); leave out --gamma."
            )
        return config.with_defaults(
            learning_rate=0.002,
            augmentation="none",
            channel_base=2048 if resolution <= 64 else 4096,
            channel_max=128,
            latent=128,
            mapping_layers=2,
        )

    def adversaries(
        self, config: GeneratorConfig, classes: int, resolution: int, device: torch.device
    ) -> Adversaries:
        return ProjectedAdversaries(config, self.network_config(config, classes, resolution), device)


class ProjectedAdversaries(StyleGAN2Adversaries):
    """The generator against one discriminator on each map of the feature pyramid."""

    r1_interval = None

    def __init__(self, config: GeneratorConfig, network: dict[str, Any], device: torch.device) -> None:
        dtype = torch.bfloat16 if computes_bfloat16(device) else torch.float32
        self.pyramid = FeaturePyramid(dtype).to(device)
        super().__init__(config, network, device)

    def new_discriminator(self, network: dict[str, Any]) -> nn.Module:
        return Discriminator(self.c_dim, network["img_resolution"])

    def discriminator_blocks(self, D: nn.Module) -> list[list[nn.Module]]:
        """None: the features, where Freeze-D would begin, are frozen already."""
        return []

    def step(self, step: int, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
        """Both updates see the same generated images, the generator's after the discriminators have learned from them:
        a fifth fewer seconds than with new ones. The graphs of all chunks are in memory together."""
        self.let_condition_grow(step)
        images = [self.generate(chunk.fake_labels, chunk.rng)[0] for chunk in chunks]
        seen = [self.view(fake, chunk) for fake, chunk in zip(images, chunks, strict=True)]
        signs: list[Tensor] = []
        loss_d = self.update(
            "D", (self.features_loss(*both, signs) for both in zip(seen, chunks, strict=True))
        )
        with held(self.D):
            losses = (
                sg.g_nonsaturating(self.D(features, self.condition(chunk.fake_labels))).mean()
                + RANGE_WEIGHT * (fake.abs() - 1).relu().square().mean()
                + self.twin_loss(chunk)
                for fake, features, chunk in zip(images, seen, chunks, strict=True)
            )
            loss_g = self.update("G", losses)
        return {"loss_g": loss_g, "loss_d": loss_d} | self.follow(step, signs)

    def view(self, images: Tensor, chunk: Chunk) -> list[Tensor]:
        """What the discriminators see of images: features of their augmentation."""
        return self.pyramid(self.augment(images, generator=chunk.rng))

    def features_loss(self, fake: list[Tensor], chunk: Chunk, signs: list[Tensor]) -> Tensor:
        """The discriminators' loss; the mean sign of the logits of real images goes to `signs` and the controller of p."""
        with torch.no_grad():
            real = self.view(chunk.real, chunk)
        logits = self.D(real, self.condition(chunk.labels))
        self.observe(logits, signs)
        fakes = self.D([x.detach() for x in fake], self.condition(chunk.fake_labels))
        return sg.d_logistic(logits, fakes).mean()
