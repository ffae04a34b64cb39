"""The number format of a run: what networks compute in, in training, evaluation and prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def computing_in(precision: str, device: str) -> Iterator[None]:
    """Inside, networks compute in `bfloat16` by autocast where that is the precision; otherwise as their weights are.

    On a processor without instructions for it, oneDNN has no LSTM in bfloat16 (`could not create a primitive
    descriptor for the LSTM forward propagation primitive`), and its other operations are torch's own there anyway: it
    is left out inside.
    """
    if precision != "bfloat16":
        yield
        return
    with contextlib.ExitStack() as held:
        if device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            held.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
            torch._C._set_mkldnn_enabled(False)
        held.enter_context(torch.autocast(device, torch.bfloat16))
        yield
