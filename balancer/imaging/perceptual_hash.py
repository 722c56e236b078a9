"""Hashes that an image keeps at another resolution, by which it is found again without its pixels.

The hash is the signs of the lowest 16×16 DCT coefficients of luminance (`duplicates.describe`), less those of
brightness and slope: 253 bits, written as 64 hexadecimal digits. Flips and quarter turns move and negate
coefficients, so that all eight views of a hash follow from its bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from balancer.imaging.duplicates import SIDE, describe

# Bits in which two hashes of one picture may differ. Measured on PBC: 939 images resized from 128 px to 224, 64, 32 and
# 28 px (Lanczos, bicubic, bilinear, box) or recompressed (JPEG quality 75 at 32 and 64 px, 90 at 28, 50 at 128) differ
# from each other in at most 26 bits (median 7); 5,572 images against 5,692 others, 31.7 million pairs in eight views
# each, differ in at least 56. The number of pairs grows about threefold every 4 bits, so that 0.1 false matches
# would be expected in as many pairs. Of crops (`middle`) the same picture differs in at most 12 bits, 35 where the crop is
# off by a hundredth of the side.
SAME = 40
_CHUNK = 256
_WORDS = SIDE * SIDE // 64


def perceptual_hashes(images: np.ndarray) -> list[str]:
    """Hash images, uint8 N×R×R×3 in [0, 255]: 64 hexadecimal digits each.

    Images of less than 16 px have too few coefficients: their hashes match those of such images alone.
    """
    bits = np.zeros((len(images), SIDE, SIDE), dtype=bool)
    described = describe(images)
    bits[:, : described.shape[1], : described.shape[2]] = described > 0
    return [row.tobytes().hex() for row in np.packbits(bits.reshape(-1, SIDE * SIDE), axis=1)]


def middle(images: np.ndarray, share: float) -> np.ndarray:
    """The middle of images (uint8 N×R×R×3), of `share` of their width and height, at their own size again."""
    size = images.shape[1]
    edge = size * (1 - share) / 2
    box = (edge, edge, size - edge, size - edge)
    cut = [
        np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.LANCZOS, box=box)) for x in images
    ]
    return np.stack(cut) if cut else images


def find_seen(hashes: Sequence[str], seen: Sequence[str]) -> np.ndarray:
    """Find, for each hash, one among the `seen` that is of the same picture, flipped, turned, resized or not.

    Returns int64 N: the index of the nearest of the `seen` where it differs in no more than `SAME` bits, else -1.
    """
    nearest, distance = nearest_seen(hashes, seen)
    return np.where(distance <= SAME, nearest, -1)


def nearest_seen(hashes: Sequence[str], seen: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The index of the nearest of the `seen` under the eight views, and in how many bits it differs: int64 N each.

    Without any seen the index is -1 and the distance 256.
    """
    index = np.full(len(hashes), -1, dtype=np.int64)
    distance = np.full(len(hashes), SIDE * SIDE, dtype=np.int64)
    if not len(seen) or not len(hashes):
        return index, distance
    query = _words(_bits(hashes))
    for view in _views(_bits(seen)):
        words = _words(view)
        for start in range(0, len(query), _CHUNK):
            part = slice(start, start + _CHUNK)
            differing = np.zeros((len(query[part]), len(words)), dtype=np.uint16)
            for k in range(_WORDS):
                differing += np.bitwise_count(query[part, None, k] ^ words[None, :, k])
            best = differing.argmin(1)
            fewest = differing[np.arange(len(best)), best]
            closer = fewest < distance[part]
            index[part] = np.where(closer, best, index[part])
            distance[part] = np.where(closer, fewest, distance[part])
    return index, distance


def _bits(hashes: Sequence[str]) -> np.ndarray:
    """bool N×16×16."""
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8)
    return np.unpackbits(packed).reshape(-1, SIDE, SIDE).astype(bool)


def _words(bits: np.ndarray) -> np.ndarray:
    """uint64 N×4, of bool N×16×16."""
    return np.packbits(bits.reshape(-1, SIDE * SIDE), axis=1).view(np.uint64)


def _views(bits: np.ndarray) -> Iterator[np.ndarray]:
    """The bits after each of the eight transforms: negative coefficients where an odd frequency is mirrored."""
    order = np.add.outer(np.arange(SIDE), np.arange(SIDE))
    odd = np.arange(SIDE) % 2 == 1
    for transform in range(8):
        view = bits.swapaxes(1, 2) if transform & 4 else bits
        if transform & 1:
            view = view ^ odd[:, None]
        if transform & 2:
            view = view ^ odd
        yield view & (order >= 2)
