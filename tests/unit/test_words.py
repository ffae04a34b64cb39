"""The parser of commands: it takes them apart, and finds all that is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentences import Sentences

from cluster.cli.help import help_text
from cluster.cli.parser import options_of, parse
from cluster.requests.models import REQUESTS, SampleRequest, TrainRequest
from trainers.base.problems import Problem, sentence


def problems_of(*arguments: str) -> list[Problem]:
    problems = parse(arguments).problems
    assert all("\n" not in sentence(one) for one in problems)
    return problems


def kinds_of(problems: list[Problem]) -> list[tuple[str, str]]:
    """The code of each problem, and what it is about."""
    return [(one.code, one.about) for one in problems]


def test_a_command_is_taken_apart_into_verb_names_settings_and_options() -> None:
    words = parse(["train", "dcgan", "data=digits", "--json", "workers=2", "--name", "mine"])
    assert (words.verb, words.names, words.settings) == ("train", ["dcgan"], {"data": "digits", "workers": "2"})
    assert words.options == {"json": [], "name": ["mine"]}
    assert words.request == TrainRequest(family="dcgan", settings={"data": "digits", "workers": "2"}, name="mine")
    assert words.has("json")
    assert not words.has("resume")
    assert words.problems == []


@pytest.mark.parametrize("given", [["--name", "mine"], ["--name=mine"]])
def test_a_value_may_follow_its_option_or_an_equals_sign(given: list[str]) -> None:
    words = parse(["train", "dcgan", *given])
    assert words.options["name"] == ["mine"]
    assert words.problems == []


def test_a_value_may_hold_equals_signs_and_a_setting_any_text() -> None:
    words = parse(["train", "dcgan", "--runs-dir=a=b", "data=imagefolder:/x=y z", "name="])
    assert words.options["runs-dir"] == ["a=b"]
    assert words.settings == {"data": "imagefolder:/x=y z", "name": ""}


def test_a_request_gives_the_command_line_that_makes_it() -> None:
    typed = [
        "dcgan",
        "data=digits",
        "workers=2",
        "--name",
        "mine",
        "--allow-changes",
        "--families",
        "a",
        "--families",
        "b",
    ]
    request = parse(["train", *typed]).request
    assert request is not None
    assert request.arguments() == tuple(typed)
    assert request.with_local_paths().arguments("families") == tuple(typed[:6]), "defaults are not added"
    assert parse(["train", *request.arguments()]).request == request


def test_an_option_that_repeats_keeps_every_value() -> None:
    words = parse(["train", "dcgan", "--families", "one", "--families=two"])
    assert words.options["families"] == ["one", "two"]
    assert words.request is not None
    assert words.request.with_local_paths().families == (Path("one").resolve(), Path("two").resolve())  # type: ignore[attr-defined]
    assert words.problems == []


WRONG = [
    (["tran", "dcgan"], "unknown-verb", "tran"),
    (["--json", "train", "dcgan"], "unknown-verb", "--json"),
    (["xyzzy"], "unknown-verb", "xyzzy"),
    (["train", "dcgan", "--nam", "x"], "unknown-option", "--nam"),
    (["train", "dcgan", "--nam=x"], "unknown-option", "--nam"),
    (["train", "dcgan", "--xyzzy", "3"], "unknown-option", "--xyzzy"),
    (["train", "dcgan", "--name"], "missing", "--name"),
    (["train", "dcgan", "--name", "--json"], "missing", "--name"),
    (["train", "dcgan", "--json=yes"], "bad-value", "--json"),
    (["train", "dcgan", "--name", "a", "--name", "b"], "said-twice", "--name"),
    (["train", "dcgan", "seed=1", "seed=2"], "said-twice", "seed"),
    (["train", "dcgan", "-json"], "unknown-option", "-json"),
    (["train", "dcgan", "again"], "too-many", "again"),
    (["env", "here"], "too-many", "here"),
    (["train", "dcgan", "learning-rate=3"], "too-many", "learning-rate=3"),
    (["train", "dcgan", "=5"], "too-many", "=5"),
    (["sample", "run", "--out", ""], "missing", "--out"),
    (["runs", "--runs-dir="], "missing", "--runs-dir"),
    (["predict", "run", ""], "missing", "predict"),
    (["verify"], "missing", "verify"),
    (["sample"], "missing", "sample"),
    (["export", "mine", "seed=3"], "unknown-setting", "seed"),
    (["train", "dcgan", "--from", "other"], "renamed", "--from"),
    (["search", "dcgan", "--final"], "renamed", "--final"),
]


@pytest.mark.parametrize(("given", "code", "about"), WRONG, ids=[" ".join(given) for given, *_ in WRONG])
def test_a_mistake_is_told_in_one_line_with_advice(
    given: list[str], code: str, about: str, sentences: Sentences
) -> None:
    problems = problems_of(*given)
    assert kinds_of(problems) == [(code, about)]
    sentences(problems)


def test_every_mistake_of_a_command_is_found(sentences: Sentences) -> None:
    problems = problems_of("train", "dcgan", "--bogus", "seed=1", "-x", "--json=1", "seed=2", "more", "--name")
    assert kinds_of(problems) == [
        ("unknown-option", "--bogus"), ("unknown-option", "-x"), ("bad-value", "--json"), ("said-twice", "seed"),
        ("missing", "--name"), ("too-many", "more"),
    ]  # fmt: skip
    sentences(problems)


def test_a_verb_that_takes_any_number_of_names_takes_them() -> None:
    assert parse(["runs"]).problems == []
    assert parse(["runs", "--remove", "a", "b", "c"]).names == ["a", "b", "c"]
    assert parse(["runs", "a", "b", "c"]).problems == []


def test_a_family_may_be_left_out_where_a_run_goes_on() -> None:
    assert parse(["train", "--resume", "mine"]).problems == []


@pytest.mark.parametrize("given", [[], ["--help"], ["-h"], ["help"]])
def test_help_is_shown_where_nothing_is_asked_for(given: list[str]) -> None:
    words = parse(given)
    assert words.help
    assert words.problems == []


@pytest.mark.parametrize("verb", REQUESTS)
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_every_verb_has_help_that_needs_no_names(verb: str, word: str) -> None:
    words = parse([verb, word])
    assert (words.verb, words.help, words.problems) == (verb, True, [])


def test_a_whole_number_is_asked_for_and_a_mistake_noted(sentences: Sentences) -> None:
    request, problems = SampleRequest.from_command(["run"], {}, {"count": ["12"]})
    assert request is not None
    assert (request.count, request.seed, problems) == (12, 0, [])
    for name, text in (("count", "0"), ("count", "100001"), ("seed", "-1"), ("top", "x"), ("top", "²"), ("top", "2.0")):
        request, problems = SampleRequest.from_command(["run"], {}, {name: [text]})
        assert request is not None, "with the default"
        assert [(one.code, one.about, one.value) for one in problems] == [("bad-value", f"--{name}", text)]
        sentences(problems)


def test_what_is_wrong_is_data_for_programs(sentences: Sentences) -> None:
    words = parse(["train", "dcgan", "--nmae", "x", "steps=1", "steps=2"])
    assert kinds_of(words.problems) == [("unknown-option", "--nmae"), ("said-twice", "steps")]
    assert "--name" in words.problems[0].hint
    sentences(words.problems)
    (problem,) = parse(["runs", "steps=1"]).problems
    assert problem.reason
    assert problem.as_json() == {
        "code": "unknown-setting", "about": "steps", "value": "1", "reason": problem.reason, "hint": "",
        "source": "", "resumes": False, "run": "", "kept": True, "text": sentence(problem),
    }  # fmt: skip
    sentences([problem])


def test_every_verb_says_what_it_is_with_an_example_that_parses() -> None:
    for name, model in REQUESTS.items():
        assert model.summary, name
        assert model.example.startswith(f"troupe {name}")
        assert parse(model.example.split()[1:]).problems == []
        assert all(option.help for option in options_of(name))
        assert len({option.name for option in options_of(name)}) == len(options_of(name))


WORD = st.one_of(
    st.text(max_size=8), st.sampled_from(["--", "-", "--=", "=", "a=", "=b", "--name", "--json", "--families", "-h"])
)


@given(st.sampled_from([*REQUESTS, "tran", ""]), st.lists(WORD, max_size=6))
def test_no_command_makes_the_parser_raise(verb: str, rest: list[str]) -> None:
    parse([verb, *rest])


@pytest.mark.parametrize(
    ("verb", "usage"),
    [("runs", "troupe runs [NAME...] [--option ...]"), ("report", "troupe report NAME [NAME...] [--option ...]"),
     ("train", "troupe train [FAMILY] [key=value ...] [--option ...]"),
     ("sample", "troupe sample NAME [key=value ...] [--option ...]"), ("datasets", "troupe datasets [--option ...]")],
)  # fmt: skip
def test_a_usage_line_shows_what_may_be_left_out(verb: str, usage: str) -> None:
    text = help_text(parse([verb, "--help"]))
    assert f"usage: {usage}" in text.splitlines()
    assert verb != "datasets" or "--remove PATH" in text


def test_the_value_of_an_option_is_not_the_command_to_submit() -> None:
    assert [(one.code, one.about) for one in parse(["submit", "--address", "train"]).problems] == [
        ("missing", "submit")
    ]
