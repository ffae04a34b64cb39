"""A run of 0.1.0 goes on, is sampled and exported; old/run_of_0.1.0 was made by that version (DCGAN, 4 steps)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import Commands, checkpoints, state_of

from trainers.base.old_names import SETTINGS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

OLD = Path(__file__).parent / "old" / "run_of_0.1.0"


@pytest.fixture
def old(troupe: Commands) -> Path:
    return Path(shutil.copytree(OLD, troupe.path("old")))


def test_a_run_of_an_older_version_goes_on(troupe: Commands, old: Path) -> None:
    settings = json.loads((old / "settings.json").read_text())
    settings["versions"]["convolutions"] = "winograd"  # as on some processors until 0.2.0
    (old / "settings.json").write_text(json.dumps(settings))
    done = troupe.train("--resume", "old", "steps=6")
    assert done.err == ""
    assert "troupe: convolutions was winograd and is torch's own: the last bits may differ from here on" in done.out
    assert "settings.json" not in done.out
    (line,) = [line for line in done.out.splitlines() if "troupe was 0.1.0" in line]
    assert line.endswith("the last bits may differ from here on")
    assert [path.name for path in checkpoints(old)] == ["step_00000006"]
    rows = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "generator_loss" in row] == [1, 2, 3, 4, 5, 6]
    assert state_of(old)["position"] == 48
    resumed = json.loads((old / "settings.json").read_text())["settings"]
    assert (resumed["latent_dim"], resumed["keep_checkpoints"], resumed["grad_sync"]) == (8, 1, "exact")
    assert not resumed.keys() & SETTINGS.keys()
    assert troupe.run("sample", "old", "--count", "4").code == 0
    assert troupe.run("export", "old").code == 0
    assert "old" in troupe.run("runs").out


def test_a_flipped_bit_in_settings_of_an_older_version_is_told_too(troupe: Commands, old: Path) -> None:
    """Its settings.json has no digest, but its manifest holds the settings that define it."""
    text = (old / "settings.json").read_text()
    (old / "settings.json").write_text(text.replace('"learning_rate": 0.0002', '"learning_rate": 0.0003'))
    done = troupe.train("--resume", "old", "steps=5")
    assert (
        "troupe: settings.json: says learning_rate=0.0003, but step_00000004 was made with 0.0002, which is used"
        in done.out.splitlines()
    )
