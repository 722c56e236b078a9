"""Generators: the protocol, its registry, one training loop, checkpoints, and weights to start from."""

from balancer.generators.checkpoints import TrainedGenerator, load_generator
from balancer.generators.config import GeneratorConfig
from balancer.generators.official import import_checkpoint
from balancer.generators.training import train
from balancer.generators.transfer import builtin, read_source

__all__ = [
    "GeneratorConfig",
    "TrainedGenerator",
    "builtin",
    "import_checkpoint",
    "load_generator",
    "read_source",
    "train",
]
