"""`poem`: a made-up text of a few words, the same everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainers.data.images import Request, Source

WORDS = ("the", "king", "sees", "a", "river", "and", "sleeps", "by", "it", ".")


class Text:
    """Words as numbers: `text` to learn from and `held_out_text` to evaluate on, both of shape (length,)."""

    def __init__(self, train: np.ndarray, test: np.ndarray, vocabulary: Sequence[str]) -> None:
        self._arrays = train, test
        self._device: Any = "cpu"
        self.size, self.held_out = len(train), len(test)
        self.fingerprint = hashlib.sha256(train.tobytes() + test.tobytes()).hexdigest()
        self.facts = {"kind": "text", "vocabulary": list(vocabulary), "size": self.size, "held_out": self.held_out}

    def to(self, device: Any) -> None:
        self._device = device

    @property
    def text(self) -> Any:
        import torch

        return torch.from_numpy(self._arrays[0]).to(self._device)

    @property
    def held_out_text(self) -> Any:
        import torch

        return torch.from_numpy(self._arrays[1]).to(self._device)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        return {"words": self.text[list(indices)]}

    def held_out_batch(self, indices: Sequence[int]) -> dict[str, Any]:
        return {"words": self.held_out_text[list(indices)]}

    def preview(self, count: int) -> None:
        return None


def open_poem(request: Request) -> Text:
    """Each word follows from the one before, nine times of ten."""
    random = np.random.RandomState(0)
    words = [0]
    for _ in range(999):
        words.append((words[-1] + 1) % len(WORDS) if random.rand() < 0.9 else int(random.randint(len(WORDS))))
    text = np.array(words, np.int64)
    return Text(text[:800], text[800:], WORDS)


SOURCES = {"poem": Source("poem", "made up for tests: a text of a thousand words", open_poem, kind="text")}
