"""Recipes: every file is valid and says where its numbers are from, and a wrong one is told by file and key."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from sentences import Sentences

import cluster
from cluster.cli import main
from cluster.cli.parser import parse
from cluster.host import hardware
from cluster.ranking.leaderboard import FINISHED, Search, TrialRecord
from cluster.ray_jobs import prepare_job
from cluster.requests.models import SearchRequest, TrainRequest
from cluster.searching import launch_search, prepare_search
from cluster.searching.driver import Driver
from cluster.terminal.progress import Progress, Silence
from cluster.training import given_settings, launch_run, prepare_run
from cluster.training.given_settings import GivenSettings
from trainers.base import old_names
from trainers.base.errors import ENVIRONMENT, USAGE, TroupeError
from trainers.base.problems import Problem
from trainers.families import registry
from trainers.families.recipes import Ours, Recipe, all_recipes, find_recipe

ROOT = Path(__file__).parents[2]
RECIPES = {recipe.name: recipe for recipe in all_recipes()}
NOT_OF_A_RECIPE = ("seed", "workers", "name")  # words of a command that are no changes of a recipe
OWN = """title: a small network
source: nobody
published:
  text: nothing
  conditions: none
settings:
  data: digits  # built in
  steps: 7  # few
  width: 8  # narrow
not_run: too small
differs: Not run.
time:
  two_cores:
    minutes: 1
    measured: here
  one_gpu:
    minutes: 1
    estimated: by hand
"""


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with one custom family, which has one recipe, `small`."""
    family = tmp_path / "own" / "mine"
    (family / "recipes").mkdir(parents=True)
    (family / "config.py").write_text(
        "from trainers.families.dcgan.config import Config as Dcgan\n\n\nclass Config(Dcgan):\n    pass\n"
    )
    (family / "training.py").write_text("")
    (family / "recipes" / "small.yaml").write_text(OWN)
    return tmp_path / "own"


def prepared(recipe: str, **options: Any) -> prepare_run.PreparedRun:
    return prepare_run.prepare_run(TrainRequest(recipe=recipe, dry_run=True, runs_remotely=True, **options))


def lines_below(text: str, key: str) -> list[str]:
    """The indented lines below a key of a file."""
    match = re.search(rf"^{key}:.*\n((?:[ ].*\n)+)", text, re.MULTILINE)
    assert match is not None, key
    return match[1].splitlines()


def test_there_are_recipes_of_several_families() -> None:
    assert len(RECIPES) > 10
    assert len({recipe.family for recipe in RECIPES.values()}) > 4


def test_the_settings_of_a_recipe_are_valid_and_change_what_they_say(recipe: Recipe) -> None:
    """Without its data, which may not be here."""
    found = prepared(recipe.name)
    assert found.family == recipe.family
    assert found.recipe == {"name": recipe.name, "changed": {}}
    assert {name: found.origins[name] for name in recipe.words} == dict.fromkeys(recipe.words, f"recipe {recipe.name}")
    assert found.config.warnings() == []


def examples(verb: str) -> list[str]:
    """The commands of a verb that name a recipe, in the documents."""
    texts = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    found = [re.findall(rf"^    (?:\$ )?troupe ({verb} .*--recipe \w.*)$", text, re.MULTILINE) for text in texts]
    return [line.partition("  #")[0] for lines in found for line in lines]


@pytest.mark.parametrize("line", [*examples("train"), *examples("search")])
def test_the_commands_of_the_documents_that_name_a_recipe_are_accepted(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without their data, on a machine with as many cores as they need."""
    monkeypatch.setattr(hardware, "cores", lambda: 64)
    request = parse(shlex.split(line)).request
    assert isinstance(request, (TrainRequest, SearchRequest))
    command = request.replaced(runs=tmp_path, runs_remotely=True)
    if isinstance(command, TrainRequest):
        prepare_run.prepare_run(command)
    else:
        prepare_search.prepare_search(command)


def test_the_documents_have_commands_with_a_recipe() -> None:
    assert len(examples("train")) > 1
    assert examples("search")


def test_every_setting_and_every_published_number_has_a_comment(recipe: Recipe) -> None:
    text = recipe.file.read_text()
    for line in lines_below(text, "settings"):
        assert re.search(r"\S +# \S", line), line
    for line in lines_below(text, "published"):
        assert not line.strip().startswith("value:") or " # " in line, line


def test_the_metrics_of_a_recipe_are_those_of_its_family(recipe: Recipe) -> None:
    known = registry.config_class(recipe.family).metrics
    assert recipe.published.metric in ("", *known)
    assert {one.metric for one in recipe.ours} <= {*known}


def measured(ours: Ours, seed: int) -> tuple[str, float, float]:
    """The command, the value and the minutes of a run in the file of results that a recipe names."""
    file = ROOT / "benchmarks" / "results" / ours.processor / f"{ours.results}.json"
    runs = json.loads(file.read_text())["runs"]
    if ours.results == "recipes":
        run = runs[ours.runs]
        return run["command"], run["values"][str(seed)], run["minutes"][str(seed)]
    run = runs[f"{ours.runs}-{seed}"]
    numbers = run["metrics"] if "metrics" in run else {
        f"eval_{name}": one["generated"] for name, one in run["final"]["numbers"].items()
    }  # fmt: skip
    return run["command"], numbers[f"eval_{ours.metric}"], run["seconds"] / 60


def test_what_a_recipe_shows_as_ours_is_a_committed_result_with_the_settings_that_it_names(recipe: Recipe) -> None:
    kind = registry.config_class(recipe.family)
    for ours in recipe.ours:
        config = kind.of({**recipe.words, **ours.changed}, recipe.family)
        for seed, value in ours.values.items():
            command, number, minutes = measured(ours, seed)
            assert value == pytest.approx(number, abs=5e-5)
            assert ours.minutes[seed] == pytest.approx(minutes, abs=0.01)
            if ours.results == "recipes":
                assert f"--recipe {recipe.name}" in command
                continue
            words = dict(word.split("=") for word in command.split() if "=" in word)
            for name, word in old_names.current(words, kind.model_fields).items():
                if name not in NOT_OF_A_RECIPE:
                    assert getattr(kind.of({name: word}), name) == getattr(config, name), f"{name}={word}"


def test_a_changed_setting_of_ours_is_not_that_of_the_recipe(recipe: Recipe) -> None:
    kind = registry.config_class(recipe.family)
    alone = kind.of(recipe.words)
    for ours in recipe.ours:
        other = kind.of({**recipe.words, **ours.changed})
        assert [name for name in ours.changed if getattr(alone, name) == getattr(other, name)] == []
    assert recipe.not_run or any(not ours.changed for ours in recipe.ours)


LIGHT = """
import sys
from cluster.cli.main import command
assert command(["recipes"]) == 0
heavy = [name for name in sys.modules if name in ("torch", "ray", "numpy") or name.endswith(".dcgan.config")]
assert not heavy, heavy
"""


def test_recipes_are_listed_without_anything_heavy_nor_the_settings_of_families(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in RECIPES)


def test_one_recipe_is_shown_with_its_comments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.command(["recipes", "mnist_mlp_bn"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate: 0.01  # section 3.8.4" in out
    assert re.search(r"^  published +accuracy 0.9811", out, re.MULTILINE)
    assert re.search(r"^  ours +accuracy 0.98\d+ ±\S+, n=3", out, re.MULTILINE)
    assert out.rstrip().endswith("troupe train --recipe mnist_mlp_bn")


def test_recipes_are_a_call_with_plain_values(own: Path) -> None:
    rows = cluster.recipes()["recipes"]
    assert [row["name"] for row in rows] == [*RECIPES]
    (row,) = [row for row in rows if row["name"] == "mnist_mlp_bn"]
    assert (row["family"], row["published"]["value"], row["settings"]["epochs"]) == ("classifier", 0.9811, "20")
    assert (len(row["ours"][0]["values"]), row["ours"][0]["mean"]) == (3, pytest.approx(0.98237, abs=1e-4))
    assert json.loads(json.dumps(row)) == row
    (mine,) = cluster.recipes("small", families=[own])["recipes"]
    assert (mine["family"], mine["ours"], mine["not_run"]) == ("mine", [], "too small")


def test_the_command_line_overrides_a_file_which_overrides_a_recipe(own: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("width: 16\nlatent_dim: 32\nepochs: 2\n")
    found = prepared("small", families=(own,), config=file, settings={"latent_dim": "64"})
    assert found.recipe == {"name": "small", "changed": {"width": 16, "latent_dim": 64, "epochs": 2.0}}
    expected = {"data": "recipe small", "width": "config file", "epochs": "config file", "latent_dim": "command line"}
    assert {name: found.origins[name] for name in expected} == expected
    assert "steps" not in found.origins
    found = prepared("small", families=(own,), config=file, settings={"steps": "9"})
    assert (found.config.steps, found.config.epochs) == (9, None)


def test_a_recipe_says_what_it_is_and_what_the_command_changes() -> None:
    (note,) = prepared("mnist_mlp", settings={"steps": "9"}).notes
    assert note.startswith("recipe mnist_mlp: three fully connected layers without activations, MNIST; published: ")
    assert note.endswith("; the command also sets steps")
    assert prepared("mnist_mlp", family="classifier").recipe == {"name": "mnist_mlp", "changed": {}}


def kinds_of(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(one.code, one.about) for one in problems]


WRONG: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "unknown": ({"recipe": "mnist_mpl_bn"}, [("unknown-recipe", "--recipe")]),
    "unknown, with other errors": (
        {"recipe": "mnist_mpl_bn", "name": "../x"}, [("unknown-recipe", "--recipe"), ("bad-name", "--name")]),
    "of another family": ({"recipe": "mnist_mlp", "family": "dcgan"}, [("settings-conflict", "--recipe")]),
    "with a resumed run": (
        {"recipe": "mnist_mlp", "resume": "mine"}, [("settings-conflict", "--recipe"), ("unknown-run", "--resume")]),
    "without its folder": ({"recipe": "lsun_wgan"}, [("missing-folder", "data")]),
    "with a wrong setting": ({"recipe": "mnist_mlp", "settings": {"epochs": "many"}}, [("bad-value", "epochs")]),
}  # fmt: skip


@pytest.mark.parametrize(("words", "kinds"), WRONG.values(), ids=WRONG)
def test_a_wrong_use_of_a_recipe_is_told(
    words: dict[str, Any], kinds: list[tuple[str, str]], tmp_path: Path, sentences: Sentences,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TroupeError) as caught:
        prepare_run.prepare_run(TrainRequest(**words))
    assert (caught.value.code, kinds_of(caught.value.problems)) == (USAGE, kinds)
    sentences(caught.value.problems)


def test_a_file_of_another_family_than_the_recipe_is_refused(tmp_path: Path, sentences: Sentences) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("family: dcgan\n")
    for request in (TrainRequest(recipe="mnist_mlp", config=file), SearchRequest(recipe="mnist_mlp", config=file)):
        prepare = prepare_run.prepare_run if isinstance(request, TrainRequest) else prepare_search.prepare_search
        with pytest.raises(TroupeError) as caught:
            prepare(request)  # type: ignore[operator]
        assert kinds_of(caught.value.problems) == [("settings-conflict", "--recipe")]
        sentences(caught.value.problems)


def test_an_unknown_recipe_of_the_list_is_told_with_the_one_that_is_meant(sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as caught:
        cluster.recipes("mnist_mpl_bn")
    assert (caught.value.code, kinds_of(caught.value.problems)) == (USAGE, [("unknown-recipe", "mnist_mpl_bn")])
    sentences(caught.value.problems)


def test_data_that_cannot_be_had_is_told_with_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    def fails(*words: Any, **more: Any) -> Any:
        problem = Problem("not-downloaded", "data", "not found under DIR and could not be downloaded", value="mnist")
        raise TroupeError(problem, ENVIRONMENT)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch_run, "open_for", fails)
    monkeypatch.setattr(prepare_run, "open_for", fails)
    for options in ({"dry_run": True}, {}):
        with pytest.raises(TroupeError) as caught:
            cluster.train(recipe="mnist_mlp", device="cpu", **options)
        assert [one.source for one in caught.value.problems] == ["recipe mnist_mlp"]
        sentences(caught.value.problems)
    with pytest.raises(TroupeError) as caught:
        cluster.train(recipe="mnist_mlp", data="mnist", device="cpu")
    assert [one.source for one in caught.value.problems] == [""], "the command has named it"


BROKEN = {
    "no number": ("minutes: 1\n    measured", "minutes: soon\n    measured", "time.two_cores.minutes: "),
    "an unknown key": ("not_run:", "notrun:", "notrun: no such key; did you mean not_run?"),
    "a missing key": ("title: a small network\n", "", "title: is missing"),
    "an unknown key inside": ("    estimated: by hand", "    guessed: by hand", "time.one_gpu.guessed: no such key"),
    "no basis of a time": ("    estimated: by hand\n", "", "time.one_gpu: needs either measured or estimated"),
    "no result": ("not_run: too small\n", "", "needs ours, or not_run: why"),
    "nothing published": ("  text: nothing\n", "", "published: needs metric and value, or a text"),
    "a metric alone": ("  text: nothing\n", "  metric: x\n", "published: metric and value need each other"),
    "a setting twice": ("  steps: 7", "  data: mnist\n  steps: 7", "settings.data: given twice"),
    "settings in settings": ("  width: 8  # narrow", "  width:\n    a: b", "settings.width: "),
    "a family": ("title:", "family: dcgan\ntitle:", "family: follows from the place of the file"),
    "no YAML": ("title:", "title: [", "is not YAML"),
}


@pytest.mark.parametrize(("old", "new", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_recipe_is_told_by_file_and_key(own: Path, old: str, new: str, reason: str) -> None:
    file = own / "mine" / "recipes" / "small.yaml"
    file.write_text(OWN.replace(old, new))
    for call in (lambda: cluster.recipes(families=[own]), lambda: prepared("small", families=(own,))):
        with pytest.raises(TroupeError) as caught:
            call()
        assert caught.value.code == USAGE
        problems = {(one.code, one.about) for one in caught.value.problems}
        assert problems == {("own-code", str(file))}
        assert any(one.reason.startswith(reason) for one in caught.value.problems), caught.value.mistakes


@pytest.mark.parametrize("content", [b"", b"- a\n", b"\xff\xfe\x00", b"[" * 5000, b"a: &a [*a]\n", b"#" * 200_000])
def test_any_other_file_in_the_place_of_a_recipe_is_told_in_a_line(own: Path, content: bytes) -> None:
    (own / "mine" / "recipes" / "small.yaml").write_bytes(content)
    with pytest.raises(TroupeError) as caught:
        cluster.recipes(families=[own])
    assert caught.value.code == USAGE
    assert {one.code for one in caught.value.problems} == {"own-code"}


def test_a_wrong_setting_of_a_recipe_is_told_with_its_name(own: Path, sentences: Sentences) -> None:
    (own / "mine" / "recipes" / "small.yaml").write_text(OWN.replace("width: 8", "widht: 8").replace("7", "many"))
    with pytest.raises(TroupeError) as caught:
        prepared("small", families=(own,))
    assert kinds_of(caught.value.problems) == [("bad-value", "steps"), ("unknown-setting", "widht")]
    assert {one.source for one in caught.value.problems} == {"recipe small"}
    sentences(caught.value.problems)


def test_two_recipes_of_one_name_are_refused(own: Path) -> None:
    (own / "mine" / "recipes" / "mnist_mlp.yaml").write_text(OWN)
    with pytest.raises(TroupeError) as caught:
        find_recipe("small", (own,))
    assert [one.code for one in caught.value.problems] == ["name-in-use"]


def searched(**options: Any) -> prepare_search.PreparedSearch:
    return prepare_search.prepare_search(SearchRequest(**options))


def test_a_search_fixes_the_settings_of_a_recipe_and_ignores_the_space_of_its_family(own: Path, tmp_path: Path) -> None:
    words = {"seed": "1,2", "beta1": "0,0.5", "steps": "5"}
    found = searched(recipe="small", families=(own,), settings=words, runs=tmp_path)
    assert {name: str(domain) for name, domain in found.space.domains.items()} == {"beta1": "0,0.5"}
    assert (found.space.seeds, found.space.fixed["width"], found.space.fixed["steps"]) == ((1, 2), "8", "5")
    assert found.terms["recipe"] == {
        "name": "small", "changed": {"steps": 5, "evaluate_on": "validation", "keep_checkpoints": 1}
    }  # fmt: skip


def test_a_search_of_nothing_but_seeds_repeats_what_train_does_with_a_recipe(own: Path, tmp_path: Path) -> None:
    """On the split of the recipe: nothing is chosen by it."""
    found = searched(recipe="small", families=(own,), settings={"seed": "1,2,3"}, runs=tmp_path)
    assert (found.space.seeds, found.space.domains, found.terms["points"]) == ((1, 2, 3), {}, 1)
    assert (found.config.evaluate_on, found.terms["recipe"]["changed"]) == ("test", {"keep_checkpoints": 1})
    words = {"seed": "1,2,3", "evaluate_on": "validation"}
    assert searched(recipe="small", families=(own,), settings=words, runs=tmp_path).config.evaluate_on == "validation"


def test_a_search_of_a_recipe_may_read_a_file_of_a_space(own: Path, tmp_path: Path) -> None:
    file = tmp_path / "space.py"
    file.write_text('SEARCH = {"width": "8,16", "beta1": "0,0.5"}\n')
    found = searched(recipe="small", families=(own,), space=str(file), settings={"beta1": "0.5"}, runs=tmp_path)
    assert {name: str(domain) for name, domain in found.space.domains.items()} == {"width": "8,16"}
    assert found.terms["recipe"]["changed"].items() >= {("evaluate_on", "validation")}
    assert "width" not in found.terms["recipe"]["changed"]


def test_a_trial_stores_the_recipe_with_what_is_searched_and_a_resumed_search_keeps_it(
    own: Path, tmp_path: Path
) -> None:
    command = SearchRequest(recipe="small", families=(own,), settings={"seed": "1,2", "beta1": "0,0.5"}, runs=tmp_path)
    ready = prepare_search.prepare_search(command)
    search = Search(tmp_path / "s", ready.terms)
    driver = Driver(search, ready, command, Progress(Silence()))
    record = TrialRecord(1, {"beta1": 0.0, "seed": 2})
    (tmp_path / "s" / "trials").mkdir(parents=True)
    driver._make(record)
    stored = search.folder(record).read_settings()["recipe"]
    changed = {"evaluate_on": "validation", "keep_checkpoints": 1, "beta1": 0.0, "seed": 2}
    assert stored == {"name": "small", "changed": changed}
    search.write()
    resumed = searched(resume="s", runs=tmp_path)
    assert resumed.terms["recipe"] == ready.terms["recipe"]


def test_a_searched_value_that_is_the_recipes_own_is_no_change(tmp_path: Path) -> None:
    words = {"seed": "1,2", "momentum": "0,0.9"}
    command = SearchRequest(recipe="mnist_mlp_bn", settings=words, runs=tmp_path, runs_remotely=True)
    ready = prepare_search.prepare_search(command)
    driver = Driver(Search(tmp_path / "s", ready.terms), ready, command, Progress(Silence()))
    own, other = (driver._recipe_of(TrialRecord(1, {"momentum": value, "seed": 1})) for value in (0.0, 0.9))
    assert other["recipe"]["changed"].items() - own["recipe"]["changed"].items() == {("momentum", 0.9)}
    assert own["recipe"]["changed"] == {"evaluate_on": "validation", "keep_checkpoints": 1, "seed": 1}


def test_a_setting_that_a_resumed_run_changes_back_is_no_change(own: Path) -> None:
    def after(changed: dict[str, Any], stored: dict[str, Any], **words: str) -> Any:
        config = registry.config_class("mine", [own]).of({**stored, **words}, "mine")
        record = {"name": "small", "changed": changed}
        return given_settings.updated(record, GivenSettings(words), stored, config, [own])["changed"]

    assert after({"width": 16, "seed": 3}, {"width": 16, "seed": 3}, width="8") == {"seed": 3}
    assert after({"width": 16}, {"width": 16}, width="16", log_every="3") == {"width": 16, "log_every": 3}
    assert after({"epochs": 2.0}, {"steps": 50}, steps="60") == {"steps": 60}
    assert after({"epochs": 2.0}, {"steps": 50}, steps="7") == {}
    (own / "mine" / "recipes" / "small.yaml").unlink()
    assert after({"width": 16}, {"width": 16}, width="8") == {"width": 8}, "what is its own is no longer known"


def test_a_retrained_point_stores_the_recipe_of_its_search(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"seed": "1,2", "beta1": "0,0.5"}
    command = SearchRequest(recipe="small", families=(own,), settings=words, runs=tmp_path)
    ready = prepare_search.prepare_search(command)
    search = Search(tmp_path / "s", ready.terms)
    search.path.mkdir()
    best = TrialRecord(1, {"beta1": 0.0, "seed": 2}, state=FINISHED, value=1.0)
    search.trials.append(best)
    runs: list[prepare_run.PreparedRun] = []

    def launch(request: TrainRequest, progress: Progress) -> dict[str, Any]:
        runs.append(prepare_run.prepare_run(request))
        return {"metrics": {}}

    monkeypatch.setattr(launch_run, "launch", launch)
    launch_search._final(search, ready, command, Progress(Silence()))
    changed = {"keep_checkpoints": 1, "beta1": 0.0, "seed": 2}
    assert runs[0].recipe == {"name": "small", "changed": changed}, "of which the recipe evaluates on the test part"
    (note,) = [note for note in runs[0].notes if note.startswith("recipe small: ")]
    assert note.endswith("the command also sets evaluate_on, keep_checkpoints, beta1, seed")
    (own / "mine" / "recipes" / "small.yaml").unlink()
    launch_search._final(search, ready, command, Progress(Silence()))
    assert runs[1].recipe is None


def test_a_search_is_not_resumed_with_a_recipe(tmp_path: Path, sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as caught:
        searched(recipe="mnist_mlp", resume="s", runs=tmp_path)
    kinds = [("settings-conflict", "--recipe"), ("unknown-run", "--resume")]
    assert kinds_of(caught.value.problems) == kinds
    sentences(caught.value.problems[:1])


def test_a_job_is_sent_with_its_recipe_and_checked_with_its_settings(own: Path, tmp_path: Path) -> None:
    request = parse(["train", "--recipe", "small", "width=16", "--families", str(own)]).request
    assert isinstance(request, TrainRequest)
    assert prepare_job.prepare_job(request, tmp_path) == "mine"
    assert request.arguments("families") == ("width=16", "--recipe", "small")
    assert prepare_job.to_check(request) == ("mine", "data=digits", "steps=7", "width=16")
    search = parse(["search", "--recipe", "small", "width=8,16", "--families", str(own)]).request
    assert isinstance(search, SearchRequest)
    assert prepare_job.prepare_job(search, tmp_path) == "mine"


def test_a_job_needs_the_data_of_its_recipe_at_a_place_on_the_cluster(tmp_path: Path) -> None:
    request = parse(["train", "--recipe", "lsun_wgan"]).request
    assert isinstance(request, TrainRequest)
    with pytest.raises(TroupeError) as caught:
        prepare_job.prepare_job(request, tmp_path)
    assert kinds_of(caught.value.problems) == [("bad-value", "data")]
    there = parse(["train", "--recipe", "lsun_wgan", "data=imagefolder:/shared/lsun"]).request
    assert isinstance(there, TrainRequest)
    assert prepare_job.prepare_job(there, tmp_path) == "wgan"


def test_recipe_meant_other_things_in_a_manifest_of_0_1_0() -> None:
    before = {"family": "dcgan", "recipe": {"latent": 8}}
    assert old_names.current_run(before) == {"family": "dcgan", "settings": {"latent_dim": 8}}
    now = {"settings": {"keep_checkpoints": 1}, "recipe": {"name": "small", "changed": {"latent": 8}}}
    assert old_names.current_run(now) == now


def test_the_benchmark_writes_ours_and_leaves_the_rest_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("recipes")
    before = RECIPES["mnist_cnn"]
    text = before.file.read_text()
    done = {"metric": "accuracy", "values": {"1": 0.5, "2": 0.25}, "minutes": {"1": 2.5, "2": 3.0}, "changed": {}}
    whole = benchmark.with_ours(text, before, benchmark.ours_of("mnist_cnn", done, "kind"))
    assert "    values: {1: 0.5, 2: 0.25}  # by seed, at the last step\n" in whole
    assert ("not_run" in whole, "real_runs" in whole) == (False, False), "a complete result takes their place"
    rest = [line for line in whole.splitlines() if line in text]
    assert [line for line in text.splitlines() if "#" in line and "values:" not in line and line not in rest] == []
    short = {**done, "changed": {"epochs": "1"}}
    more = benchmark.with_ours(text, before, benchmark.ours_of("mnist_cnn", short, "kind"))
    assert "not_run" in more
    assert "real_runs" in more
    assert more.index("epochs: 1\n") < more.index("real_runs")
    again = Recipe.model_validate({**yaml.load(whole, yaml.BaseLoader), "name": "x"})
    assert [one.values for one in again.ours] == [{1: 0.5, 2: 0.25}]
