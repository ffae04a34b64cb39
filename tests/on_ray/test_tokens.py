"""Tokens: a Ray of our own has one of its own, and a cluster's is found where Ray keeps it."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Cluster
from commands import DCGAN, Commands
from tiers import long

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

RUN = (*DCGAN, "steps=2", "--name", "run")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder without a token."""
    path = tmp_path / "home"
    path.mkdir()
    return path


def without_token(home: Path) -> dict[str, str]:
    """An environment that says nothing of tokens; other tests may have set it."""
    return {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}


SCRIPT = """
import json, os, sys

import ray

from cluster import train

words = dict(image_size=16, width=4, latent_dim=8, batch_size=8, microbatch_size=2, steps=2, workers=2,
             evaluate_every=0)
before = dict(os.environ)
told = {name: train("dcgan", name=name, **words)["steps"] for name in ("first", "again")}
told["changed"] = sorted(key for key in {*before, *os.environ} - {"TORCHINDUCTOR_CACHE_DIR", "CRC32C_SW_MODE"}
                         if before.get(key) != os.environ.get(key))
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")  # somebody's cluster, without tokens
told["elsewhere"] = ray.get(ray.remote(lambda: 7).remote())
ray.shutdown()
told["home"] = sorted({*os.listdir(os.path.expanduser("~"))} - {".config"})  # where matplotlib has a folder
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")  # one of the caller's own
told["own"] = ray.get(ray.remote(lambda: 8).remote())
ray.shutdown()
told["third"] = train("dcgan", name="third", **words)["steps"]
print(json.dumps(told))
"""


@pytest.fixture
def open_cluster(troupe: Commands) -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    yield Cluster(troupe, folder, open=True)
    troupe.clean()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
def test_a_ray_of_our_own_leaves_the_home_the_environment_and_other_rays_alone(
    troupe: Commands, home: Path, open_cluster: Cluster
) -> None:
    (troupe.folder / "script.py").write_text(SCRIPT)
    done = troupe.call(sys.executable, "script.py", open_cluster.address, environment=without_token(home)).wait(150)
    assert done.code == 0, done
    told = json.loads(done.out.splitlines()[-1])
    assert told == {"first": 2, "again": 2, "changed": [], "elsewhere": 7, "home": [], "own": 8, "third": 2}


def test_the_command_writes_no_token_into_the_home_and_leaves_none_behind(troupe: Commands, home: Path) -> None:
    temporary = troupe.folder / "temporary"  # of nobody else
    temporary.mkdir()
    done = troupe.run("train", *RUN, "workers=2", seconds=90,
                      environment={**without_token(home), "TMPDIR": str(temporary)})  # fmt: skip
    assert done.code == 0, done
    assert not (home / ".ray").exists()
    assert list(temporary.glob("troupe-*")) == []


@pytest.mark.parametrize("where", ["home", *long("variable", "file")])
def test_the_right_token_is_taken_from_where_ray_keeps_it(
    troupe: Commands, home: Path, cluster: Cluster, where: str
) -> None:
    environment = without_token(home)
    token = str(cluster.environment["RAY_AUTH_TOKEN"])
    if where == "home":
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(token)
    elif where == "variable":
        environment["RAY_AUTH_TOKEN"] = token
    else:
        (home / "token").write_text(token + "\n")
        environment["RAY_AUTH_TOKEN_PATH"] = str(home / "token")
    done = troupe.run("train", *RUN, "--address", cluster.address, seconds=90, environment=environment)
    assert done.code == 0, done
    assert done.err == ""


@pytest.mark.parametrize(
    ("token", "mistake"),
    [
        ("", "requires a token; put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token"),
        ("b" * 64, "rejected the token in RAY_AUTH_TOKEN or ~/.ray/auth_token; put the cluster's token there"),
    ],
)
def test_no_token_or_a_wrong_one_is_one_line_at_once(
    troupe: Commands, home: Path, cluster: Cluster, token: str, mistake: str
) -> None:
    if token:
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(token)
    done = troupe.run("train", *RUN, "--address", cluster.address, environment=without_token(home))
    assert done.code == 3, done
    assert done.mistakes == [f"troupe: --address {cluster.address}: {mistake}"]
    assert done.seconds < 10, "Ray itself asks for 20 s"
    assert not troupe.path("run").exists()
