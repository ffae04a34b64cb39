"""How the text is learned: state is carried from window to window, and perplexity concludes an evaluation."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainers.contract.evaluation import Evaluation, Totals
from trainers.contract.family import Data, Family, Loss, MicroBatch, Networks, Optimizers, Phase
from trainers.contract.schedules import constant
from trainers.contract.streams import Columns, InOrder, Stream
from trainers.settings.config import SampleSettings

COLUMNS = 4  # of the held-out text


class Reader(nn.Module):
    def __init__(self, words: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, words)

    def forward(self, words: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, (hidden, cell) = self.lstm(self.embedding(words), (hidden, cell))
        return self.head(seen), hidden, cell


class WordsFamily(Family):
    ema_networks = ("reader",)

    def networks(self) -> dict[str, nn.Module]:
        return {"reader": Reader(len(self.facts["vocabulary"]), self.config.hidden)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        return {"reader": (torch.optim.SGD(networks["reader"].parameters()), constant(lr=1.0))}

    def stream(self, data: Data) -> Stream:
        return Columns(data.text, self.config.batch_size, self.config.window)  # type: ignore[attr-defined]

    def held_out(self, data: Data) -> Stream:
        text = data.held_out_text  # type: ignore[attr-defined]
        columns = text[: len(text) // COLUMNS * COLUMNS].view(COLUMNS, -1)
        return InOrder(COLUMNS, lambda indices: {"words": columns[list(indices)]}, chunk=2)

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (Phase("read", ("reader",), "reader", self.read, pre_step=clip),)

    def microbatch_state(self, index: int) -> dict[str, Tensor]:
        return self.blank(self.config.microbatch_size)

    def blank(self, rows: int) -> dict[str, Tensor]:
        return {name: torch.zeros(1, rows, self.config.hidden) for name in ("hidden", "cell")}

    def read(self, networks: Networks, microbatch: MicroBatch) -> Loss:
        goes_on = (~microbatch["begins"]).to(microbatch.dtype).view(1, -1, 1)
        state = [microbatch.state[name] * goes_on for name in ("hidden", "cell")]
        guesses, hidden, cell = networks["reader"](microbatch["words"], *state)
        microbatch.state = {"hidden": hidden.to(microbatch.dtype), "cell": cell.to(microbatch.dtype)}
        return Loss(cross_entropy(guesses.flatten(0, 1).to(microbatch.dtype), microbatch["next"].flatten()))

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        words = microbatch["words"]
        state = [part.to(words.device, microbatch.dtype) for part in self.blank(len(words)).values()]
        loss = torch.zeros((), dtype=torch.float64)
        for start in range(0, words.shape[1] - 1, self.config.window):  # state goes on through the whole column
            span = words[:, start : start + self.config.window + 1]
            guesses, *state = networks["reader"](span[:, :-1], *(part.to(microbatch.dtype) for part in state))
            wide = guesses.flatten(0, 1).to(microbatch.dtype)
            loss += cross_entropy(wide, span[:, 1:].flatten(), reduction="sum").double().cpu()
        return {"loss": (loss, words.shape[0] * (words.shape[1] - 1))}

    def compute_metrics(self, found: Evaluation) -> Mapping[str, float]:
        means = super().compute_metrics(found)
        return {"perplexity": math.exp(means["loss"]), **means}

    def sample_inputs(self, settings: SampleSettings, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        known = self.facts["vocabulary"]
        prompt = [known.index(word) for word in settings.prompt.split() if word in known] or [0]  # type: ignore[attr-defined]
        noise = torch.rand(settings.count, settings.length, generator=random)  # type: ignore[attr-defined]
        sharp = torch.full((settings.count, 1), 1 / settings.temperature)  # type: ignore[attr-defined]
        return {"prompt": torch.tensor([prompt] * settings.count), "noise": noise, "sharp": sharp}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> list[str]:
        words, noise = inputs["prompt"], inputs["noise"]
        state = [part.to(noise) for part in self.blank(len(words)).values()]
        written, newest = [words], words
        for place in range(noise.shape[1]):
            guesses, *state = networks["reader"](newest, *state)
            chances = (guesses[:, -1].to(noise.dtype) * inputs["sharp"]).softmax(1).cumsum(1)
            newest = (chances < noise[:, place : place + 1] * chances[:, -1:]).sum(1, keepdim=True)
            written.append(newest)
        known = self.facts["vocabulary"]
        return [" ".join(known[word] for word in row) for row in torch.cat(written, 1).tolist()]


def clip(networks: Mapping[str, nn.Module]) -> None:
    nn.utils.clip_grad_norm_(networks["reader"].parameters(), 0.25)
