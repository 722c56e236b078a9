"""How the class, or the attributes, come into a training: gradually, with noise, without latents falling together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from balancer.data.attributes import N_VALUES
from balancer.errors import InputError
from balancer.generators.config import GeneratorConfig

OFF_DIAGONAL = 0.05  # weight of a correlation between two coordinates, against one of the diagonal


def entries(config: GeneratorConfig, classes: int) -> int:
    """Length of the vector that the networks are told: an entry for each class, or for each value of an attribute."""
    return N_VALUES if config.condition == "attributes" else classes


def as_vectors(labels: Tensor, size: int) -> Tensor:
    """What the networks are told, float32 N×size: classes, int64 N, one-hot; attributes, float32 N×size, as they are."""
    return labels if labels.is_floating_point() else F.one_hot(labels, size).float()


def refuse_attributes(config: GeneratorConfig) -> None:
    """Raise InputError where a family that knows classes alone is to be told attributes."""
    if config.condition == "attributes":
        raise InputError(
            f"The generator {config.generator} knows classes alone; train with --condition class, or take the generator "
            "stylegan2-ada or projected."
        )


def condition_share(config: GeneratorConfig, step: int) -> float:
    """λ of transitional training (arXiv 2201.06578) at a step: how much the class counts, from 0 to 1.

    0 for `unconditional_kimg`, then a line up to 1 over `ramp_kimg`; always 1 when both are 0. It is a function
    of the step alone, so that a resumed run has it without its being saved. What a family multiplies by it is said
    there.
    """
    seen = step * config.batch_size / 1000 - config.unconditional_kimg
    if config.ramp_kimg == 0:
        return float(seen >= 0)
    return min(1.0, max(0.0, seen / config.ramp_kimg))


def check_condition(config: GeneratorConfig) -> None:
    """Raise InputError for settings of the class with which a run could not end as it should."""
    for name in ("unconditional_kimg", "ramp_kimg", "embedding_noise", "decorrelation"):
        if getattr(config, name) < 0:
            raise InputError(f"{name} must be at least 0, not {getattr(config, name)}.")
    until = config.unconditional_kimg + config.ramp_kimg
    if until > 0 and until >= config.kimg:
        raise InputError(
            f"The generator would not be conditional before {until:g} kimg and the run ends at {config.kimg:g}; "
            "lower --unconditional or --ramp, or train longer (--kimg)."
        )
    if config.decorrelation > 0 and config.embedding_noise == 0:
        raise InputError(
            "--decorrelation compares latents of one class under different noise; give --embedding-noise too."
        )


def decorrelation(a: Tensor, b: Tensor) -> Tensor:
    """How far the correlations of two N×d batches are from the identity, a scalar (arXiv 2103.03230, equation 1).

    Σ_j (1 − C_jj)² + `OFF_DIAGONAL`·Σ_{j≠k} C_jk², with C the d×d matrix of correlations over the batch. In
    NoisyTwins (arXiv 2304.05866) a and b are the w of the same latents and classes under different noise on the class
    embedding: close w for close embeddings, and coordinates that do not repeat each other, so that a small class
    keeps a variety of its own.
    """
    a, b = ((x - x.mean(0)) / (x.var(0, correction=0) + 1e-8).sqrt() for x in (a, b))
    squares = (a.T @ b / len(a) - torch.eye(a.shape[1], device=a.device)).square()
    diagonal = squares.diagonal().sum()
    return diagonal + OFF_DIAGONAL * (squares.sum() - diagonal)
