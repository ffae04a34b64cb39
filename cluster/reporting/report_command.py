"""A `report` command from arguments to page; with --watch repeatedly, while one of the runs is running."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.ranking.leaderboard import Search
from cluster.reporting import collect, write_page
from cluster.requests.models import ReportRequest
from cluster.terminal.progress import size
from trainers.base.errors import USAGE, TroupeError
from trainers.base.problems import Problem
from trainers.base.timeouts import WAITS

SHARE = 4  # pause before the next page, as a multiple of the time that this one took
LARGE = 20e6  # bytes of a single-file page above which a note is shown


def make_report(command: ReportRequest, notify: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Write the page; with `watch` repeatedly, until nothing is running or Ctrl-C is pressed."""
    if not command.names:
        reason = "requires a name, as in `troupe report dcgan-search-1`"
        raise TroupeError(Problem("missing", "report", reason), USAGE)
    out = page_folder(command)
    if not command.watch:
        return _once(command, out, 0)
    try:
        while True:
            before = time.monotonic()
            result = _once(command, out, WAITS.page_renewed)
            if not result["working"]:
                break
            took = time.monotonic() - before
            notify(f"{result['page']}: updated, {_trials(result)}")
            time.sleep(max(WAITS.page_renewed, SHARE * took))
    except KeyboardInterrupt:
        notify("no longer watched")
    return _once(command, out, 0)  # a page that does not reload itself


def page_folder(command: ReportRequest) -> Path:
    """The folder of the page: as given, else in the run or search shown, or `report` for several."""
    sources = collect.find_sources(command.runs, command.names)
    if command.out is not None:
        return command.out
    if len(command.names) > 1:
        return Path("report")
    (one,) = sources
    return (one.path if isinstance(one, Search) else one[0].path) / "report"


def _trials(result: Mapping[str, Any]) -> str:
    return "1 trial" if result["trials"] == 1 else f"{result['trials']} trials"


def text_of_report(result: dict[str, Any]) -> Sequence[str]:
    """What the command prints."""
    where = "in it" if result["single_file"] else "beside it"
    lines = [f"{result['page']}: {size(result['bytes'])}, {_trials(result)}, {result['pictures']} pictures {where}"]
    if result["single_file"] and result["bytes"] > LARGE:
        lines.append(
            f"  note: {size(result['bytes'])} in one file loads slowly; without --single-file, pictures are separate"
        )
    listed = result["left_out"][:10]
    lines += [f"  left out        {line}" for line in listed]
    if len(result["left_out"]) > len(listed):
        lines.append(f"  and {len(result['left_out']) - len(listed)} more, listed on the page")
    return lines


def _once(command: ReportRequest, out: Path, renew: float) -> dict[str, Any]:
    collected = collect.collect(command.runs, command.names)
    result = write_page.write_page(collected, out, command.runs, command.single_file, renew)
    return {**result, "working": collected.working}
