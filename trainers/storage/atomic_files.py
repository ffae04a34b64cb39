"""Files that are whole or not there, also after a pulled plug: written aside, made durable, renamed."""

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
    """As JSON has it: what is not finite is null, keys are texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return value


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """A folder, which goes again where it was not there before, and what is written into it inside fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()  # which fails where somebody else makes it
    except FileExistsError:
        path.mkdir(exist_ok=True)  # which fails where it is no folder
        yield
        return
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


@contextlib.contextmanager
def replacing(path: Path, lasting: bool = True) -> Iterator[Path]:
    """The path to write to instead of `path`; what was written there takes its place when the block ends. It does so
    after a pulled plug too where it is `lasting`, which takes milliseconds.

    Whoever may read it follows the umask, whatever a library that writes it says.
    """
    making = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.making")
    making.touch(exist_ok=False)  # so that it is nobody else's
    try:
        mode = making.stat().st_mode
        yield making
        if making.stat().st_mode != mode:
            making.chmod(mode)
        if lasting:
            sync(making)
        os.replace(making, path)
    except BaseException:
        with contextlib.suppress(OSError):
            making.unlink(missing_ok=True)
        raise
    if lasting:
        sync(path.parent)


UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.making")


def clear_unfinished(*folders: Path) -> None:
    """Remove what `replacing` left in folders of a run or a search that the caller holds, where it was killed."""
    for folder in folders:
        for path in folder.glob(".*.making"):
            if UNFINISHED.fullmatch(path.name) and not path.is_dir():
                path.unlink(missing_ok=True)


def write(path: Path, text: str, lasting: bool = True) -> None:
    """Write a small text file, in UTF-8; what was a name in other bytes becomes `\\udce9`."""
    with replacing(path, lasting) as making:
        making.write_text(text, encoding="utf-8", errors="backslashreplace")


def sync(path: Path) -> None:
    """Make the content of a file durable, or the names in a folder."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed(facts: Mapping[str, Any]) -> str:
    """JSON that tells by its own digest whether it is as it was written; see `is_whole`."""
    content = {key: value for key, value in facts.items() if key != "digest"}
    return json.dumps({**content, "digest": _digest(content)}, indent=1) + "\n"


def is_whole(facts: Mapping[str, Any]) -> bool:
    """Whether facts that `sealed` wrote are those; true of older ones, which have no digest."""
    return facts.get("digest", "") in ("", _digest({key: value for key, value in facts.items() if key != "digest"}))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
