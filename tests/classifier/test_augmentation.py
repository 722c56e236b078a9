from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
from torch import Tensor

from classifier import augmentation
from classifier.augmentation import AUGMENTATIONS, _affine


def batch(n: int = 40, side: int = 24) -> Tensor:
    """Smooth pictures with a mask in {0, 128, 255} of a disc, off the centre and the axes."""
    y, x = np.mgrid[:side, :side] / side
    mask = np.where(np.hypot(x - 0.4, y - 0.55) < 0.3, 128, 0)
    mask = np.where(np.hypot(x - 0.38, y - 0.5) < 0.15, 255, mask)
    colour = np.stack([255 * x, 255 * y, np.where(mask > 0, 60, 200)], axis=2)
    picture = np.concatenate([colour, mask[..., None]], axis=2).astype(np.uint8)
    return torch.from_numpy(picture).repeat(n, 1, 1, 1)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_repeat_with_the_generator_and_leave_the_batch_alone(name: str) -> None:
    pixels, augment = batch(), AUGMENTATIONS[name]
    once, again = (augment(pixels, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(pixels, batch())
    assert (once.shape, once.dtype) == (pixels.shape, torch.uint8)
    other = augment(pixels, torch.Generator().manual_seed(4))
    assert torch.equal(once, other) == (name == "none")
    without = augment(pixels[..., :3], torch.Generator().manual_seed(3))
    assert torch.equal(without, once[..., :3])  # a mask changes nothing of the colours


def test_trivial_augment_of_one_image_takes_any_operation() -> None:
    pixels = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        assert AUGMENTATIONS["trivial-augment"](pixels, generator).shape == pixels.shape


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_mask_moves_with_the_image_and_keeps_its_levels(name: str) -> None:
    varied = AUGMENTATIONS[name](batch(), torch.Generator().manual_seed(0))
    assert set(varied[..., 3].unique().tolist()) <= {0, 128, 255}
    if name == "trivial-augment":  # equalise, solarise … need not leave the cell darker
        return
    blue, mask = varied[..., 2].float(), varied[..., 3]
    for image, cell in zip(blue, mask > 0, strict=True):
        assert image[cell].mean() + 50 < image[~cell].mean()


def test_an_affine_map_is_the_one_it_says() -> None:
    pixels = batch(1)
    eye, zero = torch.eye(2)[None], torch.zeros(1, 2)
    assert torch.equal(_affine(pixels, eye, zero), pixels)
    quarter = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
    assert torch.equal(_affine(pixels, quarter, zero), pixels.rot90(1, (1, 2)))
    moved = _affine(pixels, eye, torch.tensor([[6 / 24, 0.0]]))
    assert torch.equal(moved[:, :, :18], pixels[:, :, 6:])
    assert torch.equal(moved[:, :, 18:], pixels[:, :, 18:].flip(2))


def test_leukocyte_leaves_a_removed_background_black() -> None:
    pixels = batch()
    pixels[..., :3] *= pixels[..., 3:] > 0
    varied = AUGMENTATIONS["leukocyte"](pixels, torch.Generator().manual_seed(0))
    assert (varied[..., :3][varied[..., 3] == 0] == 0).float().mean() > 0.9  # but for where the edges blend


def test_leukocyte_varies_brightness_and_contrast_of_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_affine", lambda pixels, matrix, shift: pixels)
    pixels = torch.zeros(200, 16, 16, 3, dtype=torch.uint8)
    pixels[:, 4:10, 4:10], pixels[:, 4:10, 6:8] = 80, 140  # the cell, a seventh of the image
    varied = AUGMENTATIONS["leukocyte"](pixels, torch.Generator().manual_seed(0)).float()
    cell = varied[varied > 0].reshape(200, -1)
    brightness = cell.mean(dim=1) / pixels[pixels > 0].float().mean()
    contrast = cell.std(dim=1) / cell.mean(dim=1) / (pixels[0, 4:10, 4:10].float().std() / 100)
    for factor in (brightness, contrast):
        assert 0.79 < factor.min() < 0.83 and 1.17 < factor.max() < 1.21
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.2


def test_trivial_augment_draws_each_operation_and_strength_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, float]] = []

    def record(k: int, signed: float) -> None:
        drawn.append((k, signed))

    def geometric(k: int, signed: float) -> tuple[list[list[float]], list[float]]:
        record(k, signed)
        return [[1, 0], [0, 1]], [0, 0]

    def colour(k: int, x: Tensor, signed: float) -> Tensor:
        record(k, signed)
        return x

    monkeypatch.setattr(augmentation, "_GEOMETRIC", [partial(geometric, k) for k in range(5)])
    monkeypatch.setattr(
        augmentation, "_COLOUR", [lambda x, m, signed, k=k: colour(k, x, signed) for k in range(5, 13)]
    )
    AUGMENTATIONS["trivial-augment"](batch(14 * 300, side=8), torch.Generator().manual_seed(0))
    operations, signed = zip(*drawn, strict=True)
    np.testing.assert_allclose(np.bincount(operations), 300, atol=5 * 300**0.5)  # the fourteenth does nothing
    assert sorted(set(np.round(np.abs(signed) * 30))) == list(range(31))
    assert np.mean(np.sign(signed)) == pytest.approx(0, abs=0.08)


@pytest.mark.parametrize("k", range(8))
def test_the_colours_of_trivial_augment_are_torchvisions(k: int) -> None:
    """Each operation at full strength, against what torchvision's own class does for its name."""
    names = (
        "Brightness",
        "Color",
        "Contrast",
        "Sharpness",
        "Posterize",
        "Solarize",
        "AutoContrast",
        "Equalize",
    )
    picture = batch(1)[0, ..., :3].permute(2, 0, 1).contiguous()
    theirs = v2.TrivialAugmentWide()
    magnitudes, has_sign = theirs._AUGMENTATION_SPACE[names[k]]
    values = magnitudes(31, 24, 24)
    for i in (0, 7, 30):
        magnitude = 0.0 if values is None else float(values[i])
        expected = theirs._apply_image_or_video_transform(
            picture, names[k], -magnitude if has_sign else magnitude, theirs.interpolation, {}
        )
        ours = augmentation._COLOUR[k](picture, i / 30, -i / 30)
        torch.testing.assert_close(ours, expected, atol=1, rtol=0)  # theirs has the strengths in float32
