"""Classifiers: what is said of settings that cannot be, how loss and evaluation count, what decays, which defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from sentences import Sentences
from torch import Tensor, nn

from cluster.cli import main
from trainers.base import problems
from trainers.base.problems import Problem
from trainers.contract.family import MicroBatch
from trainers.data.settings import ImageConfig
from trainers.families import registry
from trainers.families.classification.learning import AUXILIARY, Classification, weight_decay_groups
from trainers.families.classification.settings import MEANS, ClassificationConfig
from trainers.families.classifier.config import OWN
from trainers.settings.config import Config
from trainers.settings.fields import plain

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSIFIERS = ("cifar_speed", "classifier", "darknet", "wide_resnet")
COLOUR: dict[str, Any] = {"channels": 3, "image_size": 32, "classes": 10, "size": 50_000, "held_out": 10_000}
GREY = {**COLOUR, "channels": 1, "size": 9_000, "held_out": 1_000}


def mistakes_of(family: str, **words: Any) -> list[Problem]:
    config, found = registry.config_class(family).from_words(words, family)
    assert (config is None) == bool(found)
    assert all("\n" not in line for line in problems.sentences(found))
    return found


def config_of(family: str, **words: Any) -> Any:
    return registry.config_class(family).of(words, family)


def misfits_of(family: str, facts: Mapping[str, Any], **words: Any) -> list[Problem]:
    found: list[Problem] = config_of(family, **words).data_problems(facts)
    assert all("\n" not in line for line in problems.sentences(found))
    return found


def kinds(found: list[Problem]) -> list[tuple[str, str, str]]:
    """Of each problem its code, what it is about, and the value that was given, as it is shown."""
    return [(one.code, one.about, problems.show_value(one.value)) for one in found]


# Words that are wrong whatever the data is


@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("eval_acuracy:0.9", "unknown-metric"),
        ("accuracy:0.9", "unknown-metric"),
        ("xyz:1", "unknown-metric"),
        ("0.94", "bad-value"),
        ("eval_accuracy:94", "bad-value"),
        ("eval_accuracy", "bad-value"),
        ("eval_accuracy:", "bad-value"),
        ("eval_accuracy:high", "bad-value"),
        ("eval_loss:nan", "bad-value"),
    ],
)
def test_a_target_that_cannot_be_reached_is_told_in_a_line(
    family: str, target: str, code: str, sentences: Sentences
) -> None:
    found = mistakes_of(family, target=target)
    assert kinds(found) == [(code, "target", target)]
    sentences(found)


def test_a_family_that_evaluates_nothing_has_no_target_no_evaluations_and_no_plateau(sentences: Sentences) -> None:
    def mistakes(**words: str) -> list[Problem]:
        return ImageConfig.from_words(words, "drawn")[1]

    for words in ({"target": "eval_accuracy:0.9"}, {"evaluate_every": "50"}, {"schedule": "plateau"}):
        ((name, value),) = words.items()
        assert kinds(mistakes(**words)) == [("evaluates-nothing", name, value)]
        sentences(mistakes(**words))
    assert mistakes(evaluate_every="0") == mistakes(evaluate_every="auto") == []


def test_what_looks_at_evaluations_needs_some(sentences: Sentences) -> None:
    for words in ({"schedule": "plateau"}, {"target": "eval_loss:0.3"}):
        ((name, value),) = words.items()
        found = mistakes_of("classifier", evaluate_every="0", **words)
        assert kinds(found) == [("settings-conflict", name, value)]
        sentences(found)
        assert mistakes_of("classifier", **words) == []


WRONG = [
    ("wide_resnet", {"depth": "20"}, "bad-value", "depth"),
    ("wide_resnet", {"depth": "15"}, "bad-value", "depth"),
    ("wide_resnet", {"depth": "4"}, "bad-value", "depth"),
    ("darknet", {"stride_one": "5"}, "settings-conflict", "stride_one"),
    ("darknet", {"stride_one": "2", "blocks": "3:2"}, "settings-conflict", "stride_one"),
    ("darknet", {"stride_one": "-2"}, "bad-value", "stride_one"),
    ("cifar_speed", {"widths": "64:256"}, "bad-value", "widths"),
    ("classifier", {"model": "lennet"}, "unknown-model", "model"),
    ("classifier", {"model": "resnet-18"}, "unknown-model", "model"),
    ("darknet", {"cycle_peak": "0.8"}, "settings-conflict", "cycle_peak"),
    ("darknet", {"cycle_peak": "0.6", "cycle_tail": "0.5"}, "settings-conflict", "cycle_peak"),
    ("darknet", {"cycle_momentum": "0.9"}, "bad-value", "cycle_momentum"),
    ("wide_resnet", {"decay_at": "0.6:0.3"}, "bad-value", "decay_at"),
    ("wide_resnet", {"image_size": "32", "crop_padding": "32"}, "settings-conflict", "crop_padding"),
    ("darknet", {"kernel_size": "2"}, "bad-value", "kernel_size"),
    ("wide_resnet", {"kernel_size": "4"}, "bad-value", "kernel_size"),
    ("darknet", {"convs_per_block": "0"}, "bad-value", "convs_per_block"),
    ("darknet", {"layer_order": "act_conv_norm"}, "bad-value", "layer_order"),
    ("darknet", {"norm_momentum": "0"}, "bad-value", "norm_momentum"),
    ("darknet", {"leaky_slope": "1"}, "bad-value", "leaky_slope"),
    ("darknet", {"width_multiplier": "0.5"}, "bad-value", "width_multiplier"),
    ("darknet", {"inner": "0.25", "convs_per_block": "1"}, "settings-conflict", "inner"),
    ("darknet", {"kernel_size": "5", "blocks": "0:0"}, "settings-conflict", "kernel_size"),
    (
        "darknet",
        {"width_multiplier": "4", "first_width": "100000", "blocks": "1:1:1:1:1:1:1"},
        "settings-conflict",
        "width_multiplier",
    ),
    ("wide_resnet", {"depth": "28", "convs_per_block": "3"}, "bad-value", "depth"),
    ("wide_resnet", {"depth": "22", "groups": "4"}, "bad-value", "depth"),
    ("wide_resnet", {"depth": "5", "groups": "1"}, "bad-value", "depth"),
    ("wide_resnet", {"depth": "28", "groups": "1", "width_multiplier": "3"}, "settings-conflict", "width_multiplier"),
    ("wide_resnet", {"padding": "zero", "crop_padding": "0"}, "settings-conflict", "padding"),
    ("classifier", {"padding": "zero"}, "settings-conflict", "padding"),
    ("darknet", {"padding": "edge"}, "bad-value", "padding"),
    ("darknet", {"enlarge": "40", "crop_padding": "4"}, "settings-conflict", "enlarge"),
    ("darknet", {"enlarge": "32", "image_size": "32"}, "settings-conflict", "enlarge"),
    ("darknet", {"enlarge": "1401"}, "bad-value", "enlarge"),
    ("classifier", {"model": "residual", "blocks": "3:3"}, "bad-value", "blocks"),
    ("classifier", {"model": "residual", "blocks": "3:0:3"}, "bad-value", "blocks"),
    ("classifier", {"model": "resnet20", "blocks": "2:2:2"}, "settings-conflict", "blocks"),
    ("classifier", {"model": "cnn", "cell": "gru"}, "settings-conflict", "cell"),
    ("classifier", {"model": "lstm_rows", "cell": "lstmm"}, "bad-value", "cell"),
    ("classifier", {"model": "residual", "units": "64"}, "settings-conflict", "units"),
    ("classifier", {"model": "residual", "layers": "1"}, "settings-conflict", "layers"),
    ("classifier", {"model": "resnet18", "bidirectional": "true"}, "settings-conflict", "bidirectional"),
    ("classifier", {"classes": "1"}, "bad-value", "classes"),
    ("classifier", {"epochs": "0"}, "bad-value", "epochs"),
    ("classifier", {"flip": "always"}, "bad-value", "flip"),
    ("classifier", {"optimizer": "adam"}, "bad-value", "optimizer"),
    ("classifier", {"schedule": "onecycle"}, "bad-value", "schedule"),
]


@pytest.mark.parametrize(
    ("family", "words", "code", "about"),
    WRONG,
    ids=["-".join([family, *map("=".join, words.items())]) for family, words, *_ in WRONG],
)
def test_a_wrong_word_is_told_with_what_would_be_right(
    family: str, words: dict[str, str], code: str, about: str, sentences: Sentences
) -> None:
    found = mistakes_of(family, **words)
    assert kinds(found) == [(code, about, words[about])]
    sentences(found)


def test_an_unknown_model_like_no_other_is_answered_with_all_of_ours(sentences: Sentences) -> None:
    found = mistakes_of("classifier", model="xyzzy")
    assert kinds(found) == [("unknown-model", "model", "xyzzy")]
    assert all(model in found[0].hint for model in OWN)
    sentences(found)


def test_settings_of_another_model_are_told_all_at_once() -> None:
    found = mistakes_of("classifier", model="cnn", cell="gru", units="64", blocks="1:1:1")
    assert [one.about for one in found] == ["blocks", "cell", "units"]
    assert [one.about for one in mistakes_of("classifier", model="lennet", cell="gru")] == ["model"]


# Words that are wrong for such data


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_fitting_data_is_answered_with_nothing(family: str) -> None:
    assert misfits_of(family, COLOUR) == misfits_of(family, GREY) == []
    assert misfits_of(family, COLOUR, classes=10, target="eval_accuracy:0.9") == []


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_data_without_labels_is_refused(family: str, tmp_path: Path, sentences: Sentences) -> None:
    data = f"imagefolder:{tmp_path / 'pictures'}"
    for classes in (0, 1):
        found = misfits_of(family, {**COLOUR, "classes": classes}, data=data)
        assert kinds(found) == [("no-labels", "data", data)]
        sentences(found)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_images_beside_class_folders_are_told_by_name(family: str, tmp_path: Path, sentences: Sentences) -> None:
    facts = {**COLOUR, "classes": 0, "strays": ["me.png", "you.png"]}
    data = f"imagefolder:{tmp_path / 'pets'}"
    found = misfits_of(family, facts, data=data)
    assert kinds(found) == [("stray-images", "data", data)]
    assert "me.png, you.png" in found[0].reason
    sentences(found)


def test_folders_that_are_parts_and_no_classes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    monkeypatch.chdir(tmp_path)
    facts = {**COLOUR, "classes": 2, "class_names": ("Test", "val")}
    found = misfits_of("classifier", facts, data="imagefolder:pets/")
    assert kinds(found) == [("parts-as-classes", "data", f"imagefolder:{tmp_path / 'pets'}")]
    assert "Test and val" in found[0].reason
    sentences(found)
    assert misfits_of("classifier", {**facts, "class_names": ("test", "dogs")}) == []


@pytest.mark.parametrize("size", [8, 16])
def test_norms_over_one_number_are_told(size: int, sentences: Sentences) -> None:
    found = misfits_of("darknet", {**COLOUR, "image_size": size}, batch_size=4, microbatch_size=1)
    assert kinds(found) == [("data-misfit", "microbatch_size", "1")]
    sentences(found)
    assert misfits_of("darknet", {**COLOUR, "image_size": 32}, batch_size=4, microbatch_size=1) == []


def test_another_number_of_classes_is_told(sentences: Sentences) -> None:
    for family, facts, classes in (("classifier", GREY, 7), ("darknet", COLOUR, 100)):
        found = misfits_of(family, facts, classes=classes)
        assert kinds(found) == [("data-misfit", "classes", str(classes))]
        sentences(found)


def test_a_normalization_of_other_channels_is_told(sentences: Sentences) -> None:
    found = misfits_of("classifier", GREY, normalization="cifar10")
    assert kinds(found) == [("data-misfit", "normalization", "cifar10")]
    sentences(found)
    assert misfits_of("classifier", COLOUR, normalization="mnist") == []  # one number for all channels
    assert misfits_of("classifier", COLOUR, normalization="imagenet") == []


def test_a_border_wider_than_the_images_is_told(sentences: Sentences) -> None:
    found = misfits_of("classifier", GREY, crop_padding=32)
    assert kinds(found) == [("data-misfit", "crop_padding", "32")]
    sentences(found)
    assert misfits_of("classifier", GREY, crop_padding=31) == []


def test_enlarging_to_less_than_the_images_is_told(sentences: Sentences) -> None:
    found = misfits_of("darknet", COLOUR, enlarge=32)
    assert kinds(found) == [("settings-conflict", "enlarge", "32")]
    sentences(found)
    assert misfits_of("darknet", COLOUR, enlarge=40) == []
    assert config_of("darknet", enlarge=40).crop_padding == 0, "the crop is that of the enlarged image"


def test_a_norm_after_many_groups_is_told(sentences: Sentences) -> None:
    found = misfits_of("wide_resnet", COLOUR, depth=19, groups=6, batch_size=4, microbatch_size=1)
    assert kinds(found) == [("data-misfit", "microbatch_size", "1")]
    sentences(found)


@pytest.mark.parametrize(
    ("model", "size", "fits"), [("lenet", 8, 16), ("cnn", 8, 16), ("simple_cnn", 7, 8), ("alexnet", 32, 64)]
)
def test_images_too_small_for_a_model_are_told_with_a_size_that_fits(
    model: str, size: int, fits: int, sentences: Sentences
) -> None:
    found = misfits_of("classifier", {**GREY, "image_size": size}, model=model)
    assert kinds(found) == [("data-misfit", "model", model)]
    assert found[0].hint.endswith(f"image_size={fits}")
    sentences(found)


@pytest.mark.parametrize("size", [8, 16, 64])
def test_the_fast_net_says_which_images_it_takes(size: int, sentences: Sentences) -> None:
    found = misfits_of("cifar_speed", {**COLOUR, "image_size": size})
    assert kinds(found) == [("data-misfit", "image_size", str(size))]
    assert "image_size=32" in found[0].hint
    sentences(found)


def test_what_looks_at_evaluations_needs_samples_that_are_held_out(sentences: Sentences) -> None:
    alone = {**COLOUR, "held_out": 0}
    for words in ({"target": "eval_accuracy:0.9"}, {"schedule": "plateau"}, {"evaluate_every": 10}):
        found = misfits_of("darknet", alone, **words)
        assert [(one.code, one.about) for one in found] == [("nothing-held-out", "")]
        sentences(found)
    assert misfits_of("darknet", alone) == []
    assert config_of("darknet").finalize(alone).evaluate_every == 0


# How long, and how often


@pytest.mark.parametrize(
    ("epochs", "batch_size", "steps"), [(1, 125, 400), (2, 128, 782), (9.9, 1024, 484), (0.5, 128, 196), (1e-6, 128, 1)]
)
def test_epochs_become_steps_that_draw_as_many_samples(epochs: float, batch_size: int, steps: int) -> None:
    config = config_of("darknet", epochs=epochs, batch_size=batch_size, microbatch_size=1)
    assert config.finalize(COLOUR).steps == steps
    assert config.finalize(COLOUR).finalize(COLOUR) == config.finalize(COLOUR)


def test_steps_switch_the_epochs_of_a_family_off() -> None:
    assert config_of("wide_resnet").epochs == 200
    assert config_of("wide_resnet").finalize(COLOUR).steps == 78_125
    assert config_of("wide_resnet", steps="17").epochs is None
    assert config_of("wide_resnet", steps="17").finalize(COLOUR).steps == 17
    assert config_of("wide_resnet", epochs="none").finalize(COLOUR).steps == Config().steps


@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize("facts", [COLOUR, GREY, {**COLOUR, "size": 100, "held_out": 7}])
def test_evaluations_take_less_than_a_twentieth_of_the_time_by_count(family: str, facts: dict[str, Any]) -> None:
    """A sample in an evaluation is counted as a third of one in training, for each time that it is looked at."""
    config = config_of(family).finalize(facts)
    looked_at = facts["held_out"] * config.evaluation_passes / 3
    assert looked_at / (config.evaluate_every * config.batch_size) <= 1 / 30 + 1e-9
    assert looked_at / ((config.evaluate_every - 1) * config.batch_size + 1e-9) > 1 / 30


def test_six_views_are_evaluated_a_sixth_as_often() -> None:
    every = {views: config_of("cifar_speed", test_views=views).finalize(COLOUR).evaluate_every
             for views in ("one", "mirror", "six")}  # fmt: skip
    assert every == {"one": 98, "mirror": 196, "six": 586}
    assert config_of("cifar_speed", evaluate_every="7").finalize(COLOUR).evaluate_every == 7


def test_a_target_is_reached_from_its_own_side() -> None:
    accuracy, loss = (config_of("darknet", target=target) for target in ("eval_accuracy:0.94", "eval_loss:0.3"))
    assert [accuracy.reached({"eval_accuracy": value}) for value in (0.9399, 0.94, 0.95)] == [False, True, True]
    assert [loss.reached({"eval_loss": value}) for value in (0.31, 0.3, 0.2)] == [False, True, True]
    assert not accuracy.reached({"eval_accuracy": math.nan})
    assert not accuracy.reached({})
    assert not config_of("darknet").reached({"eval_accuracy": 1.0})


# Defaults of families


def test_the_defaults_of_a_family_are_its_own() -> None:
    assert (config_of("darknet").learning_rate, config_of("darknet").schedule) == (0.01, "one_cycle")
    assert (config_of("cifar_speed").batch_size, config_of("cifar_speed").precision) == (1024, "bfloat16")
    assert (ClassificationConfig().learning_rate, ClassificationConfig().schedule) == (0.1, "constant")
    assert (ClassificationConfig().batch_size, Config().batch_size, Config().epochs) == (128, 64, None)
    assert (ClassificationConfig().data, ImageConfig().data, config_of("classifier").data) == (
        "cifar10", "digits", "digits",
    )  # fmt: skip
    for family in CLASSIFIERS:
        kind = registry.config_class(family)
        assert set(kind.defaults) <= set(kind.model_fields)
        assert all(getattr(config_of(family), name) == value for name, value in kind.defaults.items())


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_the_help_of_a_family_shows_its_defaults(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.command(("train", family, "--help")) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    shown = {row.name: row.default for row in registry.config_class(family).described()}
    for name in registry.config_class(family).defaults:
        assert lines[name].split()[1] == shown[name], name
        assert "[" not in lines[name] or shown[name] not in lines[name].split("[")[-1]


def test_auto_normalization_is_that_of_the_weights_of_the_data_or_half() -> None:
    assert config_of("classifier", model="resnet20").channel_moments(3) == MEANS["imagenet"]
    assert config_of("classifier", model="resnet18").channel_moments(3) == MEANS["imagenet"]
    assert config_of("classifier", model="resnet20").channel_moments(1) == MEANS["half"]
    assert config_of("classifier", model="cnn").channel_moments(1) == MEANS["half"]
    assert config_of("classifier", model="cnn", data="cifar10").channel_moments(3) == MEANS["cifar10"]
    assert config_of("darknet").channel_moments(3) == MEANS["cifar10"]
    assert config_of("darknet", normalization="none").channel_moments(3) == MEANS["none"]


# Recipes of papers and lessons are reachable by settings


def test_the_record_run_of_the_lesson_is_reachable() -> None:
    words = {"depth": "22", "widen_factor": "4", "schedule": "one_cycle", "precision": "bfloat16",
             "cycle_ratio": "50", "cycle_tail": "0.15"}  # fmt: skip
    assert mistakes_of("wide_resnet", **words) == []
    lesson = {"norm_momentum": "0.01", "learning_rate": "1.3", "layer_order": "norm_act_conv", "kernel_size": "5"}
    assert mistakes_of("darknet", **lesson) == []


NEW = {  # settings that runs of earlier versions did not store
    "darknet": ("kernel_size", "convs_per_block", "width_multiplier", "layer_order", "norm_momentum", "leaky_slope",
                "padding", "enlarge"),
    "wide_resnet": ("kernel_size", "convs_per_block", "width_multiplier", "layer_order", "norm_momentum", "leaky_slope",
                    "groups", "padding", "enlarge"),
    "classifier": ("blocks", "cell", "units", "layers", "bidirectional", "padding", "enlarge"),
    "cifar_speed": ("padding", "enlarge"),
}  # fmt: skip


@pytest.mark.parametrize("family", NEW)
def test_settings_stored_without_the_newest_ones_are_those_of_before(family: str) -> None:
    kind, whole = registry.config_class(family), config_of(family)
    stored = {name: value for name, value in plain(whole.model_dump()).items() if name not in NEW[family]}
    assert kind.of(kind.stored(stored), family) == whole


# Loss, evaluation and groups, against what a plain computation gives


class Out(NamedTuple):
    """What googlenet gives in training mode."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


class Heads(nn.Module):
    """A linear classifier with two auxiliary heads, used in training mode only."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(inputs, classes) for _ in range(3))

    def forward(self, images: Tensor) -> Any:
        logits = [head(images.flatten(1)) for head in self.heads]
        return Out(*logits) if self.training else logits[0]


FACTS = {**COLOUR, "image_size": 8, "classes": 4, "class_names": ("ant", "bee", "cow", "dog")}


def microbatch(rows: int = 50) -> MicroBatch:
    random = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (rows, 3, 8, 8), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 4, (rows,), generator=random)
    return MicroBatch({"images": images, "labels": labels}, range(rows), [0] * rows, 0, 0, rows, torch.device("cpu"),
                      torch.float64, random)  # fmt: skip


def family_of(**words: Any) -> Classification:
    plain = {"crop_padding": 0, "flip": "none", "normalization": "half"}
    return Classification(ClassificationConfig.of({**plain, **words}), FACTS)


def log_shares(logits: Tensor) -> Tensor:
    return logits - logits.exp().sum(1, keepdim=True).log()


def test_an_evaluation_counts_hits_losses_and_confusions() -> None:
    batch, network = microbatch(), Heads(192, 4).double().eval()
    with torch.no_grad():
        metrics = family_of(label_smoothing=0.3).evaluate({"network": network}, batch)
        logits = network.heads[0]((batch["images"].double() / 127.5 - 1).flatten(1))
    truth, guesses = batch["labels"].tolist(), logits.argmax(1).tolist()
    table = [[sum(t == row and g == column for t, g in zip(truth, guesses, strict=True)) for column in range(4)]
             for row in range(4)]  # fmt: skip
    assert [count for _, count in metrics.values()] == [50, 50, 50]
    assert int(metrics["accuracy"][0]) == sum(table[label][label] for label in range(4))
    assert torch.as_tensor(metrics["confusion"][0]).tolist() == table
    loss = -sum(float(row[label]) for row, label in zip(log_shares(logits), truth, strict=True))
    assert float(metrics["loss"][0]) == pytest.approx(loss, rel=1e-12)  # without smoothing: that is for training


def test_mistakes_are_told_with_what_was_seen_instead_and_hits_never_shown() -> None:
    batch, network, family = microbatch(), Heads(192, 4).double().eval(), family_of()
    with torch.no_grad():
        family.evaluate({"network": network}, batch)
        shares = log_shares(network(batch["images"].double() / 127.5 - 1)).exp()
    shown = family.rank_samples(batch)
    assert shown is not None
    scores, captions = shown
    names = FACTS["class_names"]
    for row, label in enumerate(batch["labels"].tolist()):
        guess, share = int(shares[row].argmax()), float(shares[row].max())
        if guess == label:
            assert scores[row] == -math.inf
        else:
            assert float(scores[row]) == pytest.approx(share)
            assert captions[row] == f"{names[guess]} ({share:.1%}), is {names[label]}"


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_gives_a_part_of_the_truth_to_all_classes_and_counts_auxiliary_outputs(smoothing: float) -> None:
    batch, network = microbatch(), Heads(192, 4).double()
    loss, metrics = family_of(label_smoothing=smoothing).classify({"network": network}, batch)[:2]
    outputs = network(batch["images"].double() / 127.5 - 1)
    truth = torch.full((50, 4), smoothing / 4).double()
    truth[torch.arange(50), batch["labels"]] += 1 - smoothing
    losses = [float(-(truth * log_shares(logits.detach())).sum(1).mean()) for logits in outputs]
    assert float(loss.detach()) == pytest.approx(losses[0] + AUXILIARY * (losses[1] + losses[2]), rel=1e-6)
    assert isinstance(metrics, Mapping)
    assert float(metrics["accuracy"]) == float((outputs.logits.argmax(1) == batch["labels"]).double().mean())
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_images_are_normalised_channel_by_channel() -> None:
    images = microbatch()["images"]
    before = images.clone()
    mean, deviation = (torch.tensor(part).view(3, 1, 1) for part in MEANS["cifar10"])
    normalized = family_of(normalization="cifar10").normalized(images, torch.float32)
    assert torch.allclose(normalized, (images / 255 - mean) / deviation, atol=1e-5)
    assert normalized.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_augmentation_is_what_the_settings_say_and_fills_with_the_mean() -> None:
    plain, batch = family_of(), microbatch()
    assert plain.augmented(batch) is batch["images"]
    cut = family_of(normalization="cifar10", cutout=16).augmented(microbatch())
    assert bool(((cut == torch.tensor([125, 123, 114]).view(3, 1, 1)) | (cut == batch["images"])).all())
    mirrored = family_of(flip="alternating").augmented(microbatch())
    same, other = ((mirrored == images).flatten(1).all(1) for images in (batch["images"], batch["images"].flip(3)))
    assert bool((same ^ other).all())
    assert 10 < int(same.sum()) < 40


def norms_and_all() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4), nn.LayerNorm(4))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(optimizer: str) -> None:
    network = norms_and_all()
    chosen, _ = family_of(optimizer=optimizer, weight_decay=0.25).optimizers({"network": network})["network"]
    decays = {id(parameter): group["weight_decay"] for group in chosen.param_groups for parameter in group["params"]}
    assert {name: decays[id(parameter)] for name, parameter in network.named_parameters()} == {
        "0.weight": 0.25, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
        "3.weight": 0.25, "3.bias": 0.0, "4.weight": 0.0, "4.bias": 0.0,
    }  # fmt: skip


def test_what_is_not_learned_is_in_no_group() -> None:
    network = norms_and_all()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name == "3.weight")
    assert [len(group["params"]) for group in weight_decay_groups(network, 0.1)] == [1]  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [family for family in CLASSIFIERS if family != "classifier"])
def test_every_learned_parameter_of_a_family_is_in_one_group_and_decays_as_its_shape_says(family: str) -> None:
    kind = registry.config_class(family)
    config = kind.of({**next(iter(kind.tiny.values())), "weight_decay": 0.25}, family)
    made = registry.family_class(family)(config, GREY)
    network = made.networks()["network"]
    groups = made.optimizers({"network": network})["network"][0].param_groups
    found = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert len(found) == sum(len(group["params"]) for group in groups) == len(learned)
    assert all(found[id(parameter)] == (0.25 if parameter.ndim > 1 else 0) for parameter in learned)


def test_momentum_of_nothing_is_plain_gradient_descent() -> None:
    """Nesterov's needs one; a schedule then moves none."""
    network = norms_and_all()
    chosen, schedule = family_of(momentum=0.0, schedule="one_cycle").optimizers({"network": network})["network"]
    assert [(group["momentum"], group["nesterov"]) for group in chosen.param_groups] == [(0, False), (0, False)]
    assert set(schedule(0, ())) == {"lr"}
