"""One source image of any kind, decoded to RGB and made square; what is no image is refused with a sentence."""

from __future__ import annotations

import struct
import warnings
import zlib
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
_ORIENTATION = 0x0112  # the tag of EXIF and TIFF
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by the kind of colour
_PNG_PART = 2**20  # bytes of a chunk, less than any that the decoder finds too long
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def decode(path: Path) -> np.ndarray:
    """Decode an image file to uint8 H×W×3 in [0, 255], or to uint16 or float32 H×W×3 in the file's own units when deeper.

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
                    if image.format == "PNG" and _is_deep_png(file):
                        return _deep_png(path)
                    if image.format == "TIFF" and image.mode not in _DEEP_MODES and _is_deep_tiff(image):
                        return _deep_tiff(path)
                    return _rgb(ImageOps.exif_transpose(image))
            except UnidentifiedImageError:
                if Path(path).suffix.lower() not in {".tif", ".tiff"}:
                    raise InputError(f"{path} is no image that can be read.") from None
                return _deep_tiff(path)
    except InputError:
        raise
    except FileNotFoundError:
        dangling = "is a link that leads nowhere; mend or remove it"
        raise InputError(f"{path} {dangling if Path(path).is_symlink() else 'does not exist'}.") from None
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


def _deep_png(path: Path) -> np.ndarray:
    """PNG of 16 bits a channel.

    The decoder ends the process where a file is damaged, so that it gets only what has been checked here.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_png

    header, compressed, exif = _checked_png(path)
    parts = [compressed[i : i + _PNG_PART] for i in range(0, len(compressed), _PNG_PART)]
    data = bytearray(_PNG_START + _chunk(b"IHDR", header))
    for part in parts:
        data += _chunk(b"IDAT", part)
    data += _chunk(b"IEND", b"")
    decoded = decode_png(torch.frombuffer(data, dtype=torch.uint8), mode=ImageReadMode.UNCHANGED)
    pixels = decoded.numpy().transpose(1, 2, 0)
    colour = pixels[..., : 3 if pixels.shape[2] > 2 else 1]
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:].astype(np.float32) / 65535
        colour = colour * alpha + 65535 * (1 - alpha)
    return _upright(np.broadcast_to(colour, (*colour.shape[:2], 3)), exif.get(_ORIENTATION, 1))


def _checked_png(path: Path) -> tuple[bytes, bytes, Image.Exif]:
    """The header, the compressed pixels and the EXIF data of a PNG of 16 bits; InputError where they are not whole."""
    damaged = InputError(f"{path} is truncated or damaged; get the file anew.")
    file, exif, found = Path(path).read_bytes(), Image.Exif(), {b"IHDR": b"", b"IDAT": b"", b"eXIf": b""}
    at, compressed = len(_PNG_START), []
    while at + 8 <= len(file) and (name := file[at + 4 : at + 8]) != b"IEND":
        (length,) = struct.unpack_from(">I", file, at)
        body, checksum = file[at + 8 : at + 8 + length], file[at + 8 + length : at + 12 + length]
        if name in found:
            if checksum != struct.pack(">I", zlib.crc32(name + body)):
                raise damaged
            if name == b"IDAT":
                compressed.append(body)
            else:
                found[name] = found[name] or body
        at += 12 + length
    header, pixels = found[b"IHDR"], b"".join(compressed)
    width, height, bits, kind, compression, filters, interlacing = struct.unpack(">IIBBBBB", header)
    if bits != 16 or kind not in _PNG_CHANNELS or compression or filters or interlacing > 1:
        raise damaged
    _refuse_huge(path, (width, height))
    firsts, size = _first_bytes(width, height, 2 * _PNG_CHANNELS[kind], interlaced=interlacing == 1)
    inflate = zlib.decompressobj(0)  # a window as the file names it: what the decoder will use
    try:
        lines = inflate.decompress(pixels, size + 1)
    except zlib.error:
        raise damaged from None
    if not inflate.eof or len(lines) != size or np.frombuffer(lines, np.uint8)[firsts].max() > 4:
        raise damaged
    exif.load(found[b"eXIf"])
    return header, pixels[: len(pixels) - len(inflate.unused_data)], exif


def _first_bytes(width: int, height: int, depth: int, interlaced: bool) -> tuple[np.ndarray, int]:
    """Where each line of a PNG begins, with the number of its filter, and how long all are; `depth` in bytes."""
    starts, size = [], 0
    for left, top, across, down in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            line = 1 + columns * depth
            starts.append(size + line * np.arange(rows))
            size += line * rows
    return np.concatenate(starts), size


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """H×W×3 as EXIF or TIFF tag 274 say that they are shown; as they are where the number means nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _deep_tiff(path: Path) -> np.ndarray:
    """Colour TIFF of 16 bits a channel, which Pillow would cut to 8 or cannot read."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        if page.size > 4 * MAX_PIXELS:
            raise Image.DecompressionBombError
        pixels = page.asarray()
        orientation = page.tags.valueof(_ORIENTATION, 1)
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] > 4:  # planes first
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise InputError(f"{path} has {pixels.shape} samples, where grey or RGB pixels were expected.")
    colour = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
    wide = _upright(np.broadcast_to(colour, (*colour.shape[:2], 3)), int(orientation))
    return wide if wide.dtype in (np.uint8, np.uint16) else _finite(wide)


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
    """Scale a deep image H×W×3 so that `white` becomes 255: uint8, clipped. 8 bits pass unchanged."""
    if pixels.dtype == np.uint8:
        return pixels
    scaled, factor = np.empty(pixels.shape, np.uint8), 255 / max(white, 1e-12)
    for row, line in enumerate(pixels):  # by rows: floats of a whole image may be a gigabyte
        scaled[row] = np.rint(np.clip(line.astype(np.float32) * factor, 0, 255))
    return scaled


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
    white: float | None = None,
) -> np.ndarray:
    """Read any image file as `prepare` would: uint8 R×R×3 in [0, 255].

    A deep image (16 bits) is scaled by `white`, the white level of its set, or where none is known by its own. With
    `to_um_per_pixel` it is brought to that scale from `um_per_pixel`, its own, as `to_scale` does.
    """
    pixels = decode(path)
    if pixels.dtype != np.uint8:
        pixels = to_8_bits(pixels, white_level(pixels) if white is None else white)
    if to_um_per_pixel is None or um_per_pixel is None:
        return make_square(pixels, resolution, crop)
    try:
        return to_scale(pixels, um_per_pixel, to_um_per_pixel, resolution)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
