"""Runs in a bucket, on a real S3 server: what one machine began another one goes on with, and nothing is lost when the
bucket fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from buckets import BUCKET, Server, runs_of
from commands import DCGAN, Commands, assert_same_run, checkpoints, until, until_step

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

RECIPE = (*DCGAN, "checkpoint_every=20", "log_every=1", "--name", "run")
WORDS = (*RECIPE, "steps=200")


@pytest.fixture(scope="module")
def shared_server(shared: Commands) -> Server:
    return Server(shared)


@pytest.fixture
def server(shared_server: Server) -> Server:
    """As new, but for what other tests have in the bucket."""
    shared_server.gate.open = True
    shared_server.gate.passed.clear()
    return shared_server


@pytest.fixture
def runs(troupe: Commands) -> str:
    """A place in the bucket of this test's own."""
    return f"s3://{BUCKET}/{troupe.folder.name}"


@pytest.fixture(scope="module")
def straight(shared: Commands) -> Path:
    shared.train(*WORDS)
    return shared.path("run")


def test_a_machine_that_has_nothing_goes_on_with_a_run_whose_machine_was_killed(
    troupe: Commands, server: Server, straight: Path, runs: str
) -> None:
    there = ("--runs-dir", runs)
    one, other, laptop = (server.machine(troupe.folder / name) for name in ("one", "other", "laptop"))
    command = troupe.start("train", *WORDS, *there, environment=one)
    manifest = f"{runs.removeprefix('s3://')}/run/checkpoints/step_00000060/manifest"
    until(lambda: any(path.startswith(manifest) for _, path in server.gate.passed), "a checkpoint in the bucket", 90)
    command.kill()
    assert checkpoints(runs_of(troupe.folder / "one") / "run")

    done = troupe.run("runs", *there, environment=laptop)
    assert (done.code, done.out.count("run  ")) == (0, 1), done
    done = troupe.run("train", "--resume", "run", *there, seconds=120, environment=other)
    assert done.code == 0, done
    assert done.err == ""
    finished = runs_of(troupe.folder / "other") / "run"
    assert_same_run(finished, straight)

    for words, file in (
        (("sample", "run", "--out", "s.png"), "s.png"), (("export", "run", "--out", "x"), "x/weights.safetensors"),
        (("report", "run", "--out", "page"), "page/index.html"),
        (("evaluate", "run", "num_eval_samples=200", "features=pixels"), ""),
    ):  # fmt: skip
        done = troupe.run(*words, *there, seconds=120, environment=laptop)
        assert done.code == 0, done
        assert (troupe.folder / file).exists()
    assert_same_run(runs_of(troupe.folder / "laptop") / "run", straight)
    assert "200/200" in troupe.run("runs", *there, environment=laptop).out

    done = troupe.run("train", *WORDS, *there, environment=server.machine(troupe.folder / "third"))
    assert done.code == 4
    assert done.mistakes[-1].startswith("troupe: --name run: in use")
    assert troupe.run("runs", "--remove", "run", *there, environment=laptop).code == 0
    done = troupe.run("runs", *there, environment=server.machine(troupe.folder / "fourth"))
    assert done.out.startswith(f"no runs in {runs};"), done


def test_a_bucket_that_fails_for_a_while_delays_warns_and_loses_nothing(
    troupe: Commands, server: Server, straight: Path, runs: str
) -> None:
    there = ("--runs-dir", runs)
    command = troupe.start("train", *WORDS, *there, environment=server.machine(troupe.folder / "one"))
    run = troupe.folder / "one"
    until(lambda: (run / ".cache").exists(), "the run", 60)
    until_step(runs_of(run) / "run", 50, command)
    server.gate.shut()
    until(lambda: "result.json" in [path.name for path in (runs_of(run) / "run").iterdir()], "the last step", 90)
    until(lambda: runs in command.out.read_text(), "a word on the bucket", 60)
    assert command.process.poll() is None, "it waits for the bucket"
    server.gate.open = True
    done = command.wait(90)
    assert done.code == 0, done
    said = [line for line in done.out.splitlines() if runs in line]
    assert said == [
        f"troupe: {runs}: cannot be reached; all is kept on the local disk, and sent once possible",
        f"troupe: {runs}: everything is sent",
    ]
    done = troupe.run("export", "run", "--out", "x", *there, environment=server.machine(troupe.folder / "laptop"))
    assert done.code == 0, done
    assert_same_run(runs_of(troupe.folder / "laptop") / "run", straight)


def test_a_manifest_comes_after_what_it_tells_of_and_goes_before_it(
    troupe: Commands, server: Server, runs: str
) -> None:
    done = troupe.run("train", *RECIPE, "steps=60", "--runs-dir", runs, seconds=120,
                      environment=server.machine(troupe.folder / "one"))  # fmt: skip
    assert done.code == 0, done
    written = [path.partition("/checkpoints/")[2] for method, path in server.gate.passed if method == "PUT"]
    written = [path for path in written if path]
    assert len({path.split("/")[0] for path in written}) > 1
    for path in written:
        if path.endswith("/manifest.json"):
            assert written.index(path) > written.index(path.replace("manifest.json", "state.pt"))
    last = [path for method, path in server.gate.passed if method == "PUT" and "/logs/" not in path][-1]
    assert last == f"{runs.removeprefix('s3://')}/run/result.json"


@pytest.mark.parametrize(
    ("place", "key", "mistake"),
    [
        ("s3://nobodys-bucket/team", "key", "s3://nobodys-bucket/team: no such bucket"),
        (f"s3://{BUCKET}/team", "another", f"s3://{BUCKET}/team: "),
        ("s3x://bucket", "key", "--runs-dir s3x://bucket: must be a folder, or a bucket as in s3://BUCKET/PATH"),
    ],
)
def test_a_bucket_that_cannot_be_had_is_one_line_and_no_retries(
    troupe: Commands, server: Server, place: str, key: str, mistake: str
) -> None:
    server = Server(troupe, closed=True) if key != "key" else server
    machine = {**server.machine(troupe.folder / "one"), "AWS_ACCESS_KEY_ID": key}
    for words in (("train", *WORDS), ("runs",)):
        done = troupe.run(*words, "--runs-dir", place, environment=machine)
        assert done.code in (2, 3), done
        (line,) = done.mistakes
        assert line.startswith(f"troupe: {mistake}")
        assert done.seconds < 20
