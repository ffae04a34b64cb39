"""What a search may try, as it is read from words, drawn from, and moved within."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from sentences import Sentences

from cluster.ranking.leaderboard import Search
from cluster.requests.models import SearchRequest
from cluster.searching import prepare_search, samplers, space
from cluster.searching.space import Choice, Range, Space
from trainers.base.errors import USAGE, TroupeError
from trainers.base.problems import Problem
from trainers.families import registry


def read(family: str, **words: str) -> Space:
    where, problems = space.read_space(registry.config_class(family), family, words, {}, "")
    assert problems == []
    assert where is not None
    return where


def problems_of(family: str, **words: str) -> list[Problem]:
    where, wrong = space.read_space(registry.config_class(family), family, words, {}, "")
    assert where is None
    return wrong


def test_commas_separate_choices_and_two_dots_the_ends_of_a_range() -> None:
    where = read("wgan_gp", n_critic="1,2,5", learning_rate="1e-5..1e-3", width="16..64", penalty="linear:1..20")
    assert where.domains == {
        "n_critic": Choice((1, 2, 5)), "learning_rate": Range(1e-5, 1e-3, log=True, integer=False),
        "width": Range(16, 64, log=False, integer=True), "penalty": Range(1, 20, log=False, integer=False),
    }  # fmt: skip


def test_one_value_is_fixed_and_a_path_has_no_grammar(tmp_path: Path) -> None:
    where = read("dcgan", width="16,32", steps="10", data=f"imagefolder:{tmp_path}/a,b..c")
    assert dict(where.fixed) == {"steps": "10", "data": f"imagefolder:{tmp_path}/a,b..c"}


def test_a_list_is_one_choice_and_texts_are_choices_too() -> None:
    assert read("cifar_speed", widths="64:128:128,64:256:256").domains["widths"] == Choice(
        ((64, 128, 128), (64, 256, 256))
    )
    assert read("classifier", model="mlp,lenet").domains["model"] == Choice(("mlp", "lenet"))


def test_a_list_from_python_is_choices() -> None:
    where, _ = space.read_space(
        registry.config_class("dcgan"), "dcgan", {"width": [8, 16], "beta1": [0.0, 0.5]}, {}, ""
    )
    assert where is not None
    assert where.domains == {"width": Choice((8, 16)), "beta1": Choice((0.0, 0.5))}


def test_words_of_the_command_replace_those_of_the_file() -> None:
    kind = registry.config_class("wgan")
    said = {"clip": "0.003..0.1", "n_critic": "1,2,5"}
    where, _ = space.read_space(kind, "wgan", {"clip": "0.01", "n_critic": "3,4"}, said, "searchspaces/wgan.py")
    assert where is not None
    assert dict(where.domains) == {"n_critic": Choice((3, 4))}
    assert dict(where.fixed) == {"clip": "0.01"}


def test_seeds_repeat_each_point() -> None:
    where = read("dcgan", width="16,32", seed="1,2,3")
    assert where.seeds == (1, 2, 3)
    assert where.points == 2
    search = Search(Path("none"), {"metric": "loss", "mode": "min"})
    for point in samplers.listed(where, "grid", 2, 0):
        samplers.add(search, where, point)
    assert [trial.settings for trial in search.trials] == [
        {"width": width, "seed": seed} for width in (16, 32) for seed in (1, 2, 3)
    ]


NO_SPACES = [
    ("dcgan", {"widht": "16,32"}, "unknown-setting", "widht"),
    ("dcgan", {"upsample": "0..1"}, "bad-value", "upsample"),
    ("dcgan", {"learning_rate": "1e-3..1e-3"}, "bad-value", "learning_rate"),
    ("dcgan", {"learning_rate": "1e-2..1e-3"}, "bad-value", "learning_rate"),
    ("dcgan", {"learning_rate": "..1e-3"}, "bad-value", "learning_rate"),
    ("dcgan", {"learning_rate": "log:0..1"}, "bad-value", "learning_rate"),
    ("wgan_gp", {"penalty": "0..10"}, "bad-value", "penalty"),
    ("dcgan", {"beta1": "0.5,0.5"}, "bad-value", "beta1"),
    ("dcgan", {"beta1": "0.5,1.5"}, "bad-value", "beta1"),
    ("dcgan", {"width": "8.5,16"}, "bad-value", "width"),
    ("dcgan", {"seed": "1..3"}, "bad-value", "seed"),
    ("dcgan", {"workers": "1,2"}, "bad-value", "workers"),
    ("dcgan", {"width": "16"}, "nothing-to-search", ""),
]


@pytest.mark.parametrize(
    ("family", "words", "code", "about"),
    NO_SPACES,
    ids=[f"{name}={word}" for _, words, *_ in NO_SPACES for name, word in words.items()],
)
def test_what_cannot_be_searched_is_told_in_one_line(
    family: str, words: dict[str, str], code: str, about: str, sentences: Sentences
) -> None:
    (problem,) = problems_of(family, **words)
    assert (problem.code, problem.about, problem.value) == (code, about, words[about] if problem.value else None)
    sentences([problem])


def test_all_mistakes_are_told_at_once_and_those_of_a_file_name_it(sentences: Sentences) -> None:
    kind = registry.config_class("dcgan")
    _, wrong = space.read_space(kind, "dcgan", {"beta1": "2,3", "steps": "many"}, {"width": "9..8"}, "mine.py")
    assert [(one.code, one.about, one.value, one.source) for one in wrong] == [
        ("bad-value", "width", "9..8", "mine.py"),
        ("bad-value", "beta1", "2,3", ""),
        ("bad-value", "steps", "many", ""),
    ]
    sentences(wrong)


def test_draws_of_a_log_range_are_even_by_their_logarithm_and_can_be_said_again() -> None:
    domain, chance = Range(1e-4, 1e-1, log=True, integer=False), random.Random(0)
    drawn = [domain.draw(chance) for _ in range(3000)]
    assert all(1e-4 <= number <= 1e-1 and float(f"{number:.4g}") == number for number in drawn)
    below = sum(number < 10**-2.5 for number in drawn) / len(drawn)
    assert abs(below - 0.5) < 0.03


def test_moves_never_leave_the_range_or_the_choices() -> None:
    where, chance = read("wgan_gp", n_critic="1,2,5", learning_rate="1e-5..1e-3", width="16..20"), random.Random(1)
    point = where.draw(chance)
    seen = set()
    for _ in range(2000):
        point = where.moved(point, chance)
        assert point["n_critic"] in (1, 2, 5)
        assert 1e-5 <= point["learning_rate"] <= 1e-3
        assert 16 <= point["width"] <= 20
        assert isinstance(point["width"], int)
        seen.add(point["width"])
    assert len(seen) == 5


def test_the_same_seed_draws_the_same_points_and_none_twice() -> None:
    where = read("dcgan", width="16,32,64", beta1="0,0.5")
    points = samplers.listed(where, "random", 4, 7)
    assert points == samplers.listed(where, "random", 4, 7)
    assert points != samplers.listed(where, "random", 4, 8)
    assert len({tuple(point.values()) for point in points}) == 4
    assert len(samplers.listed(where, "random", 100, 0)) == 6, "there are no more"
    assert len(samplers.listed(where, "grid", 6, 0)) == math.prod((3, 2))


@pytest.mark.parametrize(
    ("text", "of_python"),
    [
        ("SEARCH = {'width': 16}", ""),
        ("SEARCH = {'width': '16,32'", "SyntaxError: "),
        ("import nothing_like_that", "ModuleNotFoundError: "),
    ],
)
def test_a_file_that_is_no_space_is_told(tmp_path: Path, text: str, of_python: str, sentences: Sentences) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(TroupeError) as error:
        space.module_of("dcgan", str(tmp_path / "mine.py"), ())
    assert error.value.code == USAGE
    (problem,) = error.value.problems
    assert (problem.code, problem.about, problem.value) == ("own-code", "--space", str(tmp_path / "mine.py"))
    assert problem.reason.startswith(of_python)
    if not of_python:  # which says it in other words elsewhere
        sentences([problem])


def test_a_file_that_is_not_there_is_told(tmp_path: Path, sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as error:
        space.module_of("dcgan", str(tmp_path / "mine.py"), ())
    assert [(one.code, one.about) for one in error.value.problems] == [("missing-file", "--space")]
    sentences(error.value.problems)


def test_families_of_ones_own_have_their_spaces_beside_them(tmp_path: Path) -> None:
    (tmp_path / "searchspaces").mkdir()
    (tmp_path / "searchspaces" / "mine.py").write_text("SEARCH = {'width': '1,2'}\nBUDGET = {'steps': '10'}")
    assert space.module_of("mine", None, (tmp_path,))[:2] == ({"width": "1,2"}, {"steps": "10"})
    assert space.module_of("mine", "none", (tmp_path,)) == ({}, {}, "")


@pytest.mark.parametrize("family", registry.families())
def test_every_family_has_a_space_whose_keys_are_settings_and_whose_values_are_possible(family: str) -> None:
    said, budget, source = space.module_of(family, None, ())
    assert said, f"{family} has no searchspaces/{family}.py"
    words = {key: value for key, value in budget.items() if key not in ("trials", "scheduler")}
    where, wrong = space.read_space(registry.config_class(family), family, words, said, source)
    assert wrong == []
    assert where is not None
    assert set(budget) >= {"trials", "scheduler"}
    assert {"steps", "epochs"} & set(budget)


def test_a_metric_that_small_data_does_not_give_gives_way_where_nobody_asked_for_it(sentences: Sentences) -> None:
    facts = {"classes": 2, "class_names": ("cat", "dog"), "channels": 3, "image_size": 16, "size": 360}
    config = registry.config_class("dcgan").of({"image_size": 16})
    told = {"metric": "eval_frechet_distance", "mode": "min"}

    def line(held_out: int, metric: str | None = None) -> str:
        command = SearchRequest(family="dcgan", metric=metric)
        return prepare_search.compare_by(told, command, config, {**facts, "held_out": held_out})

    assert (line(65), told["metric"]) == ("", "eval_frechet_distance")
    with pytest.raises(TroupeError) as error:
        line(4)
    assert [(one.code, one.about) for one in error.value.problems] == [("nothing-held-out", "")]
    sentences(error.value.problems)
    with pytest.raises(TroupeError) as error:
        line(40, "frechet_distance")
    (problem,) = error.value.problems
    assert (problem.code, problem.about, problem.value) == ("unknown-metric", "--metric", "eval_frechet_distance")
    sentences([problem])
    assert line(40) == (
        "evaluations on 40 samples give no eval_frechet_distance: comparing by eval_kernel_distance (min) instead"
    )
    assert (told["metric"], told["mode"]) == ("eval_kernel_distance", "min")
    assert line(40) == ""
