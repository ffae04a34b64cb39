"""Settings of a made-up family that translates sentences, word by word, looking back at the sentence it translates."""

from typing import ClassVar

from trainers.settings.config import Config, SampleSettings
from trainers.settings.fields import setting


class AskedTranslation(SampleSettings):
    text: str = setting("4 2", "what is to be translated, word by word")


class Translator(Config):
    summary: ClassVar[str] = "made up for tests: an encoder and a decoder with attention, from digits to words"
    metrics: ClassVar = {"exact": "max", "loss": "min"}
    input_kind: ClassVar[str] = "translations"
    sample_settings: ClassVar[type[SampleSettings]] = AskedTranslation
    defaults: ClassVar = {"data": "numerals", "batch_size": 8, "microbatch_size": 2}
    tiny: ClassVar = {"tiny": {"steps": 4, "hidden": 8}}

    hidden: int = setting(32, "units of the recurrent states", at_least=1, network=True)
    teacher_forcing: float = setting(0.5, "share of batches that see the true word before", at_least=0, at_most=1)
    learning_rate: float = setting(0.01, "of Adam", above=0)
