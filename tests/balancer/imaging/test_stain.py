from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from balancer.errors import InputError
from balancer.imaging import stain

AZURE, EOSIN = np.array([0.53, 0.82, 0.21]), np.array([0.30, 0.70, 0.65])


def smear(seed: int, azure: np.ndarray = AZURE, eosin: np.ndarray = EOSIN, light: float = 250) -> np.ndarray:
    """A cell and red cells by Beer and Lambert's law, of the two stains given: uint8 64×64×3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    nucleus = (np.hypot(y - 32, x - 32) < 12) * rng.uniform(0.7, 1.1, (64, 64))
    red = sum(
        (np.hypot(y - cy, x - cx) < 8) * 0.4 for cy, cx in ((10, 10), (54, 12), (12, 52), (50, 55))
    ) * rng.uniform(0.8, 1.2, (64, 64))
    units = [v / np.linalg.norm(v) for v in (azure, eosin)]
    density = nucleus[..., None] * units[0] + red[..., None] * units[1]
    return np.rint(np.clip(light * 10**-density, 0, 255)).astype(np.uint8)


ONE_COLOUR = np.full((32, 32, 3), (200, 150, 180), dtype=np.uint8)
ONE_PIXEL = np.array([[[120, 60, 150]]], dtype=np.uint8)


def test_macenko_finds_the_stains_that_an_image_was_made_of() -> None:
    reference = stain.reference_of("macenko", [smear(0)])
    np.testing.assert_allclose(reference["light"], 250)
    for found, true in zip(reference["stains"], (AZURE, EOSIN), strict=True):
        assert np.dot(found, true / np.linalg.norm(true)) > 0.999


def test_macenko_gives_another_laboratory_the_colours_of_the_reference() -> None:
    mine = smear(0)
    theirs = smear(0, AZURE + [0.2, -0.1, 0.1], EOSIN + [0.1, 0, -0.2], light=200)
    reference = stain.reference_of("macenko", [mine])
    assert np.abs(theirs.astype(int) - mine).mean() > 30
    assert np.abs(stain.macenko(theirs, reference).astype(int) - mine).mean() < 3
    assert np.abs(stain.macenko(mine, reference).astype(int) - mine).mean() < 1


def test_reinhard_sets_mean_and_spread() -> None:
    reference = stain.reference_of("reinhard", [smear(1)])
    again = stain.reference_of("reinhard", [stain.reinhard(smear(2, light=190), reference)])
    np.testing.assert_allclose(again["mean"], reference["mean"], atol=0.02)
    np.testing.assert_allclose(again["std"], reference["std"], atol=0.02)
    own = smear(1)
    assert np.abs(stain.reinhard(own, reference).astype(int) - own).max() <= 1


def test_clahe_raises_contrast_and_keeps_hues() -> None:
    image = smear(3)
    dull = (128 + (image.astype(float) - 128) * 0.3).astype(np.uint8)
    found = stain.clahe(dull)
    assert rgb2lab(found)[..., 0].std() > 1.5 * rgb2lab(dull)[..., 0].std()
    before, after = (rgb2lab(one)[28:36, 28:36, 1:].mean((0, 1)) for one in (dull, found))
    np.testing.assert_allclose(before, after, atol=8)


def test_the_reference_is_the_median_so_that_odd_images_count_for_nothing() -> None:
    images = [smear(i) for i in range(5)]
    expected = stain.reference_of("macenko", images)
    found = stain.reference_of("macenko", [*images, ONE_COLOUR, smear(9, light=90)])
    np.testing.assert_allclose(found["stains"], expected["stains"], atol=0.02)
    assert stain.reference_of("clahe", images) == {}


@pytest.mark.parametrize("name", stain.STAINS)
@pytest.mark.parametrize("image", [ONE_COLOUR, ONE_PIXEL, np.zeros((9, 5, 3), np.uint8), smear(4)[:7, :40]])
def test_poor_images_come_out_whole_or_with_a_reason(name: str, image: np.ndarray) -> None:
    reference = stain.reference_of(name, [smear(0)])
    before = image.copy()
    try:
        found = stain.normalise(name, image, reference)
    except InputError as error:
        assert name == "macenko" and "stain" in str(error)
    else:
        assert found.shape == image.shape and found.dtype == np.uint8 and found is not image
    np.testing.assert_array_equal(image, before)


def test_macenko_refuses_what_has_no_two_stains() -> None:
    reference = stain.reference_of("macenko", [smear(0)])
    one_stain = smear(0, AZURE, AZURE)
    for image in (ONE_COLOUR, ONE_PIXEL, one_stain):
        with pytest.raises(InputError, match="Macenko's method needs"):
            stain.macenko(image, reference)
    with pytest.raises(InputError, match="leave macenko out"):
        stain.reference_of("macenko", [ONE_COLOUR])
    with pytest.raises(InputError, match="Did you mean 'macenko'"):
        stain.normalise("macenco", ONE_COLOUR, {})


def test_what_is_brighter_than_the_background_is_no_stain() -> None:
    image = smear(5, light=180)
    reference = stain.reference_of("macenko", [image])
    image[3] = (255, 120, 255)  # a reflection, darker in green alone
    image[40, :30] = 255
    found = stain.macenko(image, reference)
    assert np.abs(found[10:38].astype(int) - image[10:38]).mean() < 5
    for seed in range(200):
        noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
        assert stain.macenko(noise, reference).shape == noise.shape


def test_varying_by_nothing_changes_nothing_and_a_shift_is_beer_and_lambert() -> None:
    images = np.maximum(np.stack([smear(0), smear(1)]), 1)
    unit, none = np.ones((2, 3)), np.zeros((2, 3))
    np.testing.assert_array_equal(stain.vary(images, unit, none), images)
    shift = np.array([[0.05, 0, 0], [0, 0, 0]])
    varied = stain.vary(images, unit, shift)
    np.testing.assert_array_equal(varied[1], images[1])
    expected = images[0] * 10 ** (-0.05 * np.array([0.65, 0.70, 0.29]))  # Ruifrok and Johnston's haematoxylin
    np.testing.assert_allclose(varied[0], expected, atol=0.51)


def test_a_stretch_deepens_one_stain_alone() -> None:
    image = np.maximum(smear(0), 1)[None]
    deeper = stain.vary(image, np.array([[1.2, 1, 1]]), np.zeros((1, 3)))
    assert deeper[0, 32, 32].sum() < image[0, 32, 32].sum()
    assert np.abs(deeper[0, 0, 32].astype(int) - image[0, 0, 32]).max() <= 2  # background


def test_normalisation_brings_the_backgrounds_of_real_sets_together(real_data: Path) -> None:
    rng = np.random.default_rng(0)
    sets = {}
    for name in ("pbc", "segwbc", "all_idb2"):
        files = sorted(p for p in (real_data / name).rglob("*") if p.suffix in {".jpg", ".png"})
        chosen = rng.choice(len(files), 12, replace=False)
        sets[name] = [np.asarray(Image.open(files[i]).convert("RGB")) for i in chosen]
    for method in ("reinhard", "macenko"):
        reference = stain.reference_of(method, sets["pbc"])

        def spread(by_set: dict[str, list[np.ndarray]]) -> float:
            return float(
                np.std(
                    [np.median([x.mean((0, 1)) for x in one], axis=0) for one in by_set.values()], axis=0
                ).mean()
            )

        after = {k: [stain.normalise(method, x, reference) for x in v] for k, v in sets.items()}
        assert spread(after) < 0.5 * spread(sets)
