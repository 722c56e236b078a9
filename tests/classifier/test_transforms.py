from __future__ import annotations

import numpy as np
import pytest
import torch

from balancer.errors import InputError
from balancer.imaging import stain
from classifier.transforms import Transform, flips


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


def test_clahe_is_part_of_what_the_network_sees() -> None:
    pixels = torch.randint(90, 130, (2, 16, 16, 3), dtype=torch.uint8)
    equalised = torch.from_numpy(np.stack([stain.clahe(x) for x in pixels.numpy()]))
    assert torch.equal(Transform(clahe=True).normalise(pixels), Transform().normalise(equalised))
    assert Transform(clahe=True).normalise(pixels).std() > 2 * Transform().normalise(pixels).std()
