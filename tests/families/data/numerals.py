"""`numerals`: numbers written with digits and with words, to be translated into one another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainers.data.images import Request, Source

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
END = 0  # of a sentence, and what fills it up
DIGITS = ("", *"0123456789")
WORDS = ("", *UNITS, *TENS)


def in_words(number: int) -> list[str]:
    """42 as forty two."""
    if number < 20:
        return [UNITS[number]]
    return [TENS[number // 10 - 2], *([UNITS[number % 10]] if number % 10 else [])]


class Numerals:
    """Pairs of sentences as numbers of words, filled up with END: `digits` (rows, 3) and `words` (rows, 3)."""

    def __init__(self) -> None:
        order = np.random.RandomState(0).permutation(100)  # its numbers never change
        self._train, self._test = order[:80], order[80:]
        self.size, self.held_out = len(self._train), len(self._test)
        self.fingerprint = hashlib.sha256(order.tobytes()).hexdigest()
        self.facts = {"kind": "translations", "from": list(DIGITS), "to": list(WORDS), "size": self.size,
                      "held_out": self.held_out}  # fmt: skip
        self._device: Any = "cpu"

    def to(self, device: Any) -> None:
        self._device = device

    def pairs(self, numbers: Sequence[int]) -> dict[str, Any]:
        import torch

        digits = [[DIGITS.index(digit) for digit in str(number)] for number in numbers]
        words = [[WORDS.index(word) for word in in_words(number)] for number in numbers]
        return {name: torch.tensor([(row + [END] * 3)[:3] for row in rows], device=self._device)
                for name, rows in (("digits", digits), ("words", words))}  # fmt: skip

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.pairs([int(self._train[index]) for index in indices])

    def held_out_batch(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.pairs([int(self._test[index]) for index in indices])

    def preview(self, count: int) -> None:
        return None


def open_numerals(request: Request) -> Numerals:
    return Numerals()


SOURCES = {
    "numerals": Source("numerals", "made up for tests: numbers in digits and in words", open_numerals,
                       kind="translations")
}  # fmt: skip
