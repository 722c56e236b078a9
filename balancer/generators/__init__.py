"""Generators: the protocol, its registry, one training loop, checkpoints."""

from balancer.generators.checkpoints import TrainedGenerator, load_generator
from balancer.generators.config import GeneratorConfig
from balancer.generators.training import choose_device, train

__all__ = ["GeneratorConfig", "TrainedGenerator", "choose_device", "load_generator", "train"]
