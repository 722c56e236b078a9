from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.transform import SimilarityTransform, warp

from balancer.imaging.same_cell import SIDE, anchors, look, pictures, same_cell_in, same_cell_pairs


def cells(n: int, size: int = 128, seed: int = 0) -> np.ndarray:
    """A lobed dark nucleus with chromatin in paler cytoplasm, and red cells around: uint8 N×size×size×3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    for image in images:
        angle = np.arctan2(y, x)
        lobes = sum(rng.uniform(0, 0.03) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3))
        nucleus = np.hypot(x, y) < 0.15 + lobes
        chromatin = gaussian_filter(rng.normal(size=(size, size)), size / 50)
        pixels = np.full((size, size, 3), [240.0, 225, 230])
        for _ in range(5):
            away, at = rng.uniform(0.35, 0.6), rng.uniform(0, 6.3)
            red = np.hypot(x - away * np.cos(at), y - away * np.sin(at)) < 0.1
            pixels[red] = [225, 170, 170]
        pixels[np.hypot(x, y) < 0.24] = [190, 180, 215]
        pixels[nucleus] = (np.array([95, 50, 130]) + 22 * (chromatin / chromatin.std())[..., None])[nucleus]
        smooth = gaussian_filter(pixels, (size / 128, size / 128, 0))
        image[:] = smooth.clip(0, 255)
    return images


def altered(
    image: np.ndarray, shift: tuple[float, float] = (0, 0), scale: float = 1, turn: float = 0, gain: float = 1
) -> np.ndarray:
    size = len(image)
    middle = np.full(2, (size - 1) / 2)
    change = (
        SimilarityTransform(translation=-middle)
        + SimilarityTransform(scale=scale, rotation=np.deg2rad(turn))
        + SimilarityTransform(translation=middle + np.array(shift) * size)
    )
    pixels = (255 * gain * warp(image, change.inverse, mode="edge")).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"shift": (0.2, -0.15)},
        {"scale": 0.8},
        {"scale": 1.25},
        {"turn": 37},
        {"turn": 170},
        {"gain": 0.8},
        {"gain": 1.05},
        {"shift": (-0.1, 0.1), "scale": 1.2, "turn": -75, "gain": 0.85},
    ],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_altered_copies_are_found(how: dict, mirrored: bool) -> None:
    images = cells(30)
    copies = [altered(image[:, ::-1] if mirrored else image, **how) for image in images[:5]]
    found = same_cell_pairs(pictures(np.concatenate([images, copies])))
    assert found == [(i, 30 + i) for i in range(5)]


def test_copies_are_found_in_another_set() -> None:
    known = cells(30)
    copies = [altered(known[i], turn=40, scale=0.9) for i in (7, 3)]
    sought = np.concatenate([cells(10, seed=1), copies])
    found = same_cell_in(look(pictures(sought)), look(pictures(known)))
    assert found.tolist() == [-1] * 10 + [7, 3]
    nothing = look(pictures(np.full((2, 128, 128, 3), 200, np.uint8)))
    assert same_cell_in(nothing, look(pictures(known))).tolist() == [-1, -1]
    assert same_cell_in(look(pictures(known[:3])), nothing).tolist() == [-1] * 3


@pytest.mark.parametrize("size", [48, 96, 224])
def test_other_resolutions(size: int) -> None:
    images = cells(12, size)
    turned = altered(images[4], turn=50, shift=(0.08, 0))
    assert same_cell_pairs(pictures(np.concatenate([images, turned[None]]))) == [(4, 12)]


def test_different_cells_are_no_pair() -> None:
    assert same_cell_pairs(pictures(cells(150, seed=3))) == []


def test_a_cell_among_many_copies() -> None:
    """More copies than neighbours are looked at still hang together."""
    image = cells(1)[0]
    copies = np.stack([altered(image, turn=15 * k) for k in range(12)])
    found = same_cell_pairs(pictures(np.concatenate([copies, cells(20, seed=1)])))
    assert {i for pair in found for i in pair} == set(range(12))


def test_images_with_nothing_in_them_match_nothing() -> None:
    one_colour = np.full((3, 32, 32, 3), 200, dtype=np.uint8)
    assert same_cell_pairs(pictures(one_colour)) == []
    assert same_cell_pairs(pictures(one_colour[:0])) == []
    assert same_cell_pairs(pictures(one_colour[:, :1, :1])) == []
    assert same_cell_pairs(pictures(cells(1))) == []


def test_anchor_lies_on_the_nucleus() -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    red = np.full((SIDE, SIDE), 230, dtype=np.uint8)
    red[np.hypot(y - 20, x - 40) < 16] = 180
    red[np.hypot(y - 22, x - 38) < 9] = 80
    found = anchors(red)
    assert found.dtype == np.float32 and found[0, 3] == 0
    assert found[0, :3] == pytest.approx([22, 38, 9], abs=0.7)


def test_known_pairs_of_real_cells(real_data) -> None:
    """A monocyte that also goes as a neutrophil, a lymphocyte in two scales; and no others among their kin."""
    files = sorted((real_data / "segwbc" / "monocyte").iterdir())
    files += [real_data / "segwbc/neutrophil/060.png"]
    images = [Image.open(file).convert("RGB").resize((120, 120)) for file in files]
    found = same_cell_pairs(pictures(np.stack([np.asarray(image) for image in images])))
    names = {(files[i].stem, files[j].stem) for i, j in found}
    assert ("090", "060") in names and ("056", "092") in names
    assert len(found) <= 8
