"""Whatever the streams of a command are, and however early it is stopped: its exit code, and no traceback."""

from __future__ import annotations

import ast
import inspect
import os
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from tiers import long, slow

from trainers.base.errors import STOPPED
from troupe import __main__ as command

ROOT = Path(__file__).parents[2]
TROUPE = f"{sys.executable} -m troupe"
TRAIN = (
    "train dcgan data=digits image_size=16 width=4 latent_dim=8 batch_size=8 microbatch_size=2 evaluate_every=0 steps=1"
)
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("TROUPE_ENVIRONMENT", "PYTHONIOENCODING")}


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False,
                          env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), **variables})  # fmt: skip


CLOSED = (">&-", "2>&-", "<&-", "<&- >&- 2>&-")


@pytest.mark.parametrize(
    ("words", "closed"),
    [("families", CLOSED[0]), ("nonsense", CLOSED[3]), *slow(*(("families", closed) for closed in CLOSED[1:])),
     *long(*product(("runs --help", "train dcgan --dry-run"), CLOSED), *product(["nonsense"], CLOSED[:3]))],
)  # fmt: skip
def test_closed_streams_change_no_exit_code(tmp_path: Path, words: str, closed: str) -> None:
    done = shell(f"{TROUPE} {words} {closed}", tmp_path)
    assert done.returncode == (2 if words == "nonsense" else 0), done
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_without_any_stream_is_a_run_and_nothing_is_printed_into_its_files(tmp_path: Path) -> None:
    for name, closed in (("open", ""), ("closed", "<&- >&- 2>&-")):
        assert shell(f"{TROUPE} {TRAIN} --name {name} {closed}", tmp_path).returncode == 0
    files = [sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if "tfevents" not in path.name)
             for run in (tmp_path / "runs" / "open", tmp_path / "runs" / "closed")]  # fmt: skip
    assert files[0] == files[1]
    log = (tmp_path / "runs" / "closed" / "logs" / "rank_0.log").read_text()
    assert "worker 0 of 1" in log


@pytest.mark.parametrize(
    ("words", "encoding"),
    [("train 猫", "ascii"),
     *slow(("train dcgan schedule=cosine --dry-run", "ascii"), ("runs --runs-dir собака", "latin-1")),
     *long(("train dcgan schedule=cosine --dry-run", "latin-1"), ("train 猫", "latin-1"),
           ("runs --runs-dir собака", "ascii"))],
)  # fmt: skip
def test_no_encoding_refuses_what_is_said(tmp_path: Path, words: str, encoding: str) -> None:
    done = shell(f"{TROUPE} {words}", tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == (2 if "猫" in words else 0), done
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert "\\u" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", ["families", *slow("nothing 2>&1", "--help", "env"), *long("train dcgan --dry-run", "runs")]
)
def test_a_full_disk_behind_the_output_is_told(tmp_path: Path, words: str) -> None:
    done = shell(f"{TROUPE} {words.removesuffix(' 2>&1')} >/dev/full", tmp_path)
    assert done.returncode == (2 if "nothing" in words else 3), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("troupe: ")


STOPPED_EARLY = {
    "while it is imported": """
import os, signal, sys
signal.signal({number}, signal.SIG_DFL)  # it may be ignored here, as in a job in the background
class Finder:  # a person who is quick: at the first module that the command asks for
    def find_spec(self, name, path, target=None):
        if name == "cluster.cli.main":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
from cluster.cli.start import main
main()
""",
    "while it begins anew in another environment": """
import os, signal, sys
signal.signal({number}, signal.SIG_DFL)
from cluster.host.environment import worker_environment
from cluster.host.signals import hold_signals
hold_signals()
os.kill(os.getpid(), {number})
os.execv(sys.executable, [sys.executable, "-m", "troupe", "families"])
""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("moment", STOPPED_EARLY)
def test_a_very_early_ctrl_c_is_no_traceback(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    code = STOPPED_EARLY[moment].replace("{number}", str(int(number)))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == STOPPED, done
    assert done.stdout == ""
    assert done.stderr in ("", "troupe: interrupted; saved checkpoints are kept\n")


def test_the_installed_command_begins_where_ctrl_c_is_heard() -> None:
    assert f'troupe = "{command.__name__}:{command.main.__name__}"' in (ROOT / "pyproject.toml").read_text()
    assert "from cluster.cli.start import main" in inspect.getsource(command.main)


def texts_without_encoding(path: Path) -> list[str]:
    """Where a file is read or written as text in whatever encoding the terminal has."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        says = any(word.arg == "encoding" for word in node.keywords)
        if name in ("read_text", "write_text") and not says:
            found.append(f"{path.name}:{node.lineno}: {name}")
        if name == "open" and isinstance(node.func, ast.Name):
            mode = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else "r"
            if "b" not in str(mode) and not says and len(node.args) < 4:
                found.append(f"{path.name}:{node.lineno}: open")
    return found


def test_every_text_file_says_its_encoding() -> None:
    paths = [path for part in ("cluster", "trainers", "searchspaces") for path in (ROOT / part).rglob("*.py")]
    assert len(paths) > 100
    assert [line for path in paths for line in texts_without_encoding(path)] == []
