"""Why an image cannot be read, in a few words that are the same for all images with the same problem."""

from __future__ import annotations

import re
from collections.abc import Mapping

from PIL import Image, UnidentifiedImageError

from trainers.base.placeholders import COMMANDS, placeholder


def reason_unreadable(error: Exception, content: bytes) -> str:
    """The reason why a file with this content, empty if it could not be read at all, is not an image."""
    if isinstance(error, OSError) and error.errno is not None:
        return str(error.strerror)
    if not content:
        return "empty file"
    if known := placeholder(content):
        return known
    if not content.strip(b"\0"):
        return "only zeros"
    if isinstance(error, UnidentifiedImageError):
        return "unknown image format"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    lines = str(error).strip().splitlines()
    message = re.sub(r"\s*\(.*?\)|\s*0x[0-9a-f]+|\d+", "", lines[0] if lines else "").strip(" :,")
    return message or type(error).__name__


def summary(reasons: Mapping[str, int]) -> str:
    """`git-lfs pointer: 16, empty file: 2`, all of them, the most frequent first."""
    return ", ".join(f"{why}: {count}" for why, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def way_out(reasons: Mapping[str, int]) -> str:
    """What to do about them, if known."""
    return "; ".join(f"fetch them with `{command}`" for reason, command in COMMANDS.items() if reason in reasons)
