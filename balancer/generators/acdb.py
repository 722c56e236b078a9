"""ACDB: an auxiliary-classifier generator for data balancing.

The paper that the name comes from is not open; this is our reading of the name, from open sources:

- *Data balancing*: classes are drawn evenly (`balance` 1), real and generated ones alike.
- *Auxiliary classifier*: the discriminator says real or fake without seeing the class, and a second head of its
  own embeds the image and compares it with a learnt proxy per class (AC-GAN, arXiv 1610.09585). Not AC-GAN's
  softmax cross-entropy, though: early in training the gradient of its class weights grows with the norm of the
  features, and the generator collapses to few, easily classified images. ReACGAN (arXiv 2111.01118) removes
  both causes: embeddings and proxies lie on the unit sphere, which bounds that gradient, and images are compared
  with the images of other classes beside them (`d2d_ce`), without a gradient from pairs that are right already.

Generator, augmentation and adversarial losses are those of StyleGAN2-ADA, with which D2D-CE was shown to work.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vendor.stylegan2_ada as sg
from balancer.generators.adversaries import Adversaries, Chunk
from balancer.generators.condition import refuse_attributes
from balancer.generators.config import GeneratorConfig
from balancer.generators.stylegan2_ada import StyleGAN2ADA, StyleGAN2Adversaries
from vendor.stylegan2_ada.networks import FullyConnectedLayer

# λ, τ and m_p that ReACGAN's authors publish for StyleGAN2-ADA with few classes (CIFAR-10).
CLASS_WEIGHT = 0.25
TEMPERATURE = 0.25
POSITIVE_MARGIN = 0.98


def d2d_ce(
    embedding: Tensor,
    proxies: Tensor,
    labels: Tensor,
    temperature: float = TEMPERATURE,
    positive_margin: float = POSITIVE_MARGIN,
    negative_margin: float = 1 - POSITIVE_MARGIN,
) -> Tensor:
    """Data-to-data cross-entropy, a scalar (D2D-CE of arXiv 2111.01118): the mean over the images i of

        −log( e^([fᵢ·v_yᵢ − m_p]₋/τ) / ( e^([fᵢ·v_yᵢ − m_p]₋/τ) + Σⱼ e^([fᵢ·fⱼ − m_n]₊/τ) ) ),

    j over the images of other classes, [a]₋ = min(a, 0), [a]₊ = max(a, 0), f and v of unit length. A pair that is
    right by its margin (an image nearer than m_p to its proxy, two classes' images farther apart than m_n) gives
    no gradient. Only the proxies of classes among `labels` take part, so that a class without images repels
    none. With a single class the loss is 0.

    Args:
        embedding: f, N×E, of any length.
        proxies: v, classes×E, of any length.
        labels: y, int64 N.
    """
    f, v = F.normalize(embedding), F.normalize(proxies)
    positive = ((f * v[labels]).sum(1) - positive_margin).clamp(max=0) / temperature
    negative = (f @ f.T - negative_margin).clamp(min=0) / temperature
    negative = negative.masked_fill(labels[:, None] == labels, -torch.inf)
    return (torch.cat([positive[:, None], negative], dim=1).logsumexp(1) - positive).mean()


class ClassifyingDiscriminator(sg.Discriminator):
    """StyleGAN2's discriminator without class, and beside its logit an embedding of the same features.

    The blocks have the names that they have in `sg.Discriminator`.
    """

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(c_dim=0, **kwargs)
        features = self.b4.fc.weight.shape[0]
        self.b4.add_module("out", nn.Identity())  # both heads read what the last layer read
        self.logit = FullyConnectedLayer(features, 1)
        self.embed = FullyConnectedLayer(features, features)
        self.proxies = nn.Parameter(torch.randn(classes, features))

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images N×3×R×R in [−1, 1] → logits N×1, high for real, and embeddings N×E, both float32."""
        features = super().forward(images, None)
        return self.logit(features), self.embed(features)

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        """The logits alone; the class is not looked at."""
        return self.judge(img)[0]


class ACDB(StyleGAN2ADA):
    """The family `acdb`: the generator of `stylegan2-ada`, with another discriminator and losses."""

    def resolve(self, config: GeneratorConfig, resolution: int) -> GeneratorConfig:
        refuse_attributes(config)
        return super().resolve(config, resolution)

    def adversaries(
        self, config: GeneratorConfig, classes: int, resolution: int, device: torch.device
    ) -> Adversaries:
        return ACDBAdversaries(config, self.network_config(config, classes, resolution), device)


class ACDBAdversaries(StyleGAN2Adversaries):
    """StyleGAN2-ADA's step with λ·D2D-CE added: of real images for the discriminator, of fakes for the generator.

    While the condition grows, λ grows with it. Negatives are the images of other classes in the same chunk.
    """

    D: ClassifyingDiscriminator

    def new_discriminator(self, network: dict[str, Any]) -> ClassifyingDiscriminator:
        return ClassifyingDiscriminator(
            self.c_dim,
            img_resolution=network["img_resolution"],
            img_channels=3,
            epilogue_kwargs={"mbstd_group_size": 4},
            **network["synthesis_kwargs"],
        )

    def classify(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The logits, N×1, of augmented images, and their weighted loss of classification."""
        logits, embedding = self.D.judge(self.augment(images, generator=rng))
        return logits, CLASS_WEIGHT * self.D.condition * d2d_ce(embedding, self.D.proxies, labels)

    def generator_loss(self, fake: Tensor, chunk: Chunk) -> Tensor:
        logits, classification = self.classify(fake, chunk.fake_labels, chunk.rng)
        return sg.g_nonsaturating(logits).mean() + classification

    def discriminator_loss(self, fake: Tensor, chunk: Chunk, signs: list[Tensor]) -> Tensor:
        real, classification = self.classify(chunk.real, chunk.labels, chunk.rng)
        self.observe(real, signs)
        fakes = self.judge(fake, chunk.fake_labels, chunk.rng)
        return sg.d_logistic(real, fakes).mean() + classification
