"""Cache, next to packed data, of what depends only on a data set, for later runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trainers.storage import atomic_files
from trainers.storage.tensors import bits_of


def cache_path(data: Any, *key: object) -> Path | None:
    """The cache file for the data and this key; None if the data has no cache."""
    folder: Path | None = data.cache
    if folder is None:
        return None
    facts = (data.fingerprint, data.size, data.held_out, *key)
    return folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.safetensors"


def read_cached(path: Path, notify: Callable[[str], None]) -> dict[str, Tensor] | None:
    """Tensors that `write` cached; None if there are none, or if they are damaged, which is reported."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            intact = (file.metadata() or {}).get("digest") == digest_of_tensors(tensors)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError):
        intact = False
    if intact:
        return tensors
    notify(f"{path}: damaged; its contents are computed again")
    return None


def write_cached(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Cache tensors atomically. Does nothing if there is no space, since they can be computed again."""
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_files.replacing(path) as temporary:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                temporary,
                {"digest": digest_of_tensors(tensors)},
            )
    except OSError:
        return


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, dtypes and bits."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
        hashed.update(bits_of(tensor).numpy().data)
    return hashed.hexdigest()
