"""Generators: the protocol, its registry, one training loop, checkpoints."""

from balancer.generators.checkpoints import TrainedGenerator, load_generator
from balancer.generators.config import GeneratorConfig
from balancer.generators.training import train

__all__ = ["GeneratorConfig", "TrainedGenerator", "load_generator", "train"]
