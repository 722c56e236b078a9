"""Near-duplicates under flips and quarter turns: found by an index, confirmed by correlation.

An image is described by its lowest 16×16 DCT-II coefficients of luminance, each weighted by its frequency.
By Parseval's identity the cosine of two descriptions is the normalised correlation of the two images' gradients
in pixels, up to 16 half-cycles per side: blind to brightness and contrast, and hardly moved by recompression,
while two different cells of the same size and place, which share only the lowest frequencies, rarely reach 0.9.
Candidates are the nearest neighbours in the leading principal components of the descriptions (k-d tree). Flips and
turns change the coefficients' signs and order alone, so that all eight views of an image cost one transform. The same
cell elsewhere in the picture, larger or turned by any angle, is found by `same_cell`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

SAME = 0.9  # correlation from which two images are the same picture
SIDE = 16  # DCT coefficients per axis
_COMPONENTS = 10  # principal components in which neighbours are sought
_NEIGHBOURS = 5
_SAMPLE = 512  # images, in all eight views, that the components are computed from
_FARTHEST = np.sqrt(2 - 2 * SAME) + 1e-3  # of unit vectors that correlate by SAME; less when projected
_FLAT = 1.0  # contrasts below about a tenth of a grey level are rounding, not a picture
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_CHUNK = 512


def apply_transform(image: np.ndarray, transform: int) -> np.ndarray:
    """Apply one of the eight flips and quarter turns to H×W×C pixels.

    `transform` is 0..7: bit 2 transposes first, then bit 0 turns the rows over, then bit 1 the columns.
    """
    if transform & 4:
        image = image.swapaxes(0, 1)
    if transform & 1:
        image = image[::-1]
    if transform & 2:
        image = image[:, ::-1]
    return image


def describe(images: np.ndarray) -> np.ndarray:
    """Describe images for comparison: uint8 N×R×R×3 in [0, 255] to float32 N×16×16 of unit length.

    An image of one colour gets zeros, and so correlates with nothing. Images below 16 px give R×R.
    """
    count, size = images.shape[:2]
    side = min(SIDE, size)
    frequency = np.arange(side, dtype=np.float32)
    position = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(np.pi / size)
    basis = np.cos(frequency[:, None] * position)
    weight = np.hypot(frequency[:, None], frequency)
    weight[frequency[:, None] + frequency < 2] = 0  # brightness and slope: the lamp, not the cell
    described = np.empty((count, side, side), dtype=np.float32)
    for start in range(0, count, _CHUNK):
        grey = images[start : start + _CHUNK].astype(np.float32) @ _LUMINANCE
        grey -= grey.mean((1, 2), keepdims=True)
        described[start : start + _CHUNK] = basis @ (grey / size) @ basis.T * weight
    norm = np.sqrt((described**2).sum((1, 2), keepdims=True))
    return np.where(norm > _FLAT, described / np.maximum(norm, _FLAT), 0).astype(np.float32)


def _views(described: np.ndarray) -> Iterator[np.ndarray]:
    """The descriptions of the images after each transform 0..7, in order."""
    alternating = np.where(np.arange(described.shape[1]) % 2, -1, 1).astype(np.float32)
    for transform in range(8):
        view = described.transpose(0, 2, 1) if transform & 4 else described
        if transform & 1:
            view = view * alternating[:, None]
        if transform & 2:
            view = view * alternating
        yield view


def pairs_of_described(described: np.ndarray) -> list[tuple[int, int, int]]:
    """`near_duplicate_pairs` for images that `describe` has described already (float32 N×16×16)."""
    if len(described) < 2:
        return []
    flat = described.reshape(len(described), -1)
    sample = described[:: len(described) // _SAMPLE + 1]
    every = np.concatenate([view.reshape(len(sample), -1) for view in _views(sample)])
    axes = np.linalg.svd(every, full_matrices=False)[2][:_COMPONENTS].T
    tree = cKDTree(flat @ axes)
    neighbours = np.arange(1, min(_NEIGHBOURS + 1, len(described)) + 1)
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for transform, view in enumerate(_views(described)):
        view_flat = view.reshape(len(view), -1)
        first = tree.query(view_flat @ axes, k=neighbours, distance_upper_bound=_FARTHEST)[1].ravel()
        second = np.repeat(np.arange(len(described)), len(neighbours))
        found = (first < len(described)) & (
            first != second
        )  # a tree answers its own size where nothing is near
        first, second = first[found], second[found]
        similarity = _correlation(flat, view_flat, first, second)
        for i, j, value in zip(
            *(column[similarity >= SAME].tolist() for column in (first, second, similarity)), strict=True
        ):
            # The inverse of a turn is the turn back; every other transform is its own.
            if i > j:
                i, j, back = j, i, {5: 6, 6: 5}.get(transform, transform)
            else:
                back = transform
            best[i, j] = max(best.get((i, j), (-1.0, 0)), (value, -back))
    return [(i, j, -best[i, j][1]) for i, j in sorted(best)]


def _correlation(a: np.ndarray, b: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The inner products a[first]·b[second], in chunks that fit into the cache."""
    values = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), 8 * _CHUNK):
        part = slice(start, start + 8 * _CHUNK)
        values[part] = np.einsum("nd,nd->n", a[first[part]], b[second[part]])
    return values


def near_duplicate_pairs(images: np.ndarray) -> list[tuple[int, int, int]]:
    """Find the pairs of images that show the same picture, flipped, turned, recompressed or brightened or not.

    `images` is uint8 N×R×R×3 in [0, 255]. Returns (i, j, transform) with i < j, sorted:
    `apply_transform(images[j], transform)` looks like `images[i]`.
    """
    return pairs_of_described(describe(images))


def clusters(n: int, pairs: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Number the connected components of `n` images joined by pairs (i, j, …): int64 n, from 0."""
    edges = np.array([pair[:2] for pair in pairs], dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def find_copies(candidates: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find, for each candidate, the train image that it nearly copies.

    `candidates` is uint8 N×R×R×3 and `train` uint8 M×R×R×3, both in [0, 255]. Every candidate is compared with all
    eight views of every train image. Returns int64 N, the index of the train image that is the same picture
    (correlation of at least `SAME`) or -1, and float32 N in [-1, 1], the correlation with the best match.
    """
    index = np.full(len(candidates), -1, dtype=np.int64)
    similarity = np.full(len(candidates), -1, dtype=np.float32)
    if not len(train) or not len(candidates):
        return index, similarity
    query = describe(candidates).reshape(len(candidates), -1)
    for view in _views(describe(train)):
        flat = view.reshape(len(view), -1)
        for start in range(0, len(query), _CHUNK):
            part = slice(start, start + _CHUNK)
            correlation = query[part] @ flat.T
            nearest = correlation.argmax(1)
            value = correlation[np.arange(len(nearest)), nearest]
            closer = value > similarity[part]
            index[part] = np.where(closer, nearest, index[part])
            similarity[part] = np.where(closer, value, similarity[part])
    similarity = similarity.clip(-1, 1)
    return np.where(similarity >= SAME, index, -1), similarity
