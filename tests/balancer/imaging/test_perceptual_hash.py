from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from balancer.imaging.duplicates import apply_transform
from balancer.imaging.perceptual_hash import SAME, find_seen, middle, nearest_seen, perceptual_hashes


def cells(n: int, size: int = 128, seed: int = 0) -> np.ndarray:
    """Dark textured blobs of one size in the middle of a light field, as blood cells are."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.normal(size=(n, size, size)), (0, size / 24, size / 24))
    texture /= texture.std(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[:size, :size] / size - 0.5
    grey = 220 - 120 / (1 + np.exp((np.hypot(x, y) - 0.25) * 60)) + 14 * texture
    return np.clip(grey[..., None] * [1.0, 0.85, 0.95], 0, 255).astype(np.uint8)


def resized(images: np.ndarray, size: int, quality: int | None = None) -> np.ndarray:
    made = []
    for pixels in images:
        image = Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS)
        if quality:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            image = Image.open(buffer)
        made.append(np.asarray(image))
    return np.stack(made)


def test_the_hash_is_the_signs_of_the_dct() -> None:
    images = cells(4, 64)
    grey = images.astype(float) @ [0.299, 0.587, 0.114]
    expected = dctn(grey, axes=(1, 2))[:, :16, :16] > 0
    expected[:, [0, 0, 1], [0, 1, 0]] = False  # brightness and slope
    for hashed, bits in zip(perceptual_hashes(images), expected, strict=True):
        assert len(hashed) == 64
        assert hashed == f"{int(''.join(map(str, bits.ravel().astype(int))), 2):064x}"


def test_an_image_is_found_at_any_resolution() -> None:
    images = cells(40)
    seen = perceptual_hashes(resized(images, 64))
    for size, quality in ((28, None), (32, None), (128, None), (224, None), (32, 75), (128, 50)):
        found = find_seen(perceptual_hashes(resized(images, size, quality)), seen)
        assert found.tolist() == list(range(40)), (size, quality)


@pytest.mark.parametrize("transform", range(8))
def test_an_image_is_found_under_every_symmetry(transform: int) -> None:
    images = cells(20, 64)
    turned = np.stack([apply_transform(image, transform) for image in images])
    _, distance = nearest_seen(perceptual_hashes(turned), perceptual_hashes(images))
    assert distance.max() <= 2  # of coefficients near zero
    assert find_seen(perceptual_hashes(turned), perceptual_hashes(images)).tolist() == list(range(20))


def test_a_crop_is_found_by_its_middle() -> None:
    images = cells(20, 128)
    inner = images[:, 14:114, 14:114]
    assert (
        np.abs(middle(images, 100 / 128).astype(int)[:, ::8, ::8] - resized(inner, 128)[:, ::8, ::8]).max()
        <= 12
    )
    seen = perceptual_hashes(middle(resized(images, 32), 100 / 128))
    assert find_seen(perceptual_hashes(resized(inner, 28)), seen).tolist() == list(range(20))
    assert middle(images[:0], 0.5).shape == (0, 128, 128, 3)


def test_other_images_are_not_found() -> None:
    seen = perceptual_hashes(cells(300, 64, seed=1))
    assert (find_seen(perceptual_hashes(cells(300, 64, seed=2)), seen) == -1).all()


def test_nothing_seen_and_nothing_sought() -> None:
    hashes = perceptual_hashes(cells(2, 64))
    assert find_seen(hashes, []).tolist() == [-1, -1]
    assert find_seen([], hashes).tolist() == []
    assert perceptual_hashes(cells(2, 64)[:0]) == []


def test_images_that_are_too_small_are_not_taken_for_others() -> None:
    images = cells(10, 64)
    assert (find_seen(perceptual_hashes(resized(images, 8)), perceptual_hashes(images)) == -1).all()


def test_real_cells_keep_apart(real_data: Path) -> None:
    files = sorted((real_data / "pbc").rglob("*.jpg"))[::40]
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    half = len(images) // 2
    seen = perceptual_hashes(resized(images[:half], 64))
    small = perceptual_hashes(resized(images, 28, 90))
    assert find_seen(small, seen).tolist() == [*range(half), *[-1] * (len(images) - half)]
    distance = nearest_seen(small, seen)[1]
    assert distance[:half].max() < SAME - 8 and distance[half:].min() > SAME + 8
