"""What is known of how far a classifier's answers can be trusted: measured when training ends, kept with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from balancer.data import PreparedDataset
from balancer.errors import InputError
from classifier.calibration import conformal_scores, fit_temperature
from classifier.models.classifier import Classifier
from classifier.transforms import Images, Prepared

FAMILIAR = 0.99  # share of the validation images that count as like the training images
_REFERENCE_IMAGES = 5000  # train images, evenly over all, that images are compared with
_BATCH = 256
_OCTAVES = 4
_NO_SPREAD = 1e-3  # a standard deviation below which there is none


@dataclass(frozen=True)
class Gaussian:
    """A distribution of vectors: `mean` float32 D, `precision` (inverse covariance over a unit of distance) float32 D×D."""

    mean: np.ndarray
    precision: np.ndarray

    @classmethod
    def fitted(cls, vectors: np.ndarray, judged: np.ndarray) -> Gaussian:
        """That of `vectors`, float N×D, in units in which `FAMILIAR` of the `judged`, float M×D, are nearer than 1.

        The covariance is shrunk as Ledoit and Wolf (2004) do where vectors are few.
        """
        scale = vectors.astype(np.float64).std(axis=0) + _NO_SPREAD
        found = LedoitWolf().fit(vectors / scale)
        mean = (found.location_ * scale).astype(np.float32)
        precision = found.precision_ / np.outer(scale, scale)
        far = np.quantile(cls(mean, precision).distance(judged), FAMILIAR)
        return cls(mean, (precision / max(far, _NO_SPREAD)).astype(np.float32))

    def distance(self, vectors: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance of vectors, float N×D, to the mean, float64 N."""
        away = vectors.astype(np.float64) - self.mean
        return np.einsum("nd,nd->n", away @ self.precision.astype(np.float64), away)


@dataclass(frozen=True)
class Answers:
    """What a classifier says of N images, and what tells whether they are like those that it was trained on."""

    probabilities: np.ndarray  # float32 N×K
    features: np.ndarray  # float32 N×D, the input of the network's last layer
    appearance: np.ndarray  # float32 N×A


@dataclass(frozen=True)
class Reliability:
    """Conformal scores of validation (float32 n), and what train images are like: features, appearance.

    `limit`: the larger of both distances beyond which an image is unlike them.
    """

    scores: np.ndarray
    features: Gaussian
    appearance: Gaussian
    limit: float

    def unlike_training(self, found: Answers) -> np.ndarray:
        """Which images are unlike those of training, bool N."""
        return _unlikeness(self.features, self.appearance, found) > self.limit

    def tensors(self) -> dict[str, np.ndarray]:
        """All of it as arrays, by names that `from_tensors` knows."""
        return {
            "scores": self.scores,
            "features/mean": self.features.mean,
            "features/precision": self.features.precision,
            "appearance/mean": self.appearance.mean,
            "appearance/precision": self.appearance.precision,
            "limit": np.array(self.limit),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Reliability:
        """What `tensors` gave; KeyError where something is missing, ValueError where it has another shape."""
        features, appearance = (
            Gaussian(tensors[f"{of}/mean"], tensors[f"{of}/precision"]) for of in ("features", "appearance")
        )
        for of in (features, appearance):
            if of.mean.ndim != 1 or of.precision.shape != 2 * of.mean.shape:
                raise ValueError("what train images are like has another shape")
        if tensors["scores"].ndim != 1:
            raise ValueError("the scores have another shape")
        return cls(tensors["scores"], features, appearance, float(tensors["limit"]))


def _unlikeness(features: Gaussian, appearance: Gaussian, found: Answers) -> np.ndarray:
    return np.maximum(features.distance(found.features), appearance.distance(found.appearance))


def calibrate(model: Classifier, validation_probabilities: np.ndarray, data: PreparedDataset) -> Reliability:
    """Set a trained model's temperature, and measure what its answers are worth, both on the validation split of `data`.

    `validation_probabilities`: float N×K of the model, at temperature 1. The images that others are to be like are those
    of the train split, synthetic ones not among them, by the input of the network's last layer and by their `appearance`.
    One Gaussian for all classes, unlike Lee et al. 2018 (arXiv 1807.03888), who have a mean for each: a rare class
    has too few images for its own. The limit is a quantile (0.99) of validation, so that about one in a hundred images like
    those of validation is called unlike.
    """
    labels = data.labels("validation")
    model.temperature = fit_temperature(validation_probabilities, labels)
    validation, images = answers(model, data.images("validation")), data.images("train")
    chosen = np.unique(np.linspace(0, len(images) - 1, _REFERENCE_IMAGES).astype(int))
    train = answers(model, images, chosen)
    features = Gaussian.fitted(train.features, validation.features)
    look = Gaussian.fitted(train.appearance, validation.appearance)
    limit = float(np.quantile(_unlikeness(features, look, validation), FAMILIAR))
    scores = conformal_scores(validation.probabilities, labels).astype(np.float32)
    return Reliability(scores, features, look, limit)


def answers(model: Classifier, images: Images, indices: np.ndarray | None = None) -> Answers:
    """A classifier's answers to images, prepared or not; `indices` (int N) says to which of them, by default to all.

    Their appearance is that of the images before preprocessing. In float32, so that other machines agree. Raises InputError
    where they are no finite numbers.
    """
    prepared = images if isinstance(images, Prepared) else Prepared(images, model.transform)
    indices = np.arange(len(images)) if indices is None else indices
    device = next(model.parameters()).device
    model.eval()
    probabilities, features, looks = [], [], []
    with torch.inference_mode():
        for start in range(0, len(indices), _BATCH):
            some = indices[start : start + _BATCH]
            pixels = prepared[some]
            logits, given = model.with_features(torch.from_numpy(pixels).to(device))
            probabilities.append(logits.softmax(dim=1).cpu().numpy())
            features.append(given.cpu().numpy())
            # As they came: a stain that is normalised no longer tells where an image is from.
            looks.append(appearance(prepared.images[some][..., :3]))
    found = Answers(np.concatenate(probabilities), np.concatenate(features), np.concatenate(looks))
    if not (np.isfinite(found.probabilities).all() and np.isfinite(found.features).all()):
        raise InputError(
            "The classifier's answers are no finite numbers; train it again, with a lower learning_rate."
        )
    return found


def appearance(pixels: np.ndarray) -> np.ndarray:
    """Colours and sharpness of images, float32 N×D, from uint8 N×R×R×3; D is 33 from 32 px on.

    For each colour: mean, logarithm of the standard deviation, three quantiles, how the middle differs from the whole, and
    the logarithm of the contrast in up to four octaves; and the correlations between the colours. A network may map
    what it has never seen onto what it knows; this tells images that do not even look like the others.
    """
    images = pixels.astype(np.float32) / 255
    n, side = images.shape[:2]
    flat = images.reshape(n, -1, 3)
    mean, std = flat.mean(axis=1), flat.std(axis=1)
    standard = (flat - mean[:, None]) / np.maximum(std, _NO_SPREAD)[:, None]
    correlations = [(standard[..., a] * standard[..., b]).mean(axis=1) for a, b in ((0, 1), (0, 2), (1, 2))]
    quantiles = np.quantile(flat, [0.05, 0.5, 0.95], axis=1).transpose(1, 0, 2).reshape(n, -1)
    edge = side // 4
    middle = images[:, edge : side - edge, edge : side - edge].mean(axis=(1, 2))
    parts = [mean, np.log(std + 0.01), np.stack(correlations, axis=1), quantiles, middle - mean]
    for _ in range(_OCTAVES):
        half = images.shape[1] // 2
        if half < 2:
            break
        even = images[:, : 2 * half, : 2 * half]
        images = even.reshape(n, half, 2, half, 2, 3).mean(axis=(2, 4))
        parts.append(np.log((even - images.repeat(2, 1).repeat(2, 2)).std(axis=(1, 2)) + 0.003))
    return np.concatenate(parts, axis=1).astype(np.float32)
