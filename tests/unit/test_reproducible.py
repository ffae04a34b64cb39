"""Ways of a GPU that give the same bits each time: asked for inside, and nothing of it is left. Needs no GPU."""

from __future__ import annotations

import os

import pytest
import torch
from sentences import Sentences

from trainers.base.errors import TroupeError
from trainers.engine.loop import reproducible
from trainers.runtime.global_state import at_defaults


def asked() -> tuple[object, ...]:
    from torch._inductor import config

    return (
        torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, config.deterministic,
        torch.utils.deterministic.fill_uninitialized_memory, os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )  # fmt: skip


def test_what_is_set_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = asked()
    with at_defaults(), reproducible():
        assert asked() == (2, False, True, False, ":4096:8")
    assert asked() == before


def test_an_operation_without_a_repeatable_way_is_told_with_what_helps(sentences: Sentences) -> None:
    said = (
        "median does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'."
    )
    with pytest.raises(TroupeError) as raised, at_defaults(), reproducible():
        raise RuntimeError(said)
    (problem,) = raised.value.problems
    assert (problem.code, problem.about, problem.value) == ("exchange-misfit", "grad_sync", "exact")
    assert "median" in problem.reason
    assert "grad_sync=ddp" in problem.hint
    sentences([problem])
    with pytest.raises(RuntimeError, match=r"^other$"), at_defaults(), reproducible():
        raise RuntimeError("other")
