"""Why an image cannot be read, in a few words that are the same for all images with the same problem."""

from __future__ import annotations

import re
from collections.abc import Mapping

from PIL import Image, UnidentifiedImageError

BEGINNINGS = {  # of files found in place of images, in lower case
    b"version https://git-lfs.github.com/spec/": "git-lfs pointer", b"version https://hawser.github.com/spec/":
    "git-lfs pointer", b"/annex/objects/": "git-annex pointer", b"<!doctype html": "web page", b"<html": "web page",
    b"<?xml": "XML file",
}  # fmt: skip
WAYS = {"git-lfs pointer": "fetch them with `git lfs pull`", "git-annex pointer": "fetch them with `git annex get .`"}


def reason_unreadable(error: Exception, content: bytes) -> str:
    """The reason why a file with this content, empty if it could not be read at all, is not an image."""
    if isinstance(error, OSError) and error.errno is not None:
        return str(error.strerror)
    if not content:
        return "empty file"
    begins = content[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if known := next((kind for beginning, kind in BEGINNINGS.items() if begins.startswith(beginning)), ""):
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
    return "; ".join(way for reason, way in WAYS.items() if reason in reasons)
