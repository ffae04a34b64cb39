"""Mistakes in a family, a data source or a search space of one's own: a line that says which file, and where in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from sentences import Sentences
from wrong import Wrong

from cluster.cli import main
from tests.jobs import OWN_FAMILIES
from trainers.base.errors import ENVIRONMENT, FAILED, USAGE


class Told(NamedTuple):
    code: int
    out: str
    lines: list[str]


Bent = Callable[..., Told]


@pytest.fixture
def bent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bent:
    """Trains the family `curve` for three steps under another name, with a text in one of its files replaced."""
    monkeypatch.chdir(tmp_path)
    number = iter(range(100))

    def trained(file: str, old: str, new: str, *words: str) -> Told:
        root = tmp_path / f"mine{next(number)}"
        shutil.copytree(OWN_FAMILIES / "curve", root / "bent")
        shutil.copytree(OWN_FAMILIES / "data", root / "data")
        path = root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        asked = ["steps=3", "batch_size=8", "microbatch_size=2", "evaluate_every=2", "--families", str(root)]
        code = main.command(["train", "bent", *asked, *words])
        out, err = capsys.readouterr()
        assert "internal error" not in out + err
        assert "Traceback" not in out + err
        return Told(code, out, [line.replace(str(root), "ROOT") for line in err.splitlines()])

    return trained


AT_ONCE = {  # before anything is trained: file, text, what it becomes, code, and what is in the reason
    "sys.exit in config.py": (
        "bent/config.py", "class Curve", "raise SystemExit(0)\n\n\nclass Curve", USAGE,
        "(line 9 of config.py)",
    ),
    "an error in training.py": (
        "bent/training.py", "class CurveFamily", "print(nobody)\n\n\nclass CurveFamily", USAGE,
        "(line 23 of training.py)",
    ),
    "a default that is no number": (
        "bent/config.py", "setting(3,", 'setting("three",', USAGE,
        "degree: the default 'three' is wrong (",
    ),
    "a default out of its bounds": (
        "bent/config.py", "setting(3,", "setting(0,", USAGE, "degree: the default 0 is wrong (",
    ),
    "a metric that is neither more nor less": (
        "bent/config.py", '"min"', '"smallest"', USAGE,
        "metrics={'error': 'smallest'}",
    ),
    "a list of sources": (
        "data/cubic.py", "SOURCES = ", "SOURCES = [3]\nNONE = ", USAGE,
        "SOURCES",
    ),
    "a source that raises": (
        "data/cubic.py", "return Points()", 'raise OSError("no such thing")', ENVIRONMENT,
        "(line 40 of cubic.py)",
    ),
    "a source that gives nothing": (
        "data/cubic.py", "return Points()", "return None", ENVIRONMENT,
        "NoneType",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AT_ONCE)
def test_a_mistake_that_can_be_known_before_is_told_before(
    bent: Bent, tmp_path: Path, wrong: Wrong, sentences: Sentences, case: str
) -> None:
    file, old, new, code, reason = AT_ONCE[case]
    told = bent(file, old, new)
    about = str(tmp_path / "mine0" / file) if code == USAGE else "data"
    assert (told.code, wrong.kinds) == (code, [("own-code", about)])
    assert reason in wrong.problems[0].reason
    assert len(told.lines) == 1
    if "default" not in case:  # the rest of that is pydantic's
        sentences(wrong.problems)


WHILE_IT_TRAINS = {
    "an error": ("(errors(networks, microbatch).mean())", "(nobody)", "training.py:35: NameError: "),
    "sys.exit": ("return Loss(errors", "raise SystemExit(0)\n        return Loss(errors",
                 "training.py:35: RuntimeError: "),
    "nothing is said": ("return Loss(errors", "assert False\n        return Loss(errors",
                        "training.py:35: AssertionError: "),
}  # fmt: skip


@pytest.mark.parametrize("case", WHILE_IT_TRAINS)
def test_a_mistake_while_it_trains_names_the_line(
    bent: Bent, tmp_path: Path, wrong: Wrong, sentences: Sentences, case: str
) -> None:
    old, new, place = WHILE_IT_TRAINS[case]
    told = bent("bent/training.py", old, new)
    assert (told.code, wrong.kinds) == (FAILED, [("worker-error", "worker 0")])
    assert wrong.problems[0].reason.startswith(f"{tmp_path}/mine0/bent/{place}")
    sentences(wrong.problems)
    told = bent("bent/training.py", old, new, "--json")
    assert json.loads(told.out)["exit_code"] == FAILED


def test_an_evaluation_without_a_finite_number_is_told_and_kept_as_json(bent: Bent) -> None:
    told = bent("bent/training.py", "double().sum(), microbatch", "double().sum() * float('nan'), microbatch")
    assert told.code == 0
    assert "step 2: eval_error is not finite; this evaluation cannot be the best" in told.out

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    run = Path("runs/bent-1")
    rows = [json.loads(line, parse_constant=refuse) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["eval_error"] for row in rows if "eval_error" in row] == [None, None]
    assert json.loads((run / "result.json").read_text(), parse_constant=refuse)["metrics"]["eval_error"] is None
    assert main.command(["runs"]) == main.command(["report", "bent-1"]) == 0


def test_an_evaluation_that_gives_nothing_is_told(bent: Bent) -> None:
    told = bent("bent/training.py", 'return {"error"', 'return {}\n        return {"error"')
    assert told.code == 0
    assert "declares error as its main metric, but its evaluation returns nothing: no evaluation counts as" in told.out


def test_a_family_without_one_of_its_files_says_which(
    bent: Bent, tmp_path: Path, wrong: Wrong, sentences: Sentences
) -> None:
    (tmp_path / "half" / "mine").mkdir(parents=True)
    (tmp_path / "half" / "mine" / "config.py").write_text("")
    told = bent("bent/config.py", "class", "class", "--families", str(tmp_path / "half"))
    assert told.code == 0, "another family is nobody's business"
    assert main.command(["train", "mine", "--families", str(tmp_path / "half")]) == USAGE
    assert wrong.kinds == [("unknown-family", "mine")]
    assert "training.py" in wrong.problems[0].reason
    sentences(wrong.problems)


SPACES = {
    "raise SystemExit(0)": ("own-code", "--space"),
    'raise ValueError("two\\nlines")': ("own-code", "--space"),
    "SEARCH = {'learning_rate': '0.1,0.2'}; BUDGET = 3": ("own-code", "--space"),
    "SEARCH = {'learning_rate': '0.1,0.2'}; BUDGET = {'scheduler': 'hyper'}": ("bad-value", "scheduler"),
    "SEARCH = {'learning_rate': '0.1,0.2'}; BUDGET = {'trials': True}": ("bad-value", "trials"),
    "SEARCH = {'learning_rate': '0.1,0.2'}; BUDGET = {'trials': 'many'}": ("bad-value", "trials"),
    "SEARCH = 5": ("own-code", "--space"),
}


@pytest.mark.parametrize("text", SPACES, ids=["exit", "error", "budget", "scheduler", "true", "many", "search"])
def test_a_mistake_in_a_space_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: Wrong,
    sentences: Sentences, text: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("s.py").write_text(text)
    assert main.command(["search", "classifier", "model=mlp", "steps=4", "--space", "s.py", "--dry-run"]) == USAGE
    assert wrong.kinds == [SPACES[text]]
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)


@pytest.mark.parametrize("text", ["[" * 3000 + "]" * 3000, "steps: 3\n" * 100_000], ids=["deep", "long"])
def test_a_file_that_is_none_of_settings_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: Wrong,
    sentences: Sentences, text: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text)
    assert main.command(["train", "dcgan", "--config", "c.yaml", "--dry-run"]) == USAGE
    assert [(one.code, one.about, one.value) for one in wrong.problems] == [("bad-value", "--config", "c.yaml")]
    assert capsys.readouterr().err.splitlines() == wrong.lines
    sentences(wrong.problems)


@pytest.mark.parametrize(
    "facts", [{}, None, {"channels": -3, "image_size": 16, "classes": 10}], ids=["empty", "none", "channels"]
)
def test_an_export_that_somebody_has_edited_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Sentences, facts: object
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("model=mlp", "image_size=16", "batch_size=8", "microbatch_size=4", "steps=1", "--name", "run")
    assert main.command(["train", "classifier", *words]) == main.command(["export", "run"]) == 0
    config = json.loads(Path("run-export/config.json").read_text())
    Path("run-export/config.json").write_text(json.dumps({**config, "facts": facts}))
    from cluster import TroupeError, load_exported

    with pytest.raises(TroupeError) as caught:
        load_exported("run-export")
    assert [(one.code, one.about) for one in caught.value.problems] == [("damaged", "run-export/config.json")]
    sentences(caught.value.problems)
