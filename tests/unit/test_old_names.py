"""Settings and metrics under the names of 0.1.0 and 0.2.0: what is stored is read, and errors name the new ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from searches import make_run, make_search

from cluster.cli import main
from cluster.inspection import export
from cluster.ranking import leaderboard
from cluster.reporting import collect
from cluster.requests.models import SearchRequest, TrainRequest
from cluster.searching import prepare_search
from cluster.training import initial_weights, prepare_run
from trainers.base import old_names
from trainers.base.errors import TroupeError
from trainers.base.problems import sentence
from trainers.families import registry
from trainers.families.dcgan.config import Config as Dcgan
from trainers.run_folders.run_folder import RunFolder
from trainers.settings.fields import Check, plain, setting
from trainers.storage import atomic_files

OLD = Path(__file__).parents[1] / "faults" / "old" / "run_of_0.1.0"
FAMILIES = Path(__file__).parents[1] / "families"
FORMER = {new: old for old, new in old_names.SETTINGS.items()}
OF_FAMILIES = ["classifier", "dcgan", "wgan_gp"]


def formerly(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they were stored until 0.2.0."""
    return {FORMER.get(name, name): value for name, value in plain(settings).items()}


def stored_formerly(path: Path, **settings: Any) -> RunFolder:
    """The folder of a dcgan run of 0.2.0, with its digest."""
    folder = RunFolder(path)
    make_run(folder)
    words = {"latent": 7, "keep": 9, **settings}
    told = {**json.loads(folder.settings.read_text()), "settings": {**formerly(Dcgan.of({}).model_dump()), **words}}
    folder.settings.write_text(atomic_files.sealed(told))
    return folder


@pytest.mark.parametrize("family", OF_FAMILIES)
def test_every_setting_of_a_run_has_its_new_name_and_its_value(family: str) -> None:
    config = registry.config_class(family).of({"warmup": 0.25, "grad_sync": "exact", "keep_checkpoints": 8})
    before = formerly(config.model_dump())
    assert len(before.keys() & old_names.SETTINGS.keys()) >= 5
    assert registry.config_class(family).of(old_names.settings(before)) == config
    assert old_names.settings(plain(config.model_dump())) == plain(config.model_dump())


def test_a_run_of_an_older_version_is_read_and_its_digest_still_counts(tmp_path: Path) -> None:
    folder, notes = stored_formerly(tmp_path / "run"), list[str]()
    settings = folder.read_settings(notes.append)["settings"]
    assert (settings["latent_dim"], settings["keep_checkpoints"], notes) == (7, 9, [])
    assert not settings.keys() & old_names.SETTINGS.keys()
    folder.settings.write_text(folder.settings.read_text().replace('"latent": 7', '"latent": 6'))
    shutil.copytree(OLD / "checkpoints", folder.checkpoints, dirs_exist_ok=True)
    folder.read_settings(notes.append)
    assert "settings.json: says latent_dim=6, but step_00000004 was made with 8, which is used" in notes


def test_a_run_of_an_older_version_is_resumed_as_it_is(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "runs" / "old")
    prepared = prepare_run.prepare_run(TrainRequest(resume="old", settings={}, runs=tmp_path / "runs"))
    assert (prepared.config.model_dump()["latent_dim"], prepared.config.worker_timeout, prepared.notes) == (8, 60.0, ())
    with pytest.raises(TroupeError) as caught:
        prepare_run.prepare_run(TrainRequest(resume="old", settings={"latent_dim": 9}, runs=tmp_path / "runs"))
    assert [one.about for one in caught.value.problems if one.about] == ["latent_dim"]


def test_metrics_results_and_verdicts_have_new_names(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    make_run(folder)
    row = {"step": 60, "eval_copy_rate": 0.5, "eval_class_divergence": None, "watch_right_held_out": 0.25}
    folder.metrics.write_text(json.dumps(row) + "\n")
    assert list(folder.read_metrics()[0][0]) == [
        "step",
        "eval_memorization_rate",
        "eval_class_kl",
        "critic_ranking_accuracy_held_out",
    ]
    result = {
        "steps": 60,
        "metrics": row,
        "best": {"step": 60, "metric": "eval_copy_rate", "value": 0.5},
        "target": "eval_copy_rate:0.5",
        "verdict": None,
    }
    folder.result.write_text(json.dumps(result))
    read = folder.read_result() or {}
    assert (read["best"]["metric"], read["target"]) == ("eval_memorization_rate", "eval_memorization_rate:0.5")
    assert "eval_class_kl" in read["metrics"]
    numbers = {"copy_rate": {"generated": 0.5, "real": 0.01}}
    folder.verdict.write_text(json.dumps({"final": {"step": 60, "numbers": numbers}}))
    assert list(folder.read_verdict()["final"]["numbers"]) == ["memorization_rate"]


def test_a_report_shows_metrics_and_settings_of_an_older_version_under_their_new_names(tmp_path: Path) -> None:
    folder = stored_formerly(tmp_path / "run")
    folder.metrics.write_text('{"step": 10, "eval_copy_rate": 0.5, "watch_doubts": 1.0}\n')
    found = collect.collect(tmp_path, ["run"])
    assert found.bulk["metrics"] == ["eval_memorization_rate", "collapse_strikes"]
    assert found.page["common"]["latent_dim"] == 7


def test_the_state_in_a_checkpoint_has_new_names() -> None:
    state = {"metrics": {}, "results": {"eval_copy_rate": 0.5}, "watched": {"watch_doubts": 1.0}, "best": {}}
    named = old_names.state(state, ["frechet_distance"])
    assert (named["results"], named["watched"]) == ({"eval_memorization_rate": 0.5}, {"collapse_strikes": 1.0})
    assert old_names.state(state, ["copy_rate"]) == state  # a custom family's own


def test_a_search_of_an_older_version_is_read_and_resumed(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=3, metric="eval_copy_rate")
    told = json.loads((search.path / "search.json").read_text())
    told["fixed"] |= {"keep": "1", "latent": "16"}
    told["space"] = {"warm_up": "0,0.1"}
    for number, trial in enumerate(told["trials"]):
        trial |= {"state": "running", "settings": {"warm_up": number / 10}}
    (search.path / "search.json").write_text(json.dumps(told))
    read = leaderboard.read_search(search.path)
    assert read.terms["fixed"] == {"data": "digits", "keep_checkpoints": "1", "latent_dim": "16"}
    assert (read.terms["metric"], read.terms["space"]) == ("eval_memorization_rate", {"warmup": "0,0.1"})
    assert [trial.settings for trial in read.trials] == [{"warmup": 0.0}, {"warmup": 0.1}, {"warmup": 0.2}]
    prepared = prepare_search.prepare_search(SearchRequest(resume="search", runs=tmp_path))
    assert list(prepared.space.domains) == ["warmup"]


def test_weights_and_exports_of_an_older_version_are_known(tmp_path: Path) -> None:
    config = {"family": "dcgan", "settings": {"latent": 16, "keep": 1}, "facts": {}, "data": "x"}
    for name in ("config.json", "manifest.json"):
        (tmp_path / name).write_text(json.dumps(config))
    named = {"latent_dim": 16, "keep_checkpoints": 1}
    assert export.config_of(tmp_path)["settings"] == named
    assert initial_weights.source_run_of(tmp_path / "state.pt")["settings"] == named
    learned = initial_weights.source_run_of(tmp_path / "state.pt")
    assert initial_weights.network_settings(Dcgan, "dcgan", learned, {}, "x") == ({"latent_dim": 16}, [])


@pytest.mark.parametrize("whole", [False, True], ids=["lines", "of a run"])
def test_a_config_file_with_old_names_is_used_with_a_line_about_them(tmp_path: Path, whole: bool) -> None:
    file = tmp_path / "config.yaml"
    words = {"latent": 7, "keep": 2, "target": "eval_copy_rate:0.5"}
    file.write_text(json.dumps({"family": "dcgan", "settings": words} if whole else words))
    command = TrainRequest(family="dcgan", settings={"keep_checkpoints": 4}, config=file, runs=tmp_path)
    prepared = prepare_run.prepare_run(command)
    assert isinstance(prepared.config, Dcgan)
    assert (prepared.config.latent_dim, prepared.config.keep_checkpoints) == (7, 4)
    line = (
        f"--config {file}: latent is latent_dim now, keep is keep_checkpoints now, "
        "target=eval_copy_rate:0.5 is target=eval_memorization_rate:0.5 now"
    )
    assert [note for note in prepared.notes if "now" in note] == [line]


def test_a_space_with_old_names_is_used_with_a_line_about_them(tmp_path: Path) -> None:
    file = tmp_path / "space.py"
    file.write_text('SEARCH = {"latent": "8,16"}\nBUDGET = {"trials": 2, "judged": 64}\n')
    prepared = prepare_search.prepare_search(SearchRequest(family="dcgan", space=str(file), runs=tmp_path))
    assert [*prepared.space.domains] == ["latent_dim"]
    assert prepared.terms["fixed"]["num_eval_samples"] == "64"
    assert {f"{file}: latent is latent_dim now", f"{file}: judged is num_eval_samples now"} <= {*prepared.notes}


@pytest.mark.parametrize("old", sorted(old_names.SETTINGS))
def test_an_old_name_in_a_command_is_an_error_with_the_new_one(old: str) -> None:
    new = old_names.SETTINGS[old]
    kind = next(kind for kind in map(registry.config_class, OF_FAMILIES) if new in kind.model_fields)
    (problem,) = kind.from_words({old: "8"})[1]
    assert (problem.code, problem.about) == ("renamed", old)
    assert sentence(problem) == f"{old}: was renamed; use {new}=8"


def test_an_old_metric_in_a_command_is_an_error_with_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (problem,) = Dcgan.from_words({"target": "eval_copy_rate:0.1"})[1]
    assert problem.hint == "use target=eval_memorization_rate:0.1"
    code = main.command(["search", "dcgan", "--metric", "copy_rate", "width=4,8", "--runs-dir", str(tmp_path)])
    assert (code, "did you mean eval_memorization_rate?" in capsys.readouterr().err) == (2, True)


def test_a_custom_family_can_use_settings_under_their_old_names() -> None:
    class Older(Dcgan):
        defaults: ClassVar[Mapping[str, Any]] = {"warm_up": 0.125, "latent": 24}
        checks = (
            *Dcgan.checks,
            Check(("latent", "hang_after"), lambda latent, timeout: "seen" if latent == 5 else None),
        )

        @classmethod
        def derived_defaults(cls, said: Mapping[str, Any]) -> Mapping[str, Any]:
            return {**super().derived_defaults(said), "keep": 6}

    config = Older.of({})
    assert (config.warmup, config.latent_dim, config.keep_checkpoints) == (0.125, 24, 6)
    assert all(
        getattr(config, old) == getattr(config, new)
        for old, new in old_names.SETTINGS.items()
        if new in Older.model_fields
    )
    assert [one.reason for one in Older.from_words({"latent_dim": 5})[1]] == ["seen"]
    with pytest.raises(AttributeError):
        _ = config.no_such_setting  # type: ignore[attr-defined]


def test_a_custom_family_keeps_its_own_settings_of_such_names() -> None:
    """`judged` declares `judged` and `latent`."""
    kind = registry.config_class("judged", (FAMILIES,))
    config = kind.of({"judged": 32, "latent": 6})
    for stored in (plain(config.model_dump()), formerly(config.model_dump())):
        named = old_names.settings(stored)
        assert (kind.of(named), kind.stored(named)) == (config, plain(config.model_dump()))


def test_a_setting_that_is_declared_anew_under_an_old_name_is_another_one() -> None:
    class Own(Dcgan):
        keep: float = setting(0.5, "share of the pixels that stay", at_least=0, at_most=1)

    assert (Own.of({"keep": "0.25"}).keep, Own.of({"keep": "0.25"}).keep_checkpoints) == (0.25, 3)
