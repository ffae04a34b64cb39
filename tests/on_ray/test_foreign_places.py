"""Where a command with workers is typed: modules, hooks, proxies and homes that Ray's workers would use."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from clusters import Cluster
from commands import DCGAN, TESTS, Commands

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

NAMES = ("cluster", "trainers", "searchspaces", "torch", "ray", "numpy", "PIL", "yaml", "pydantic", "matplotlib")
INSTALLED = (sys.executable, "-c", "import sys; sys.argv[0] = 'troupe'; from troupe.__main__ import main; main()")
WORDS = (*DCGAN, "steps=4", "log_every=1", "workers=2", "device=cpu")
NOTHING = "http://127.0.0.1:9"  # nobody listens there
HOSTILE = {
    "PYTHONWARNINGS": "error",
    "PYTHONPATH": f":{TESTS.parent}:",
    "RAY_RUNTIME_ENV_HOOK": "no.such.hook",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip"}}),
    "RAY_REDIS_ADDRESS": "127.0.0.1:9",
    "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 0}),
    "RAY_USE_TLS": "1",
    "RAY_ADDRESS": "127.0.0.1:9",
    "http_proxy": NOTHING, "https_proxy": NOTHING, "all_proxy": NOTHING, "grpc_proxy": NOTHING,
    "RAY_grpc_enable_http_proxy": "1",
}  # fmt: skip
UV = """
import subprocess, sys  # as a process that has `uv run` in its command line starts another one
sys.exit(subprocess.run(sys.argv[sys.argv.index('--') + 1:]).returncode)
"""
SCRIPT = """
import sys
from cluster import train

class Only:
    def write(self, text):
        return len(text)

result = None
kept = sys.stdout, sys.stderr
sys.stdout, sys.stderr = Only(), Only()
try:
    result = train("dcgan", data="digits", image_size=16, width=4, latent_dim=8, evaluate_every=0, batch_size=8,
                   microbatch_size=2, steps=4, workers=2, device="cpu", name="run")
finally:
    sys.stdout, sys.stderr = kept
print(result["steps"])
"""


@pytest.fixture
def foreign(troupe: Commands) -> Commands:
    """A folder with modules of our names, and of those that we stand on."""
    for name in NAMES:
        (troupe.folder / f"{name}.py").write_text(f"raise SystemExit('the user\\'s {name}.py')\n")
    (troupe.folder / "pyproject.toml").write_text("[project]\nname = 'mine'\nversion = '0'\n")
    return troupe


def test_a_ray_of_ours_is_ours_wherever_it_is_begun(foreign: Commands, tmp_path: Path) -> None:
    """With workers, behind `uv run`, in a folder and with variables that Ray takes something from."""
    below = foreign.folder / "below"
    below.mkdir()
    (tmp_path / "uv").write_text(UV)
    uv = (sys.executable, str(tmp_path / "uv"), "run", "--")
    done = foreign.call(*uv, *INSTALLED, "train", *WORDS, "--name", "run", environment=HOSTILE).wait(200)
    assert done.code == 0, done
    assert "restart" not in done.out
    assert json.loads((foreign.path("run") / "result.json").read_text())["steps"] == 4


def test_trials_import_nothing_from_the_folder_of_the_command(foreign: Commands) -> None:
    words = ("search", *DCGAN, "steps=4", "log_every=1", "learning_rate=1e-4,2e-4", "--space", "none", "--metric",
             "discriminator_loss", "--name", "search")  # fmt: skip
    done = foreign.call(*INSTALLED, *words, environment={"PYTHONPATH": HOSTILE["PYTHONPATH"]}).wait(250)
    assert done.code == 0, done


def test_workers_on_a_cluster_import_nothing_from_it_either_and_no_proxy_leads_there(
    foreign: Commands, cluster: Cluster
) -> None:
    hostile = {name: HOSTILE[name] for name in ("PYTHONPATH", "http_proxy", "https_proxy", "all_proxy", "grpc_proxy")}
    environment = {**hostile, **cluster.environment}
    words = ("train", *WORDS, "--name", "run", "--address", cluster.address)
    done = foreign.call(*INSTALLED, *words, environment=environment).wait(200)
    assert done.code == 0, done


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody without a name")
def test_a_user_without_a_name_or_a_home_trains_with_workers(troupe: Commands, tmp_path: Path) -> None:
    os.chmod(troupe.folder, 0o777)
    bare = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--inh-caps", "+dac_override",
            "--ambient-caps", "+dac_override", "env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME")  # fmt: skip
    words = [word for word in WORDS if not word.startswith("evaluate_every")]  # features of real images are kept
    done = troupe.call(*bare, *INSTALLED, "train", *words, "evaluate_every=4", "--name", "run").wait(200)
    assert done.code == 0, done
    assert not (troupe.folder / "~").exists()


def test_a_script_whose_streams_can_only_be_written_to_trains_with_workers(troupe: Commands) -> None:
    (troupe.folder / "script.py").write_text(SCRIPT)
    done = troupe.call(sys.executable, "script.py").wait(200)
    assert done.code == 0, done
    assert done.out == "4\n"
