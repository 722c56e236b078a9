"""The network with language beside it: every head over every network, and the pieces by their formulas."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from balancer.errors import InputError
from classifier.models import available, create_model, reads_mask
from classifier.models.text import PADDING, TextProjection, TextTransformer
from classifier.models.vision_language import (
    HEADS,
    VALUES,
    WIDTH,
    SentenceHead,
    VisionLanguage,
    contrastive_loss,
)

CLASSES, SENTENCES = 3, 2


def network(arch: str, head: str, seed: int = 0) -> VisionLanguage:
    """An untrained one for 32 px and three classes, with two sentences of five words for each."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = torch.randint(2, 20, (CLASSES, SENTENCES, 8))
        words[..., 5:] = PADDING
        image = create_model(arch, CLASSES, 32)
        made = VisionLanguage(image, CLASSES, head, TextTransformer(20, 8, WIDTH), words)
    made.keep_classes()
    return made


def images(arch: str, n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3 + reads_mask(arch), 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", [*available(), "timm:resnet10t"])
def test_every_network_takes_every_head(arch: str) -> None:
    for head in HEADS:
        made = network(arch, head).eval()
        x = images(arch)
        logits = made(x)
        assert logits.shape == (4, CLASSES) and logits.isfinite().all()
        again = network(arch, head, seed=1).eval()
        again.load_state_dict(made.state_dict())
        assert torch.equal(again(x), logits)
        made.train()
        features = made.features(x)
        z = made.embed(features)
        assert torch.allclose(z.norm(dim=1), torch.ones(4), atol=1e-5)
        told = torch.cat(made.attribute_logits(features), dim=1)
        assert told.shape == (4, sum(VALUES))
        (z @ made.embed_classes().T).sum().add(told.sum()).add(made.class_head(features).sum()).backward()
        missing = [name for name, p in made.named_parameters() if p.grad is None]
        assert missing == ["by_sentence.log_scale"]


def test_class_embeddings_are_those_kept_and_no_text_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("swin", "text")
    assert made.tower.training
    made.eval()
    z = made.embed(made.features(images("swin")))
    expected = made.by_sentence.scale * z @ made.embed_classes().T  # as in eval mode
    assert torch.allclose(made(images("swin")), expected, atol=1e-5)
    with torch.no_grad():
        for parameter in made.tower.parameters():
            parameter.mul_(1.5)
    monkeypatch.setattr(made.tower, "forward", None)
    assert torch.allclose(made.train().eval()(images("swin")), expected, atol=1e-5)


def test_the_class_is_read_from_attribute_features_without_forming_them() -> None:
    # What the objective does is tested there; here: the class head reads the same features that attributes are read from.
    made = network("resnet18", "attributes").eval()
    features = made.features(images("resnet18"))
    assert torch.allclose(made(images("resnet18")), made.class_head(features), atol=1e-5)


def test_padding_changes_nothing_and_an_empty_text_has_an_embedding() -> None:
    tower = TextTransformer(20, 8, WIDTH).eval()
    short = torch.tensor([[3, 4, 5]])
    padded = F.pad(short, (0, 5), value=PADDING)
    assert torch.allclose(tower(short), tower(padded), atol=1e-6)
    both = torch.cat([padded, torch.randint(2, 20, (1, 8))])
    assert torch.allclose(tower(both)[:1], tower(short), atol=1e-5)
    assert tower(torch.full((1, 8), PADDING)).isfinite().all()
    assert TextProjection(6, WIDTH)(torch.randn(2, 6)).shape == (2, WIDTH)


def test_contrastive_loss_is_clips_where_all_captions_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    z, t = (F.normalize(torch.randn(5, 7, generator=generator), dim=1) for _ in range(2))
    s = torch.tensor(3.0)
    pairs, same = torch.arange(5), torch.eye(5, dtype=torch.bool)
    clip = (F.cross_entropy(s * z @ t.T, pairs) + F.cross_entropy(s * t @ z.T, pairs)) / 2
    assert torch.allclose(contrastive_loss(z, t, s, same), clip)


def test_equal_captions_are_no_negatives_of_each_other() -> None:
    # Two images with one caption, a third with another: perfect embeddings have the loss of the entropy that is left.
    t = F.one_hot(torch.tensor([0, 0, 1]), 4).float()
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    s = torch.tensor(100.0)
    assert contrastive_loss(t, t, s, same) == pytest.approx(
        2 / 3 * float(torch.log(torch.tensor(2.0))), abs=1e-4
    )
    worse = contrastive_loss(t, t, s, torch.eye(3, dtype=torch.bool))
    assert torch.allclose(
        worse, contrastive_loss(t, t, s, same), atol=1e-4
    )  # equal logits: no sample tells them apart
    z = t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(contrastive_loss(z, t, torch.tensor(1.0), same), z)
    assert torch.allclose(
        gradient[0], gradient[1], atol=1e-6
    )  # neither of the two is pushed from the other's caption


def test_a_network_that_ends_in_no_linear_layer_is_refused_in_words() -> None:
    ends = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.LayerNorm(8))
    with pytest.raises(InputError, match="head joint replaces the last linear layer.*LayerNorm"):
        VisionLanguage(
            ends, CLASSES, "joint", TextTransformer(20, 8, WIDTH), torch.zeros(3, 2, 8, dtype=torch.long)
        )


def test_a_copy_has_its_own_embeddings() -> None:
    made = network("swin", "text").eval()
    twin = copy.deepcopy(made)
    twin.by_sentence.embeddings.zero_()
    assert made.by_sentence.embeddings.abs().sum() > 0


def test_an_unseen_class_wins_by_its_sentences_and_by_novelty_together() -> None:
    head = SentenceHead(3, 4, memory=6)
    head.embeddings.copy_(torch.eye(3, 4))
    head.memory.copy_(torch.eye(3, 4)[torch.tensor([0, 0, 0, 1, 1, 1])])  # no train image of the third class
    plain = SentenceHead(3, 4)
    plain.load_state_dict(head.state_dict() | {"memory": torch.zeros(0, 4)})
    z = F.normalize(
        torch.tensor([[1.0, 0, 0, 0], [1, 0, 0.5, 0], [0.2, 0, 1, 0.0], [0.5, 0.0, 0.0, 1]]), dim=1
    )
    assert torch.equal(head.novelty(z), 1 - (z @ head.memory.T).topk(5, dim=1).values[:, -1])
    assert torch.equal(head(z), plain(z))  # no rule yet
    head.rule[:, 2] = torch.tensor([0.5, 2.0, 1.0])
    logits, sentences = head(z), plain(z)
    highest = sentences[:, :2].max(dim=1).values
    assert torch.equal(logits[:, :2], sentences[:, :2])
    expected = highest + 0.5 * (sentences[:, 2] - highest) + 2 * head.novelty(z) - 1
    assert torch.allclose(logits[:, 2], expected)
    assert logits.argmax(dim=1).tolist() == [0, 0, 2, 0]
