from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from balancer.imaging.duplicates import (
    apply_transform,
    clusters,
    describe,
    find_copies,
    near_duplicate_pairs,
)


def cells(n: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Dark textured blobs of one size in the middle of a light field: hard for a hash of low frequencies."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.normal(size=(n, size, size)), (0, size / 24, size / 24))
    texture /= texture.std(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[:size, :size] / size - 0.5
    blob = 1 / (1 + np.exp((np.hypot(x, y) - 0.25) * 60))
    grey = 220 - blob * 120 + 14 * texture
    return np.clip(grey[..., None] * [1.0, 0.85, 0.95], 0, 255).astype(np.uint8)


def recompressed(image: np.ndarray, quality: int = 75) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_description_is_the_weighted_dct() -> None:
    images = cells(3)
    grey = images.astype(float) @ [0.299, 0.587, 0.114]
    # The basis is not normalised at frequency 0, so compare where both frequencies are above it.
    expected = dctn(grey, axes=(1, 2))[:, 1:16, 1:16] * np.hypot(*np.mgrid[1:16, 1:16])
    found = describe(images)[:, 1:, 1:]
    ratio = found / expected
    assert np.allclose(ratio, np.median(ratio, axis=(1, 2), keepdims=True), rtol=1e-2)


def test_the_eight_transforms_are_the_dihedral_group() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    seen = {apply_transform(image, t).tobytes() for t in range(8)}
    turns = {np.rot90(view, k).tobytes() for view in (image, image[:, ::-1]) for k in range(4)}
    assert seen == turns and len(seen) == 8


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("transform", range(8))
def test_pairs_are_found_under_every_transform(size: int, transform: int) -> None:
    images = cells(20, size)
    copy = recompressed(np.ascontiguousarray(apply_transform(images[3], transform)))
    pairs = near_duplicate_pairs(np.concatenate([images, copy[None]]))
    assert [pair[:2] for pair in pairs] == [(3, 20)]
    back = apply_transform(copy, pairs[0][2]).astype(float)
    assert np.abs(back - images[3]).mean() < 8


def test_different_cells_are_no_pair() -> None:
    assert near_duplicate_pairs(cells(400)) == []


def test_images_of_one_colour_match_nothing() -> None:
    assert near_duplicate_pairs(np.full((3, 32, 32, 3), 200, dtype=np.uint8)) == []


def test_clusters_are_connected_components() -> None:
    found = clusters(6, [(0, 3, 1), (3, 4, 0)])
    assert found.dtype == np.int64
    assert found[0] == found[3] == found[4]
    assert len(set(found.tolist())) == 4
    assert clusters(0, []).shape == (0,)


def test_copies_are_found_and_others_are_not() -> None:
    train, other = cells(60, seed=1), cells(10, seed=2)
    brighter = np.clip(train[7] * 1.1, 0, 255).astype(np.uint8)
    turned = np.rot90(train[11])
    candidates = np.concatenate([brighter[None], turned[None], recompressed(train[20], 50)[None], other])
    index, similarity = find_copies(candidates, train)
    assert index.dtype == np.int64
    assert index.tolist() == [7, 11, 20] + [-1] * 10
    assert (similarity[:3] > 0.95).all() and (similarity[3:] < 0.9).all() and (similarity >= -1).all()


def test_nothing_to_copy_from() -> None:
    index, similarity = find_copies(cells(2), cells(2)[:0])
    assert index.tolist() == [-1, -1] and similarity.tolist() == [-1, -1]


def test_false_pairs_on_real_cells_are_rare(real_data) -> None:
    files = sorted((real_data / "pbc").rglob("*.jpg"))[::8]
    images = np.stack([np.asarray(Image.open(f).resize((64, 64), Image.Resampling.BOX)) for f in files])
    assert len(near_duplicate_pairs(images)) <= 0.001 * len(images)
    copies = np.stack([recompressed(np.fliplr(image), 60) for image in images[:100]])
    assert (find_copies(copies, images)[0] == np.arange(100)).all()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_shifted_copies_are_found(size: int) -> None:
    """Moved by up to 3 px (2 at 32 px), turned over, blurred and recompressed; and others of the same sort are not."""
    wide = cells(40, size + 8, seed=4)
    train = wide[:, 4:-4, 4:-4]
    copies = []
    for i, shift in enumerate(
        ((0, 2), (-2, 1), (2, 2), (1, -2)) if size == 32 else ((0, 3), (-3, 1), (3, 3), (1, -3))
    ):
        moved = wide[i, 4 + shift[0] : 4 + shift[0] + size, 4 + shift[1] : 4 + shift[1] + size]
        turned = apply_transform(moved, 2 * i + 1).astype(float)
        copies.append(recompressed(gaussian_filter(turned, (0.4, 0.4, 0)).round().astype(np.uint8)))
    index, similarity = find_copies(np.concatenate([np.stack(copies), cells(20, size, seed=5)]), train)
    assert index.tolist() == [0, 1, 2, 3] + [-1] * 20
    assert (similarity[:4] >= 0.9).all()


def test_round_cells_on_an_empty_background_are_not_one(real_data) -> None:
    """Lymphocytes that correlate by 0.9 and more, being discs; and pairs that are the same picture beside them."""
    names = ["lymphocyte/031", "lymphocyte/062", "lymphocyte/102", "lymphocyte/286", "lymphocyte/288"]
    names += ["lymphocyte/112", "lymphocyte/139", "neutrophil/157", "neutrophil/158"]
    files = [real_data / f"segwbc/{name}.png" for name in names]
    images = np.stack([np.asarray(Image.open(f).convert("RGB").resize((64, 64))) for f in files])
    assert [pair[:2] for pair in near_duplicate_pairs(images)] == [(5, 6), (7, 8)]
    assert find_copies(images[[0, 2, 4]], images[[1, 3]])[0].tolist() == [-1] * 3
    assert find_copies(images[[6, 8]], images[[0, 1, 5, 7]])[0].tolist() == [2, 3]
