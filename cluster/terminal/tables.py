"""Text within the columns of a terminal: cut, wrapped between words, and in tables. A wide character takes two."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from cluster.terminal.streams import descriptor

PIPE = 80  # columns of text, if the output is no terminal and COLUMNS is unset
ROWS = 10_000  # columns of tables in that case: one line per row, for `grep`
GAP = 2  # columns between those of a table
LONGEST_WORD = 16  # longest words, in columns, that a table does not break; longer ones are mostly paths


def width_of(stream: TextIO, pipe: int = PIPE) -> int:
    """Columns of a stream: from COLUMNS, else of the terminal, else `pipe`."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and len(columns) < 6 and int(columns) > 0:
        return int(columns)
    if (file := descriptor(stream)) is not None:
        with contextlib.suppress(OSError, ValueError):  # no terminal
            return os.get_terminal_size(file).columns or pipe
    return pipe


def columns_of(text: str) -> int:
    """Display width of a text in columns."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int | None) -> str:
    """The start of a text, at most `width` columns; all of it if `width` is None."""
    if width is None or columns_of(text) <= width:
        return text
    end = min(len(text), width)
    while columns_of(text[:end]) > width:
        end -= 1
    return text[:end]


def wrapped(line: str, width: int) -> str:
    """A line wrapped between words at `width` columns, with its indent; longer words are broken."""
    if columns_of(line) <= width:
        return line
    indent = line[: len(line) - len(line.lstrip())][: width // 2]
    lines, current = [], indent
    for word, blanks in re.findall(r"(\S+)(\s*)", line):
        if current != indent and columns_of(current + word) > width:
            lines.append(current.rstrip())
            current = indent
        while columns_of(current + word) > width:
            piece = cut(word, max(2, width - columns_of(indent)))
            lines.append(indent + piece)
            word = word[len(piece) :]
        current += word + blanks
    return "\n".join([*lines, current.rstrip()])


def paragraphs(text: str, pipe: int = PIPE) -> str:
    """A text with lines wrapped between words at the width of the terminal; indents are kept."""
    width = width_of(sys.stdout, pipe)
    return "\n".join(wrapped(line, width) for line in text.split("\n"))


def table(rows: Sequence[Mapping[str, Any]], empty: str = "", width: int | None = None, heads: bool = True) -> str:
    """Rows as aligned columns, one for each key, within `width`; the first column is never cut or wrapped.

    If the first column and the words of the others do not fit, each row becomes a paragraph.
    """
    if not rows:
        return empty
    width = width or width_of(sys.stdout, ROWS)
    every = list(dict.fromkeys(head for row in rows for head in row))
    texts = [{head: str(row.get(head, "")) for head in every} for row in rows]
    first, *others = every
    needed = max(columns_of(text) for text in ([first] if heads else []) + [row[first] for row in texts])
    for head in others:
        words = [word for text in [head if heads else "", *(row[head] for row in texts)] for word in text.split()]
        needed += GAP + min(LONGEST_WORD, max((columns_of(word) for word in words), default=0))
    if needed > width:
        return "\n".join(_paragraph(row, width) for row in texts)
    from rich.table import Table

    drawn = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_header=heads, header_style="")
    for index, head in enumerate(every):
        drawn.add_column(head, no_wrap=index == 0, overflow="fold")
    for row in texts:
        drawn.add_row(*row.values())
    return _text_of(drawn, width)


def _paragraph(row: Mapping[str, str], width: int) -> str:
    """A row that does not fit as a paragraph: its first cell, and below it the heads and texts of the others."""
    (_, name), *others = row.items()
    pairs = [f"{head} {cell.strip()}".strip() for head, cell in others if cell.strip()]
    unbroken = [pair.replace(" ", "\0") if columns_of(pair) < width // 2 else pair for pair in pairs]
    indent = name[: len(name) - len(name.lstrip())]
    return wrapped(name, width) + "\n" + wrapped(f"{indent}  {'  '.join(unbroken)}", width).replace("\0", " ")


def _text_of(drawn: Any, width: int) -> str:
    """The rendering of rich as plain text, without trailing spaces."""
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False, highlight=False, emoji=False)
    console.print(drawn)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in written.splitlines())
