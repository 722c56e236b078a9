from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from balancer import smear
from classifier.explain import attributions, picture
from classifier.models import available, create_model, reads_mask
from classifier.models.classifier import Classifier
from classifier.transforms import Transform

SIDE = 32


def prepared(mask: bool = False, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    images = smear.render(smear.draw_cells({"neutrophil": n}, seed=0), SIDE)[0]
    return images, Transform(mask=mask).prepare(images)


def classifier(name: str, seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(create_model(name, 4, SIDE), Transform(mask=reads_mask(name)), 1.5).eval()


@pytest.mark.parametrize("name", [*available(), "timm:mobilenetv3_small_050"])
def test_attributions_sum_up_to_the_difference_from_background(name: str) -> None:
    model = classifier(name)
    images, pixels = prepared(reads_mask(name))
    targets = np.array([0, 3, 1])
    found = attributions(model, pixels, targets)
    assert found.shape == (3, SIDE, SIDE) and found.dtype == np.float32
    background = np.zeros_like(pixels)
    for image, empty in zip(images, background, strict=True):
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        empty[..., :3] = np.median(edge, axis=0)
    with torch.inference_mode():
        with_cell, without = (model(torch.from_numpy(x)).numpy() for x in (pixels, background))
    difference = (with_cell - without)[np.arange(3), targets]
    assert found.sum((1, 2)) == pytest.approx(difference, rel=0.15, abs=0.02)


def test_other_weights_give_another_map() -> None:
    """Adebayo et al. 2018, arXiv 1810.03292: a map that survives random weights would show the image alone."""
    _, pixels = prepared()
    targets = np.zeros(3, int)
    one, same, other = (attributions(classifier("resnet18", seed), pixels, targets) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    for a, b in zip(one, other, strict=True):
        assert abs(spearmanr(a.ravel(), b.ravel()).statistic) < 0.5


def test_the_pixels_that_decide_are_the_ones_shown() -> None:
    class Corner(torch.nn.Module):
        """Class 1 is told by the redness of the upper left corner."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            red = images[:, 0, :8, :8].mean((1, 2))
            return torch.stack([-red, red], dim=1)

    network = torch.nn.Sequential(Corner(), torch.nn.Linear(2, 2))
    pixels = np.full((1, SIDE, SIDE, 3), 100, np.uint8)
    pixels[:, :8, :8, 0] = 220
    pixels[:, 12:20, 12:20] = 20
    found = attributions(Classifier(network, Transform()).eval(), pixels, np.array([1]))[0]
    assert np.abs(found[:8, :8]).sum() == pytest.approx(np.abs(found).sum())
    shown = picture(pixels[0], pixels[0], np.abs(found))
    assert shown.shape == (256, 768, 3) and shown.dtype == np.uint8
    panel = shown[:, 512:].astype(int)
    assert panel[16:40, 16:40, 0].mean() > panel[16:40, 16:40, 2].mean() + 50  # red there
    assert (panel[200:, 200:] == panel[200:, 200:, :1]).all()  # and grey elsewhere


def test_the_outline_lies_around_the_cell() -> None:
    images, pixels = prepared()
    shown = picture(images[0], pixels[0], np.zeros((SIDE, SIDE), np.float32))
    yellow = (shown[:, :256] == (255, 210, 0)).all(2)
    blue = (shown[:, :256] == (0, 220, 255)).all(2)
    assert yellow.sum() > 100 and blue.sum() > 50
    inner, outer = np.argwhere(blue), np.argwhere(yellow)
    assert (outer.min(0) <= inner.min(0)).all() and (outer.max(0) >= inner.max(0)).all()
    grey = shown[:, 512:]
    assert (grey == grey[..., :1]).all()  # nothing speaks for or against
