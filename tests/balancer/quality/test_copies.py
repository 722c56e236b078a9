"""Copies in pixels and in features, on made-up features and images that have nothing to do with one another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from balancer.imaging.duplicates import apply_transform
from balancer.quality import copies
from balancer.quality.gate import load_rules
from balancer.quality.reference import Embedded, RealClass
from balancer.quality.verdicts import on_copies
from balancer.smear import draw_cells, render

SIZE = 32


class Corner:
    """The darkest corner's pixels: features that know no turns."""

    name, sha256, dimension = "corner", "0" * 64, 192

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.seen += len(images)
        return images[:, :8, :8].reshape(len(images), self.dimension).astype(np.float32)


def noise(n: int, seed: int) -> np.ndarray:
    """Smooth noise: images N×32×32×3 that have no orientation and no two of which are alike."""
    rough = np.random.default_rng(seed).normal(0, 60, (n, 8, 8, 3))
    return (np.kron(rough, np.ones((1, 4, 4, 1))) + 128).clip(0, 255).astype(np.uint8)


def embedded(pixels: np.ndarray, split: str, features: np.ndarray | None = None) -> Embedded:
    names = np.array([f"{split}/a/{i}.png" for i in range(len(pixels))], dtype=object)
    found = Corner()(pixels) if features is None else features
    return Embedded(pixels, names, names, found)


def real(train: np.ndarray, fitting: np.ndarray, reference: np.ndarray, held_out: bool = True) -> RealClass:
    known = embedded(train, "train")
    return RealClass(
        label="a",
        n_real=len(train) + len(fitting) + len(reference),
        reference=embedded(reference, "validation"),
        fitting=embedded(fitting, "heldout"),
        trained_on=known,
        train=known,
        pool=known,
        held_out=held_out,
        note="",
    )


def test_relative_distance_is_small_for_a_copy_alone() -> None:
    rng = np.random.default_rng(0)
    train, y = rng.normal(size=(40, 8)), rng.normal(size=(5, 8))
    y[0] = train[7] + 0.01
    which, relative = copies.relative_distances(train, y)
    for i in range(5):
        distance = np.sort(np.linalg.norm(train - y[i], axis=1))
        assert relative[i] == pytest.approx(distance[0] / distance[1:11].mean(), rel=1e-6)
    assert which[0] == 7 and relative[0] < 0.05 and relative[1:].min() > 0.3


@pytest.mark.parametrize("n", [30, 100])
def test_limits_keep_their_share_with_their_confidence(n: int) -> None:
    """Of 400 samples of normal values, at least about 95 % give a limit that 99.5 % of the population stay below."""
    rule = load_rules()["copies"]
    rng = np.random.default_rng(0)
    limits = [copies._highest(rng.normal(size=n), rule) for _ in range(400)]
    kept = np.mean(stats.norm.cdf(limits) >= rule["real_share"])
    assert 0.92 <= kept <= 0.98


def test_no_limit_is_learned_from_a_few() -> None:
    assert copies._highest(np.zeros(9), load_rules()["copies"]) == np.inf


def test_copies_in_features_are_found_and_named() -> None:
    """A new picture with a train image's corner: nothing alike in pixels, far too near in features."""
    train, fresh = noise(60, 0), noise(40, 2)
    one = real(train, noise(40, 1), fresh)
    detector, among_real = copies.fit(one, Corner(), load_rules(), 0)
    assert among_real.count == 0 and len(among_real.reasons) == 40
    images = noise(30, 3)
    images[4, :8, :8] = train[9, :8, :8] // 8 * 8
    found = detector.find(images, Corner()(images), Corner())
    assert found.count == 1 and found.nearest[4] == "train/a/9.png"
    assert "too near to train image train/a/9.png" in str(found.reasons[4])
    assert list(found.table()["nearest_train"][:4]) == [None] * 4


def test_images_alike_in_pixels_are_looked_at_in_all_turns() -> None:
    train = noise(60, 0)
    detector = replace(
        copies.seeking(embedded(train, "train"), embedded(train, "train")), nearest_allowed=0.5
    )
    rough = np.random.default_rng(1).normal(0, 100, (4, 8, 8, 3))
    unlike = np.kron(rough, np.ones((1, 4, 4, 1))) * (np.hypot(*np.mgrid[-16:16, -16:16]) < 13)[..., None]
    near = (train[:4] + unlike).clip(0, 255).astype(np.uint8)  # corners are left as they were
    turned = np.stack([apply_transform(image, turn) for image, turn in zip(near, (1, 3, 5, 6), strict=True)])
    extractor = Corner()
    features = extractor(turned)
    assert detector.find(turned, features, extractor).count == 0
    extractor.seen = 0
    found = replace(detector, turned_from=-1.0).find(turned, features, extractor)
    assert found.count == 4 and list(found.nearest) == [f"train/a/{i}.png" for i in range(4)]
    assert extractor.seen == 4 * 7


def test_the_same_cell_turned_is_found_and_named() -> None:
    images, _ = render(draw_cells({"neutrophil": 40, "lymphocyte": 40}, seed=0), 128)
    train, fresh = images[::2], images[1::2]
    known = embedded(train, "train")
    turned = [
        np.asarray(
            Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC, fillcolor=tuple(image[0, 0]))
        )
        for image, angle in zip(train, (20, 35, 50, 70), strict=False)
    ]
    every = np.concatenate([turned, fresh])
    found = copies.seeking(known, known).find(every, Corner()(every), Corner())
    assert list(found.nearest) == [f"train/a/{i}.png" for i in range(4)] + [None] * 40
    assert str(found.reasons[0]).startswith("same cell as in train image train/a/0.png")


def test_halves_of_train_stand_in_for_images_held_out() -> None:
    train = noise(60, 0)
    detector, among_real = copies.fit(real(train, train, train, held_out=False), Corner(), load_rules(), 0)
    assert len(among_real.reasons) == 60 and among_real.count <= 2
    assert detector.nearest_allowed > 0 and len(detector.train) == 60


def test_real_images_that_repeat_are_what_copies_are_compared_with() -> None:
    """Rotations of few originals across train and held out: copies are what real images show."""
    train, rules = noise(40, 0), load_rules()
    turned = np.stack([apply_transform(image, 5) for image in train])
    detector, among_real = copies.fit(real(train, turned[:20], turned[20:]), Corner(), rules, 0)
    assert among_real.count == 20
    found = detector.find(turned[:20], Corner()(turned[:20]), Corner())
    assert found.count == 20
    metric, finding = on_copies(found, among_real, True, rules)
    assert finding[0] == "pass" and metric["real_vs_real"] == 1.0


def found(count: int, total: int) -> copies.Copies:
    return replace(copies.none_sought(total), reasons=["copy"] * count + [None] * (total - count))


@pytest.mark.parametrize(
    ("candidates", "among_real", "level"),
    [
        ((0, 100), (0, 100), "pass"),
        ((3, 100), (0, 100), "pass"),  # chance
        ((8, 300), (0, 300), "fail"),  # a share below the allowed one that real images do not show
        ((20, 100), (0, 15), "fail"),  # few real images: the allowed share decides
        ((20, 100), (18, 100), "pass"),  # real images show it too
        ((60, 100), (18, 100), "fail"),
    ],
)
def test_shares_are_compared_by_a_test(
    candidates: tuple[int, int], among_real: tuple[int, int], level: str
) -> None:
    metric, finding = on_copies(found(*candidates), found(*among_real), True, load_rules())
    assert finding[0] == level, finding
    assert metric["ci"][0] <= metric["value"] <= metric["ci"][1]


def test_without_train_images_nothing_is_sought() -> None:
    nothing = noise(0, 0)
    detector, among_real = copies.fit(real(nothing, noise(20, 1), noise(20, 2)), Corner(), load_rules(), 0)
    assert among_real.count == 0 and detector.find(noise(5, 3), Corner()(noise(5, 3)), Corner()).count == 0
