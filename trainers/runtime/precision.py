"""The number format in which networks compute, in training, evaluation and prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def autocast_for(precision: str, device: str) -> Iterator[None]:
    """Inside, networks compute in `bfloat16` by autocast if that is the precision; otherwise in the dtype of weights.

    On a processor without bfloat16 instructions, oneDNN has no LSTM in bfloat16 (`could not create a primitive
    descriptor for the LSTM forward propagation primitive`), and its other operations fall back to torch's own anyway:
    it is disabled inside.
    """
    if precision != "bfloat16":
        yield
        return
    with contextlib.ExitStack() as stack:
        if device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
            torch._C._set_mkldnn_enabled(False)
        stack.enter_context(torch.autocast(device, torch.bfloat16))
        yield
