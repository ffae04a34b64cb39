"""Settings: how `key=value` is read, what is said of mistakes, and that every family's settings are whole."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import pytest
from commands import OWN_FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sentences import Sentences

from cluster.cli import parser
from cluster.cli.help import help_text
from trainers.base.errors import USAGE, TroupeError
from trainers.base.problems import Problem, sentence, show_value
from trainers.data.settings import ImageConfig
from trainers.families import registry
from trainers.settings.config import Config
from trainers.settings.fields import GROUPS, Check, read_value, setting


class Example(Config):
    """A family with a setting of every kind."""

    checks: ClassVar[tuple[Check, ...]] = (
        *Config.checks,
        Check(("depth", "rate"), lambda depth, rate: f"depth={depth}: too deep for this rate" if depth > 9 else None),
    )
    depth: int = setting(2, "how deep", at_least=1, at_most=20)
    rate: float = setting(0.1, "how fast", above=0, below=1, unit="1/step")
    clip: float | None = setting(None, "largest norm", above=0, kind="running")
    widths: tuple[int, ...] = setting((8, 16), "of the layers", at_least=1)
    betas: tuple[float, float] = setting((0.5, 0.999), "of Adam", at_least=0, below=1)
    flag: bool = setting(False, "on or off")
    mode: Literal["plain", "fancy"] = setting("plain", "how")
    size: int | Literal["auto"] = setting("auto", "side", at_least=8)
    text: str = setting("words", "any text")


def problems_of(**words: Any) -> list[Problem]:
    config, problems = Example.from_words(words, "example")
    assert (config is None) == bool(problems)
    assert all("\n" not in sentence(one) for one in problems)
    return problems


def facts_of(problem: Problem) -> tuple[str, str, Any]:
    """Its code, what it is about, and the value that was given for that."""
    return problem.code, problem.about, problem.value


@pytest.mark.parametrize(
    ("name", "word", "value"),
    [
        ("depth", "3", 3),
        ("steps", "1e3", 1000),
        ("steps", "2.0", 2),
        ("seed", str(2**63 - 1), 2**63 - 1),
        ("rate", "1e-3", 0.001),
        ("rate", ".5", 0.5),
        ("clip", "none", None),
        ("clip", "None", None),
        ("clip", "2", 2.0),
        ("widths", "1:2:4:6:3", (1, 2, 4, 6, 3)),
        ("widths", "7", (7,)),
        ("betas", "0.9:0.99", (0.9, 0.99)),
        ("flag", "true", True),
        ("flag", "ON", True),
        ("flag", "no", False),
        ("flag", "0", False),
        ("mode", "fancy", "fancy"),
        ("size", "auto", "auto"),
        ("size", "64", 64),
        ("text", "a,b..c=d:e", "a,b..c=d:e"),
        ("text", "none", "none"),
    ],
)
def test_a_word_is_read_as_the_type_of_its_setting_wants(name: str, word: str, value: Any) -> None:
    config = Example.of({name: word})
    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(value)


@pytest.mark.parametrize("word", ["0.1,0.2", "0.1..0.5"])
@pytest.mark.parametrize("name", ["rate", "depth", "clip", "widths", "flag", "mode", "size"])
def test_choices_and_ranges_are_refused_with_the_reason(name: str, word: str, sentences: Sentences) -> None:
    (problem,) = problems_of(**{name: word})
    assert facts_of(problem) == ("bad-value", name, word)
    sentences([problem])


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("depth", "1_0"),
        ("depth", "١٢"),
        ("depth", "many"),
        ("depth", ""),
        ("depth", "2.5"),
        ("depth", "0"),
        ("depth", "21"),
        ("rate", "0"),
        ("rate", "1"),
        ("rate", "nan"),
        ("rate", "inf"),
        ("steps", "1e999"),
        ("clip", "-1"),
        ("widths", "8:0:8"),
        ("widths", "8:x"),
        ("flag", "maybe"),
        ("mode", "fency"),
        ("mode", "xyz"),
        ("size", "huge"),
        ("size", "7"),
    ],
)
def test_a_wrong_value_is_told_with_its_reason(name: str, word: str, sentences: Sentences) -> None:
    (problem,) = problems_of(**{name: word})
    assert facts_of(problem) == ("bad-value", name, word)
    sentences([problem])


@pytest.mark.parametrize("word", ["0.5", "0.5:0.6:0.7"])
def test_a_list_of_another_length_is_refused(word: str) -> None:
    (problem,) = problems_of(betas=word)
    assert facts_of(problem) == ("bad-value", "betas", word)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", float("nan")), ("rate", float("inf")), ("worker_timeout", float("inf")), ("depth", 2.5),
        ("depth", None), ("depth", [3]), ("mode", 7), ("mode", "odd"), ("text", 7), ("widths", ("a",)),
        ("flag", "perhaps"), ("betas", (0.5, float("nan"))),
    ],
)  # fmt: skip
def test_a_wrong_value_from_python_or_a_file_is_told_like_a_wrong_word(
    name: str, value: Any, sentences: Sentences
) -> None:
    (problem,) = problems_of(**{name: value})
    assert facts_of(problem) == ("bad-value", name, value if isinstance(value, str) else repr(value))
    sentences([problem])


def test_values_from_python_are_taken_as_they_are() -> None:
    config = Example.of({"rate": 0.5, "widths": (1, 2), "clip": None, "flag": True, "size": 32})
    assert (config.rate, config.widths, config.clip, config.flag, config.size) == (0.5, (1, 2), None, True, 32)


def test_an_unknown_setting_is_answered_with_the_nearest_one(sentences: Sentences) -> None:
    for word, hint in (("dept", "did you mean depth?"), ("xyzzy", "")):
        (problem,) = problems_of(**{word: "3"})
        assert (problem.code, problem.about, problem.hint) == ("unknown-setting", word, hint)
        sentences([problem])


def test_every_mistake_is_told_at_once_in_the_order_of_the_words(sentences: Sentences) -> None:
    problems = problems_of(rate="fast", dept="3", flag="maybe", batch_size="0", depth="4")
    assert [facts_of(one) for one in problems] == [
        ("bad-value", "rate", "fast"),
        ("unknown-setting", "dept", None),
        ("bad-value", "flag", "maybe"),
        ("bad-value", "batch_size", "0"),
    ]
    sentences(problems)
    with pytest.raises(TroupeError) as caught:
        Example.of({"rate": "fast", "dept": "3"}, "example")
    assert caught.value.code == USAGE
    assert [one.about for one in caught.value.problems] == ["rate", "dept"]


def test_checks_across_settings_run_on_whatever_settings_are_good(sentences: Sentences) -> None:
    both = problems_of(workers="9", mode="odd")
    assert [facts_of(one) for one in both] == [("bad-value", "mode", "odd"), ("settings-conflict", "workers", 9)]
    sentences(both)
    alone = problems_of(depth="10", rate="fast")  # no check on half of its settings
    assert [facts_of(one) for one in alone] == [("bad-value", "rate", "fast")]
    assert problems_of(depth="10") == [Problem("own-rule", reason="depth=10: too deep for this rate")]


def test_a_batch_that_cannot_be_split_is_answered_with_the_nearest_size_that_can(sentences: Sentences) -> None:
    (problem,) = problems_of(batch_size="64", microbatch_size="15")
    assert facts_of(problem) == ("settings-conflict", "microbatch_size", 15)
    assert problem.hint == "use microbatch_size=16"
    sentences([problem])


@pytest.mark.parametrize("family", sorted(registry.families((OWN_FAMILIES,))))
def test_every_number_that_a_family_takes_has_a_bound(family: str) -> None:
    """So does what it can be asked for when samples are drawn."""
    config = registry.config_class(family, (OWN_FAMILIES,))
    for kind in (config, config.sample_settings):
        for name, field in kind.model_fields.items():
            if not any(number in str(field.annotation) for number in ("int", "float")):
                continue
            for huge in ("9" * 30, "1e300", "9" * 5000, f"-{'9' * 30}"):
                _, problems = kind.from_words({name.rstrip("_"): huge}, family)
                assert any((one.about, one.value) == (name.rstrip("_"), huge) for one in problems), (name, huge)


@pytest.mark.parametrize(
    ("word", "seconds"), [("90s", 90), ("10min", 600), ("2h", 7200), ("1.5H", 5400), ("0.5s", 0.5)]
)
def test_checkpoints_are_said_in_steps_or_in_time(word: str, seconds: float) -> None:
    config = Example.of({"checkpoint_every": word})
    assert config.checkpoint_seconds == seconds
    assert Example.of(json.loads(config.model_dump_json())).checkpoint_seconds == seconds  # as a run's folder keeps it
    assert Example.of({"checkpoint_every": "500"}).checkpoint_seconds is None
    assert Example.of({"checkpoint_every": "500"}).checkpoint_every == 500


@pytest.mark.parametrize("word", ["10mins", "3sec", "2hours", "1d", "soon", "-5min", "0s", "9999999h", "0", "1.5"])
def test_what_is_no_span_of_time_is_told(word: str, sentences: Sentences) -> None:
    (problem,) = problems_of(checkpoint_every=word)
    assert facts_of(problem) == ("bad-value", "checkpoint_every", word)
    sentences([problem])


@pytest.mark.parametrize(
    ("workers", "advice"),
    [(8, "microbatch_size=8"), (5, "microbatch_size=8"), (64, "microbatch_size=1"), (70, "batch_size=1120")],
)
def test_too_many_workers_are_answered_with_the_word_that_helps(
    workers: int, advice: str, sentences: Sentences
) -> None:
    (problem,) = problems_of(workers=str(workers))
    assert facts_of(problem) == ("settings-conflict", "workers", workers)
    assert problem.hint.endswith(f" {advice}")
    sentences([problem])
    name, value = advice.split("=")
    assert problems_of(workers=str(workers), **{name: value}) == []


def test_any_number_of_workers_up_to_the_number_of_microbatches_will_do() -> None:
    assert [problems_of(workers=str(workers)) for workers in (1, 2, 3, 4)] == [[]] * 4
    assert Example.of({"batch_size": "60", "microbatch_size": "5"}).microbatches == 12


def test_a_config_cannot_be_changed() -> None:
    config = Example.of({})
    with pytest.raises(ValidationError, match="frozen"):
        config.depth = 3


def test_every_way_to_a_config_holds_the_bounds() -> None:
    for wrong in ({"depth": 0}, {"rate": float("inf")}, {"dept": 1}):
        with pytest.raises(ValidationError):
            Example(**wrong)


RUNNING = {
    "workers", "checkpoint_every", "keep_checkpoints", "sample_every", "log_every", "max_restarts", "worker_timeout",
    "target", "min_workers",
}  # fmt: skip


def test_the_defining_settings_fix_the_numbers_and_nothing_else() -> None:
    config = Example.of({"depth": "3", "workers": "2"})
    assert set(Config().defining_settings()) == set(Config.model_fields) - RUNNING
    assert set(config.defining_settings()) == set(Example.model_fields) - RUNNING - {"clip"}
    assert config.defining_settings()["depth"] == 3
    assert {"grad_sync", "threads_per_worker", "device", "precision", "microbatch_size", "seed"} <= set(
        config.defining_settings()
    )


def test_settings_are_described_with_the_familys_own_first() -> None:
    rows = list(Example.described())
    assert [row.name for row in rows][:2] == ["depth", "rate"]
    assert {row.name for row in rows} == set(Example.model_fields)
    by_name = {row.name: row for row in rows}
    assert by_name["depth"].bounds == "at least 1, at most 20"
    assert by_name["size"].bounds == "auto or at least 8"
    assert by_name["mode"].bounds == "plain|fancy"
    assert by_name["flag"][1:3] == ("false", "true|false")
    assert by_name["widths"].default == "8:16"
    assert (by_name["clip"].default, by_name["clip"].kind) == ("none", "running")
    assert (by_name["rate"].unit, by_name["rate"].kind, by_name["rate"].help) == ("1/step", "defining", "how fast")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**63), 2**63)
VALUES = st.one_of(
    st.tuples(st.just(int), WHOLE),
    st.tuples(st.just(float), NUMBERS),
    st.tuples(st.just(bool), st.booleans()),
    st.tuples(st.just(str), st.text()),
    st.tuples(st.just(float | None), NUMBERS | st.none()),
    st.tuples(st.just(int | Literal["auto"]), WHOLE | st.just("auto")),
    st.tuples(st.just(Literal["plain", "fancy"]), st.sampled_from(["plain", "fancy"])),
    st.tuples(st.just(tuple[int, ...]), st.lists(WHOLE, min_size=1).map(tuple)),
    st.tuples(st.just(tuple[float, ...]), st.lists(NUMBERS, min_size=1).map(tuple)),
)


@given(VALUES)
@settings(max_examples=50)
def test_a_shown_value_is_read_as_itself(pair: tuple[Any, Any]) -> None:
    annotation, value = pair
    assert read_value(annotation, show_value(value)) == value


FAMILIES = sorted(registry.families())


def options_of(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_of_every_family_says_what_it_is(family: str) -> None:
    kind = registry.config_class(family)
    assert kind.summary
    assert "\n" not in kind.summary
    for row in kind.described():
        assert row.help, row.name
        assert "\n" not in row.help, row.name
        assert row.kind in ("defining", "running"), row.name
        annotation = kind.model_fields[row.name].annotation
        if any(option is not str and option is not type(None) for option in options_of(annotation)):
            assert row.bounds, f"{row.name} takes any value"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_default_of_every_family_is_a_word_that_its_setting_takes(family: str) -> None:
    kind = registry.config_class(family)
    for row in kind.described():
        config = kind.of({row.name: row.default}, family)  # holds the bounds, or raises
        assert getattr(config, row.name) == getattr(kind.of({}, family), row.name), row.name
    assert kind.of({}, family) == kind(**kind.derived_defaults({}))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_default_number_of_a_familys_own_lies_inside_its_bounds(family: str) -> None:
    kind = registry.config_class(family)
    common = {**Config.model_fields, **ImageConfig.model_fields}
    for name, field in kind.model_fields.items():
        default = field.get_default()
        if name in common or isinstance(default, bool) or not isinstance(default, (int, float)):
            continue
        assert isinstance(field.json_schema_extra, dict)
        bounds: Any = field.json_schema_extra["bounds"]
        assert "at least" in bounds or "above" in bounds, f"{name} has no lower bound"
        below = min(bounds.get("at most", float("inf")), bounds.get("below", float("inf")))
        above = max(bounds.get("at least", -float("inf")), bounds.get("above", -float("inf")))
        assert above <= default <= below, name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tiny_variants_of_every_family_are_valid_and_tiny(family: str) -> None:
    kind = registry.config_class(family)
    assert kind.tiny
    for name, words in kind.tiny.items():
        config, mistakes = kind.from_words(words, family)
        assert mistakes == [], name
        assert config is not None
        assert config.steps <= 10, name
        assert config.microbatches >= 4, f"{name}: contract tests deal its micro-batches to 4 workers"


def test_workers_may_be_a_range_of_how_many_there_is_room_for(sentences: Sentences) -> None:
    config = Config.of({"workers": "2..4"})
    assert (config.workers, config.min_workers, config.least_workers) == (4, 2, 2)
    assert Config.of({"workers": "3"}).least_workers == 3
    for word, code, value in (
        ("4..2", "settings-conflict", "4..2"), ("0..2", "bad-value", "0"), ("1..9", "settings-conflict", 9),
    ):  # fmt: skip
        _, problems = Config.from_words({"workers": word})
        assert [facts_of(one) for one in problems] == [(code, "workers", value)]
        sentences(problems)


@pytest.mark.parametrize("family", sorted(registry.families()))
def test_help_lists_settings_by_subject_and_the_familys_own_first(family: str) -> None:
    kind = registry.config_class(family)
    text = help_text(parser.parse(["train", family, "--help"]))
    places = {row.name: re.search(rf"^{row.name}( \*)?( |$)", text, re.MULTILINE) for row in kind.described()}
    assert all(places.values()), places
    starts = {name: match.start() for name, match in places.items() if match is not None}
    heads = [text.index(f"\n{group.capitalize()}") for group in GROUPS]
    assert heads == sorted(heads)
    for row in kind.described():
        number = GROUPS.index(row.group)
        assert heads[number] < starts[row.name] < [*heads, len(text)][number + 1], row.name
        assert ("*" in str(places[row.name])) == (row.kind == "running")
    for group in GROUPS:
        inside = [row.name in kind.common() for row in kind.described() if row.group == group]
        assert inside == sorted(inside), "the family's own come first"


def test_a_default_that_its_own_family_overrides_wrongly_ends_in_an_error() -> None:
    class Wrong(Example):
        @classmethod
        def overridden_defaults(cls, words: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"depth": 0}

    with pytest.raises(ValidationError, match="depth"):
        Wrong.of({"rate": "0.5"})
    with pytest.raises(ValidationError, match="depth"):
        Wrong.of({"rate": "fast"})
