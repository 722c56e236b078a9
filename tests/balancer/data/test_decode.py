from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from balancer.data.decode import decode, image_size, make_square, read_any_image, to_8_bits, white_level
from balancer.errors import InputError

RAMP = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size; no pixels follow."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 10_000) + b"IDAT"


def test_rgb_grey_and_palette(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "rgb.png")
    assert np.array_equal(decode(tmp_path / "rgb.png"), RAMP)
    Image.fromarray(RAMP[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(decode(tmp_path / "grey.png"), np.repeat(RAMP[..., :1], 3, axis=2))
    Image.fromarray(RAMP[..., 0]).convert("P").save(tmp_path / "palette.gif")
    assert np.array_equal(decode(tmp_path / "palette.gif")[..., 0], RAMP[..., 0])
    Image.fromarray(RAMP[..., 0] > 99).save(tmp_path / "bits.png")
    assert set(np.unique(decode(tmp_path / "bits.png"))) == {0, 255}


def test_alpha_lies_over_white(tmp_path: Path) -> None:
    alpha = np.zeros((20, 30), dtype=np.uint8)
    alpha[:, 15:] = 255
    Image.fromarray(np.dstack([RAMP, alpha])).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png")
    assert (found[:, :15] == 255).all() and np.array_equal(found[:, 15:], RAMP[:, 15:])
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30])
    image.save(tmp_path / "p.png", transparency=0)
    assert (decode(tmp_path / "p.png") == 255).all()


def test_exif_rotation_and_cmyk(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 32, dtype=np.uint8)[:, None, None], (32, 48, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown a quarter turn clockwise
    Image.fromarray(smooth).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found = decode(tmp_path / "turned.jpg")
    assert found.shape == (48, 32, 3)
    assert np.abs(found.astype(int) - np.rot90(smooth, -1)).mean() < 3
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    assert np.abs(decode(tmp_path / "c.jpg").astype(int) - [255, 0, 0]).max() < 12


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def lines_of(pixels: np.ndarray, number: int = 0) -> bytes:
    """The lines of a PNG of 16 bits, which all name the filter of this number and are not filtered."""
    return b"".join(bytes([number]) + row.astype(">u2").tobytes() for row in pixels)


def png16(path: Path, pixels: np.ndarray, lines: bytes | None = None, *, interlaced: bool = False) -> None:
    """Write 16-bit PNG by hand; pixels uint16 H×W×C with C 1..4, or in their stead the `lines`."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, int(interlaced))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines_of(pixels) if lines is None else lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_their_numbers(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (9, 7, channels)).astype(np.uint16)
    png16(tmp_path / "deep.png", pixels)
    tifffile.imwrite(tmp_path / "deep.tif", pixels if channels == 3 else pixels[..., 0])
    for name in ("deep.png", "deep.tif"):
        found = decode(tmp_path / name)
        assert found.dtype in (np.uint16, np.float32)
        assert np.array_equal(found, np.broadcast_to(pixels, (9, 7, 3)))


def test_sixteen_bits_with_alpha(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), dtype=np.uint16)
    png16(tmp_path / "clear.png", pixels)
    assert (decode(tmp_path / "clear.png") == 65535).all()


def test_sixteen_bits_interlaced(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (11, 5, 3)).astype(np.uint16)
    passes = [
        *(pixels[::8, ::8], pixels[::8, 4::8], pixels[4::8, ::4], pixels[::4, 2::4]),
        *(pixels[2::4, ::2], pixels[::2, 1::2], pixels[1::2]),
    ]
    lines = b"".join(lines_of(one) for one in passes if one.size)
    png16(tmp_path / "a.png", pixels, lines, interlaced=True)
    assert np.array_equal(decode(tmp_path / "a.png"), pixels)


def test_a_damaged_deep_png_is_refused_and_ends_no_process(tmp_path: Path) -> None:
    """In a process of its own, which the decoder ended."""
    pixels = np.random.default_rng(0).integers(0, 65536, (64, 64, 3)).astype(np.uint16)
    png16(tmp_path / "good.png", pixels)
    good = (tmp_path / "good.png").read_bytes()
    middle = len(good) // 2
    (tmp_path / "cut.png").write_bytes(good[:middle])
    (tmp_path / "headless.png").write_bytes(good[:50])
    (tmp_path / "flipped.png").write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    png16(tmp_path / "filter.png", pixels, lines_of(pixels, 7))
    png16(tmp_path / "short.png", pixels, lines_of(pixels[:9]))
    png16(tmp_path / "long.png", np.zeros((64, 63, 3)), lines_of(pixels))
    png16(tmp_path / "nothing.png", pixels, b"")
    code = """
import sys
from balancer.data.decode import decode
from balancer.errors import InputError
for path in sys.argv[1:]:
    try:
        print(path, decode(path).shape)
    except InputError as error:
        print(error)
"""
    names = ["cut", "headless", "flipped", "filter", "short", "long", "nothing"]
    files = [str(tmp_path / f"{name}.png") for name in [*names, "good"]]
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    expected = [f"{file} is truncated or damaged; get the file anew." for file in files[:-1]]
    assert run.stdout.splitlines() == [*expected, f"{files[-1]} (64, 64, 3)"] and run.stderr == ""


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_as_eight_bits_are(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RAMP[..., 0]).save(tmp_path / "8.png", exif=exif)
    expected = decode(tmp_path / "8.png").astype(int) * 100
    deep = np.repeat(RAMP[..., :1], 3, axis=2).astype(np.uint16) * 100
    png16(tmp_path / "rgb.png", deep)
    png = (tmp_path / "rgb.png").read_bytes()
    (tmp_path / "rgb.png").write_bytes(png[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + png[33:])
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "rgb.tif", deep, photometric="rgb", extratags=tag)
    planes = deep.transpose(2, 0, 1)
    tifffile.imwrite(
        tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate", extratags=tag
    )
    for name in ("rgb.png", "rgb.tif", "planes.tif"):
        assert np.array_equal(decode(tmp_path / name), expected), name


def test_of_deep_frames_the_first_is_taken(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 65536, (3, 9, 7, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "frames.tif", frames, photometric="rgb")
    assert np.array_equal(decode(tmp_path / "frames.tif"), frames[0])


def test_one_scaling() -> None:
    deep = np.array([0, 2000, 4000, 9000], dtype=np.float32).reshape(2, 2, 1)
    assert to_8_bits(deep, 4000).ravel().tolist() == [0, 128, 255, 255]
    assert to_8_bits(RAMP, 4000) is RAMP
    assert white_level(np.r_[np.full(99999, 10.0), 5000.0]) == 10


@pytest.mark.parametrize("size", [(20_000, 20_000), (15_000, 8_000)])
def test_huge_images_are_refused_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "huge.png").write_bytes(png_header(*size))
    with pytest.raises(InputError, match="100 megapixels"):
        decode(tmp_path / "huge.png")
    assert image_size(tmp_path / "huge.png") is None


def test_what_is_no_image_gets_a_sentence(tmp_path: Path) -> None:
    for name in ("text.png", "text.tif"):
        (tmp_path / name).write_text("no image")
        with pytest.raises(InputError, match=name):
            decode(tmp_path / name)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InputError, match="empty.jpg"):
        decode(tmp_path / "empty.jpg")
    with pytest.raises(InputError, match="does not exist"):
        decode(tmp_path / "none.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "none.png")
    with pytest.raises(InputError, match="link.png is a link that leads nowhere"):
        decode(tmp_path / "link.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"cut.{suffix}"):
        decode(path)


def test_crop_and_pad_never_stretch() -> None:
    y, x = np.mgrid[:60, :100]
    disc = np.where(np.hypot(x - 50, y - 30) < 20, 0, 230).astype(np.uint8)
    image = np.repeat(disc[..., None], 3, axis=2)
    for crop, side in (("crop", 60), ("pad", 100)):
        square = make_square(image, 32, crop)
        assert square.shape == (32, 32, 3) and square.dtype == np.uint8
        dark = square[..., 0] < 115
        width, height = dark.any(0).sum(), dark.any(1).sum()
        assert abs(width - height) <= 1 and abs(width - 40 * 32 / side) <= 1.5
        assert (square[0, 0] == 230).all()


def test_masks_keep_their_levels() -> None:
    mask = np.random.default_rng(0).choice([0, 128, 255], (50, 70)).astype(np.uint8)
    assert set(np.unique(make_square(mask, 32, "pad", nearest=True))) == {0, 128, 255}


def test_any_image_is_read_at_the_size_of_a_model(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    assert read_any_image(tmp_path / "a.png", 16).shape == (16, 16, 3)
    png16(tmp_path / "b.png", np.full((8, 8, 3), 4000, dtype=np.uint16))
    assert (read_any_image(tmp_path / "b.png", 16) == 255).all()
    assert (read_any_image(tmp_path / "b.png", 16, white=8000) == 128).all()


def test_a_large_image_is_read_without_a_warning(tmp_path: Path) -> None:
    """In a process of its own, since pytest has warnings its own way."""
    Image.new("1", (9500, 10000)).save(tmp_path / "large.png")
    code = "import sys; from balancer.data.decode import image_size; print(image_size(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "large.png")], capture_output=True, text=True, check=True
    )
    assert (run.stdout.strip(), run.stderr) == ("(9500, 10000)", "")


def test_what_is_no_number_sets_no_white_level(tmp_path: Path) -> None:
    grey = np.tile(np.arange(100, dtype=np.float32), (20, 1))
    grey[0], grey[1], grey[2] = np.nan, np.inf, -np.inf
    Image.fromarray(grey).save(tmp_path / "hot.tif")
    pixels = decode(tmp_path / "hot.tif")
    assert (pixels[:4, 50, 0] == [0, 99, 0, 50]).all()
    assert white_level(pixels) == 99


def test_an_image_that_a_scale_leaves_nothing_of_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "dot.png")
    with pytest.raises(InputError, match="dot.png: An image of 2×2 px"):
        read_any_image(tmp_path / "dot.png", 32, um_per_pixel=0.1, to_um_per_pixel=1.0)
