"""From the bytes of a PNG or JPEG file to an array of one size."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from normfold.contract.arrays import Float32Array
from normfold.contract.errors import RawInputError

MAX_IMAGE_PIXELS = 50_000_000
"""Images with more pixels are rejected by their header: a decompression bomb is a small file."""

_SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}
"""The first bytes of a file, by its format."""


def decode_planes(
    data: bytes,
    *,
    channels: Literal[1, 3],
    height: int,
    width: int,
    resize: Literal["stretch", "crop"],
    background: float,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> tuple[Float32Array, float]:
    """Decode a PNG or JPEG file: EXIF rotation, palettes, 16-bit grey and transparency are handled.

    Args:
        data: the bytes of the file.
        channels: 1 for grey, 3 for RGB.
        height: in pixels, of the result.
        width: in pixels, of the result.
        resize: `stretch` changes the aspect ratio; `crop` scales the image to cover the size and cuts at the centre.
        background: intensity, 0 to 1, behind transparent pixels.
        max_pixels: largest number of pixels of the file's image.

    Returns:
        Values of shape (channels, height, width), float32, and the value of full intensity: 255, or 65535 for 16-bit
        grey.

    Raises:
        RawInputError: the bytes are not a readable PNG or JPEG file, or it has more than `max_pixels` pixels.
    """
    image = _blend_transparency(_open(data, max_pixels), background)
    planes, full_intensity = _split_planes(image, channels)
    # Planes become float32 one at a time, so that memory does not hold a large image as floats three times.
    resized = [_resize(plane.convert("F"), height, width, resize) for plane in planes]
    return np.stack(resized), full_intensity


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        if image.width * image.height > max_pixels:
            size = f"{image.width} × {image.height}"
            raise RawInputError(f"The image has {size} pixels, over the limit of {max_pixels:,}.")
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        for kind, signature in _SIGNATURES.items():
            if data.startswith(signature):
                raise RawInputError(f"The image is damaged: it begins as a {kind} file and cannot be read.") from None
        raise RawInputError("The image is neither a PNG nor a JPEG file.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RawInputError(f"The image has more pixels than the limit of {max_pixels:,}.") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise RawInputError(f"The image is damaged: {str(error).rstrip('.')}.") from None


def _blend_transparency(image: Image.Image, background: float) -> Image.Image:
    """Composite an image with transparency over a grey background; return other images unchanged.

    Pillow cannot blend 16-bit grey, so that the transparent colour of a 16-bit image (rare) keeps its stored value.
    """
    if image.mode.startswith("I") or not image.has_transparency_data:
        return image
    opaque = Image.new("RGBA", image.size, (round(255 * background),) * 3 + (255,))
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque


def _split_planes(image: Image.Image, channels: int) -> tuple[Sequence[Image.Image], float]:
    """Return the image's planes, one per channel, and their value of full intensity."""
    if image.mode.startswith("I"):  # 16-bit grey
        return [image] * channels, 65535.0
    return image.convert("L" if channels == 1 else "RGB").split(), 255.0


def _resize(plane: Image.Image, height: int, width: int, resize: str) -> Float32Array:
    if plane.size != (width, height):
        size = (width, height)
        if resize == "crop":
            plane = ImageOps.fit(plane, size, Image.Resampling.BILINEAR)
        else:
            plane = plane.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(plane, np.float32)
