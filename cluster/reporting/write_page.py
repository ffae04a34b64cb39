"""Write the page and the files beside it: index.html, report.json, trials.csv, and pictures if they must be copied.

The page makes no network requests: its Content-Security-Policy allows none except for pictures beside it. It holds
plotly.js and all long data compressed, in base 85; the browser unpacks them.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cluster.ranking import leaderboard
from cluster.reporting.collect import Collected
from cluster.reporting.run_page import Read
from trainers.base.errors import CONFLICT, ENVIRONMENT, TroupeError
from trainers.base.problems import Problem, show_value
from trainers.base.version import __version__
from trainers.storage import atomic_files, checkpoint

SCRIPTS = ("page.js", "toolbox.js", "tables.js", "plots.js", "parallel.js", "pictures.js", "start.js")
GENERATOR = '<meta name="generator" content="troupe '  # in template.html: identifies a page of troupe
OLDER = " · troupe</title>"  # identifies a page of an older version
PICTURES = "pictures"  # the folder of copies
SEPARATOR = (",", ":")
SHOWN = (
    "rank",
    "state",
    "value",
    "mean",
    "spread",
    "vs_best",
    "best",
    "best_step",
    "step",
    "steps",
    "seconds",
    "reason",
    "worry",
)


def write_page(collected: Collected, out: Path, runs: Path, single_file: bool, renew: float = 0) -> dict[str, Any]:
    """Write everything into `out`; with `renew` the page reloads itself after this many seconds.

    Returns the page's path and size, how many pictures it shows, and what was left out. Raises TroupeError (exit code
    3) if the folder cannot be written.
    """
    left_out = list(collected.left_out)
    if os.path.lexists(out) and not out.is_dir():
        raise TroupeError(Problem("missing-folder", str(out), "is not a folder", "use --out DIR"), ENVIRONMENT)
    if others := _others(out):
        reason = f"holds {', '.join(others)}, not written by `troupe report`"
        raise TroupeError(Problem("not-ours", str(out), reason, "use --out DIR"), CONFLICT)
    with checkpoint.writing_checkpoint(out, of_run=False), atomic_files.new_folder(out):
        if not (out / "index.html").exists():  # marks the folder as ours
            atomic_files.write(out / "index.html", f'<!doctype html>\n{GENERATOR}{__version__}">\n')
        embedded: dict[str, Any] = {}
        if single_file:
            embedded = _embedded(collected, left_out)
            bases = [str(index) for index in range(len(collected.trials))]
        elif _inside(out, runs) and all(_inside(folder, runs) for folder in collected.folders):
            bases = [_link(folder, out) for folder in collected.folders]
        else:
            bases = [f"{PICTURES}/{index}" for index in range(len(collected.trials))]
            _copy(collected, out, left_out)
        page = {**collected.page, "bases": bases, "left_out": left_out, "renew": renew}
        text = render(page, {"trials": collected.trials, **collected.bulk}, embedded, not single_file)
        atomic_files.write(out / "index.html", text)
        content = {**page, "trials": collected.trials, **collected.bulk}
        atomic_files.write(out / "report.json", json.dumps(atomic_files.finite(content), separators=SEPARATOR) + "\n")
        atomic_files.write(out / "trials.csv", table_of(collected))
    return {
        "page": str(out / "index.html"),
        "bytes": len(text.encode()),
        "trials": len(collected.trials),
        "pictures": sum(1 for read in collected.reads for _ in files_of(read)),
        "single_file": single_file,
        "data": [str(out / "report.json"), str(out / "trials.csv")],
        "left_out": left_out,
    }


def _others(out: Path) -> list[str]:
    """Files in a folder with the names of a page's files, if its index.html is not a page of troupe."""
    existing = [name for name in ("index.html", "report.json", "trials.csv", PICTURES) if os.path.lexists(out / name)]
    with contextlib.suppress(OSError), open(out / "index.html", encoding="utf-8", errors="replace") as file:
        head = file.read(4096)
        if GENERATOR in head or OLDER in head:
            return []
    return existing


def render(page: Mapping[str, Any], bulk: Mapping[str, Any], embedded: Mapping[str, Any], links: bool) -> str:
    """The page as text."""
    import jinja2
    from markupsafe import Markup

    def part(name: str) -> Markup:
        return Markup(resources.files("cluster.reporting").joinpath("static", name).read_text(encoding="utf-8"))

    packed, nonce = pack_for_script(json.dumps(atomic_files.finite(bulk), separators=SEPARATOR).encode()), _nonce(page)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("cluster.reporting").joinpath("static", "template.html").read_text(encoding="utf-8")
    template = environment.from_string(source)
    return template.render(
        title=page["title"],
        made=page["made"],
        nonce=nonce,
        links=links,
        version=__version__,
        style=part("page.css"),
        script=Markup("\n").join(part(name) for name in SCRIPTS),
        page=in_script(page),
        bulk=packed,
        plotly=_plotly(),
        pictures=in_script(embedded),
    )


def in_script(value: Any) -> Any:
    """JSON for a script element: escaped, so that no user text can end the element."""
    from markupsafe import Markup

    text = json.dumps(atomic_files.finite(value), separators=SEPARATOR)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def pack_for_script(data: bytes) -> Any:
    """Bytes encoded for a script element: their compressed length, a colon, and base 85 without `<` and `&`."""
    from markupsafe import Markup

    packed = gzip.compress(data, 9, mtime=0)
    letters = base64.b85encode(packed + bytes(-len(packed) % 4)).decode().translate({ord("<"): ",", ord("&"): "."})
    return Markup(f"{len(packed)}:{letters}")


@cache
def _plotly() -> Any:
    from plotly.offline import get_plotlyjs

    return pack_for_script(get_plotlyjs().encode())


def files_of(read: Read) -> Iterator[Path]:
    """The pictures of a run that a page shows."""
    yield from (path for path in read.grids.values() if path.suffix == ".png")
    yield from read.pictures
    yield from (path for path in (read.real, read.timelapse) if path is not None)


def table_of(collected: Collected) -> str:
    """A row for each trial, with every differing setting and the command that repeats it."""
    rows = []
    for trial in collected.trials:
        group = collected.page["groups"][trial["group"]]
        row = {"trial": trial["id"], "of": group["name"], "family": group["family"], "metric": group["metric"]}
        row |= {name: trial[name] for name in SHOWN}
        row |= {name: show_value(value) for name, value in {**trial["other"], **trial["settings"]}.items()}
        rows.append({**row, "command": trial["command"]})
    return leaderboard.as_csv(rows)


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _link(folder: Path, out: Path) -> str:
    return quote(Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix())


def _name_in(path: Path) -> str:
    """A picture's name within its run: `grids/step_00000500.png`, `verdict.png`."""
    return f"grids/{path.name}" if path.parent.name == "grids" else path.name


def _copy(collected: Collected, out: Path, left_out: list[str]) -> None:
    """Copy all pictures; up-to-date copies are left as they are."""
    for index, read in enumerate(collected.reads):
        for path in files_of(read):
            target = out / PICTURES / str(index) / _name_in(path)
            try:
                copied, original = target.stat() if target.exists() else None, path.stat()
                if copied is not None and (copied.st_size, copied.st_mtime) == (original.st_size, original.st_mtime):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
            except FileNotFoundError:
                left_out.append(f"{collected.trials[index]['id']}: {_name_in(path)} was removed")


def _embedded(collected: Collected, left_out: list[str]) -> dict[str, Any]:
    """Every picture as a data URI, each content once."""
    indices: dict[str, int] = {}
    contents: dict[str, int] = {}
    for index, read in enumerate(collected.reads):
        for path in files_of(read):
            try:
                encoded = base64.b64encode(path.read_bytes()).decode()
            except OSError:
                left_out.append(f"{collected.trials[index]['id']}: {_name_in(path)} cannot be read")
                continue
            kind = "gif" if path.suffix == ".gif" else "png"
            uri = f"data:image/{kind};base64,{encoded}"
            indices[f"{index}/{_name_in(path)}"] = contents.setdefault(uri, len(contents))
    return {"places": indices, "contents": list(contents)}


def _nonce(page: Mapping[str, Any]) -> str:
    """The nonce of the page's own scripts, which user text on the page cannot know."""
    return hashlib.sha256(os.urandom(16) + str(page["made"]).encode()).hexdigest()[:32]
