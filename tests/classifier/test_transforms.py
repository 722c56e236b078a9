from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch

from balancer import smear
from balancer.errors import InputError
from balancer.imaging import stain
from balancer.imaging.masks import CYTOPLASM, NUCLEUS
from balancer.imaging.segmentation import segment
from classifier import transforms
from classifier.augmentation import flips
from classifier.transforms import Prepared, Transform


def test_normalisation_is_the_textbook_one() -> None:
    pixels = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    transform = Transform()
    expected = (pixels.numpy() / 255 - np.array(transform.mean)) / np.array(transform.std)
    result = transform.normalise(pixels)
    assert result.shape == (2, 3, 5, 5)
    np.testing.assert_allclose(result.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_flips_without_shift_give_exactly_the_eight_symmetries() -> None:
    side = 7  # a shift by 7 / 16 of a pixel rounds to none
    image = torch.arange(side * side * 3).reshape(side, side, 3).to(torch.uint8)
    batch = flips(image.expand(400, -1, -1, -1), torch.Generator().manual_seed(0))
    turns = [np.rot90(image.numpy(), k) for k in range(4)]
    expected = {variant.tobytes() for turn in turns for variant in (turn, turn[:, ::-1])}
    found = [one.numpy().tobytes() for one in batch]
    assert len(expected) == 8
    assert set(found) == expected
    assert min(found.count(variant) for variant in expected) > 20  # about 50 of each


def test_shifts_mirror_at_the_edge_and_stay_within_a_sixteenth() -> None:
    side = 32
    ramp = torch.arange(side, dtype=torch.uint8)
    image = torch.stack(
        [ramp[:, None].expand(side, side), ramp.expand(side, side), ramp.expand(side, side)], -1
    )
    batch = flips(image.expand(300, -1, -1, -1), torch.Generator().manual_seed(0))
    starts = set()
    for one in batch:
        line = one[0, :, 1] if one[0, 0, 1] != one[0, 1, 1] else one[:, 0, 1]
        line = line.long() if line[10] < line[20] else line.long().flip(0)
        shift = int(line[16]) - 16
        expected = [abs(i + shift) if i + shift < side else 2 * (side - 1) - i - shift for i in range(side)]
        assert line.tolist() == expected
        starts.add(shift)
    assert starts == {-2, -1, 0, 1, 2}


def test_augmentation_repeats_with_the_seed_and_can_be_off() -> None:
    pixels = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8)
    once, again, other = (
        Transform().augment(pixels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(Transform("none").augment(pixels, torch.Generator()), pixels)
    with pytest.raises(InputError, match="Did you mean 'flips'"):
        Transform("flip")


def test_stain_varies_by_image_and_flips_too() -> None:
    image = torch.full((16, 16, 3), 0, dtype=torch.uint8)
    image[:] = torch.tensor([180, 120, 160], dtype=torch.uint8)
    batch = Transform("stain").augment(image.expand(64, -1, -1, -1), torch.Generator().manual_seed(0))
    assert batch.shape == (64, 16, 16, 3) and batch.dtype == torch.uint8
    colours = batch[:, 0, 0].double()
    assert (batch == batch[:, :1, :1]).all()  # one colour each still
    assert len(set(map(tuple, colours.tolist()))) > 60
    assert (colours.mean(0) - torch.tensor([180.0, 120, 160])).abs().max() < 6
    assert colours.std(0).min() > 2 and colours.std(0).max() < 25
    again = Transform("stain").augment(image.expand(64, -1, -1, -1), torch.Generator().manual_seed(0))
    assert torch.equal(batch, again)


SIDE = 64


def cells(n: int = 6) -> np.ndarray:
    """Rendered white cells, uint8 n×SIDE×SIDE×3."""
    return smear.render(smear.draw_cells({"lymphocyte": n}, seed=0), SIDE)[0]


def test_each_step_does_what_its_room_says() -> None:
    images = cells()
    masks = [one.mask for one in segment(images)]
    assert all(mask.any() for mask in masks)
    equalised = Transform(preprocessing=("clahe",)).prepare(images)
    np.testing.assert_array_equal(equalised, [stain.clahe(image) for image in images])
    bare = Transform(preprocessing=("background",)).prepare(images)
    for image, mask, found in zip(images, masks, bare, strict=True):
        np.testing.assert_array_equal(found, np.where(mask[..., None] > 0, image, 0))
    for name in ("reinhard", "macenko"):
        fitted = Transform(preprocessing=(name,)).fitted(images)
        assert fitted.references == {name: stain.reference_of(name, images)}
        expected = [stain.normalise(name, image, fitted.references[name]) for image in images]
        np.testing.assert_array_equal(fitted.prepare(images), expected)


def test_a_crop_holds_the_whole_cell_at_a_sixth_more_than_its_size() -> None:
    masks = np.zeros((2, SIDE, SIDE), np.uint8)
    masks[0, 20:40, 10:22] = CYTOPLASM
    masks[0, 25:30, 12:20] = NUCLEUS
    masks[1, :30, :30] = CYTOPLASM  # at the corner, where a square around it would leave the image
    masks[1, :20, :20] = NUCLEUS
    images = np.repeat(masks[..., None], 3, axis=3)
    prepared = Transform(preprocessing=("crop",), mask=True).prepare(images, list(masks))
    assert prepared.shape == (2, SIDE, SIDE, 4)
    for one, (tall, wide, side) in zip(prepared, ((20, 12, 24), (30, 30, 33)), strict=True):
        cell = one[..., 3] > 0
        height, width = (np.ptp(np.flatnonzero(cell.any(axis))) + 1 for axis in (1, 0))
        assert [height, width] == pytest.approx([tall * SIDE / side, wide * SIDE / side], abs=2)
        assert set(np.unique(one[..., 3])) <= {0, CYTOPLASM, NUCLEUS}


def test_steps_have_one_order_and_unknown_ones_a_sentence() -> None:
    assert Transform(preprocessing=("background", "crop", "clahe", "crop")).preprocessing == (
        "crop",
        "clahe",
        "background",
    )
    with pytest.raises(InputError, match="Did you mean 'macenko'"):
        Transform(preprocessing=("macenco",))
    with pytest.raises(InputError, match="give one of them"):
        Transform(preprocessing=("macenko", "reinhard"))


def test_given_masks_are_used_where_they_show_a_cell() -> None:
    images = cells(3)
    segmented = [one.mask for one in segment(images)]
    own = np.zeros((SIDE, SIDE), np.uint8)
    own[10:40, 10:40], own[20:30, 20:30] = CYTOPLASM, NUCLEUS
    nucleus_only = np.where(own == NUCLEUS, NUCLEUS, 0).astype(np.uint8)
    prepared = Transform(mask=True).prepare(images, [own, nucleus_only, None])
    np.testing.assert_array_equal(prepared[..., :3], images)
    np.testing.assert_array_equal(prepared[..., 3], [own, segmented[1], segmented[2]])
    left: Counter[str] = Counter()
    Transform(mask=True).prepare(images, [own, nucleus_only, None], left)
    assert left == {"the mask given is not of nucleus (255) and cytoplasm (128), and was found anew": 1}
    with pytest.raises(InputError, match="A mask is uint8 32×64, where its image has 64×64"):
        Transform(mask=True).prepare(images, [own[:32], None, None])


def test_what_cannot_be_done_leaves_the_image_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.concatenate([cells(2), np.full((1, SIDE, SIDE, 3), 200, np.uint8)])
    transform = Transform(preprocessing=("crop", "macenko", "background")).fitted(images[:2])
    prepared = Prepared(images, transform)
    np.testing.assert_array_equal(prepared[2:][0], images[2])
    assert (prepared[:2] != images[:2]).any((1, 2, 3)).all()
    notes: list[str] = []
    monkeypatch.setattr(transforms, "note", notes.append)
    prepared.say_what_is_left("train")
    assert notes == [
        "Of 3 train images some could not be prepared as asked: 1 where no cell was found, "
        "1 where the stains that macenko normalises were not found."
    ]
    notes.clear()
    Prepared(images, Transform()).say_what_is_left("train")
    assert not notes
    with pytest.raises(InputError, match="uint8 N×R×R×3; these are uint8 3×64×32×3"):
        transform.prepare(images[:, :, :32])


def test_every_image_is_prepared_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    images = cells(5)
    seen: list[int] = []

    def counting(self, pixels, masks=None, left=None):
        seen.append(len(pixels))
        return pixels[..., ::-1]

    monkeypatch.setattr(Transform, "prepare", counting)
    prepared = Prepared(images, Transform(preprocessing=("clahe",)))
    for indices in (np.array([1, 3, 1]), np.array([0, 1]), slice(None)):
        np.testing.assert_array_equal(prepared[indices], images[indices][..., ::-1])
    assert sum(seen) == 5
    monkeypatch.setattr(transforms, "IN_MEMORY_BYTES", 0)
    large = Prepared(images, Transform(preprocessing=("clahe",)))
    for _ in range(2):
        np.testing.assert_array_equal(large[2:], images[2:, ..., ::-1])


def test_what_is_left_is_counted_once_where_images_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "IN_MEMORY_BYTES", 0)
    images = np.full((3, SIDE, SIDE, 3), 200, np.uint8)
    prepared = Prepared(images, Transform(preprocessing=("crop",)))
    for indices in (np.array([0, 0, 1]), np.array([1, 2]), slice(None)):
        np.testing.assert_array_equal(prepared[indices], images[indices])
    assert prepared.left == {"no cell was found": 3}


def test_the_stain_reference_is_measured_where_given_masks_say(monkeypatch: pytest.MonkeyPatch) -> None:
    class Masked:
        def __init__(self, images: np.ndarray, masks: list[np.ndarray]) -> None:
            self.images, self.known = images, masks

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, indices, /) -> np.ndarray:  # type: ignore[no-untyped-def]
            return self.images[indices]

        def masks(self, indices: np.ndarray) -> list[np.ndarray]:
            return [self.known[i] for i in indices]

    images, corner = cells(2), np.zeros((SIDE, SIDE), np.uint8)
    corner[:8, :8], corner[2:6, 2:6] = CYTOPLASM, NUCLEUS
    transform = Transform(preprocessing=("crop", "reinhard"))
    shown: list[np.ndarray] = []
    monkeypatch.setattr(stain, "reference_of", lambda name, pixels: shown.append(pixels) or {})
    transform.fitted(Masked(images, [corner] * 2))
    np.testing.assert_array_equal(shown[0], Transform(preprocessing=("crop",)).prepare(images, [corner] * 2))


def test_a_mask_moves_with_its_image_and_keeps_its_levels() -> None:
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[:, 2:9, 4:6] = CYTOPLASM
    pixels = torch.from_numpy(np.repeat(mask[..., None], 4, axis=3))
    flipped = Transform("flips").augment(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(flipped[..., 3], flipped[..., 0]) and not torch.equal(flipped, pixels)
    stained = Transform("stain").augment(pixels, torch.Generator().manual_seed(0))
    assert set(stained[..., 3].unique().tolist()) == {0, CYTOPLASM}
    assert not torch.equal(stained[..., 0], stained[..., 3])
    normalised = Transform().normalise(pixels)
    assert normalised.shape == (16, 4, 16, 16)
    assert normalised[:, 3].unique().tolist() == pytest.approx([0, CYTOPLASM / 255])


def test_transforms_are_read_back_and_so_are_those_of_before() -> None:
    fitted = Transform("stain", ("macenko", "crop"), True).fitted(cells())
    again = Transform.from_json(json.loads(json.dumps(dataclasses.asdict(fitted))))
    assert again == fitted
    old = {"augmentation": "flips", "clahe": True, "mean": [0.5] * 3, "std": [0.2] * 3}
    assert Transform.from_json(old) == Transform(preprocessing=("clahe",), mean=(0.5,) * 3, std=(0.2,) * 3)
    assert Transform.from_json(old | {"clahe": False}).preprocessing == ()
