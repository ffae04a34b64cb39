"""Finding data sets by name, in the package and outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentences import Sentences

from trainers.base.errors import ENVIRONMENT, USAGE, TroupeError
from trainers.data.sources import all_sources, check_source_name, open_data

EXTRA = """
import numpy as np
from trainers.data.images import Part, Source, content_digest, in_memory

def open_dots(request):
    part = Part(np.full((20, 5, 5, 1), 7, np.uint8))
    return in_memory(part, part, (), content_digest(part, part, ()), request)

SOURCES = {"dots": Source("dots", "20 + 20 dots, 5x5 grey", open_dots)}
"""


def extra(folder: Path, content: str) -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "dots.py").write_text(content)
    return folder


def test_every_source_has_its_name_and_one_line_for_people() -> None:
    sources = all_sources()
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "imagefolder"} <= set(sources)
    for name, source in sources.items():
        assert source.name == name
        assert source.summary
        assert "\n" not in source.summary
    assert [name for name, source in sources.items() if source.takes_path] == ["imagefolder"]


def test_right_names_are_no_mistake(tmp_path: Path) -> None:
    assert check_source_name("digits") is None
    assert check_source_name("cifar10") is None
    assert check_source_name(f"imagefolder:{tmp_path}") is None


@pytest.mark.parametrize(
    ("data", "code", "advice"),
    [
        ("digts", "unknown-data", "digits"),
        ("cifar-10", "unknown-data", "cifar10"),
        ("imagefolder", "bad-value", ""),
        ("imagefolder:", "bad-value", ""),
        ("digits:here", "bad-value", "data=digits"),
        ("imagefolder:/no/such", "missing-folder", ""),
    ],
)
def test_a_wrong_name_is_told_in_one_line_with_advice(data: str, code: str, advice: str, sentences: Sentences) -> None:
    problem = check_source_name(data)
    assert problem is not None
    assert (problem.code, problem.about, problem.value) == (code, "data", data)
    assert advice in problem.hint
    sentences([problem])
    with pytest.raises(TroupeError) as caught:
        open_data(data, data_dir=Path("unused"))
    assert caught.value.problems == [problem]
    assert caught.value.code == (ENVIRONMENT if "/no/such" in data else USAGE)


def test_a_name_like_no_other_is_answered_with_all_names(sentences: Sentences) -> None:
    problem = check_source_name("xyzzy")
    assert problem is not None
    assert (problem.code, problem.about, problem.value) == ("unknown-data", "data", "xyzzy")
    assert problem.hint.endswith(f" {', '.join(all_sources())}")
    sentences([problem])


def test_data_from_outside_the_package_is_found_by_folder(tmp_path: Path) -> None:
    path = extra(tmp_path, EXTRA)
    assert check_source_name("dots") is not None
    assert check_source_name("dots", [path]) is None
    data = open_data("dots", data_dir=tmp_path, extra=[path])
    assert (data.size, data.facts["image_size"], data.facts["classes"]) == (20, 8, 0)
    assert data.batch([0])["images"].sum() == 25 * 7


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        ("import no_such_module", "own-code", "no_such_module"),
        (EXTRA.replace('"dots"', '"digits"'), "name-in-use", "digits"),
    ],
    ids=["import", "name"],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: str, code: str, reason: str, sentences: Sentences
) -> None:
    folder = extra(tmp_path, content)
    with pytest.raises(TroupeError) as caught:
        all_sources([folder])
    (problem,) = caught.value.problems
    assert (problem.code, problem.about) == (code, str(folder / "data" / "dots.py"))
    assert reason in problem.reason
    assert caught.value.code == USAGE
    sentences([problem])
