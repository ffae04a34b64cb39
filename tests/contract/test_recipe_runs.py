"""A run remembers its recipe: in its settings, in its checkpoints, and when it is resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cluster import train
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import checkpoint

FAMILIES = Path(__file__).parents[1] / "families"
FIT = """title: a cubic
source: made up for tests
published: {metric: error, value: 0.5, conditions: none}
settings: {batch_size: 8, microbatch_size: 2, steps: 4, learning_rate: 0.25, evaluate_every: 2}
not_run: made up
differs: Not run.
time:
  two_cores: {minutes: 0.1, measured: here}
  one_gpu: {minutes: 0.1, estimated: by hand}
"""


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Custom families with a recipe, `fit`."""
    folder = tmp_path_factory.mktemp("families")
    for name in ("curve", "data"):
        shutil.copytree(FAMILIES / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "curve" / "recipes").mkdir()
    (folder / "curve" / "recipes" / "fit.yaml").write_text(FIT)
    return folder


def test_a_run_keeps_its_recipe_and_what_was_changed(families: Path, tmp_path: Path) -> None:
    runs = {"runs_dir": tmp_path, "families": [families]}
    result = train(recipe="fit", name="one", learning_rate=0.2, seed=5, device="cpu", **runs)
    assert result["steps"] == 4
    folder = RunFolder(tmp_path / "one")
    record = {"name": "fit", "changed": {"learning_rate": 0.2, "seed": 5, "device": "cpu"}}
    assert json.loads(folder.settings.read_text())["recipe"] == record
    newest = checkpoint.all_in(folder.checkpoints)[-1]
    assert checkpoint.manifest_of(newest)["recipe"] == record
    assert train(resume="one", **runs)["steps"] == 4
    assert folder.read_settings()["recipe"] == record, "a resumed run keeps it"
    assert train(resume="one", steps=6, log_every=3, **runs)["steps"] == 6
    changed = {**record["changed"], "steps": 6, "log_every": 3}  # type: ignore[dict-item]
    assert folder.read_settings()["recipe"] == {"name": "fit", "changed": changed}
    assert train(resume="one", steps=8, learning_rate=0.25, allow_changes=True, **runs)["steps"] == 8
    changed = {"seed": 5, "device": "cpu", "steps": 8, "log_every": 3}
    assert folder.read_settings()["recipe"] == {"name": "fit", "changed": changed}, "the recipe's own rate again"
    folder.settings.write_text("{")
    notes: list[str] = []
    stored = folder.read_settings(notes.append)
    assert (stored["recipe"], stored["settings"]["learning_rate"]) == ({"name": "fit", "changed": changed}, 0.25)
    assert len(notes) == 1, "its checkpoint has them too"


def test_a_recipe_trains_to_the_bits_of_its_settings(families: Path, tmp_path: Path) -> None:
    words = {"batch_size": 8, "microbatch_size": 2, "steps": 4, "learning_rate": 0.25, "evaluate_every": 2}
    runs = {"runs_dir": tmp_path, "families": [families], "device": "cpu"}
    one, other = train(recipe="fit", **runs), train("curve", **words, **runs)
    assert one["metrics"] == other["metrics"]
    assert "recipe" not in json.loads((tmp_path / other["name"] / "settings.json").read_text())


def test_a_dry_run_shows_what_comes_from_a_recipe(families: Path, tmp_path: Path) -> None:
    found = train(recipe="fit", steps=5, dry_run=True, runs_dir=tmp_path, families=[families])
    assert found["recipe"] == {"name": "fit", "changed": {"steps": 5}}
    assert (found["origins"]["learning_rate"], found["origins"]["steps"]) == ("recipe fit", "command line")
    assert found["warnings"][0].startswith("recipe fit: a cubic; published: error 0.5 (none)")
