"""Sets of images whose verdict is known beforehand, made from real images of a class: good ones, copies, and bad ones.

A pool of a class is divided once: the images of its front part are what a generator was trained on, the others are what it
never saw. A draw takes train images from the one part, held-out images and the set to be judged from the other.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image
from scipy import ndimage

from balancer.imaging.duplicates import apply_transform

Array = np.ndarray
MOST_TRAIN = (
    120  # images of a pool that a generator may have been trained on, at most; a third of a small pool
)

# Changes of one image, uint8 R×R×3


def flipped(image: Array, rng: np.random.Generator) -> Array:
    """One of the seven flips and quarter turns."""
    return apply_transform(image, int(rng.integers(1, 8)))


def shifted(image: Array, rng: np.random.Generator) -> Array:
    """Moved by 3 % to 7 % of the side along both axes, mirrored at the edge."""
    way = rng.uniform(0.03, 0.07, 2) * rng.choice([-1, 1], 2) * len(image)
    return ndimage.shift(image, (*np.rint(way), 0), order=0, mode="mirror")


def slightly_blurred(image: Array, rng: np.random.Generator) -> Array:
    """A Gaussian of 0.6 % to 0.9 % of the side: about a pixel at 128 px."""
    return _blurred(image, rng.uniform(0.006, 0.009))


def recompressed(image: Array, rng: np.random.Generator) -> Array:
    """Through JPEG of quality 40 to 75."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(rng.integers(40, 76)))
    return np.asarray(Image.open(file).convert("RGB"))


def strongly_blurred(image: Array, rng: np.random.Generator) -> Array:
    """A Gaussian of 2 % to 3 % of the side: three to four pixels at 128 px."""
    return _blurred(image, rng.uniform(0.02, 0.03))


def noisy(image: Array, rng: np.random.Generator) -> Array:
    """Noise of 20 to 30 grey levels in every pixel and channel."""
    return _to_image(image + rng.normal(0, rng.uniform(20, 30), image.shape))


def other_colour(image: Array, rng: np.random.Generator) -> Array:
    """Red light down by about a fifth, blue by a twentieth: the same shift of colour for all images."""
    return _to_image(image * np.array([0.8, 1.0, 0.95]) * rng.uniform(0.97, 1.03))


def jittered(image: Array, rng: np.random.Generator) -> Array:
    """Moved by up to 2 % of the side, mirrored at the edge, and lighter or darker by up to 4 %."""
    way = np.rint(rng.uniform(-0.02, 0.02, 2) * len(image))
    moved = ndimage.shift(image, (*way, 0), order=0, mode="mirror")
    return _to_image(moved * rng.uniform(0.96, 1.04))


def _blurred(image: Array, share: float) -> Array:
    width = share * len(image)
    return _to_image(ndimage.gaussian_filter(image.astype(np.float64), (width, width, 0)))


def _to_image(pixels: Array) -> Array:
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


# Draws


@dataclass(frozen=True, eq=False)
class Cut:
    """One draw of a class, as indices into its pool (uint8 N×R×R×3)."""

    label: str
    pool: Array
    train: Array
    held_out: Array
    synthetic: Array


def train_side(total: int) -> int:
    """How many images of a pool of `total` are its train side."""
    return min(MOST_TRAIN, total // 3)


def fits(total: int, n: int) -> bool:
    """Whether a pool of `total` images is enough to judge n images against n others, with n train images or all there are."""
    side = train_side(total)
    return total - side >= 2 * n and side >= min(n, MOST_TRAIN)


def cut(label: str, pool: Array, n: int, number: int, held_out: int | None = None) -> Cut:
    """Draw `number` of a class: n train images (or all there are), n images to be judged and as many others.

    Draws of one number and several n are nested. `held_out`: how many others, where not n.
    """
    rng = np.random.default_rng([zlib.crc32(label.encode()), number])
    side = train_side(len(pool))
    known, unseen = rng.permutation(side), side + rng.permutation(len(pool) - side)
    return Cut(label, pool, known[:n], unseen[-(held_out or n) :], unseen[:n])


# Sets to be judged: uint8 n×R×R×3 from a draw and the pools of all classes


def real(draw: Cut, pools: Mapping[str, Array]) -> Array:
    """Real images of the class that nothing was trained on."""
    return draw.pool[draw.synthetic]


def exact(draw: Cut, pools: Mapping[str, Array]) -> Array:
    """The train images as they are."""
    return draw.pool[_copied(draw)]


def changed_copies(
    draw: Cut, pools: Mapping[str, Array], change: Callable[[Array, np.random.Generator], Array]
) -> Array:
    """The train images, changed one by one."""
    return _changed(draw, _copied(draw), change)


def changed(
    draw: Cut, pools: Mapping[str, Array], change: Callable[[Array, np.random.Generator], Array]
) -> Array:
    """Good images, changed one by one."""
    return _changed(draw, draw.synthetic, change)


def half_copies(draw: Cut, pools: Mapping[str, Array]) -> Array:
    """Good images, the second half replaced by train images as they are."""
    half = len(draw.synthetic) // 2
    return np.concatenate([draw.pool[draw.synthetic[:half]], draw.pool[_copied(draw)[half:]]])


def other_class(draw: Cut, pools: Mapping[str, Array]) -> Array:
    """Unseen images of another class of the set: of one that has as many, or of the largest one."""
    n = len(draw.synthetic)
    others = {label: pool for label, pool in pools.items() if label != draw.label}
    enough = [label for label, pool in others.items() if len(pool) - train_side(len(pool)) >= n]
    enough = enough or [max(others, key=lambda label: len(others[label]))]
    rng = np.random.default_rng(draw.synthetic)
    pool = others[enough[int(rng.integers(len(enough)))]]
    return rng.permutation(pool[train_side(len(pool)) :])[:n]


def modes(draw: Cut, pools: Mapping[str, Array], count: int) -> Array:
    """So many good images, with jitter over and over."""
    sources = draw.synthetic[np.arange(len(draw.synthetic)) * count // len(draw.synthetic)]
    return _changed(draw, sources, jittered)


def _copied(draw: Cut) -> Array:
    return np.resize(draw.train, len(draw.synthetic))


def _changed(draw: Cut, rows: Array, change: Callable[[Array, np.random.Generator], Array]) -> Array:
    """Images of the pool, each changed by a seed of its own, equal ones differently."""
    times: dict[int, int] = {}
    images = []
    for row in rows.tolist():
        times[row] = times.get(row, 0) + 1
        images.append(change(draw.pool[row], np.random.default_rng([row, times[row]])))
    return np.stack(images)


@dataclass(frozen=True)
class Case:
    """A set to be judged, and what it has to be failed for: metrics, and words that reject single images."""

    make: Callable[[Cut, Mapping[str, Array]], Array]
    causes: tuple[str, ...] = ()
    rejected_as: tuple[str, ...] = ()
    costly: bool = True  # whether its images are new ones, that have to be embedded


GOOD = "real, held out"
COPY = ("near-copy of train image", "too near to train image")
CASES: dict[str, Case] = {
    GOOD: Case(real, costly=False),
    "exact copies": Case(exact, ("copies",), COPY, costly=False),
    "flipped copies": Case(partial(changed_copies, change=flipped), ("copies",), COPY),
    "shifted copies": Case(partial(changed_copies, change=shifted), ("copies",), COPY),
    "slightly blurred copies": Case(partial(changed_copies, change=slightly_blurred), ("copies",), COPY),
    "recompressed copies": Case(partial(changed_copies, change=recompressed), ("copies",), COPY),
    "half good, half copies": Case(half_copies, ("copies",), COPY, costly=False),
    "another class": Case(other_class, ("distance", "labels"), costly=False),
    "one image with jitter": Case(partial(modes, count=1), ("collapse",)),
    "two modes": Case(partial(modes, count=2), ("collapse",)),
    "strong blur": Case(partial(changed, change=strongly_blurred), ("distance",), ("out of focus",)),
    "noise": Case(partial(changed, change=noisy), ("distance",), ("noise",)),
    "shifted colour": Case(partial(changed, change=other_colour), ("distance",), ("stain off",)),
}
