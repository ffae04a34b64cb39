"""Problems: how one becomes a sentence, and that nothing but `problems.py` makes or reads one."""

from __future__ import annotations

import ast
import errno
import functools
import itertools
import json
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sentences import Sentences

from cluster.cli.main import answer_of
from trainers.base import errors, problems
from trainers.base.errors import USAGE, TroupeError
from trainers.base.problems import Problem, sentence
from trainers.data.settings import ImageConfig
from trainers.settings.fields import Check, setting

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for part in ("cluster", "trainers") for path in (ROOT / part).rglob("*.py"))
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TroupeError)]
SENTENCES = ("mistakes", "reason", "hint")  # attributes that hold what people read
METHODS = ("startswith", "endswith", "split", "rsplit", "splitlines", "partition", "rpartition", "removeprefix",
           "removesuffix", "find", "index", "count", "replace")  # fmt: skip


@pytest.mark.parametrize(
    ("about", "value", "subject"),
    [
        ("", None, ""), ("mine", None, "mine: "), ("--steps", None, "--steps: "), ("--steps", 3, "--steps 3: "),
        ("steps", 3, "steps=3: "), ("flag", True, "flag=true: "), ("betas", (0.5, 0.25), "betas=0.5:0.25: "),
        ("data", "", "data=: "), ("--name", "", "--name : "), ("data", "a b", "data=a b: "),
    ],
)  # fmt: skip
def test_a_sentence_is_the_subject_the_reason_the_way_out_and_the_file(about: str, value: Any, subject: str) -> None:
    flags = (False, True)
    texts = (("", "say 2"), ("", "s.yaml"), ("", "mine"))
    for hint, source, run, resumes, kept in itertools.product(*texts, flags, flags):
        told = sentence(Problem("bad-value", about, "is wrong", hint, value, source, resumes, run, kept))
        expected = f"{subject}is wrong" + (f"; {hint}" if hint else "")
        expected += "" if kept else "; nothing of the run is kept, as it had not started"
        if resumes and kept:
            expected += (", then " if hint else "; ") + "continue with --resume" + (" mine" if run else "")
        assert told == expected + (" (in s.yaml)" if source else "")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "no-memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "no-memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "no-memory"),
        (caused(ImportError(""), ImportError("libblas.so: failed to map segment from shared object")), "no-memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "no-memory"),
        (OSError(errno.EMFILE, "Too many open files"), "limit-reached"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "limit-reached"),
        (RuntimeError("can't start new thread"), "limit-reached"),
        (OSError(errno.EFBIG, "File too large"), "limit-reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "no-space"),
        (OSError(errno.ENOENT, "No such file or directory"), "internal"),
        (ImportError("No module named 'torch'"), "internal"),
        (KeyError("too many open files"), "internal"),
    ],
)
def test_a_shortage_is_no_internal_error(error: Exception, code: str, sentences: Sentences) -> None:
    answer = answer_of(error)
    assert [problem.code for problem in answer.problems] == [code]
    assert answer.code == (errors.FAILED if code == "internal" else errors.ENVIRONMENT)
    sentences(answer.problems)


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem("unknown-run", "mine", "no such run in runs", "did you mean mime?"),
         "mine: no such run in runs; did you mean mime?"),
        (Problem("bad-value", "--name", "is empty", value="a/b"), "--name a/b: is empty"),
        (Problem("bad-value", "decay_at", "must rise", value=(0.5, 0.25)), "decay_at=0.5:0.25: must rise"),
        (Problem("no-space", "runs", "no space left", "free some", resumes=True, run="mine"),
         "runs: no space left; free some, then continue with --resume mine"),
        (Problem("stopped", "mine", "stopped", resumes=True, run="mine"), "mine: stopped; continue with --resume mine"),
        (Problem("lost", reason="a worker died"), "a worker died"),
    ],
)  # fmt: skip
def test_sentences_as_people_see_them(problem: Problem, line: str) -> None:
    assert sentence(problem) == line
    error = TroupeError(problem, USAGE)
    assert str(error) == line
    assert error.mistakes == [line]
    assert problem.as_json()["text"] == line
    assert json.loads(json.dumps(problem.as_json()))["code"] == problem.code
    assert pickle.loads(pickle.dumps(error)).problems == [problem]


def test_problems_with_a_name_become_those_of_the_option_that_gave_it() -> None:
    (one,) = problems.attributed([Problem("unknown-run", "mine", "no such run")], "--resume")
    assert sentence(one) == "--resume mine: no such run"


class Own(ImageConfig):
    """A family whose rules are texts."""

    checks: ClassVar[tuple[Check, ...]] = (
        *ImageConfig.checks,
        Check(("depth",), lambda depth: "depth: is odd; say an even one" if depth % 2 else None),
    )
    depth: int = setting(2, "how deep", at_least=1)

    def validate_data(self, facts: Any) -> Any:
        return [*super().validate_data(facts), "data: too small"]


def test_rules_of_ones_own_may_be_texts() -> None:
    text = "depth: is odd; say an even one"
    assert Own.from_words({"depth": "3"})[1] == [Problem("own-rule", reason=text)]
    found = Own.of({}).data_problems({"size": 100, "held_out": 10})
    assert found == [Problem("own-rule", reason="data: too small")]


# Of the source


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def places(path: Path, lines: Iterator[int]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{line}" for line in lines]


def is_sentence(node: ast.AST) -> bool:
    """Whether an expression is, as far as can be seen, what people read of a problem."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Attribute) and node.value.attr == "mistakes"
    if isinstance(node, ast.Attribute):
        return node.attr in SENTENCES
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "str" and node.args:
            return is_sentence(node.args[0])
        return name in ("sentence", "sentences")
    return False


def decisions(tree: Iterable[ast.AST]) -> Iterator[int]:
    """The lines in which something is decided by a sentence."""
    for node in tree:
        if isinstance(node, ast.Compare) and any(isinstance(op, (ast.In, ast.NotIn)) for op in node.ops):
            if any(map(is_sentence, [node.left, *node.comparators])):
                yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            if node.func.attr in METHODS and is_sentence(of):
                yield node.lineno
            if isinstance(of, ast.Name) and of.id == "re" and any(map(is_sentence, node.args)):
                yield node.lineno


def texts(tree: Iterable[ast.AST]) -> Iterator[int]:
    """The lines in which an error is given a text where a Problem belongs."""
    kinds = {kind.__name__ for kind in KINDS} | {"Unreachable"}
    for node in tree:
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in kinds and any(is_text(part) for part in parts_of(node.args[0])):
            yield node.lineno


def parts_of(node: ast.expr) -> list[ast.expr]:
    """What an argument is made of: the items of a list, both sides of a choice or of a sum."""
    if isinstance(node, (ast.List, ast.Tuple)):
        return [part for item in node.elts for part in parts_of(item)]
    if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
        return parts_of(node.elt)
    if isinstance(node, ast.IfExp):
        return [*parts_of(node.body), *parts_of(node.orelse)]
    if isinstance(node, ast.BinOp):
        return [*parts_of(node.left), *parts_of(node.right)]
    return [node]


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.mark.parametrize(
    "line",
    [
        "if 'in use' in error.mistakes[0]: pass", "error.mistakes[0].startswith('x')", "problem.hint.removeprefix('x')",
        "re.match('x', problem.reason)", "sentence(problem).partition(': ')",
        "any('x' in sentence(one) for one in all)", "str(problem.reason).split()", "'x' in record.problem.reason",
    ],
)  # fmt: skip
def test_a_decision_by_a_sentence_is_found(line: str) -> None:
    assert list(decisions(ast.walk(ast.parse(line))))


@pytest.mark.parametrize(
    "line",
    [
        "TroupeError('wrong', WORDS)", "TroupeError(f'{name}: wrong')", "errors.Stopped(['wrong'])",
        "TroupeError([f'{one}: wrong' for one in all])", "TroupeError('a' + str(b))", "TroupeError('a' if b else c)",
    ],
)  # fmt: skip
def test_an_error_with_a_text_is_found(line: str) -> None:
    assert list(texts(ast.walk(ast.parse(line))))


def test_nothing_decides_by_a_sentence() -> None:
    paths = [path for path in MODULES if path.name != "problems.py"]
    assert [place for path in paths for place in places(path, decisions(nodes_of(path)))] == []


def test_errors_are_given_problems() -> None:
    assert [place for path in MODULES for place in places(path, texts(nodes_of(path)))] == []


def test_codes_are_words_in_lower_case_joined_by_hyphens() -> None:
    for node in (node for path in MODULES for node in nodes_of(path)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem" and node.args:
            code = node.args[0]
            if isinstance(code, ast.Constant):
                assert isinstance(code.value, str)
                assert code.value.replace("-", "").isalpha(), code.value
                assert code.value == code.value.lower(), code.value
