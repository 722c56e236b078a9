"""A network together with the transform that it was trained behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classifier.transforms import Transform


class Classifier(nn.Module):
    """Prepared pixels uint8 B×R×R×C in [0, 255] (`Transform.prepare`) → logits float32 B×classes, over the temperature.

    Normalisation and temperature travel with the weights, so that training, evaluation and prediction cannot differ.
    The temperature is 1 in training, and set on validation when that is over.
    """

    def __init__(self, network: nn.Module, transform: Transform, temperature: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.transform = transform
        self.temperature = temperature

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(self.transform.normalise(pixels)).float() / self.temperature

    def with_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and float32 B×D: what the network's last layer with weights makes the logits of.

        Of a network whose logits are not what such a layer gives, as where two heads are averaged, the logits.
        """
        calls: list[tuple[Tensor, Tensor]] = []

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            if isinstance(output, Tensor):
                calls.append((inputs[0], output))

        # Layers alone: a transformer has weights of its own beside them, and the image as its input.
        layers = [m for m in self.network.modules() if not list(m.children())]
        weighted = [m for m in layers if any(True for _ in m.parameters())]
        hooks = [module.register_forward_hook(keep) for module in weighted]
        try:
            logits = self.network(self.transform.normalise(pixels))
        finally:
            for hook in hooks:
                hook.remove()
        for given, output in reversed(calls):
            if output.numel() == logits.numel() and torch.equal(output.reshape(logits.shape), logits):
                return logits.float() / self.temperature, given.flatten(1).float()
        return logits.float() / self.temperature, logits.float()
