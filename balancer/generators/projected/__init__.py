"""Projected GAN: the StyleGAN2 generator against discriminators on frozen features (arXiv 2111.01007)."""

from balancer.generators.projected.family import ProjectedGAN
from balancer.generators.projected.features import FeaturePyramid
from balancer.generators.projected.networks import Discriminator

__all__ = ["Discriminator", "FeaturePyramid", "ProjectedGAN"]
