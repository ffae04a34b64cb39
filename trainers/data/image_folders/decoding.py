"""Decodes a file to the image that a network sees: upright, over white, cropped, of one size, grey or in colour."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainers.data.image_folders import values
from trainers.data.images import fit

EXTENSIONS = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
NEWER = ("avif", "heic", "heif")  # readable by newer Pillow, or with pillow-heif installed
NEVER_READ = frozenset(  # formats of images that are left out, besides those that Pillow alone knows
    (".heic", ".heif", ".avif", ".jxl", ".svg", ".svgz", ".psd", ".psb", ".xcf", ".kra", ".raw", ".cr2", ".cr3", ".nef",
     ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw", ".exr", ".dcm", ".nii", ".czi", ".lif", ".nd2", ".svs")
)  # fmt: skip
GREY_MODES = ("1", "L", "LA", "La", "F", "I", "I;16", "I;16L", "I;16B", "I;16N")


@cache
def extensions() -> tuple[str, ...]:
    """The file name extensions of images."""
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("pillow_heif").register_heif_opener()
    known = Image.registered_extensions()
    return (*EXTENSIONS, *(name for name in NEWER if f".{name}" in known))


def is_image_format(extension: str) -> bool:
    """Whether files with this extension, `.psd`, hold images, though they may not be read here."""
    return extension in NEVER_READ or extension in Image.registered_extensions()


def decode(
    content: bytes, size: int, channels: int, value_range: values.Range = "auto", seen: values.Values | None = None
) -> NDArray[np.uint8]:
    """The image in a file: upright, over white, shorter side resized with antialiasing, centre cropped; its values are
    added to `seen`."""
    extensions()  # registers all readable formats
    with Image.open(io.BytesIO(content)) as opened:
        opened.draft(None, (2 * size, 2 * size))  # decodes a large JPEG at a fraction of its size: much faster
        image = ImageOps.exif_transpose(opened)
    kind = values.FLOAT if image.mode == "F" else values.SIXTEEN if image.mode.startswith("I") else values.EIGHT
    given = image
    if kind != values.EIGHT:  # Pillow's own conversion clips them
        image = Image.fromarray(values.in_eight_bits(np.asarray(image), kind, value_range))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if seen is not None:
        seen.add(kind, np.asarray(image if kind == values.EIGHT else given))
    if kind == values.EIGHT and (levels := values.value_table(value_range)):
        image = image.point(levels * channels)
    image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, channels)


def is_grey(file: Path) -> bool:
    """Whether the header is that of an image without colour; True for one that cannot be read, so that it does not
    matter."""
    try:
        with Image.open(file) as image:
            return image.mode in GREY_MODES
    except Exception:  # as in decoding, where it is reported
        return True


def sides(facts: Mapping[str, Any]) -> dict[str, int]:
    """The sides, in pixels, that an image of such data is cropped to, padded to with zeros, and resized to."""
    size = facts["image_size"]
    crop = facts.get("original_size", size)
    power = 1 << (crop - 1).bit_length()
    return {"crop_to": crop, "pad_to": size if crop <= size <= power else power, "resize_to": size}


def preprocessed(content: bytes, facts: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The image in a file as it would be in such data: (image_size, image_size, channels).

    Raises almost any exception for a damaged file, as Pillow does.
    """
    image = decode(content, sides(facts)["crop_to"], facts["channels"], facts.get("value_range", "auto"))
    (fitted,) = fit(image[None], facts["image_size"])
    return np.asarray(fitted, np.uint8)


def _levels(value_range: values.Range) -> str:
    """A description of how values become 8 bits."""
    if isinstance(value_range, str):
        return "16-bit values over 257, floats of 0 to 1 times 255, both rounded to 8 bits"
    black, white = value_range
    return f"values from {black:.9g} to {white:.9g} spread over 0 to 255, those beyond at its ends, rounded to 8 bits"


def preprocessing(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `preprocessed` does, for programs with Pillow but without troupe: its numbers, and its steps in words."""
    side, channels = sides(facts), facts["channels"]
    mode, crop = "L" if channels == 1 else "RGB", side["crop_to"]
    steps = [
        f"open with Pillow; for a JPEG first Image.draft(None, ({2 * crop}, {2 * crop}))",
        "ImageOps.exif_transpose",
        f"{_levels(facts.get('value_range', 'auto'))}; transparency over white",
        f'convert("{mode}")',
        f"ImageOps.fit(image, ({crop}, {crop}), Image.Resampling.LANCZOS)",
    ]
    if side["pad_to"] != crop:
        steps.append(
            f"zeros around it to {side['pad_to']}, equally on all sides; where that is odd, one more right and below"
        )
    if side["resize_to"] != side["pad_to"]:
        steps.append(f"resize(({side['resize_to']}, {side['resize_to']}), Image.Resampling.LANCZOS)")
    return {"image_size": facts["image_size"], "channels": channels, "mode": mode, **side, "steps": steps}
