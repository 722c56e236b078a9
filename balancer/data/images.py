"""Prepared images in memory or on disk, behind one way to index them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from balancer.data.decode import decode
from balancer.errors import InputError

IN_MEMORY_BYTES = 2 * 2**30
_READERS = 4


def read_prepared_image(path: Path) -> np.ndarray:
    """Read one image of 8 bits as uint8 H×W×3 in [0, 255], as `decode` does; InputError where that cannot be done."""
    try:
        pixels = decode(path)
    except InputError as error:
        raise InputError(f"{str(error).removesuffix('.')}; remove it or make the folder again.") from None
    if pixels.dtype != np.uint8:
        raise InputError(
            f"{path} has more than 8 bits a channel, and the whole set's brightness is needed to bring it to 8; "
            "prepare the images with `balancer prepare`."
        )
    return pixels


class ImageStore:
    """Images of one size, indexed like an array: `store[indices]` gives uint8 N×R×R×3 in [0, 255].

    Sets of up to 2 GiB are decoded once and kept; larger ones are decoded at each access by a pool of threads.
    """

    def __init__(
        self, paths: Sequence[Path], resolution: int, mask_paths: Sequence[Path | None] | None = None
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self.resolution = resolution
        self.mask_paths = mask_paths if mask_paths is not None else [None] * len(self.paths)
        self._pixels: np.ndarray | None = None
        if len(self.paths) * resolution * resolution * 3 <= IN_MEMORY_BYTES:
            self._pixels = self._read(range(len(self.paths)))

    def _read(self, indices: Sequence[int]) -> np.ndarray:
        pixels = np.empty((len(indices), self.resolution, self.resolution, 3), dtype=np.uint8)

        def read(position: int) -> None:
            path = self.paths[indices[position]]
            image = read_prepared_image(path)
            if image.shape != pixels.shape[1:]:
                raise InputError(
                    f"{path} is {image.shape[1]}×{image.shape[0]} where {self.resolution}×{self.resolution} "
                    "was expected; remove it or make the folder again."
                )
            pixels[position] = image

        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(read, range(len(indices))))
        return pixels

    def __len__(self) -> int:
        return len(self.paths)

    def masks(self, indices: np.ndarray | Sequence[int]) -> list[np.ndarray | None]:
        """The masks of these images, uint8 R×R, None where there is none; InputError for one of another size."""
        return [self._read_mask(self.mask_paths[i]) for i in indices]

    def _read_mask(self, path: Path | None) -> np.ndarray | None:
        if path is None:
            return None
        mask = read_prepared_image(path)[..., 0]
        if mask.shape != (self.resolution, self.resolution):
            raise InputError(
                f"{path} is {mask.shape[1]}×{mask.shape[0]} where {self.resolution}×{self.resolution}, the size of "
                "its image, was expected; remove it or make the folder again."
            )
        return mask

    def __getitem__(self, indices: np.ndarray | Sequence[int] | slice) -> np.ndarray:
        if self._pixels is not None:
            return self._pixels[indices]
        chosen = np.arange(len(self))[indices]
        return self._read(chosen.tolist())
