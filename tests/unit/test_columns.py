"""Text within the columns of a terminal, of which a wide character takes two."""

from __future__ import annotations

import pytest

from cluster.terminal.tables import columns_of, cut, table, wrapped

CAT = "猫の名前はまだない"  # nine characters in eighteen columns


def test_a_wide_character_takes_two_columns() -> None:
    assert columns_of("cat") == 3
    assert columns_of(CAT) == 18
    assert cut(CAT, 5) == "猫の"
    assert cut(CAT, 18) == CAT
    assert cut(CAT, None) == CAT


@pytest.mark.parametrize("width", [12, 20, 60])
def test_a_line_is_cut_between_words_and_only_a_longer_word_is_cut_itself(width: int) -> None:
    line = f"    classes {CAT} and a/path/that/is/longer/than/a/line/of/a/terminal, the end"
    lines = wrapped(line, width).splitlines()
    assert max(map(columns_of, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(line.split())
    assert all(piece.startswith("    ") for piece in lines)
    assert width < 60 or any(CAT in piece for piece in lines)


ROWS = [
    {"name": "search-1/0001", "eval_frechet_distance": 561.7, "step": "2/2", "upsample": "transposed"},
    {"name": "search-1/0002", "eval_frechet_distance": 562.1, "step": "2/2", "upsample": "nearest", "": CAT},
]


def test_a_table_has_a_column_for_each_key_of_any_row() -> None:
    head, one, other = table(ROWS, width=200).splitlines()
    assert head.split() == ["name", "eval_frechet_distance", "step", "upsample"]
    assert one.index("2/2") == other.index("2/2") == head.index("step")
    assert other.endswith(CAT)
    swapped = [ROWS[0], dict(reversed(ROWS[1].items()))]
    assert table(swapped, width=200).splitlines()[2] == other


@pytest.mark.parametrize("width", [30, 40, 60])
def test_a_row_that_has_no_room_in_a_table_is_a_paragraph_with_whole_numbers(width: int) -> None:
    text = table(ROWS, width=width)
    lines = text.splitlines()
    assert max(map(columns_of, lines)) <= width
    assert lines[0] == "search-1/0001"
    for whole in ("eval_frechet_distance 561.7", "step 2/2"):
        assert whole in text or width < 40
    assert "eval_frechet_distance" in text
