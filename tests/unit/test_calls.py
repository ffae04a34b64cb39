"""Every verb as a call from Python: the same words, the same mistakes, nothing heavy before it is used."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sentences import Sentences

import cluster
from cluster.cli.parser import options_of
from cluster.requests.models import REQUESTS
from trainers.base.errors import CONFLICT, USAGE, TroupeError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()
CALLS = [name for name in cluster.__all__ if name != "TroupeError"]
OTHER_NAMES = {("search", "seed"): "search_seed"}
ONLY_TYPED = {"json", "debug"}


def section(name: str) -> str:
    return PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def said_in(text: str) -> str:
    """A signature without quotes and without the places where its lines are broken."""
    return re.sub(r",\)", ")", re.sub(r"\s+", "", re.sub("['\"]", "", text)))


def kinds_of(error: TroupeError) -> list[tuple[str, str]]:
    """The code of each problem, and what it is about."""
    return [(one.code, one.about) for one in error.problems]


def test_an_empty_word_is_none(sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as error:
        cluster.predict("", "a.png", runs_dir=" ")
    assert error.value.code == USAGE
    assert kinds_of(error.value) == [("missing", "name"), ("missing", "runs_dir")]
    sentences(error.value.problems)
    with pytest.raises(TroupeError) as error:
        cluster.predict("run", "a.png", "")
    assert kinds_of(error.value) == [("missing", "predict")]
    sentences(error.value.problems)


@pytest.mark.parametrize("verb", REQUESTS)
def test_every_verb_is_a_call_with_its_options_as_arguments(verb: str) -> None:
    known = inspect.signature(getattr(cluster, verb)).parameters
    options = {option.name for option in options_of(verb)} - ONLY_TYPED
    names = {OTHER_NAMES.get((verb, option), option.replace("-", "_")) for option in options}
    assert names - known.keys() == set()
    assert (REQUESTS[verb].takes_settings() or verb == "submit") == any(
        known[name].kind is inspect.Parameter.VAR_KEYWORD for name in known
    )


@pytest.mark.parametrize("name", CALLS)
def test_the_page_has_the_signature_and_an_example_of_every_call_and_each_has_a_docstring(name: str) -> None:
    call = getattr(cluster, name)
    (shown,) = re.findall(rf"```\n({name}\(.*?)\n```", section(name), re.DOTALL)
    assert said_in(shown) == said_in(f"{name}{inspect.signature(call)}")
    assert f"{name}(" in section(name).partition("```python")[2]
    assert inspect.getdoc(call)
    parameters = inspect.signature(call).parameters.values()
    assert [one.name for one in parameters if one.annotation is inspect.Parameter.empty] == []


def test_no_module_has_the_name_of_a_call_which_would_take_its_place() -> None:
    modules = {path.stem for path in (ROOT / "cluster").iterdir()}
    assert modules & set(CALLS) == set()


def test_cluster_and_its_calls_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys, cluster\n"
        "assert 'cluster.cli.python_calls' not in sys.modules\n"
        "from cluster import train, load_exported, env, families, runs, TroupeError\n"
        "env(), families(), runs()\n"
        "assert not {'torch', 'ray'} & set(sys.modules)\n"
        "assert {'train', 'verify'} <= set(dir(cluster))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


WRONG: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], list[tuple[str, str]]]] = {
    "train": ("train", ("dcgan",), {"name": 5, "progress": "often", "resume": 1.5}, [
        ("bad-value", name) for name in ("name", "resume", "progress")]),
    "families as one text": ("train", ("dcgan",), {"families": "mine"}, [("bad-value", "families")]),
    "search": ("search", (), {"trials": "many", "space": 3}, [("bad-value", "space"), ("bad-value", "trials")]),
    "kinds": ("train", ("dcgan",), {
        "workers": True, "steps": [3], "batch_size": 2.5, "seed": b"3", "compile": 1, "cycle_momentum": [0.9, "x"],
        "precision": 3, "checkpoint_every": None, "ema": float("nan")}, [
        ("bad-value", name) for name in (
            "workers", "steps", "batch_size", "seed", "compile", "cycle_momentum", "precision", "checkpoint_every",
            "ema")]),
    "true is no number": ("predict", ("run", b"a.png"), {"top": True, "best": 1}, [
        ("bad-value", name) for name in ("top", "best", "b'a.png'")]),
    "bounds": ("search", ("dcgan",), {"trials": 0, "time_budget": -1.0, "latent_dim": "8,16"}, [
        ("bad-value", name) for name in ("trials", "time_budget")]),
    "verify": ("verify", (), {}, [("missing", "family")]),
    "evaluate": ("evaluate", ("run",), {"weights": 7}, [("bad-value", "weights")]),
    "sample": ("sample", ("run",), {"count": 0, "seed": -1}, [("bad-value", "count"), ("bad-value", "seed")]),
    "export": ("export", ("run",), {"ouf": "x", "best": 3}, [("bad-value", "best"), ("unknown-option", "ouf")]),
    "load_exported": ("load_exported", (5,), {}, [("bad-value", "folder")]),
    "report": ("report", (), {}, [("missing", "report")]),
    "names": ("report", ("run", 5), {}, [("bad-value", "5")]),
    "runs": ("runs", (), {"remove": True}, [("missing", "--remove")]),
    "stop": ("stop", ("nobody",), {"address": 5}, [("bad-value", "address")]),
    "logs": ("logs", ("nobody",), {}, [("unknown-run", "nobody")]),
    "rank": ("logs", ("nobody",), {"rank": -1}, [("bad-value", "rank")]),
    "rank of a job": ("logs", ("nobody",), {"rank": 3, "address": "http://h:1"}, [("bad-value", "--rank")]),
    "submit": ("submit", ("train", "dcgan"), {"name": 5, "resume": True, "address": "http://h:1"}, [
        ("bad-value", name) for name in ("name", "resume")]),
    "submit what": ("submit", ("evaluate",), {}, [("unknown-verb", "evaluate")]),
    "jobs": ("jobs", ("http://h:1",), {}, [("too-many", "'http://h:1'")]),
    "check": ("check", (), {"workers": 4}, [("missing", "")]),
    "families": ("families", (), {"families": 5}, [("bad-value", "families")]),
    "datasets": ("datasets", (), {"remove": "nowhere"}, [("unknown-data", "--remove")]),
    "renamed": ("train", ("dcgan",), {"from_run": "x"}, [("renamed", "from_run")]),
    "env": ("env", (), {"json": True}, [("unknown-option", "json")]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told_at_once_and_as_a_mistake(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences
) -> None:
    monkeypatch.chdir(tmp_path)
    name, arguments, words, kinds = WRONG[case]
    if "data_dir" in inspect.signature(getattr(cluster, name)).parameters:
        words = {"data_dir": tmp_path / "data", **words}
    with pytest.raises(TroupeError) as caught:
        getattr(cluster, name)(*arguments, **words)
    assert caught.value.code == USAGE
    assert kinds_of(caught.value) == kinds
    sentences(caught.value.problems)


def test_a_folder_without_an_export_and_a_damaged_one_are_told(tmp_path: Path, sentences: Sentences) -> None:
    with pytest.raises(TroupeError) as caught:
        cluster.load_exported(str(tmp_path / "nothing"))
    assert (caught.value.code, kinds_of(caught.value)) == (USAGE, [("missing-file", str(tmp_path / "nothing"))])
    sentences(caught.value.problems)
    (tmp_path / "config.json").write_text('{"family": "dcgan"}')
    with pytest.raises(TroupeError) as caught:
        cluster.load_exported(tmp_path)
    assert (caught.value.code, kinds_of(caught.value)) == (CONFLICT, [("damaged", str(tmp_path / "config.json"))])
    sentences(caught.value.problems)


def test_submit_hands_on_the_words_of_the_verb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sentences: Sentences
) -> None:
    sent: list[Any] = []

    def submit(request: Any, family: str, say: Any) -> dict[str, Any]:
        sent.append(request)
        return {"name": "x", "job": "x", "address": request.address, "bytes": 1}

    monkeypatch.setattr("cluster.ray_jobs.submission.submit_job", submit)
    told = cluster.submit("train", "dcgan", data="digits", workers=2, learning_rate=0.001, name="x", runs_dir="/s/runs",
                          data_dir=Path("/s/data"), families=[tmp_path], allow_changes=True,
                          address="http://h:1", install=True)  # fmt: skip
    assert told == {"name": "x", "job": "x", "address": "http://h:1", "bytes": 1, "ended": None}
    (request,) = sent
    assert request.inner.arguments("name", "families") == (
        "dcgan", "data=digits", "workers=2", "learning_rate=0.001", "--allow-changes", "--runs-dir", "/s/runs",
        "--data-dir", "/s/data",
    )  # fmt: skip
    assert (request.inner.name, request.inner.families, request.inner.runs_dir) == ("x", (tmp_path,), "/s/runs")
    assert (request.install, request.skip_checks) == (True, False)
    cluster.submit("train", "dcgan", families=[str(tmp_path)], address="http://h:1", runs_dir="/s/runs", install=True)
    assert sent[1].inner.families == (tmp_path,)
    there = {"address": "http://h:1", "runs_dir": "/s/runs", "install": True}
    cluster.submit("train", "dcgan", features="resnet56:/s/weights.th", **there)  # which only the cluster has
    assert "features=resnet56:/s/weights.th" in sent[2].inner.arguments()
    with pytest.raises(TroupeError) as caught:
        cluster.submit("train", "dcgan", features="runs/judge", **there)
    assert (kinds_of(caught.value), caught.value.problems[0].value) == ([("bad-value", "features")], "runs/judge")
    sentences(caught.value.problems)
    with pytest.raises(TroupeError) as caught:
        cluster.submit("train", "dcgan", families=[""], address="http://h:1", runs_dir="/s/runs")
    assert kinds_of(caught.value) == [("missing", "families")]
    sentences(caught.value.problems)


@pytest.mark.slow
def test_the_examples_of_the_page_work_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    assert code.count("from troupe import") >= len(CALLS) - 2, "but those that need a cluster"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    exec(compile(code, "python.md", "exec"), {})
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    assert (tmp_path / "sixteen.png").exists()
    assert (tmp_path / "page" / "index.html").exists()


@pytest.mark.slow
def test_a_script_without_a_guard_is_not_carried_out_by_the_processes_of_verify(tmp_path: Path) -> None:
    script, scratch = tmp_path / "script.py", tmp_path / ("scratch of a long name " * 5)  # longer than a socket takes
    scratch.mkdir()
    script.write_text(
        "open('times', 'a').write('x')\n"
        "from cluster import verify\n"
        f"print(verify('classifier', model='mlp', workers=2, evaluate_every=0, "
        f"data_dir={str(tmp_path / 'data')!r})['passed'])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, check=False,
                          env={**os.environ, "TMPDIR": str(scratch)})  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert (tmp_path / "times").read_text() == "x"
    assert [path.name for path in scratch.iterdir() if path.name.startswith("pymp")] == []
