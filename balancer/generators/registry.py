"""The families of generators by name."""

from __future__ import annotations

from balancer.errors import unknown_name
from balancer.generators.acdb import ACDB
from balancer.generators.projected import ProjectedGAN
from balancer.generators.protocol import GeneratorFamily
from balancer.generators.r3gan import R3GAN
from balancer.generators.stylegan2_ada import StyleGAN2ADA

FAMILIES: dict[str, GeneratorFamily] = {
    "stylegan2-ada": StyleGAN2ADA(),
    "r3gan": R3GAN(),
    "acdb": ACDB(),
    "projected": ProjectedGAN(),
}


def family(name: str) -> GeneratorFamily:
    """The family of that name; InputError with the known names when there is none."""
    if name not in FAMILIES:
        raise unknown_name("generator", name, FAMILIES)
    return FAMILIES[name]
