from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from balancer.data import images
from balancer.data.images import ImageStore, read_prepared_image
from balancer.errors import InputError


@pytest.fixture
def stored(tmp_path: Path) -> tuple[list[Path], np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths, pixels


@pytest.mark.parametrize("limit", [0, 10**9])
@pytest.mark.parametrize(
    "index", [slice(None), slice(1, 5, 2), [3, 0, 3], np.array([6]), np.array([], dtype=int)]
)
def test_indexed_like_an_array_in_memory_and_on_disk(stored, monkeypatch, limit: int, index) -> None:
    monkeypatch.setattr(images, "IN_MEMORY_BYTES", limit)
    paths, pixels = stored
    store = ImageStore(paths, 16)
    assert len(store) == 7 and np.array_equal(store[index], pixels[index])


def test_wrong_size_and_damage_get_a_sentence(stored) -> None:
    paths, _ = stored
    with pytest.raises(InputError, match="16×16 where 32×32 was expected; remove it"):
        ImageStore(paths, 32)
    paths[2].write_bytes(paths[2].read_bytes()[:100])
    with pytest.raises(InputError, match="remove it or make the folder again"):
        read_prepared_image(paths[2])


def test_masks_lie_beside_their_images_and_another_size_is_refused(stored, tmp_path: Path) -> None:
    paths, _ = stored
    mask = np.full((16, 16), 128, np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    store = ImageStore(paths, 16, [None, tmp_path / "mask.png", *[None] * 5])
    found = store.masks([1, 0])
    assert found[1] is None and np.array_equal(found[0], mask)
    assert ImageStore(paths, 16).masks([2]) == [None]
    Image.fromarray(mask[:8]).save(tmp_path / "mask.png")
    with pytest.raises(
        InputError, match=r"mask\.png is 16×8 where 16×16, the size of its image, was expected"
    ):
        store.masks([1])
