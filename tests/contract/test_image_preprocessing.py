"""Decoding of PNG and JPEG files: colour modes, bit depths, transparency, rotation, damage."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from normfold.contract.errors import RawInputError
from normfold.contract.image_decoding import MAX_IMAGE_PIXELS
from normfold.contract.preprocess import ImagePreprocessing

# 2 × 3, every pixel another, so that a turn or flip cannot go unseen.
GREY = np.array([[0, 50, 100], [150, 200, 250]], np.uint8)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def grey(height: int = 2, width: int = 3, **fields: Any) -> ImagePreprocessing:
    return ImagePreprocessing(channels=1, height=height, width=width, mean=(0.5,), std=(0.25,), **fields)


def rgb(height: int = 2, width: int = 3, **fields: Any) -> ImagePreprocessing:
    return ImagePreprocessing(channels=3, height=height, width=width, mean=(0,) * 3, std=(1,) * 3, **fields)


def save(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG by hand, for kinds that Pillow reads and does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


def test_grey_png_keeps_its_values_exactly() -> None:
    np.testing.assert_array_equal(grey().decode_image(save(Image.fromarray(GREY))), GREY[None])


def test_rgb_png_keeps_its_values_exactly_channels_first() -> None:
    np.testing.assert_array_equal(rgb().decode_image(save(Image.fromarray(RGB))), RGB.transpose(2, 0, 1))


@given(st.binary(min_size=64, max_size=64))
def test_png_of_raw_digits_decodes_to_the_digits(values: bytes) -> None:
    digits = np.frombuffer(values, np.uint8).reshape(8, 8) % 17
    preprocessing = ImagePreprocessing(channels=1, height=8, width=8, value_max=16, mean=(0.3,), std=(0.4,))
    drawn = Image.fromarray(np.round(digits * (255 / 16)).astype(np.uint8))
    np.testing.assert_allclose(preprocessing.decode_image(save(drawn))[0], digits, atol=0.5 * 16 / 255 + 1e-6)


def test_value_max_is_the_raw_value_of_full_intensity() -> None:
    white = save(Image.new("L", (3, 2), 255))
    np.testing.assert_array_equal(grey(value_max=16).decode_image(white), np.full((1, 2, 3), 16))


TURNS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.T,
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].T,
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = TURNS[orientation](GREY)
    preprocessing = grey(*expected.shape)
    np.testing.assert_array_equal(preprocessing.decode_image(save(Image.fromarray(GREY), exif=exif))[0], expected)

    large = np.kron(GREY, np.ones((16, 16), np.uint8))  # JPEG's blocks must not mix the pixels
    data = save(Image.fromarray(large), "JPEG", exif=exif, quality=95)
    expected = TURNS[orientation](large)
    np.testing.assert_allclose(grey(*expected.shape).decode_image(data)[0], expected, atol=3)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the same
@given(st.binary(max_size=40))
def test_image_with_damaged_exif_is_decoded(garbage: bytes) -> None:
    data = save(Image.fromarray(GREY), exif=b"Exif\0\0MM\0*\0\0\0\x08" + garbage)
    decoded = grey().decode_image(data)
    assert decoded.shape == (1, 2, 3)


def test_jpeg_is_decoded() -> None:
    data = save(Image.new("RGB", (16, 16), (10, 200, 90)), "JPEG", quality=95)
    expected = np.broadcast_to(np.array([10, 200, 90]).reshape(3, 1, 1), (3, 16, 16))
    np.testing.assert_allclose(rgb(16, 16).decode_image(data), expected, atol=3)


def test_cmyk_jpeg_is_decoded() -> None:
    data = save(Image.new("RGB", (16, 16), (10, 200, 90)).convert("CMYK"), "JPEG", quality=95)
    expected = np.broadcast_to(np.array([10, 200, 90]).reshape(3, 1, 1), (3, 16, 16))
    np.testing.assert_allclose(rgb(16, 16).decode_image(data), expected, atol=4)


def test_palette_colours_are_resolved() -> None:
    image = Image.fromarray(GREY).convert("P")  # palette of greys
    assert image.mode == "P"
    image.putpalette([value for index in range(256) for value in (255 - index, index, 7)])
    image.putdata(list(range(6)))
    expected = np.stack([255 - np.arange(6), np.arange(6), np.full(6, 7)]).reshape(3, 2, 3)
    np.testing.assert_array_equal(rgb().decode_image(save(image)), expected)


def test_transparent_palette_entry_shows_the_background() -> None:
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 40, 40, 40])
    image.putpixel((0, 0), 0)
    data = save(image, transparency=0)
    assert grey(background=1.0).decode_image(data)[0, 0, 0] == 255
    assert grey(background=0.0).decode_image(data)[0, 0, 0] == 0
    assert grey(background=0.0).decode_image(data)[0, 1, 1] == 40


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("background", [0.0, 0.5, 1.0])
def test_alpha_blends_with_the_background(mode: str, background: float) -> None:
    image = Image.new(mode, (3, 2), (100, 128) if mode == "LA" else (100, 100, 100, 128))
    expected = (100 * 128 + round(255 * background) * 127) / 255
    for preprocessing in (grey(background=background), rgb(background=background)):
        np.testing.assert_allclose(preprocessing.decode_image(save(image)), expected, atol=1)


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_transparent_colour_shows_the_background(mode: str) -> None:
    colour: Any = (0, 0, 0) if mode == "RGB" else 0
    data = save(Image.new(mode, (3, 2), colour), transparency=colour)
    np.testing.assert_array_equal(grey(background=1.0).decode_image(data), np.full((1, 2, 3), 255))
    np.testing.assert_array_equal(grey(background=0.0).decode_image(data), np.zeros((1, 2, 3)))


def test_black_and_white_image_becomes_0_and_full_intensity() -> None:
    data = save(Image.fromarray(GREY > 99))
    np.testing.assert_array_equal(grey().decode_image(data)[0], np.where(GREY > 99, 255, 0))


def test_16_bit_grey_keeps_its_finer_steps() -> None:
    values = np.array([[0, 1, 256], [32768, 65534, 65535]], np.uint16)
    data = save(Image.fromarray(values))
    for preprocessing in (grey(value_max=65535), rgb(value_max=65535)):
        decoded = preprocessing.decode_image(data)
        np.testing.assert_array_equal(decoded, np.broadcast_to(values, decoded.shape))
    np.testing.assert_allclose(grey().decode_image(data)[0], values / 257, rtol=1e-6)


@pytest.mark.parametrize(("colour", "samples"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"])
def test_16_bit_colour_is_reduced_to_8_bits(colour: int, samples: int) -> None:
    opaque = [0xFFFF] if colour != 2 else []
    row = b"\0" + struct.pack(f">{samples}H", *[0x1234, 0x5678, 0x9ABC][: samples - len(opaque)], *opaque) * 3
    decoded = rgb().decode_image(png_of(3, 2, 16, colour, row * 2))
    expected = [0x12, 0x12, 0x12] if colour == 4 else [0x12, 0x56, 0x9A]
    np.testing.assert_allclose(decoded[:, 0, 0], expected, atol=1)


def test_4_bit_grey_fills_the_range() -> None:
    data = png_of(2, 1, 4, 0, b"\0\x0f")
    np.testing.assert_array_equal(grey(1, 2).decode_image(data), [[[0, 255]]])


def test_colour_is_converted_to_grey_by_its_luminance() -> None:
    data = save(Image.new("RGB", (3, 2), (200, 100, 50)))
    np.testing.assert_allclose(grey().decode_image(data), 0.299 * 200 + 0.587 * 100 + 0.114 * 50, atol=1)


def test_stretch_uses_the_whole_image_and_crop_its_centre() -> None:
    stripes = np.zeros((4, 12), np.uint8)
    stripes[:, :4], stripes[:, 8:] = 90, 180
    data = save(Image.fromarray(stripes))
    stretched = grey(4, 4).decode_image(data)[0]
    assert stretched[0, 0] == pytest.approx(90, abs=20)
    assert stretched[0, -1] == pytest.approx(180, abs=30)
    np.testing.assert_array_equal(grey(4, 4, resize="crop").decode_image(data)[0], np.zeros((4, 4)))


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from(["stretch", "crop"]), st.integers(0, 255))
def test_uniform_image_stays_uniform_at_any_size(height: int, width: int, resize: str, value: int) -> None:
    decoded = rgb(5, 7, resize=resize).decode_image(save(Image.new("L", (width, height), value)))
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, np.full((3, 5, 7), value), rtol=1e-5)


def test_decompression_bomb_is_rejected_by_its_header() -> None:
    side = int(MAX_IMAGE_PIXELS**0.5) + 1
    bomb = png_of(side, side, 8, 0, b"")  # no pixels follow: decoding would say that the file is damaged
    with pytest.raises(RawInputError, match=rf"{side} × {side} pixels, over the limit of 50,000,000"):
        grey().decode_image(bomb)
    # so large that Pillow itself raises
    with pytest.raises(RawInputError, match="more pixels than the limit"):
        grey().decode_image(png_of(100_000, 100_000, 8, 0, b""))
    # so large that Pillow warns, which the tests turn into an exception
    with pytest.raises(RawInputError, match="more pixels than the limit"):
        grey().decode_image(png_of(10_000, 10_000, 8, 0, b""))


def test_max_pixels_can_be_lowered() -> None:
    data = save(Image.fromarray(GREY))
    assert grey().decode_image(data, max_pixels=6).shape == (1, 2, 3)
    with pytest.raises(RawInputError, match="3 × 2 pixels, over the limit of 5"):
        grey().decode_image(data, max_pixels=5)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP"])
def test_other_image_formats_are_rejected(kind: str) -> None:
    with pytest.raises(RawInputError, match="neither a PNG nor a JPEG"):
        grey().decode_image(save(Image.fromarray(GREY), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_file_is_rejected_or_decoded_whole(kind: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8))
    data, preprocessing = save(image, kind), grey(40, 40)
    whole = preprocessing.decode_image(data)
    for length in range(0, len(data), 7):
        try:
            decoded = preprocessing.decode_image(data[:length])
        except RawInputError:
            continue
        np.testing.assert_array_equal(decoded, whole)  # only bytes after the last pixel were missing


@given(st.integers(8, 5000), st.binary(min_size=1, max_size=12))
def test_damaged_file_is_decoded_or_raises_raw_input_error(place: int, damage: bytes) -> None:
    data = bytearray(save(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8))))
    place %= len(data)
    data[place : place + len(damage)] = damage
    try:
        decoded = grey(40, 40).decode_image(bytes(data))
    except RawInputError:
        return
    assert decoded.shape == (1, 40, 40)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG", b"\xff\xd8", bytes(1000)])
def test_bytes_of_no_image_are_rejected(data: bytes) -> None:
    with pytest.raises(RawInputError, match="The image is neither a PNG nor a JPEG file."):
        grey().decode_image(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damage_after_the_signature_is_reported_as_damage(kind: str) -> None:
    data = save(Image.fromarray(GREY), kind)
    refused = 0
    for place in range(8 if kind == "PNG" else 3, len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        try:
            grey().decode_image(damaged)
        except RawInputError as error:
            assert "The image is damaged: " in str(error) or "pixels" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd8\xff" + bytes(100)])
def test_image_that_ends_after_its_signature_is_reported_as_damaged(data: bytes) -> None:
    kind = "PNG" if data.startswith(b"\x89") else "JPEG"
    with pytest.raises(RawInputError, match=f"damaged: it begins as a {kind} file and cannot be read."):
        grey().decode_image(data)
