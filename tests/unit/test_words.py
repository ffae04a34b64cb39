"""The parser of commands: it takes them apart, and finds all that is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.help import help_text
from cluster.words import VERBS, Words, parse
from trainers.engine.problems import Problem, sentences


def mistakes_of(*arguments: str) -> list[str]:
    lines = sentences(parse(arguments).problems)
    assert all("\n" not in line for line in lines)
    return lines


def test_a_command_is_taken_apart_into_verb_names_settings_and_options() -> None:
    words = parse(["train", "dcgan", "data=digits", "--json", "workers=2", "--name", "mine"])
    assert (words.verb, words.names, words.settings) == ("train", ["dcgan"], {"data": "digits", "workers": "2"})
    assert words.options == {"json": "", "name": "mine"}
    assert words.has("json")
    assert not words.has("resume")
    assert words.problems == []


@pytest.mark.parametrize("given", [["--name", "mine"], ["--name=mine"]])
def test_a_value_may_follow_its_option_or_an_equals_sign(given: list[str]) -> None:
    words = parse(["train", "dcgan", *given])
    assert words.options["name"] == "mine"
    assert words.problems == []


def test_a_value_may_hold_equals_signs_and_a_setting_any_text() -> None:
    words = parse(["train", "dcgan", "--runs-dir=a=b", "data=imagefolder:/x=y z", "name="])
    assert words.options["runs-dir"] == "a=b"
    assert words.settings == {"data": "imagefolder:/x=y z", "name": ""}


def test_an_option_that_repeats_keeps_every_value() -> None:
    words = parse(["train", "dcgan", "--families", "one", "--families=two"])
    assert words.repeated["families"] == ["one", "two"]
    assert words.families == (Path("one").resolve(), Path("two").resolve())
    assert words.problems == []


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["tran", "dcgan"], "tran: no such verb; did you mean train?; `troupe --help` lists them"),
        (["--json", "train", "dcgan"], "--json: no such verb; the verb comes first; `troupe --help` lists them"),
        (["xyzzy"], "xyzzy: no such verb; `troupe --help` lists them"),
        (["train", "dcgan", "--nam", "x"], "--nam: no such option of train; did you mean --name, or nam=x?"),
        (["train", "dcgan", "--nam=x"], "--nam: no such option of train; did you mean --name, or nam=x?"),
        (
            ["train", "dcgan", "--xyzzy", "3"],
            "--xyzzy: no such option of train; settings have no dashes: xyzzy=3",
        ),
        (["train", "dcgan", "--name"], "--name: needs a value, --name NAME"),
        (["train", "dcgan", "--name", "--json"], "--name: needs a value, --name NAME"),
        (["train", "dcgan", "--json=yes"], "--json: takes no value"),
        (["train", "dcgan", "--name", "a", "--name", "b"], "--name: said twice"),
        (["train", "dcgan", "seed=1", "seed=2"], "seed: said twice, as 1 and 2"),
        (["train", "dcgan", "-json"], "-json: options begin with two dashes; did you mean --json?"),
        (["train", "dcgan", "again"], "again: one name too many"),
        (["env", "here"], "here: one name too many"),
        (
            ["train", "dcgan", "learning-rate=3"],
            "learning-rate=3: one name too many; a setting is written learning_rate=3",
        ),
        (["train", "dcgan", "=5"], "=5: one name too many; a setting is key=value, without blanks"),
        (["sample", "run", "--out", ""], "--out: is empty; it needs a value, --out FILE"),
        (["runs", "--runs-dir="], "--runs-dir: is empty; it needs a value, --runs-dir DIR"),
        (["predict", "run", ""], "predict: one of the words is empty, as where a variable is not set"),
        (["verify"], "verify: needs a family, as in `troupe verify dcgan workers=4`"),
        (["sample"], "sample: needs a name, as in `troupe sample dcgan-1 --count 100`"),
        (["export", "mine", "seed=3"], "seed=3: export takes no settings"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_advice(given: list[str], line: str) -> None:
    assert mistakes_of(*given) == [line]


def test_every_mistake_of_a_command_is_found() -> None:
    lines = mistakes_of("train", "dcgan", "--bogus", "seed=1", "-x", "--json=1", "seed=2", "more", "--name")
    assert [line.split(":")[0] for line in lines] == ["--bogus", "-x", "--json", "seed", "--name", "more"]


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


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_every_verb_has_help_that_needs_no_names(verb: str, word: str) -> None:
    words = parse([verb, word])
    assert (words.verb, words.help, words.problems) == (verb, True, [])


def test_a_whole_number_is_asked_for_and_a_mistake_noted() -> None:
    words = Words(options={"count": "12", "seed": "-1", "out": "x", "odd": "²"})
    assert words.number("count", 64, 1) == 12
    assert words.number("missing", 64, 1) == 64
    assert words.problems == []
    assert words.number("count", 64, 13) == 64
    assert [words.number(name, 5, 0) for name in ("seed", "out", "odd")] == [5, 5, 5]
    assert sentences(words.problems) == [
        "--count 12: must be a whole number, at least 13",
        "--seed -1: must be a whole number, at least 0",
        "--out x: must be a whole number, at least 0",
        "--odd ²: must be a whole number, at least 0",
    ]


def test_what_is_wrong_is_data_for_programs() -> None:
    words = parse(["train", "dcgan", "--nmae", "x", "steps=1", "steps=2"])
    hint = "did you mean --name, or nmae=x?"
    assert words.problems == [
        Problem("unknown-option", "--nmae", "no such option of train", hint),
        Problem("said-twice", "steps", "said twice, as 1 and 2"),
    ]
    assert parse(["runs", "steps=1"]).problems[0].as_json() == {
        "code": "unknown-setting", "about": "steps", "value": "1", "reason": "runs takes no settings", "hint": "",
        "source": "", "resumes": False, "run": "", "kept": True, "text": "steps=1: runs takes no settings",
    }  # fmt: skip


def test_every_verb_says_what_it_is_with_an_example_that_parses() -> None:
    for name, verb in VERBS.items():
        assert verb.summary, name
        assert verb.example.startswith(f"troupe {name}")
        assert parse(verb.example.split()[1:]).problems == []
        assert all(option.help for option in verb.options)
        assert len({option.name for option in verb.options}) == len(verb.options)


WORD = st.one_of(
    st.text(max_size=8), st.sampled_from(["--", "-", "--=", "=", "a=", "=b", "--name", "--json", "--families", "-h"])
)


@given(st.sampled_from([*VERBS, "tran", ""]), st.lists(WORD, max_size=6))
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
