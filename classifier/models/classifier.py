"""A network together with the transform that it was trained behind."""

from __future__ import annotations

from torch import Tensor, nn

from classifier.transforms import Transform


class Classifier(nn.Module):
    """Prepared pixels uint8 B×R×R×C in [0, 255] (`Transform.prepare`) → logits float32 B×classes.

    The normalisation travels with the weights, so that training, evaluation and prediction cannot differ.
    """

    def __init__(self, network: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.network = network
        self.transform = transform

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(self.transform.normalise(pixels)).float()
