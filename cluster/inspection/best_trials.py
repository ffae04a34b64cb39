"""Export and sample the best trials of a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.inspection import export, manage_runs
from cluster.ranking import leaderboard
from cluster.ranking.leaderboard import Search, TrialRecord
from cluster.requests.models import SampleRequest
from trainers.base.errors import CONFLICT, USAGE, TroupeError
from trainers.base.problems import Problem
from trainers.drawing import pictures
from trainers.storage import atomic_files, checkpoint

GAP = 8  # pixels between the sheets of two trials
LINE = 24  # pixels for a trial's name above its sheet


def best_of(runs: Path, name: str, count: int) -> tuple[Search, list[TrialRecord]]:
    """A search, and its best trials that have a checkpoint. Raises TroupeError if there is none."""
    search = leaderboard.find_search(runs, name)
    valued = (
        trial for trial in search.ranked() if checkpoint.newest_intact(search.folder(trial).checkpoints) is not None
    )
    best: list[TrialRecord] = []
    for trial in valued:  # checks no more trials than needed
        if len(best) == count:
            break
        if trial.repeats is None or trial.repeats not in [one.repeats for one in best]:  # one of each confirmed point
            best.append(trial)
    if not best:
        reason = "no trial has both a value and a checkpoint"
        raise TroupeError(Problem("no-checkpoint", search.name, reason), CONFLICT)
    return search, best


def export_best(name: str, runs: Path, families: Sequence[Path], out: Path) -> dict[str, Any]:
    """The weights of the best trial, as `troupe export` writes them."""
    search, (best,) = best_of(runs, name, 1)
    result = export.export(f"{search.name}/{best.name}", search.path.parent, families, out)
    trial = {"trial": f"{search.name}/{best.name}", "metric": search.terms["metric"], "value": best.value}
    return {**result, **trial}


def sample_top(request: SampleRequest) -> dict[str, Any]:
    """Samples of the best trials from the same noise, one sheet below the other in one image, or one text file."""
    search, best = best_of(request.runs, request.name, request.top or 1)
    sheets: list[tuple[str, Any]] = []
    trials, notes = list[dict[str, Any]](), list[str]()
    columns = drawn = 0
    for trial in best:
        full = f"{search.name}/{trial.name}"
        sample_settings = manage_runs.sample_settings_of(request, full, search.path.parent)
        columns = sample_settings.columns or min(request.count, 16)
        _, samples, facts = manage_runs.samples_of(request, full, search.path.parent, sample_settings)
        drawn = facts["count"]
        trials.append({"name": full, "value": trial.value, "step": facts["step"]})
        notes += [f"{full}: {note}" for note in facts["notes"]]
        sheets.append((f"{full}  {search.terms['metric']} {trial.value:.4g}", samples))
    texts = isinstance(sheets[0][1], list)
    if any(isinstance(samples, list) != texts for _, samples in sheets):
        reason, hint = "its best trials draw images and texts", "sample one by its name"
        raise TroupeError(Problem("pictures-and-texts", search.name, reason, hint), USAGE)
    out = request.out or manage_runs.free(Path(f"{search.name}-samples.{'txt' if texts else 'png'}"))
    manage_runs.check_ending(out, not texts)
    with manage_runs.writing_file(out):
        if texts:
            atomic_files.write(
                out, "\n".join(f"{head}\n\n{pictures.sheet_of_texts(samples)}" for head, samples in sheets)
            )
        else:
            pictures.write_picture(out, _below_one_another(sheets, columns))
    return {"file": str(out), "count": drawn, "seed": request.seed, "trials": trials, "notes": notes}


def _below_one_another(sheets: Sequence[tuple[str, Any]], columns: int) -> Any:
    """One image with the sheet of each trial under its name."""
    from PIL import Image, ImageDraw

    drawn = [(head, pictures.grid(samples, columns).convert("RGB")) for head, samples in sheets]
    width = max(300, *(sheet.width for _, sheet in drawn))
    sheet_image = Image.new("RGB", (width, sum(sheet.height + LINE + GAP for _, sheet in drawn)), "white")
    pen, top = ImageDraw.Draw(sheet_image), 0
    for head, sheet in drawn:
        pen.text((GAP, top + 6), head, "#2d3748")
        sheet_image.paste(sheet, (0, top + LINE))
        top += sheet.height + LINE + GAP
    return sheet_image
