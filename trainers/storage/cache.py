"""What was computed of a data set and of nothing else, cached beside packed data for the next run that wants it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trainers.storage import atomic_files
from trainers.storage.tensors import bits_of


def place(data: Any, *key: object) -> Path | None:
    """Where what follows from the data and this key is cached; None where it is not."""
    folder: Path | None = data.cache
    if folder is None:
        return None
    facts = (data.fingerprint, data.size, data.held_out, *key)
    return folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.safetensors"


def read(path: Path, say: Callable[[str], None]) -> dict[str, Tensor] | None:
    """Tensors that `write` cached; None where there are none, or where they are damaged, which is said."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            whole = (file.metadata() or {}).get("digest") == digest(tensors)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError):
        whole = False
    if whole:
        return tensors
    say(f"{path}: damaged; its contents are computed again")
    return None


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Cache tensors, whole or not at all; nothing where there is no room, since they can be computed again."""
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_files.replacing(path) as making:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, making, {"digest": digest(tensors)}
            )
    except OSError:
        return


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bits."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
        found.update(bits_of(tensor).numpy().data)
    return found.hexdigest()
