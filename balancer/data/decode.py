"""One source image of any kind, decoded to RGB and made square; what is no image is refused with a sentence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from balancer.errors import InputError
from balancer.imaging.scale import edge_colour, to_scale

MAX_PIXELS = 100_000_000
warnings.filterwarnings(
    "ignore", category=Image.DecompressionBombWarning
)  # size is judged here, in a sentence
Crop = Literal["crop", "pad"]
_DEEP_MODES = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


def decode(path: Path) -> np.ndarray:
    """Decode an image file to uint8 H×W×3 in [0, 255], or to float32 H×W×3 in the file's own units when deeper.

    Grey and palette images become RGB, transparency lies over white, CMYK is converted, the EXIF orientation is
    applied. Deep images (16 bits or more a channel) keep their numbers, so that the caller can scale a whole set
    with one factor (`to_8_bits`). Of several frames the first is taken. Raises InputError for a file that is
    missing, no image, truncated, or larger than 100 megapixels; size is judged before decoding.
    """
    try:
        with Path(path).open("rb") as file:
            try:
                with Image.open(file) as image:
                    _refuse_huge(path, image.size)
                    if image.mode not in _DEEP_MODES:
                        if image.format == "PNG" and _is_deep_png(file):
                            return _deep_png(file)
                        if image.format == "TIFF" and _is_deep_tiff(image):
                            return _deep_tiff(path)
                    return _rgb(ImageOps.exif_transpose(image))
            except UnidentifiedImageError:
                if Path(path).suffix.lower() not in {".tif", ".tiff"}:
                    raise InputError(f"{path} is no image that can be read.") from None
                return _deep_tiff(path)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path} has more than {MAX_PIXELS // 10**6} megapixels; crop it first.") from None
    except Exception as error:  # decoders raise nearly anything on damaged files: struct, zlib, key errors
        raise InputError(f"{path} cannot be read as an image ({error or type(error).__name__}).") from None


def stated_source(path: Path) -> str | None:
    """What an image says of its own source in its text chunk `source`: "synthetic", "rendered"; None where nothing."""
    try:
        with Image.open(path) as image:
            return image.info.get("source") if image.format == "PNG" else None
    except Exception:  # as in `decode`: whatever is wrong with the file is said there
        return None


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height from the file's header, or None where `decode` would refuse or needs another reader."""
    try:
        with Image.open(path) as image:
            return image.size if image.width * image.height <= MAX_PIXELS else None
    except Exception:  # as in `decode`: whatever is wrong with the file is said there
        return None


def _refuse_huge(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f"{path} has {size[0]}×{size[1]} pixels, more than {MAX_PIXELS // 10**6} megapixels; crop it first."
        )


def _is_deep_png(file: IO[bytes]) -> bool:
    """Whether a PNG has 16 bits a channel, of which Pillow would keep 8 in colour: the depth in the IHDR chunk."""
    position = file.tell()
    file.seek(24)
    depth = file.read(1)
    file.seek(position)
    return depth == b"\x10"


def _is_deep_tiff(image: Image.Image) -> bool:
    return max(image.tag_v2.get(258, (8,))) > 8  # type: ignore[attr-defined]


def _deep_png(file: IO[bytes]) -> np.ndarray:
    import torch
    from torchvision.io import ImageReadMode, decode_png

    file.seek(0)
    data = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    pixels = decode_png(data, mode=ImageReadMode.UNCHANGED).numpy().transpose(1, 2, 0).astype(np.float32)
    colour = pixels[..., : 3 if pixels.shape[2] > 2 else 1]
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:] / 65535
        colour = colour * alpha + 65535 * (1 - alpha)
    return np.broadcast_to(colour, (*colour.shape[:2], 3))


def _deep_tiff(path: Path) -> np.ndarray:
    """Colour TIFF of 16 bits a channel, which Pillow would cut to 8 or cannot read."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0].levels[0]
        if series.size > 4 * MAX_PIXELS:
            raise Image.DecompressionBombError
        pixels = series.asarray()
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] > 4:  # planes first
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise InputError(f"{path} has {pixels.shape} samples, where grey or RGB pixels were expected.")
    colour = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
    wide = np.broadcast_to(colour, (*colour.shape[:2], 3))
    return wide if wide.dtype == np.uint8 else _finite(wide)


def _finite(pixels: np.ndarray) -> np.ndarray:
    """As float32, NaN being 0 and infinity the image's largest number, so that a hot pixel sets no white level."""
    pixels = pixels.astype(np.float32)
    known = pixels[np.isfinite(pixels)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    return np.nan_to_num(pixels, posinf=high, neginf=low)


def _rgb(image: Image.Image) -> np.ndarray:
    """Pixels of an opened image: uint8 H×W×3, or float32 H×W×3 of a deep grey image."""
    if image.mode in _DEEP_MODES:
        grey = _finite(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if image.has_transparency_data:
        over_white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(over_white, image.convert("RGBA")).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def white_level(pixels: np.ndarray) -> float:
    """99.9th percentile of a deep image; the largest of a set becomes white, so that a hot pixel does not."""
    return float(np.quantile(pixels, 0.999))


def to_8_bits(pixels: np.ndarray, white: float) -> np.ndarray:
    """Scale a deep image so that `white` becomes 255: float32 H×W×3 to uint8, clipped. 8 bits pass unchanged."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(np.clip(pixels * (255 / max(white, 1e-12)), 0, 255)).astype(np.uint8)


def make_square(
    pixels: np.ndarray, resolution: int, crop: Crop = "crop", *, nearest: bool = False
) -> np.ndarray:
    """Crop or pad uint8 H×W or H×W×C to a square, never stretching it, and resize to `resolution`.

    "crop" keeps the centre square; "pad" adds a frame in the median colour of the image's edge. Lanczos resampling
    (antialiased), or the nearest pixel for masks.
    """
    height, width = pixels.shape[:2]
    side = min(height, width) if crop == "crop" else max(height, width)
    if crop == "crop":
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    elif height != width:
        frame = np.empty((side, side, *pixels.shape[2:]), dtype=np.uint8)
        frame[:] = 0 if nearest else edge_colour(pixels)
        top, left = (side - height) // 2, (side - width) // 2
        frame[top : top + height, left : left + width] = pixels
        pixels = frame
    if side == resolution:
        return np.ascontiguousarray(pixels)
    resampling = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(pixels)).resize((resolution, resolution), resampling)
    )


def read_any_image(
    path: Path,
    resolution: int,
    crop: Crop = "crop",
    um_per_pixel: float | None = None,
    to_um_per_pixel: float | None = None,
) -> np.ndarray:
    """Read any image file as `prepare` would: uint8 R×R×3 in [0, 255].

    A deep image (16 bits) is scaled by its own white level, there being no set to share one with. With
    `to_um_per_pixel` it is brought to that scale from `um_per_pixel`, its own, as `to_scale` does.
    """
    pixels = decode(path)
    if pixels.dtype != np.uint8:
        pixels = to_8_bits(pixels, white_level(pixels))
    if to_um_per_pixel is None or um_per_pixel is None:
        return make_square(pixels, resolution, crop)
    try:
        return to_scale(pixels, um_per_pixel, to_um_per_pixel, resolution)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
