"""R3GAN (arXiv 2501.05441): a relativistic loss with both zero-centred penalties, and plain residual networks.

Written from the paper; the networks load the reference's weights by their own names and compute the same numbers
to float32 rounding.
"""

from __future__ import annotations

from balancer.generators.r3gan.family import R3GAN
from balancer.generators.r3gan.loss import gradient_penalty, relativistic
from balancer.generators.r3gan.networks import Discriminator, Generator
from balancer.generators.r3gan.official import load_official

__all__ = ["R3GAN", "Discriminator", "Generator", "gradient_penalty", "load_official", "relativistic"]
