"""Find a font that has the characters of a text: the font of the plots, or one of this machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def default_font(name: str = "DejaVuSans.ttf") -> Path:
    """The font of all plots, which comes with matplotlib."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name


def drawable(text: str) -> tuple[Path, str]:
    """A font, and the text as drawn with it: if no font has all characters, those missing in the default font are
    written as `\\u72d7`."""
    codes = np.array([ord(character) for character in text if not character.isspace()], np.int32)
    if _has(default_font(), codes).all():
        return default_font(), text
    for font in _others():
        if _has(font, codes).all():
            return font, text
    missing = set(codes[~_has(default_font(), codes)].tolist())
    parts = [
        character.encode("ascii", "backslashreplace").decode() if ord(character) in missing else character
        for character in text
    ]
    return default_font(), "".join(parts)


@cache
def _others() -> tuple[Path, ...]:
    """The fonts of this machine, in a fixed order, without those that draw a box for every character."""
    from matplotlib import font_manager

    fonts = {Path(font) for font in font_manager.findSystemFonts()}
    return tuple(sorted(font for font in fonts if "lastresort" not in font.name.lower()))


def _has(font: Path, codes: NDArray[np.int32]) -> NDArray[np.bool_]:
    return np.isin(codes, _characters(font))


@cache
def _characters(font: Path) -> NDArray[np.int32]:
    """The characters of a font; empty if it cannot be read, or is not scalable."""
    from matplotlib.ft2font import FT2Font

    try:
        opened = FT2Font(str(font))
        return np.array([*opened.get_charmap()] if opened.scalable else [], np.int32)
    except (OSError, RuntimeError):
        return np.zeros(0, np.int32)
