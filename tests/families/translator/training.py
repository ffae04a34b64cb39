"""How sentences are translated (Bahdanau 2015): sentences of unequal length, each word weighed once."""

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainers.contract.evaluation import Totals
from trainers.contract.family import Data, Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.contract.schedules import constant
from trainers.settings.config import SampleSettings

END = 0


class Encoder(nn.Module):
    def __init__(self, words: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        seen: tuple[Tensor, Tensor] = self.gru(self.embedding(words))
        return seen


class Decoder(nn.Module):
    """One word on: attends to what the encoder has seen, without the filling behind the sentence's end."""

    def __init__(self, words: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words + 1, hidden)  # and one that begins
        self.score = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.gru = nn.GRU(2 * hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, words)

    def forward(self, word: Tensor, state: Tensor, seen: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        query = state[0][:, None].expand_as(seen)
        scores = self.score(torch.cat([query, seen], 2)).masked_fill(~there[:, :, None], -1e4)
        found = (scores.softmax(1) * seen).sum(1)
        out, state = self.gru(torch.cat([self.embedding(word), found], 1)[:, None], state)
        return self.head(out[:, 0]), state


class TranslatorFamily(Family):
    def networks(self) -> dict[str, nn.Module]:
        known = len(self.facts["from"]), len(self.facts["to"])
        return {"encoder": Encoder(known[0], self.config.hidden), "decoder": Decoder(known[1], self.config.hidden)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        parameters = list(itertools.chain(*(network.parameters() for network in networks.values())))
        return {"both": (torch.optim.Adam(parameters, fused=True), constant(lr=self.config.learning_rate))}

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (Phase("translate", ("encoder", "decoder"), "both", self.translate),)

    def translate(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        draw = torch.rand((), generator=microbatch.random, device=microbatch.device)
        digits, words = microbatch["digits"], microbatch["words"]
        forced = draw < self.config.teacher_forcing  # it stays on the device
        guesses = torch.where(forced, self.decoded(networks, digits, words), self.decoded(networks, digits))
        loss, count, _ = self.told(guesses.to(microbatch.dtype), words)
        return Loss(loss, weight=count)

    def decoded(self, networks: Networks, digits: Tensor, true: Tensor | None = None) -> Tensor:
        """Guesses of each next word, (rows, 3, words); after the true words, or after those that it guessed."""
        seen, state = networks["encoder"](digits)
        there = digits != END
        there[:, 0] = True
        word = torch.full_like(digits[:, 0], len(self.facts["to"]))
        every = []
        for place in range(3):
            guess, state = networks["decoder"](word, state, seen, there)
            every.append(guess)
            word = true[:, place] if true is not None else guess.argmax(1)
        return torch.stack(every, 1)

    def told(self, guesses: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss and the number of all words, ends of sentences too; and which sentences are right as a whole."""
        counts = torch.cat([torch.ones_like(words[:, :1], dtype=torch.bool), words[:, :-1] != END], 1)
        loss = cross_entropy(guesses.flatten(0, 1), words.masked_fill(~counts, -100).flatten(), reduction="sum")
        return loss, counts.sum(), ((guesses.argmax(2) == words) | ~counts).all(1)

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        guesses = self.decoded(networks, microbatch["digits"]).double()
        loss, words, right = self.told(guesses, microbatch["words"])
        return {"exact": (right.sum(), microbatch.size), "loss": (loss, words)}

    def sample_inputs(self, settings: SampleSettings, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        known = self.facts["from"]
        text = [known.index(word) for word in settings.text.split() if word in known]  # type: ignore[attr-defined]
        return {"digits": torch.tensor([(text + [END] * 3)[:3]] * settings.count)}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> list[str]:
        texts = []
        for row in self.decoded(networks, inputs["digits"]).argmax(2).tolist():
            sentence = itertools.takewhile(lambda word: word != END, row)
            texts.append(" ".join(self.facts["to"][word] for word in sentence))
        return texts
