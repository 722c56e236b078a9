"""The same picture twice, flipped or in quarter turns: found by an index, confirmed by correlation.

An image is described by its lowest 16×16 DCT-II coefficients of luminance, each weighted by its frequency.
By Parseval's identity the cosine of two descriptions is the normalised correlation of the two images' gradients
in pixels, up to 16 half-cycles per side: blind to brightness and contrast, and hardly moved by recompression,
while two different cells of the same size and place, which share only the lowest frequencies, rarely reach 0.9. Round
dark cells on an empty background do: they share a disc. A disc says so itself, since it fits in any view: two images are
the same picture only where one view of the other stands out among the eight.

Within a set, candidates are the nearest neighbours in the leading principal components of the descriptions (k-d tree).
Flips and turns change the coefficients' signs and order alone, so that all eight views of an image cost one transform.
The same cell elsewhere in the picture, larger or turned by any angle, is found by `same_cell`. Copies of train images
(`find_copies`) may be shifted: they are sought by the magnitudes of the spectrum, which a shift leaves alone, and laid
upon each other by cross-correlation before they are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.fft import fft2, irfft2, rfft2
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

SAME = 0.9  # correlation from which two images are the same picture
# Part of the way from the mean correlation of the seven wrong views, each moved to where it fits best, to 1 that the right
# view has to go at least. Among pairs that correlate by SAME different cells (segwbc) go 0.44 of it at most, pairs of
# segwbc that are the same by eye 0.86 at least, 300 PBC images altered in 13 ways at 32 px 0.73 at least. Images of segwbc
# that were blurred by 1 px at 32 px go 0.54 at least: of these a few are missed.
STANDS_OUT = 0.6
SIDE = 16  # DCT coefficients per axis
_COMPONENTS = 10  # principal components in which neighbours are sought
_NEIGHBOURS = 5
_SAMPLE = 512  # images, in all eight views, that the components are computed from
_FARTHEST = np.sqrt(2 - 2 * SAME) + 1e-3  # of unit vectors that correlate by SAME; less when projected
_FLAT = 1.0  # contrasts below about a tenth of a grey level are rounding, not a picture
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_CHUNK = 512
_PICTURE = 64  # pixels at which pictures are laid upon each other
_SHIFT = 6  # of these pixels, at most, that a copy may be off
_WRONG_SHIFT = 12  # that a wrong view may be: a mirrored cell lies off by twice the cell's own distance
_PADDED = 80  # no less than _PICTURE + _WRONG_SHIFT, and quick to transform
_WAVES = 8  # per side: `describe` keeps no more
_NOTHING = 1e-9  # energy of what overlaps, below which nothing does
_CLOSEST = 3  # train images that a candidate is laid upon
_SPECTRAL_VIEWS = (0, 1, 4, 5)  # transforms that give all views of a spectrum's magnitudes,
_HALF_TURN = 3  # which this one leaves alone


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
    basis = _cosines(side, size)
    weight = np.hypot(frequency[:, None], frequency)
    weight[frequency[:, None] + frequency < 2] = 0  # brightness and slope: the lamp, not the cell
    described = np.empty((count, side, side), dtype=np.float32)
    for start in range(0, count, _CHUNK):
        grey = images[start : start + _CHUNK].astype(np.float32) @ _LUMINANCE
        grey -= grey.mean((1, 2), keepdims=True)
        described[start : start + _CHUNK] = basis @ (grey / size) @ basis.T * weight
    norm = np.sqrt((described**2).sum((1, 2), keepdims=True))
    return np.where(norm > _FLAT, described / np.maximum(norm, _FLAT), 0).astype(np.float32)


def _cosines(side: int, size: int) -> np.ndarray:
    """The first `side` basis functions of DCT-II over `size` pixels: float32 side×size."""
    position = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(np.pi / size)
    return np.cos(np.arange(side, dtype=np.float32)[:, None] * position)


def _units(stack: np.ndarray) -> np.ndarray:
    """Each of N×S×S brought to unit length; zeros stay zeros."""
    return stack / np.maximum(np.sqrt((stack**2).sum((1, 2), keepdims=True)), 1e-9)


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
    axes = np.linalg.eigh(every.T @ every)[1][:, -_COMPONENTS:]  # many times faster than an SVD of all rows
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
        same = similarity >= SAME
        first, second, similarity = first[same], second[same], similarity[same]
        same = _stands_out(described[first], view[second], similarity)
        for i, j, value in zip(
            *(column[same].tolist() for column in (first, second, similarity)), strict=True
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
    """Find, for each candidate, the train image that it nearly copies, shifted by up to 9 % of the side or not.

    `candidates` is uint8 N×R×R×3 and `train` uint8 M×R×R×3, both in [0, 255]; the eight views of each train image count.
    Returns int64 N, the index of the train image that is the same picture or -1, and float32 N in [-1, 1], the
    correlation with the most similar of the closest train images, laid upon the candidate.
    """
    index = np.full(len(candidates), -1, dtype=np.int64)
    similarity = np.full(len(candidates), -1, dtype=np.float32)
    if not len(train) or not len(candidates):
        return index, similarity
    known = describe(train)
    spectra = _spectra(known)
    mean = spectra.mean(0)
    views = {
        t: _units(apply_transform(spectra.T, t).T - mean).reshape(len(train), -1) for t in _SPECTRAL_VIEWS
    }
    for start in range(0, len(candidates), _CHUNK):
        part = slice(start, start + _CHUNK)
        query = describe(candidates[part])
        sought = _units(_spectra(query) - mean).reshape(len(query), -1)
        likeness = np.stack([sought @ view.T for view in views.values()])
        transform, likeness = np.array(_SPECTRAL_VIEWS)[likeness.argmax(0)], likeness.max(0)
        closest = np.argsort(-likeness, axis=1)[:, :_CLOSEST]
        transforms = np.take_along_axis(transform, closest, axis=1)
        index[part], similarity[part] = _best_copies(query, known, closest, transforms)
    return index, similarity


def _best_copies(
    query: np.ndarray, known: np.ndarray, closest: np.ndarray, transforms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `find_copies` returns, of the views `transforms` (N×K), and those turned by half, of known[closest] (N×K)."""
    index = np.full(len(query), -1, dtype=np.int64)
    best = np.full(len(query), -1, dtype=np.float32)
    wanted = _transformed(_pictures(query))
    for near, transform in zip(closest.T, transforms.T, strict=True):
        for turned in (transform, transform ^ _HALF_TURN):
            view = np.empty_like(query)
            for t, every in enumerate(_views(known[near])):
                view[turned == t] = every[turned == t]
            value = _fit(wanted, _transformed(_pictures(view)), _SHIFT)
            same = value >= SAME
            same[same] = _stands_out(query[same], view[same], value[same])
            closer = (same > (index >= 0)) | ((same == (index >= 0)) & (value > best))
            index[closer] = np.where(same, near, -1)[closer]
            best[closer] = value[closer]
    return index, best


def _pictures(described: np.ndarray) -> np.ndarray:
    """What was described, float32 N×side×side, as pictures of gradients, float32 N×64×64 of zero mean."""
    basis = _cosines(described.shape[1], _PICTURE)
    basis[0] /= 2  # as the inverse of DCT-II has it
    return basis.T @ described @ basis


def _spectra(described: np.ndarray) -> np.ndarray:
    """The magnitudes of the lowest 17×17 Fourier coefficients of what was described: float32 N×17×17."""
    waves = np.arange(-_WAVES, _WAVES + 1)
    spectra = np.empty((len(described), len(waves), len(waves)), dtype=np.float32)
    for start in range(0, len(described), _CHUNK):
        part = slice(start, start + _CHUNK)
        spectra[part] = np.abs(fft2(_pictures(described[part]))[:, waves[:, None], waves])
    return spectra


def _transformed(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The padded transforms of pictures N×64×64 and of their squares, as `_fit` needs them."""
    padded = (_PADDED, _PADDED)
    return rfft2(pictures, padded), rfft2(pictures**2, padded)


def _fit(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], reach: int) -> np.ndarray:
    """The highest correlation of two stacks of pictures, pair by pair, over shifts of up to `reach` pixels: float32 N.

    It is that of what overlaps, from the transforms alone (Lewis, "Fast normalized cross-correlation", 1995).
    """
    shifts = np.arange(-reach, reach + 1)
    everywhere = rfft2(np.ones((_PICTURE, _PICTURE), dtype=np.float32), (_PADDED, _PADDED))

    def at_shifts(product: np.ndarray) -> np.ndarray:
        return irfft2(product, (_PADDED, _PADDED))[:, shifts[:, None], shifts]

    energy = at_shifts(one[1] * everywhere.conj()) * at_shifts(everywhere * other[1].conj())
    correlation = at_shifts(one[0] * other[0].conj()) / np.sqrt(np.maximum(energy, _NOTHING))
    return correlation.max((1, 2)).clip(-1, 1)


def _stands_out(one: np.ndarray, other: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Whether `other` (float32 N×16×16, described) fits `one` as no other view of it does: bool N."""
    found = np.empty(len(one), dtype=bool)
    for start in range(0, len(one), _CHUNK):
        part = slice(start, start + _CHUNK)
        wanted = _transformed(_pictures(one[part]))
        views = [_transformed(_pictures(view)) for view in _views(other[part])]
        wrong = [_fit(wanted, view, _WRONG_SHIFT) for view in views[1:]]
        mean = np.mean(wrong, axis=0)
        found[part] = similarity[part] - mean >= STANDS_OUT * (1 - mean)
    return found
