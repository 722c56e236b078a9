"""What a training minimises: the loss of a part of a batch, for networks with and without language beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from balancer.data.attributes import UNKNOWN
from balancer.generators.seeds import derive
from classifier.batches import Batch
from classifier.config import TrainingConfig
from classifier.imbalance import CrossEntropy
from classifier.language import Language
from classifier.models.classifier import Classifier
from classifier.models.text import PADDING
from classifier.models.vision_language import VisionLanguage, contrastive_loss
from classifier.text_encoders import UNKNOWN_WORD

# Share of a caption's words that are taken as unknown, so that an unknown word does no harm later.
_FORGOTTEN = 0.1
_ABSENT = -1e4  # logit of a class without images: it is no wrong answer to any


class Classification:
    """The weighted mean cross-entropy, or whatever `criterion` is, of the logits."""

    def __init__(self, criterion: CrossEntropy) -> None:
        self.criterion = criterion

    def __call__(self, model: Classifier, batch: Batch, part: slice, step: int, progress: float) -> Tensor:
        """The loss of the part `part` of the batch, a scalar: over all parts it sums up to that of the batch.

        `progress` is the share of the training that is done. The pixels of `batch` are on the model's device.
        """
        return self.classified(model(batch.pixels[part]), batch, part, progress)

    def classified(self, logits: Tensor, batch: Batch, part: slice, progress: float) -> Tensor:
        """Σ w·l over the part, over Σ w of the whole batch, for each of its targets by its share."""
        losses = []
        for labels, share in batch.targets:
            w = self.criterion.weights(labels, progress)
            losses.append(share * (w[part] * self.criterion(logits, labels[part])).sum() / w.sum())
        return torch.stack(losses).sum()


@dataclass(frozen=True)
class Weights:
    """What each loss counts in a head's sum."""

    of_class: float = 0.0
    text: float = 0.0
    contrastive: float = 0.0
    attributes: float = 0.0


def weights_of(head: str, joint: tuple[float, float, float, float]) -> Weights:
    """The losses of a head: its own, and for `joint` all four with these weights, in the order of `Weights`."""
    if head == "joint":
        return Weights(*joint)
    # With `attributes` the class is read from features that it does not form.
    return {
        "text": Weights(text=1.0),
        "contrastive": Weights(contrastive=1.0),
        "attributes": Weights(of_class=1.0, attributes=1.0),
    }[head]


class LanguageObjective(Classification):
    """The weighted sum of the losses of a `VisionLanguage`: classes, class sentences, captions, attributes.

    A part of a batch has captions of its own to tell apart, and the attributes that are known in it.
    """

    def __init__(self, criterion: CrossEntropy, language: Language, config: TrainingConfig) -> None:
        super().__init__(criterion)
        self.language, self.seed = language, config.seed
        self.weights = weights_of(config.head, config.joint_weights)
        self.attributes = torch.from_numpy(language.attributes)
        self.meaning = torch.from_numpy(language.meaning)
        self.absent = torch.from_numpy(~language.present)

    def __call__(self, model: Classifier, batch: Batch, part: slice, step: int, progress: float) -> Tensor:
        network, pixels = model.network, batch.pixels[part]
        assert isinstance(network, VisionLanguage)
        features = network.features(model.transform.normalise(pixels))
        with torch.autocast(pixels.device.type, enabled=False):  # cosines of bfloat16 are too coarse
            return self.of_features(network, features, batch, part, step, progress)

    def of_features(
        self,
        network: VisionLanguage,
        features: Tensor,
        batch: Batch,
        part: slice,
        step: int,
        progress: float,
    ) -> Tensor:
        """The loss from the features float32 B×D of the part's images."""
        weights, rows, device = self.weights, batch.indices[part], features.device
        share = len(rows) / len(batch.indices)
        loss = torch.zeros((), device=device)
        if weights.of_class:
            given = features.detach() if network.head == "attributes" else features
            logits = network.class_head(given)
            loss = loss + weights.of_class * self.classified(logits, batch, part, progress)
        if weights.text or weights.contrastive:
            z = network.embed(features)
        if weights.text:
            logits = network.by_sentence(z, network.embed_classes())
            logits = logits.masked_fill(self.absent.to(device), _ABSENT)
            loss = loss + weights.text * self.classified(logits, batch, part, progress)
        if weights.contrastive:
            read, text = self.captions(rows, step)
            t, same = network.embed_text(read.to(device)), self.fitting(rows, text).to(device)
            pairs = contrastive_loss(z, t, network.by_sentence.scale, same)
            loss = loss + weights.contrastive * share * pairs
        if weights.attributes:
            targets = self.attributes[rows].to(device)
            told = attribute_loss(network.attribute_logits(features), targets)
            loss = loss + weights.attributes * share * told
        return loss

    def fitting(self, rows: Tensor, text: Tensor) -> Tensor:
        """Which of the captions drawn (their numbers, int64 B) are said of which of the images (int64 B), bool B×B: in other words,
        or in just these."""
        meaning = self.meaning[rows]
        own = (self.language.text[rows][:, :, None] == text).any(dim=1)
        return own | (meaning[:, None] == meaning)

    def captions(self, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """One of the captions of each image (int64 B), drawn by the step: as the reader gave it, words forgotten here and there;
        and its number among all texts, int64 B."""
        draw = torch.Generator().manual_seed(derive(self.seed, "step", step, int(rows.sum())))
        read = self.language.read
        which = torch.randint(read.shape[1], (len(rows),), generator=draw)
        chosen, text = read[rows, which], self.language.text[rows, which]
        if read.is_floating_point():
            return chosen, text
        forgotten = torch.rand(chosen.shape, generator=draw) < _FORGOTTEN
        return chosen.masked_fill(forgotten & (chosen != PADDING), UNKNOWN_WORD), text


def attribute_loss(logits: Sequence[Tensor], targets: Tensor) -> Tensor:
    """The mean cross-entropy of the known attributes, a scalar; 0 where none is known.

    `logits`: for each attribute float B×values; `targets`: int64 B×11, -1 where unknown.
    """
    losses = torch.stack(
        [
            F.cross_entropy(z.float(), targets[:, k], ignore_index=UNKNOWN, reduction="sum")
            for k, z in enumerate(logits)
        ]
    )
    return losses.sum() / (targets != UNKNOWN).sum().clamp(min=1)
