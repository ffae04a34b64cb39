"""Tensors on their way out of and into a run: their names in a state, their bits, images, and stored weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers.engine.errors import CONFLICT, TroupeError


def named_tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a state, with the path to it."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, Sequence) and not isinstance(state, str):
        for place, value in enumerate(state):
            yield from named_tensors(value, f"{name}[{place}]")


def bits_of(tensor: Tensor) -> Tensor:
    """The bits of a tensor, as uint8 on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def as_uint8(images: Tensor) -> Tensor:
    """Images NCHW in [0, 1] as uint8 NHWC on the CPU."""
    return images.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()


def read_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """Weights by network, from a checkpoint's `state.pt` (as they were trained, not averaged) or from safetensors.

    Raises TroupeError (exit code 4) where it is none, or damaged.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".pt":
            networks: dict[str, dict[str, Tensor]] = torch.load(path, map_location="cpu", weights_only=True)["networks"]
            return networks
        tensors = load_file(path)
    except Exception as error:  # both libraries raise nearly anything
        whose = "--from" if path.stem == "from" else str(path)  # in the folder of the run that begins with them
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TroupeError(
            f"{whose}: no weights can be read ({reason}); give a run, or what `troupe export` wrote", CONFLICT
        ) from error
    weights: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        network, _, name = key.partition(".")
        weights.setdefault(network, {})[name] = tensor
    return weights
