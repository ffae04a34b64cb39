"""Where a command is typed, and by whom: the folder, its modules, variables, homes and streams. Without Ray."""

from __future__ import annotations

import importlib.util
import io
import json
import multiprocessing
import os
import pwd
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sentences import Sentences
from tiers import slow

from cluster import verify
from cluster.backend import auth, connection
from cluster.backend.local_ray import LocalRay
from cluster.backend.nodes import last_line
from cluster.cli.main import command
from cluster.host import import_path, ray_environment
from cluster.host.import_path import ROOT, without_folder
from cluster.ray_jobs import dashboard
from cluster.terminal.progress import Progress
from cluster.terminal.streams import real_streams
from trainers.base import paths
from trainers.base.errors import ENVIRONMENT, TroupeError
from troupe import PACKAGES

NAMES = ("trainers", "searchspaces", "torch", "ray", "numpy", "PIL", "yaml", "pydantic", "rich", "matplotlib")
SCRIPT = (
    "import sys; sys.argv[0] = 'troupe'; from troupe.__main__ import main; main()"  # as the installed command begins
)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder whose modules have the names of ours, and of what we stand on."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('this is the user\\'s {name}.py')\n")
        (tmp_path / f"{name}_too").mkdir()
    return tmp_path


def called(words: list[str], folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=150)


@pytest.mark.parametrize("path", [f":{ROOT}", *slow(f"{ROOT}:", f".:{ROOT}", ROOT)])
@pytest.mark.parametrize("start", [["-c", SCRIPT], ["-m", "troupe"]], ids=["installed", "module"])
def test_the_command_takes_no_module_of_the_folder_in_which_it_is_typed(
    foreign: Path, start: list[str], path: str
) -> None:
    if start[0] == "-c":  # else it is Python itself that takes it
        (foreign / "cluster.py").write_text("raise SystemExit('not ours')\n")
    done = called([sys.executable, *start, "train", "dcgan", "steps=many"], foreign, path)
    assert done.returncode == 2, done
    assert done.stderr.startswith("troupe: steps=many")


LOADED = "import sys\nprint(*{name.partition('.')[0] for name in sys.modules})\n"


@pytest.mark.parametrize("start", [["-m", "troupe"], *slow(["-c", SCRIPT])], ids=["module", "installed"])
def test_nor_a_module_of_the_standard_library(tmp_path: Path, start: list[str]) -> None:
    """Any of them, except for those that Python itself imports before the first line of the command."""
    (tmp_path / "loaded.py").write_text(LOADED)
    path = f":{ROOT}"
    first = called([sys.executable, "-m", "loaded"], tmp_path, path).stdout.split()
    theirs = sorted(name for name in sys.stdlib_module_names - {*first} if importlib.util.find_spec(name))
    assert {"random", "copy", "token", "inspect", "typing", "dataclasses", "tempfile"} <= {*theirs}
    for name in theirs:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('this is the user\\'s {name}.py')\n")
    done = called([sys.executable, *start, "runs"], tmp_path, path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_nor_what_we_stand_on(foreign: Path) -> None:
    words = ["train", "dcgan", "data=digits", "--dry-run", "--json"]
    done = called([sys.executable, "-m", "troupe", *words], foreign, f":{ROOT}")
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["result"]["family"] == "dcgan"


def test_processes_that_are_started_look_for_modules_where_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":/mine::.:/other:")
    found = ray_environment.search_path()
    assert found["PYTHONSAFEPATH"] == "1"
    assert found["PYTHONPATH"].split(":") == [*import_path.folders(), "/mine", "/other"]
    assert without_folder("") == ""


@pytest.mark.parametrize("installed", [False, True])
def test_processes_that_are_started_find_our_packages_whatever_else_has_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """In a checkout, and where other packages are installed too; and these keep their places on the path."""
    for name in (*PACKAGES, "troupe", "troupe_beside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('somebody else')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT), *sys.path])
    if installed:
        monkeypatch.setattr(os, "listdir", lambda folder: ["torch.dist-info"] if folder == ROOT else [])
    assert import_path.folders() == [import_path.OURS if installed else ROOT]
    variables = {**os.environ, **ray_environment.search_path()}
    told = f"import sys, troupe, {', '.join(PACKAGES)}; print(troupe.__file__, {'.__file__, '.join(PACKAGES)}.__file__)"
    code = f"{told}; from cluster.cli import help; troupe.check_packages()"
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == ([f"{ROOT}/{name}/__init__.py" for name in ("troupe", *PACKAGES)], "")
    before = sys.path[:]
    with import_path.ours_first():
        assert sys.path == [*import_path.folders(), *before]
    assert sys.path == before


def test_workers_are_told_of_no_folder_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.core.generated import common_pb2

    job = ray_environment.job()
    job._py_driver_sys_path += ["/folder/of/the/script", "/folder/of/now"]  # as Ray does
    told = common_pb2.JobConfig()
    told.ParseFromString(job._serialize())
    assert list(told.py_driver_sys_path) == import_path.folders()


@pytest.mark.parametrize(
    ("options", "kept"),
    [("error", ""), ("e", ""), ("error::DeprecationWarning,ignore", "ignore"), ("", ""),
     ("default,Error:x, always", "default, always")],
)  # fmt: skip
def test_no_warning_ends_a_process_that_is_started(monkeypatch: pytest.MonkeyPatch, options: str, kept: str) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", options)
    assert ray_environment.search_path()["PYTHONWARNINGS"] == kept


def test_nor_one_of_a_library_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["error", "ignore::UserWarning"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ray_environment.no_error_on_warnings():
            assert sys.warnoptions == ["ignore::UserWarning"]
            assert "error" not in [action for action, *_ in warnings.filters]
        assert sys.warnoptions == ["error", "ignore::UserWarning"]
        with pytest.raises(DeprecationWarning):
            warnings.warn("outdated", DeprecationWarning, stacklevel=1)


SWITCHES = ("RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_REDIS_ADDRESS", "RAY_OVERRIDE_RESOURCES",
            "RAY_DEBUG_POST_MORTEM", "RAY_USE_TLS", "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", "RAY_ADDRESS",
            "RAY_TRACING_HOOK", "RAYLET_PERFTOOLS_PATH", "RAY_NAMESPACE")  # fmt: skip


def test_a_ray_of_ours_is_not_what_its_surroundings_make_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SWITCHES, "RAY_TMPDIR", "RAY_worker_register_timeout_seconds"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("no_proxy", "mine.org, 127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    found = ray_environment.variables()
    assert {name: found.get(name, "there") for name in SWITCHES} == dict.fromkeys(SWITCHES)
    assert not found.keys() & {"RAY_TMPDIR", "RAY_worker_register_timeout_seconds", "http_proxy"}, "these are kept"
    assert found["no_proxy"] == found["NO_PROXY"] == "mine.org,127.0.0.1,localhost,::1"
    assert (found["RAY_USAGE_STATS_ENABLED"], found["RAY_ENABLE_UV_RUN_RUNTIME_ENV"]) == ("0", "0")


def test_the_ray_of_our_caller_keeps_what_it_was_begun_with(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from trainers.families import registry

    kind = registry.config_class("dcgan")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    monkeypatch.setattr(connection, "reject_forked", lambda: None)  # another test may have used Ray in this process
    with connection._own(kind.of({"device": "cpu", "workers": 2}, "dcgan"), False):
        assert os.environ["RAY_AUTH_MODE"] == "token"


def test_what_uv_has_started_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    assert not ray.is_initialized()
    constants = sys.modules["ray._private.ray_constants"]
    for before in (True, False):
        monkeypatch.setattr(constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", before)
        with ray_environment.uv_unseen():
            assert vars(constants)["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] is False
        assert vars(constants)["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] is before


@pytest.fixture
def head() -> Iterator[str]:
    """Who answers as the head of a cluster does that wants no token."""
    import grpc
    import ray
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    class Head(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):  # type: ignore[misc]
        def CheckAlive(self, request: Any, context: Any) -> Any:  # noqa: N802
            return gcs_service_pb2.CheckAliveReply(ray_version=ray.__version__)

    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Head(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize("name", ["http_proxy", "grpc_proxy", "https_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_cluster_is_asked_as_ray_asks_it_through_no_proxy(
    head: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert connection._knock(head) is False
    monkeypatch.setenv("RAY_grpc_enable_http_proxy", "1")
    assert dict(ray_environment.channel()) == {"grpc.enable_http_proxy": 1}


@pytest.mark.parametrize(
    ("variables", "address", "found"),
    [
        ({"http_proxy": "http://p:1"}, "http://head:8265", {"http": "http://p:1"}),
        ({"http_proxy": "http://p:1"}, "https://head:8265", {}),
        ({"all_proxy": "http://p:1"}, "https://head:8265", {"https": "http://p:1"}),
        ({"http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, "http://10.1.2.3:8265", {}),
        ({"http_proxy": "http://p:1", "no_proxy": "mine.org"}, "http://head.mine.org:8265", {}),
        ({"http_proxy": "http://p:1", "NO_PROXY": "*"}, "http://head:8265", {}),
        ({"http_proxy": "http://p:1", "no_proxy": "other"}, "http://127.0.0.1:8265", {"http": "http://p:1"}),
    ],
)
def test_a_dashboard_is_asked_through_the_proxy_through_which_ray_would(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], address: str, found: dict[str, str]
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ray_environment.proxies(address) == found


def test_of_an_error_in_paragraphs_and_colours_the_last_line_is_told() -> None:
    told = "\x1b[36mray::Worker.train()\x1b[39m (pid=7)\n  File x\n\x1b[1mModuleNotFoundError: No module 'y'\x1b[0m\n\n"
    assert last_line(RuntimeError(told)) == "ModuleNotFoundError: No module 'y'"
    assert last_line(RuntimeError("\x1b[0m\n ")) == "RuntimeError"


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user id without a name or a home."""

    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_without_a_home_no_folder_has_the_name_of_one(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = paths.expanded("~/.cache/troupe")
    assert there == homeless / "temporary" / f"troupe-home-{os.geteuid()}" / ".cache" / "troupe"
    assert paths.expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert command(["datasets"]) == 0
    assert command(["runs"]) == 0
    assert auth.token() == ""
    with pytest.raises(TroupeError) as caught:
        dashboard.reach("http://127.0.0.1:1")
    assert [one.code for one in caught.value.problems] == ["cluster-unreachable"]
    assert command(["check", "--address", "127.0.0.1:1"]) == ENVIRONMENT
    assert "internal error" not in capsys.readouterr().err
    assert not list((homeless / "here").iterdir())


def test_a_folder_of_others_does_not_stand_in_for_a_home(homeless: Path, sentences: Sentences) -> None:
    (homeless / "temporary" / f"troupe-home-{os.geteuid()}").symlink_to(homeless / "here")
    with pytest.raises(TroupeError) as caught:
        paths.expanded("~/x")
    assert caught.value.code == ENVIRONMENT
    assert [(one.code, one.about) for one in caught.value.problems] == [("not-ours", "HOME")]


class Only:
    """A stream as editors and notebooks put it in the place of sys.stdout."""

    def __init__(self) -> None:
        self.said = ""

    def write(self, text: str) -> int:
        self.said += text
        return len(text)


class AndFlush(Only):
    def flush(self) -> None:
        pass


class Refusing(AndFlush):
    def isatty(self) -> bool:
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError


class Attributes(Only):
    """As of who thinks that these are no methods."""

    isatty = flush = reconfigure = False
    fileno = 1


class Failing(AndFlush):
    def isatty(self) -> bool:
        raise RuntimeError("no terminal in sight")

    fileno = reconfigure = isatty


class Numbered(AndFlush):
    def fileno(self) -> int:
        return -1


@pytest.mark.parametrize("kind", [Only, AndFlush, Refusing, Attributes, Failing, Numbered])
def test_any_stream_that_can_be_written_to_will_do(
    kind: type[Only], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = kind(), kind()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    progress = Progress()
    progress.line("said")
    progress.notify("more")
    progress.show({"step": 1, "steps": 2, "metrics": {}})
    assert command(["train", "dcgan", "steps=many"]) == 2
    assert command(["families"]) == 0
    assert command(["runs", "--runs-dir", str(tmp_path), "--json"]) == 0
    assert out.said.startswith("said\ntroupe: more\n")
    assert "steps=many" in err.said


def test_a_library_may_ask_such_a_stream_what_it_asks_others(monkeypatch: pytest.MonkeyPatch) -> None:
    err = Only()
    monkeypatch.setattr(sys, "stderr", err)
    with real_streams():
        print("said", file=sys.stderr, flush=True)
        assert not sys.stderr.isatty()
        with pytest.raises(io.UnsupportedOperation):  # which they expect of streams that are no files
            sys.stderr.fileno()
    assert err.said == "said\n"
    assert sys.stderr is err


def test_a_folder_that_was_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for words in (["train", "dcgan", "data=digits"], ["runs"], ["check"]):
        assert command(words) == ENVIRONMENT
        (line,) = capsys.readouterr().err.splitlines()
        assert line == "troupe: the current folder has been removed; change to another one"
    assert command(["train", "--help"]) == 0


def test_a_relative_folder_for_rays_files_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sentences: Sentences
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", "mine")
    with pytest.raises(TroupeError) as caught:
        LocalRay(1).start()
    assert caught.value.code == ENVIRONMENT
    assert [(one.code, one.about, one.value) for one in caught.value.problems] == [("bad-value", "RAY_TMPDIR", "mine")]
    assert not list(tmp_path.iterdir())
    sentences(caught.value.problems)


def test_a_ray_that_would_lack_threads_is_not_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sentences: Sentences
) -> None:
    """Its core would abort this process."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    start, before = threading.Thread.start, threading.active_count()

    def few(thread: threading.Thread) -> None:
        if threading.active_count() >= before + 20:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    with pytest.raises(TroupeError) as caught:
        LocalRay(1).start()
    assert (caught.value.code, [one.code for one in caught.value.problems]) == (ENVIRONMENT, ["ray-failed"])
    assert threading.active_count() == before
    assert not list(tmp_path.iterdir())
    sentences(caught.value.problems)


def verified(workers: int) -> list[tuple[str, str]] | None:
    """What a process of a pool is told."""
    try:
        verify("dcgan", workers=workers)
    except TroupeError as error:
        return [(one.code, one.reason) for one in error.problems]
    return None


def test_a_worker_of_a_pool_that_may_start_no_process_says_so(sentences: Sentences) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        told = pool.apply(verified, (2,))
    assert told is not None
    assert [code for code, _ in told] == ["not-here"]
    sentences([reason for _, reason in told])


@pytest.mark.slow
def test_a_process_of_another_kind_of_pool_may() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(verified, 2).result(120) is None
