"""What a classifier with language reads of images: their attributes, with calibrated probabilities, and their embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from balancer.data import PreparedDataset
from balancer.data.attributes import ATTRIBUTES, UNKNOWN, attribute_indices
from classifier import evaluation
from classifier.calibration import BINS, expected_calibration_error, fit_temperature
from classifier.models.classifier import Classifier
from classifier.models.vision_language import READ_ATTRIBUTES, VisionLanguage
from classifier.transforms import Images, Prepared

ENOUGH = 10  # validation images with an attribute, below which its confidence stays as it is
_BATCH = 256


class AsPrepared(Prepared):
    """Images that are prepared already."""

    def __init__(self, prepared: np.ndarray, model: Classifier) -> None:
        super().__init__(prepared, model.transform)

    def __getitem__(self, indices: Any, /) -> np.ndarray:
        return self.images[indices]


def features_of(model: Classifier, images: Images, indices: np.ndarray | None = None) -> Tensor:
    """What the heads read of images, prepared or not: float32 N×D, on the model's device; `indices` (int N) says of which."""
    network = model.network
    assert isinstance(network, VisionLanguage)
    prepared = images if isinstance(images, Prepared) else Prepared(images, model.transform)
    indices = np.arange(len(images)) if indices is None else indices
    device = next(model.parameters()).device
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(indices), _BATCH):
            pixels = torch.from_numpy(prepared[indices[start : start + _BATCH]]).to(device)
            parts.append(network.features(model.transform.normalise(pixels)))
    return torch.cat(parts)


def embed_images(model: Classifier, images: Images, indices: np.ndarray | None = None) -> np.ndarray:
    """Embeddings of images beside texts: float32 N×E of unit length; `indices` (int N) says of which."""
    return embeddings_of(model, features_of(model, images, indices))


def embeddings_of(model: Classifier, features: Tensor) -> np.ndarray:
    """The same from what `features_of` gives."""
    network = model.network
    assert isinstance(network, VisionLanguage)
    with torch.inference_mode():
        return network.embed(features).cpu().numpy()


def attribute_probabilities(model: Classifier, images: Images) -> list[np.ndarray]:
    """For each attribute the probabilities of its values, float32 N×values, at its temperature."""
    return probabilities_of(model, features_of(model, images))


def probabilities_of(model: Classifier, features: Tensor) -> list[np.ndarray]:
    """The same from what `features_of` gives."""
    network = model.network
    assert isinstance(network, VisionLanguage)
    with torch.inference_mode():
        logits = network.attribute_logits(features)
        return [z.softmax(dim=1).cpu().numpy() for z in logits]


def calibrate_attributes(model: Classifier, images: Images, known: np.ndarray) -> None:
    """Set the temperature of each attribute on validation images (`calibration.fit_temperature`).

    `known`: their attributes, int N×11, -1 where unknown. An attribute known of fewer than 10 of them keeps 1, and so do all
    where the head learns none.
    """
    network = model.network
    if not isinstance(network, VisionLanguage) or network.head not in READ_ATTRIBUTES:
        return
    for k, p in enumerate(attribute_probabilities(model, images)):
        rows = known[:, k] != UNKNOWN
        if rows.sum() >= ENOUGH:
            network.attribute_temperature[k] = fit_temperature(p[rows], known[rows, k])


def evaluate_attributes(
    model: Classifier, images: Images, data: PreparedDataset, split: str
) -> dict[str, Any] | None:
    """How well the attributes of a split are read of its images, as JSON values; None where the head learns none.

    For each attribute: images (of which it is known), accuracy, macro_f1 (over the values that occur) and ece; null where
    it is known of none. Their means over the attributes stand in `mean`.
    """
    network = model.network
    if not isinstance(network, VisionLanguage) or network.head not in READ_ATTRIBUTES:
        return None
    known = attribute_indices(data.tables[split], data.root / split / "metadata.csv")
    read: dict[str, Any] = {}
    for k, (name, p) in enumerate(zip(ATTRIBUTES, attribute_probabilities(model, images), strict=True)):
        rows = known[:, k] != UNKNOWN
        read[name] = attribute_scores(p[rows], known[rows, k]) if rows.any() else None
    scored = [values for values in read.values() if values is not None]
    means = {
        metric: float(np.mean([values[metric] for values in scored])) if scored else None
        for metric in ("accuracy", "macro_f1", "ece")
    }
    return {"mean": means, "bins": BINS, "per_attribute": read}


def attribute_scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """images, accuracy, macro_f1 and ece of one attribute: probabilities float N×values, labels int N, N at least 1."""
    matrix = evaluation.confusion(labels, probabilities.argmax(axis=1), probabilities.shape[1])
    return {
        "images": len(labels),
        "accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
        "macro_f1": float(evaluation.score(matrix, "macro_f1")),
        "ece": expected_calibration_error(probabilities, labels),
    }
