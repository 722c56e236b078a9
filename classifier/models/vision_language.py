"""An image network with language beside it: heads for classes, class sentences, captions and attributes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balancer.data.attributes import ATTRIBUTES
from classifier.models.backbones import linear_head
from classifier.models.heads import last_linear

CLASS = "class"
HEADS = ("text", "contrastive", "attributes", "joint")  # beside CLASS, the network's own head alone
READ_ATTRIBUTES = ("attributes", "joint")  # the heads that learn them
READ_TEXT = ("text", "contrastive", "joint")
WIDTH = 128  # of the space that images and texts share
_SCALE = 1 / 0.07  # of the cosines at the start (CLIP, arXiv 2103.00020)
_NEIGHBOURS = 5
_MOST = 100.0  # that the scale may become
VALUES = tuple(len(values) for values in ATTRIBUTES.values())


class SentenceHead(nn.Module):
    """Image embeddings float B×E (unit length) → logits s·cos(z, t_k), float B×K, t_k the embeddings of the classes.

    Liver-VLM's head: with cross-entropy, s learned. The embeddings lie here as a buffer, so that prediction reads no text.

    A class without train images was never the answer of a training step, and loses to the others whatever an image shows. In
    eval mode, once there are a memory and a rule, its logit is instead the highest of the others, plus

        w_k (l_k − max_j l_j) + v ν(z) − t_k,    ν(z): one minus the cosine of z and the 5th nearest train image

    so that it wins for images that are like its sentences and unlike what was trained on (`calibration.unseen_rule`).
    """

    embeddings: Tensor
    memory: Tensor
    rule: Tensor

    def __init__(self, classes: int, width: int, memory: int = 0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(_SCALE)))
        self.register_buffer("embeddings", torch.zeros(classes, width))
        self.register_buffer("memory", torch.zeros(memory, width))  # embeddings of train images
        self.register_buffer(
            "rule", torch.zeros(3, classes)
        )  # w, v and t of each class, 0 for those with images

    @property
    def scale(self) -> Tensor:
        """s, at most 100."""
        return self.log_scale.exp().clamp(max=_MOST)

    def forward(self, z: Tensor, embeddings: Tensor | None = None) -> Tensor:
        if embeddings is not None:
            return self.scale * z @ embeddings.T
        logits = self.scale * z @ self.embeddings.T
        return self.with_unseen(logits, z) if len(self.memory) else logits

    def with_unseen(self, logits: Tensor, z: Tensor) -> Tensor:
        """Logits float B×K of all classes from those of the sentences."""
        w, v, t = self.rule
        unseen = v > 0
        highest = logits.masked_fill(unseen, -torch.inf).amax(dim=1, keepdim=True)
        return torch.where(
            unseen, highest + w * (logits - highest) + v * self.novelty(z)[:, None] - t, logits
        )

    def novelty(self, z: Tensor) -> Tensor:
        """ν: float B."""
        return 1 - (z @ self.memory.T).topk(min(_NEIGHBOURS, len(self.memory)), dim=1).values[:, -1]


class VisionLanguage(nn.Module):
    """Images float32 B×C×R×R → logits B×K, of the head that classifies; and what else is known of images and texts.

    `network`: its last linear layer becomes the class head, what that layer reads are the features f. An image is
    embedded as z = P f / |P f|, a text by `tower` as t / |t|, both float E = `WIDTH`. Which head classifies:

    - `text`: s·cos(z, t_k) with the mean embedding t_k of the sentences of class k.
    - `contrastive`: the same, though only pairs of images and captions were trained on: zero-shot.
    - `attributes`: a linear layer on f that does not influence f, which the eleven attributes alone have formed.
    - `joint`: the network's own.

    `sentences`: K×V inputs of the tower, V sentences for each class. `memory`: how many train images `by_sentence` remembers.
    Predictions read no text: `keep_classes` embeds the classes once weights are to be judged or kept.
    """

    sentences: Tensor
    attribute_temperature: Tensor

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        head: str,
        tower: nn.Module,
        sentences: Tensor,
        memory: int = 0,
    ) -> None:
        super().__init__()
        name, last = last_linear(network, classes, f"head {head} replaces")
        parent, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, nn.Identity())
        self.head = head
        self.network = network
        self.class_head = last
        self.project = nn.Linear(last.in_features, WIDTH)
        self.tower = tower
        self.by_sentence = SentenceHead(classes, WIDTH, memory)
        self.by_attribute = linear_head(last.in_features, sum(VALUES))
        self.register_buffer("sentences", sentences)
        self.register_buffer("attribute_temperature", torch.ones(len(VALUES)))

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the heads read, float32 B×D."""
        return self.network(images).flatten(1).float()

    def classify(self, features: Tensor) -> Tensor:
        """Logits float32 B×K of the head that classifies."""
        with torch.autocast(features.device.type, enabled=False):  # cosines of bfloat16 are too coarse
            if self.head in ("text", "contrastive"):
                return self.by_sentence(self.embed(features))
            return self.class_head(features)

    def embed(self, features: Tensor) -> Tensor:
        """z: float32 B×E of unit length."""
        return F.normalize(self.project(features), dim=1)

    def embed_text(self, inputs: Tensor) -> Tensor:
        """t: what the reader gave for B texts → float32 B×E of unit length."""
        return F.normalize(self.tower(inputs), dim=1)

    def embed_classes(self) -> Tensor:
        """The unit vectors along the mean embedding of each class's sentences, float32 K×E."""
        k, v = self.sentences.shape[:2]
        return F.normalize(self.embed_text(self.sentences.flatten(0, 1)).unflatten(0, (k, v)).mean(1), dim=1)

    def attribute_logits(self, features: Tensor) -> tuple[Tensor, ...]:
        """Logits of the values of each attribute, in the order of the vocabulary, over the attribute's temperature."""
        parts = self.by_attribute(features).split(VALUES, dim=1)
        return tuple(part / t for part, t in zip(parts, self.attribute_temperature, strict=True))

    def keep_classes(self) -> None:
        """Embed the classes' sentences, as in eval mode, for all predictions with these weights."""
        mode = self.tower.training
        self.tower.eval()
        with torch.no_grad():
            self.by_sentence.embeddings.copy_(self.embed_classes())
        self.tower.train(mode)


def contrastive_loss(z: Tensor, t: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy of images and captions, both float B×E of unit length; a scalar.

    As CLIP (Radford et al. 2021, arXiv 2103.00020), but captions that are the `same` as an image's own (bool B×B, by image and
    caption) are no negatives of it: they share the target evenly (as in UniCL, Yang et al. 2022, arXiv 2204.03610).
    """
    logits = scale * z @ t.T
    of_image, of_caption = (pairs / pairs.sum(dim=1, keepdim=True) for pairs in (same, same.T))
    return (F.cross_entropy(logits, of_image) + F.cross_entropy(logits.T, of_caption)) / 2
