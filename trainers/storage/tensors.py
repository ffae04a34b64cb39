"""Tensors that leave or enter a run: their names in a state, their bits, images, and stored weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainers.base.errors import CONFLICT, TroupeError
from trainers.base.placeholders import how_to_fetch, placeholder_at
from trainers.base.problems import Problem
from trainers.storage.checkpoint import WEIGHTS


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


class _NotPlain(Exception):
    """Unusable content of a weights file."""


def read_weights(
    path: Path, networks: Sequence[str] = (), ema: bool = False, about: str = "", value: str | None = None
) -> dict[str, dict[str, Tensor]]:
    """Weights by network: of a checkpoint (with `ema`, averaged if there is an average), an exported file or folder, or
    any state dict of torch, which then belongs to the only one of `networks`; a prefix `module.` is removed. What a
    family keeps besides its networks is under `kept`, if there is any.

    Raises TroupeError (exit code 4) if it is none of these, or damaged; `about` and `value` are the option or setting
    that named it.
    """
    from safetensors.torch import load_file

    inside = [path / name for name in WEIGHTS if (path / name).exists()]
    file = inside[0] if inside else path
    try:
        if file.suffix == ".safetensors":
            tensors: Any = load_file(file)
        else:
            with warnings.catch_warnings(action="ignore"):  # of sparse tensors, which are rejected below
                tensors = torch.load(file, map_location="cpu", weights_only=True)
        if odd := sorted({kind for _, tensor in named_tensors(tensors) if (kind := _not_plain(tensor))}):
            raise _NotPlain(f"it contains {' and '.join(odd)}")
        if "networks" in tensors:
            averages = tensors.get("ema", {}) if ema else {}
            kept = {"kept": tensors["kept"]} if tensors.get("kept") else {}
            return {**tensors["networks"], **averages, **kept}
        for key in ("state_dict", "model"):
            tensors = tensors[key] if isinstance(tensors.get(key), Mapping) else tensors
        if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise _NotPlain("it contains more than tensors")
    except Exception as error:  # both libraries raise many types of exceptions
        instead = placeholder_at(file)
        reason = (error.strerror if isinstance(error, OSError) else instead) or "damaged, or another format"
        reason = f"no weights can be read ({error if isinstance(error, _NotPlain) else reason})"
        hint = "pass a state dict saved by torch, or a file or folder written by `troupe export`"
        hint = how_to_fetch(instead) or hint
        raise TroupeError(Problem("no-weights", about or str(path), reason, hint, value), CONFLICT) from error
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if len(networks) == 1 and not all(name.startswith(f"{networks[0]}.") for name in tensors):
        return {networks[0]: tensors}
    weights: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        network, _, name = key.partition(".")
        weights.setdefault(network, {})[name] = tensor
    return weights


def _not_plain(tensor: Tensor) -> str:
    """Why a network cannot load a tensor, regardless of its shape; empty if it can."""
    if tensor.is_meta:
        return "tensors without data (on the meta device)"
    if tensor.layout != torch.strided:
        return "sparse tensors"
    if tensor.is_quantized:
        return "quantized tensors"
    return "complex numbers" if tensor.is_complex() else ""


def load_weights(
    networks: Mapping[str, nn.Module], weights: Mapping[str, Mapping[str, Tensor]], about: str, value: str | None = None
) -> None:
    """Load weights by network. Raises TroupeError (exit code 4), naming the tensors, if they do not fit."""
    require_matching(networks, weights, "the weights do not fit", about, value)
    for name, network in networks.items():
        network.load_state_dict(weights[name], strict=False)  # batch counters can be missing


def load_buffers(networks: Mapping[str, nn.Module], kept: Mapping[str, Tensor]) -> None:
    """Load what is kept under the names of a network's tensors, `judge.0.weight`, into that network."""
    for name, network in networks.items():
        own = {key.removeprefix(f"{name}."): part for key, part in kept.items() if key.startswith(f"{name}.")}
        if own:
            network.load_state_dict(own)


def require_matching(
    networks: Mapping[str, nn.Module],
    weights: Mapping[str, Mapping[str, Tensor]],
    what: str,
    about: str = "",
    value: str | None = None,
) -> None:
    """Raise TroupeError (exit code 4) with a problem for each network that the weights misfit: `what` NAME: tensors."""
    hint = "are they for another network or other data?"
    problems = [
        Problem("weights-misfit", about, f"{what} {name}: {some(wrong)}", hint, value)
        for name, network in networks.items()
        if (wrong := differences_between(network.state_dict(), weights.get(name, {})))
    ]
    if problems:
        raise TroupeError(problems, CONFLICT)


def some(differences: Sequence[str]) -> str:
    """The first three of them, and the number of others."""
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return ", ".join(differences[:3]) + more


def differences_between(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Differences between the expected and the given tensors, sorted: missing, unknown, of another shape."""
    differences = []
    for key in sorted(own.keys() | given.keys()):
        if key.endswith("num_batches_tracked"):  # old files have none
            continue
        if key not in given:
            differences.append(f"{key} (missing)")
        elif key not in own:
            differences.append(f"{key} (not in this network)")
        elif own[key].shape != given[key].shape:
            differences.append(
                f"{key} ({'x'.join(map(str, given[key].shape))} instead of {'x'.join(map(str, own[key].shape))})"
            )
    return differences
