"""Files that are complete or absent, even after a power failure: written to a temporary file, synced, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def finite(value: Any) -> Any:
    """A value for JSON: non-finite numbers become null, keys become strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return value


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Create a folder; if it is new and the block fails, remove it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()  # fails if another process creates it
    except FileExistsError:
        path.mkdir(exist_ok=True)  # fails if it is not a folder
        yield
        return
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


@contextlib.contextmanager
def replacing(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A temporary path to write to; it replaces `path` when the block ends. If `lasting`, this survives a power
    failure, which takes milliseconds.

    The file mode follows the umask, whatever mode the writing library sets.
    """
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.making")
    temporary.touch(exist_ok=False)  # so that no other process has it
    try:
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:
            temporary.chmod(mode)
        if lasting:
            sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if lasting:
        sync(path.parent)


UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.making")


def clear_unfinished(*folders: Path) -> None:
    """Remove what a killed `replacing` left in folders of a run or a search that the caller holds."""
    for folder in folders:
        for path in folder.glob(".*.making"):
            if UNFINISHED.fullmatch(path.name) and not path.is_dir():
                path.unlink(missing_ok=True)


def write(path: Path, text: str, lasting: bool = True) -> None:
    """Write a small text file in UTF-8; bytes of names that are not UTF-8 become `\\udce9`."""
    with replacing(path, lasting) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def sync(path: Path) -> None:
    """Sync the content of a file, or the entries of a folder, to disk."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed(facts: Mapping[str, Any]) -> str:
    """JSON with a digest of its content, which `is_intact` verifies."""
    content = {key: value for key, value in facts.items() if key != "digest"}
    return json.dumps({**content, "digest": _digest(content)}, indent=1) + "\n"


def is_intact(facts: Mapping[str, Any]) -> bool:
    """Whether facts written by `sealed` are unchanged; true for older ones without a digest."""
    return facts.get("digest", "") in ("", _digest({key: value for key, value in facts.items() if key != "digest"}))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
