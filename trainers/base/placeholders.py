"""Files that stand in place of others which were not fetched: pointers of git-lfs and git-annex, web pages."""

from __future__ import annotations

from pathlib import Path

BEGINNINGS = {  # in lower case
    b"version https://git-lfs.github.com/spec/": "git-lfs pointer",
    b"version https://hawser.github.com/spec/": "git-lfs pointer",
    b"/annex/objects/": "git-annex pointer",
    b"<!doctype html": "web page",
    b"<html": "web page",
    b"<?xml": "XML file",
}
COMMANDS = {"git-lfs pointer": "git lfs pull", "git-annex pointer": "git annex get ."}  # that fetch the files
LONGEST = 200  # bytes at the beginning of a file to look at


def placeholder(content: bytes) -> str:
    """What a file with this content is in place of another: `git-lfs pointer`, ...; "" if it is none."""
    begins = content[:LONGEST].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for beginning, kind in BEGINNINGS.items() if begins.startswith(beginning)), "")


def placeholder_at(path: Path) -> str:
    """The same for a file; "" if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return placeholder(file.read(LONGEST))
    except OSError:
        return ""


def how_to_fetch(kind: str) -> str:
    """How to get the file itself; "" if unknown."""
    return f"fetch it with `{COMMANDS[kind]}`" if kind in COMMANDS else ""
