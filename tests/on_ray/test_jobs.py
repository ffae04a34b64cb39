"""Jobs: the words of this machine, carried out by a cluster that may be far away."""

from __future__ import annotations

import json
import re

import pytest
from clusters import Cluster
from commands import DCGAN, OWN_FAMILIES, Commands, assert_same_run, until

from cluster.terminal.answers import MARK
from trainers.distributed.process_group import free_port

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

RECIPE = (*DCGAN, "log_every=1", "sample_every=10", "checkpoint_every=1000")


def test_a_job_is_the_run_of_this_machine_and_its_token_is_nowhere(
    troupe: Commands, shared: Commands, cluster: Cluster
) -> None:
    runs = troupe.folder / "there"
    done = troupe.run("submit", "train", *RECIPE, "steps=10", "workers=2", "--name", "run", "--runs-dir", str(runs),
                      "--address", cluster.dashboard, "--follow", "--skip-checks", seconds=120,
                      environment=cluster.environment)  # fmt: skip
    assert done.code == 0, done
    assert "run: training 10 steps of 8 samples with 2 workers, grad_sync=exact" in done.out
    assert done.out.endswith("run: succeeded\n")
    shared.train(*RECIPE, "steps=10", "--name", "straight")
    assert_same_run(runs / "run", shared.path("straight"))
    listed = troupe.run("jobs", "--json", "--address", cluster.dashboard, environment=cluster.environment)
    (job,) = [job for job in json.loads(listed.out)["result"]["jobs"] if job["name"] == "run"]
    assert (job["state"], job["exit_code"]) == ("SUCCEEDED", 0)
    token = cluster.environment["RAY_AUTH_TOKEN"]
    details = cluster.asked("/api/jobs/run")
    assert "RAY_JOB_STOP_WAIT_TIME_S" in details
    for told in (done.out, done.err, listed.out, details):
        assert token not in told
    assert [path for path in runs.rglob("*") if path.is_file() and token.encode() in path.read_bytes()] == []
    elsewhere = {**cluster.environment, "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1", "RAY_ADDRESS": "127.0.0.1:1"}
    listed = troupe.run("jobs", "--json", "--address", cluster.dashboard, environment=elsewhere)
    assert job["job"] in [one["job"] for one in json.loads(listed.out)["result"]["jobs"]], (
        "the address that was said counts"
    )
    again = troupe.run("submit", "train", *RECIPE, "--name", "run", "--runs-dir", str(runs), "--address",
                       cluster.dashboard, environment=cluster.environment)  # fmt: skip
    assert again.code == 4
    assert again.mistakes == ["troupe: --name run: a job has this name; resume with `submit train --resume run`, or "
                              "use another name"]  # fmt: skip


def test_a_stopped_job_saves_and_goes_on_to_the_same_bits(troupe: Commands, cluster: Cluster) -> None:
    runs = troupe.folder / "there"
    where = ("--runs-dir", str(runs), "--address", cluster.dashboard, "--skip-checks")
    sent = troupe.run("submit", "train", *RECIPE, "steps=100000", "--name", "long", *where, seconds=120,
                      environment=cluster.environment)  # fmt: skip
    assert sent.code == 0, sent
    assert f"troupe logs long --follow --address {cluster.dashboard}" in sent.out
    until(lambda: (runs / "long" / "metrics.jsonl").exists(), "it trains", 60)
    taken = troupe.run("submit", "train", "--resume", "long", *where, environment=cluster.environment)
    assert taken.code == 4
    assert taken.mistakes == ["troupe: long: job long is running it; wait for it, or stop it first"]
    stopped = troupe.run("stop", "long", "--address", cluster.dashboard, environment=cluster.environment)
    assert stopped.code == 0, stopped
    assert stopped.out == "long: stopped and saved; resume with `troupe submit train --resume long`\n"
    printed = troupe.run("logs", "long", "--address", cluster.dashboard, environment=cluster.environment)
    told = re.search(r"long: stopped at step (\d+) of 100000 and saved", printed.out)
    assert told is not None, printed
    assert MARK not in printed.out, "the record of how it went is for programs"
    again = troupe.run("stop", "long", "--address", cluster.dashboard, environment=cluster.environment)
    assert again.code == 4
    assert again.mistakes == ["troupe: long: has already ended (stopped); `troupe jobs` lists all"]
    steps = int(told[1]) + 5
    done = troupe.run("submit", "train", "--resume", "long", f"steps={steps}", *where, "--follow", seconds=120,
                      environment=cluster.environment)  # fmt: skip
    assert done.code == 0, done
    troupe.train(*RECIPE, f"steps={steps}", "--name", "straight")
    for grid in (*(runs / "long" / "grids").iterdir(), *(troupe.path("straight") / "grids").iterdir()):
        grid.unlink()  # one more is drawn where it was stopped
    assert_same_run(runs / "long", troupe.path("straight"))


def test_a_search_a_family_and_a_config_of_ones_own_are_sent(troupe: Commands, cluster: Cluster) -> None:
    """Nothing is wrong with it: it is looked at with the family that is sent."""
    (troupe.folder / "mine.yaml").write_text("steps: 2\nevaluate_every: 1\n")
    done = troupe.run("submit", "search", "curve", "degree=1,2", "--space", "none", "--families", str(OWN_FAMILIES),
                      "--config", "mine.yaml", "--name", "s", "--runs-dir", str(troupe.folder / "there"), "--address",
                      cluster.dashboard, "--follow", seconds=120, environment=cluster.environment)  # fmt: skip
    assert done.code == 0, done
    assert "s: 2 points" in done.out
    assert (troupe.folder / "there" / "s" / "trials" / "0002" / "result.json").exists()


def test_a_job_that_fails_fails_the_command_that_follows_it(troupe: Commands, cluster: Cluster) -> None:
    done = troupe.run("submit", "train", *RECIPE, "steps=50", "learning_rate=1e9", "--name", "wild", "--runs-dir",
                      str(troupe.folder / "there"), "--address", cluster.dashboard, "--follow", "--skip-checks",
                      seconds=120, environment=cluster.environment)  # fmt: skip
    assert done.code == 1, done
    assert "is not finite" in done.out


def test_what_the_cluster_lacks_is_told_before_anything_is_submitted(troupe: Commands, cluster: Cluster) -> None:
    where = ("--runs-dir", "/proc/runs", "--data-dir", "/nowhere", "--address", cluster.dashboard)
    words = ("data=mnist", "workers=4", "batch_size=64")
    done = troupe.run("submit", "train", "dcgan", *words, *where, "--name", "wide", seconds=120,
                      environment=cluster.environment)  # fmt: skip
    assert done.code == 3, done
    lines = done.mistakes[2:]  # after what was sent, and what is looked at
    assert "troupe: room: workers=4: needs 4 CPUs, the cluster has 2" in lines
    assert any("/proc/runs" in line for line in lines)
    assert not any("mnist" in line for line in lines), "it would be downloaded, which is no mistake"
    assert lines[-1] == "troupe: nothing was submitted (--skip-checks skips the check)"
    looked = troupe.run("check", "dcgan", *words, *where, seconds=120, environment=cluster.environment)
    assert looked.code == 3, looked
    assert re.search(r"WRONG +room +workers=4: needs 4 CPUs", looked.out)
    assert looked.err == "", "and nothing of Ray's own"
    listed = troupe.run("jobs", "--json", "--address", cluster.dashboard, environment=cluster.environment)
    assert [job["name"] for job in json.loads(listed.out)["result"]["jobs"] if job["name"] == "wide"] == []


def test_wrong_words_addresses_and_tokens_are_told_in_a_line_each(troupe: Commands, cluster: Cluster) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    where = ("--runs-dir", "/tmp/runs")
    right = cluster.environment
    wrong, missing = ({**right, "RAY_AUTH_TOKEN": "b" * 64}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/none"})
    nobody = "no Ray dashboard answers there; `ray start --head` prints its address"
    holder = "RAY_AUTH_TOKEN or ~/.ray/auth_token"
    for words, environment, code, lines in (
        (("submit", "train", "dcgan", *where), right, 2,
         ["--address: specify the cluster's dashboard, --address http://HEAD:8265 (or RAY_API_SERVER_ADDRESS)"]),
        (("submit", "--address", cluster.dashboard, "train", "dcgan", "data=imagefolder:pics", *where), right, 2,
         ["data=imagefolder:pics: must be an absolute path on the cluster"]),
        (("submit", "train", *where, "--address", cluster.dashboard), right, 2, None),
        (("submit", "train", "--resume", "x", "--name", "y", *where, "--address", cluster.dashboard), right, 2,
         ["--name: a resumed job has the name of its run; leave it out"]),
        (("jobs", "--address", f"http://{cluster.address}"), right, 3,
         [f"--address http://{cluster.address}: {nobody}"]),
        (("submit", "train", "dcgan", "lernrate=1", "wokers=2", *where, "--address", cluster.dashboard), right, 2,
         ["wokers: no such setting of dcgan; did you mean workers?",
          "lernrate: no such setting of dcgan; did you mean learning_rate?"]),
        (("submit", "train", "dcgan", "--runs-dir", "runs", "--address", cluster.dashboard), right, 2,
         ["--runs-dir runs: must be an absolute path on the cluster"]),
        (("submit", "sample", "x", "--address", cluster.dashboard), right, 2, None),
        (("jobs", "--address", "ray://127.0.0.1:1"), right, 2,
         ["--address ray://127.0.0.1:1: must be a dashboard's address; use http://HEAD:8265"]),
        (("jobs", "--address", nowhere), right, 3,
         [f"--address {nowhere}: {nobody}"]),
        (("jobs", "--address", cluster.dashboard), wrong, 3,
         [f"--address {cluster.dashboard}: rejected the token in {holder}; put the cluster's token there"]),
        (("jobs", "--address", cluster.dashboard), missing, 3,
         [f"--address {cluster.dashboard}: requires a token; put the cluster's token into {holder}"]),
        (("stop", "nobody", "--address", cluster.dashboard), right, 2, None),
    ):  # fmt: skip
        done = troupe.run(*words, environment=environment)
        assert done.code == code, done
        if lines is None:
            assert len(done.mistakes) == 1
        else:
            assert sorted(done.mistakes) == sorted(f"troupe: {line}" for line in lines)
        assert done.seconds < 15, "no loop of trying again"
