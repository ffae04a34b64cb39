"""Settings of a made-up family that reads a text, column by column, and guesses each next word."""

from collections.abc import Mapping
from typing import Any, ClassVar

from trainers.settings.config import Config, SampleSettings
from trainers.settings.fields import setting


class AskedWords(SampleSettings):
    prompt: str = setting("the", "words to begin with")
    length: int = setting(6, "words to be written", unit="words", at_least=1, at_most=100)
    temperature: float = setting(1.0, "how freely words are chosen", above=0, at_most=10)


class Words(Config):
    summary: ClassVar[str] = "made up for tests: an LSTM over the columns of a text, with its perplexity"
    metrics: ClassVar = {"perplexity": "min", "loss": "min"}
    input_kind: ClassVar[str] = "text"
    sample_settings: ClassVar[type[SampleSettings]] = AskedWords
    defaults: ClassVar = {"data": "poem"}
    tiny: ClassVar = {"tiny": {"batch_size": 8, "microbatch_size": 2, "steps": 4}}

    window: int = setting(5, "words that gradients go back", unit="words", at_least=1)
    hidden: int = setting(12, "units of the recurrent state", at_least=1, network=True)

    def num_samples(self, facts: Mapping[str, Any]) -> int:
        """A place of the stream is a window of one column."""
        return int(self.batch_size * ((facts["size"] // self.batch_size - 1) // self.window))

    def num_held_out(self, facts: Mapping[str, Any]) -> int:
        """Of an evaluation it is a whole column."""
        return 4 if facts["held_out"] >= 8 else 0
