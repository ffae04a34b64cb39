"""`troupe report`: what is read of searches and runs, what matters by chance, and what lies in a page."""

from __future__ import annotations

import base64
import csv
import datetime
import gzip
import io
import json
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import searches
from searches import NASTY, make_run, make_search

import cluster
from cluster.cli import main
from cluster.ranking.leaderboard import TrialRecord
from cluster.reporting import collect, importance, report_command, run_page, write_page
from cluster.requests.models import ReportRequest
from trainers.base.errors import ENVIRONMENT, USAGE, TroupeError
from trainers.base.timeouts import WAITS
from trainers.run_folders.run_folder import RunFolder


def block(page: str, name: str) -> str:
    """The text of a script element."""
    return re.search(rf'<script [^>]*id="{name}">(.*?)</script>', page, re.DOTALL)[1]  # type: ignore[index]


def unpacked(text: str) -> bytes:
    length, letters = text.split(":", 1)
    data = base64.b85decode(letters.translate({ord(","): "<", ord("."): "&"}))
    return gzip.decompress(data[: int(length)])


def page_of(path: Path, *names: str, **options: Any) -> tuple[dict[str, Any], str]:
    result = report_command.make_report(ReportRequest(names=names, runs=path, **options))
    return result, Path(result["page"]).read_text()


def test_a_search_is_read_with_its_trials_the_best_first(tmp_path: Path) -> None:
    make_search(tmp_path, trials=4)
    found = collect.collect(tmp_path, ["search"])
    assert [trial["id"] for trial in found.trials] == [f"search/000{number}" for number in (1, 2, 3, 4)]
    assert [trial["rank"] for trial in found.trials] == [1, 2, 3, 4]
    assert found.page["groups"][0]["searched"] == ["learning_rate", "width", "upsample"]
    assert found.trials[1]["settings"]["upsample"] == NASTY
    assert "learning_rate=" in found.trials[0]["command"]
    assert found.trials[0]["grids"] == [0, 10, 20, 30, 40, 50, 60]
    assert found.trials[0]["pictures"] == ["copies", "mistakes", "verdict"]
    assert found.trials[0]["verdict"]["final"]["numbers"]["recall"] == {"generated": 0.5, "real": searches.REAL}
    assert "steps" in found.page["common"]
    assert set(found.trials[0]["other"]) == {"learning_rate", "width", "upsample"}
    steps, values = found.bulk["curves"]["eval_frechet_distance"][0]
    assert found.bulk["steps"][steps] == [10, 20, 30, 40, 50, 60]
    assert values[-1] == 1
    assert found.left_out == []


def test_points_with_several_seeds_are_ranked_by_their_mean(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=4, seeds=[0, 1], space={"width": "8,16"})
    for trial, width, seed, value in zip(
        search.trials, (8, 8, 16, 16), (0, 1, 0, 1), (1.0, 9.0, 2.0, 3.0), strict=True
    ):
        trial.settings, trial.value = {"width": width, "seed": seed}, value
    search.write()
    found = collect.collect(tmp_path, ["search"])
    told = [(trial["settings"]["width"], trial["rank"], trial["mean"]) for trial in found.trials]
    assert told == [(16, 1, 2.5), (16, 1, 2.5), (8, 2, 5.0), (8, 2, 5.0)]
    assert found.trials[0]["spread"] == pytest.approx(0.7071, abs=1e-4)


def test_runs_of_one_family_are_compared_by_what_differs(tmp_path: Path) -> None:
    make_run(RunFolder(tmp_path / "one"), level=2.0, width=8)
    make_run(RunFolder(tmp_path / "two"), level=1.0, width=32)
    found = collect.collect(tmp_path, ["one", "two", "one"])
    assert [trial["id"] for trial in found.trials] == ["two", "one"]
    group = found.page["groups"][0]
    assert (group["searched"], group["metric"], group["mode"]) == (["width"], "eval_frechet_distance", "min")
    assert "width=8" in found.trials[1]["command"].split()
    assert "latent_dim" not in found.trials[1]["command"]  # as the family has it


def test_a_command_names_what_differs_from_defaults_that_follow_from_another_setting() -> None:
    from trainers.families import registry

    kind = registry.config_class("classifier")
    told = json.loads(json.dumps(kind.of({"model": "mlp", "data": "digits", "steps": 60}).model_dump()))
    words = dict(word.split("=", 1) for word in run_page.command_of("classifier", told).split()[3:])
    again = json.loads(json.dumps(kind.of(words).model_dump()))
    assert again == told


def test_a_run_that_is_damaged_is_shown_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=3)
    folder = search.folder(search.trials[0])
    folder.metrics.write_text(folder.metrics.read_text() + "{no row\n")
    folder.verdict.write_text("[1")
    search.folder(search.trials[1]).settings.write_text("{")
    found = collect.collect(tmp_path, ["search"])
    assert found.trials[0]["verdict"] == {}
    assert any("1 rows of metrics.jsonl are damaged" in line for line in found.left_out)
    assert any("settings.json" in line for line in found.left_out)
    assert found.bulk["curves"]["eval_frechet_distance"][0][1][-1] == 1


def test_numbers_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "one")
    make_run(folder)
    rows = [{"step": step, "seconds": 1.0, "loss": value} for step, value in ((1, 1.0), (2, float("nan")), (3, 2.0))]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, text = page_of(tmp_path, "one")
    told = json.loads(unpacked(block(text, "bulk")))
    assert told["curves"]["loss"]["0"][1] == [1, None, 2]
    json.loads((tmp_path / "one/report/report.json").read_text(), parse_constant=pytest.fail)


def test_a_long_curve_keeps_its_ends() -> None:
    steps, values = run_page.thinned(range(1000), [float(step) for step in range(1000)], 300, 5)
    assert (len(steps), steps[0], steps[-1], values[-1]) == (300, 0, 999, 999)


def test_texts_are_kept_by_step_and_cut_where_they_are_long(tmp_path: Path) -> None:
    make_run(RunFolder(tmp_path / "one"), texts=True)
    found = collect.collect(tmp_path, ["one"])
    assert found.trials[0]["drawn"] == "txt"
    assert "text of step 30" in found.bulk["texts"][0][30]
    paths = {step: tmp_path / f"one/grids/step_{step:08d}.txt" for step in range(0, 70, 10)}
    notes: list[str] = []
    few = run_page.texts_of(paths, 3, 10, notes.append)
    assert list(few) == [0, 30, 60]
    assert few[0].endswith("[cut here]")
    assert notes == ["texts of 3 of 7 steps"]


def test_a_session_lasts_from_the_start_to_the_last_row_and_a_copys_times_are_not_believed(tmp_path: Path) -> None:
    import os

    folder = RunFolder(tmp_path / "one")
    make_run(folder)
    start = int(time.time()) - 5000
    told = datetime.datetime.fromtimestamp(start).astimezone().isoformat()
    folder.starts.write_text(json.dumps({"time": told, "workers": 2}) + "\n{half a li")
    os.utime(folder.metrics, (start + 4, start + 4))
    assert run_page.read_run(folder).sessions == [[start, start + 4]]
    os.utime(folder.metrics, (start + 4000, start + 4000))
    assert run_page.read_run(folder).sessions == [[start, start + 3]]  # six reports in three seconds
    events = folder.path / f"events.out.tfevents.{start - 100}.host"  # of an older troupe, which notes no starts
    events.write_text("")
    os.utime(events, (start - 98, start - 98))
    assert run_page.read_run(folder).sessions == [[start - 100, start - 98], [start, start + 3]]
    folder.starts.unlink()
    assert run_page.read_run(folder).sessions == [[start - 100, start - 98]]


def test_importance_finds_the_setting_that_matters_and_not_the_other() -> None:
    chance = random.Random(0)
    points = [
        {"rate": 10 ** chance.uniform(-4, -1), "kind": chance.choice("abc"), "noise": chance.random()}
        for _ in range(60)
    ]
    values = [point["rate"] ** 0.5 + 0.01 * chance.random() for point in points]
    rows = {row["setting"]: row for row in importance.importance(points, values)}
    assert rows["rate"]["share"] > 0.8 > rows["rate"]["chance"]
    assert rows["rate"]["direction"] > 0.95
    assert rows["kind"]["direction"] is None
    assert all(rows[name]["share"] < 0.2 for name in ("kind", "noise"))


def test_importance_of_nothing_is_below_its_mark_of_chance_nearly_always() -> None:
    chance = random.Random(1)
    above = 0
    for _ in range(100):
        points = [{"a": chance.random()} for _ in range(20)]
        (row,) = importance.importance(points, [chance.random() for _ in points])
        above += row["share"] > row["chance"]
    assert above <= 12  # 5 are expected


@pytest.mark.parametrize(
    ("points", "values"),
    [([], []), ([{"a": 1}], [1.0]), ([{"a": 1}, {"a": 1}, {"a": 1}], [1.0, 2.0, 3.0]),
     ([{"a": 1}, {"a": 2}, {"a": 3}], [5.0, 5.0, 5.0]), ([{"a": 1}, {"b": "x"}, {}], [1.0, 2.0, 3.0])],
)  # fmt: skip
def test_importance_of_too_little_raises_nothing(points: list[dict[str, Any]], values: list[float]) -> None:
    for row in importance.importance(points, values):
        assert 0 <= row["share"] <= 1


def test_few_trials_are_warned_of(tmp_path: Path) -> None:
    make_search(tmp_path, trials=5)
    (group,) = collect.collect(tmp_path, ["search"]).page["groups"]
    assert group["importance"]["warnings"] == ["5 trials are too few for 3 settings; at least 30 are needed"]


def test_nothing_from_users_ends_a_script_or_becomes_html(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=3)
    search.terms["fixed"] = {"data": "</script><script>alert(1)</script>"}
    search.write()
    _, text = page_of(tmp_path, "search")
    assert NASTY not in text
    assert "alert(1)" not in text.replace(block(text, "page"), "")
    assert "<" not in block(text, "page") + block(text, "pictures") + block(text, "bulk") + block(text, "plotly")
    assert json.loads(block(text, "page"))["groups"][0]["fixed"] == search.terms["fixed"]
    assert text.count("<script") == text.count("</script>") == 5
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]  # type: ignore[index]
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert "http" not in policy


def test_a_name_with_html_is_escaped_in_the_head(tmp_path: Path) -> None:
    found = collect.collect(tmp_path, [make_search(tmp_path, trials=1).name])
    text = write_page.render({**found.page, "title": NASTY}, {"trials": []}, {}, True)
    assert NASTY not in text
    assert "&lt;img src=x" in text


def test_what_is_packed_is_what_was_given() -> None:
    for data in (b"", b"a", bytes(range(256)) * 9, "Zürich".encode()):
        assert unpacked(str(write_page.pack_for_script(data))) == data


def test_pictures_are_linked_where_the_page_lies_in_the_runs_folder(tmp_path: Path) -> None:
    make_search(tmp_path, trials=2)
    result, text = page_of(tmp_path, "search")
    bases = json.loads(block(text, "page"))["bases"]
    assert bases == ["../trials/0001", "../trials/0002"]
    assert (Path(result["page"]).parent / bases[0] / "grids/step_00000010.png").exists()
    assert not (Path(result["page"]).parent / "pictures").exists()
    assert {path.name for path in (tmp_path / "search/report").iterdir()} == {"index.html", "report.json", "trials.csv"}


def test_pictures_are_copied_where_it_lies_elsewhere(tmp_path: Path) -> None:
    make_search(tmp_path / "runs", trials=2)
    result, text = page_of(tmp_path / "runs", "search", out=tmp_path / "else")
    bases = json.loads(block(text, "page"))["bases"]
    assert (tmp_path / "else" / bases[1] / "grids/step_00000010.png").exists()
    assert (tmp_path / "else" / bases[1] / "verdict.png").exists()
    assert result["pictures"] == 2 * (7 + 4)


def test_one_file_holds_every_picture_once(tmp_path: Path) -> None:
    make_search(tmp_path, trials=2)
    result, text = page_of(tmp_path, "search", single_file=True)
    told = json.loads(block(text, "pictures"))
    assert len(told["places"]) == result["pictures"] == 22
    assert len(told["contents"]) == 8  # shades of grey
    assert all(uri.startswith("data:image/png;base64,") for uri in told["contents"])
    assert "file:" not in re.search(r"img-src ([^;]*)", text)[1]  # type: ignore[index]


def test_the_data_of_a_page_lies_beside_it(tmp_path: Path) -> None:
    make_search(tmp_path, trials=3)
    page_of(tmp_path, "search")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "search/report/trials.csv").read_text())))
    assert [row["trial"] for row in rows] == ["search/0001", "search/0002", "search/0003"]
    assert rows[1]["upsample"] == NASTY
    assert rows[0]["command"].startswith("troupe train dcgan data=digits")
    told = json.loads((tmp_path / "search/report/report.json").read_text())
    assert len(told["trials"]) == 3
    assert told["curves"]["generator_loss"]["0"][1][0] == 1


def test_a_search_without_any_trial_has_a_page(tmp_path: Path) -> None:
    make_search(tmp_path, trials=0)
    assert page_of(tmp_path, "search")[0]["trials"] == 0


def test_names_that_are_not_there_are_told_all_at_once(tmp_path: Path) -> None:
    make_search(tmp_path, trials=1)
    with pytest.raises(TroupeError) as raised:
        report_command.make_report(ReportRequest(names=("serch", "xyzzy", "search/0009"), runs=tmp_path))
    assert raised.value.code == USAGE
    assert raised.value.mistakes == [
        f"serch: no such run or search in {tmp_path}; did you mean search?",
        f"xyzzy: no such run or search in {tmp_path}",
        f"search/0009: no such run in {tmp_path}; did you mean search/0001?",
    ]


def test_a_page_is_renewed_while_its_search_is_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WAITS, "page_renewed", 0.05)
    search = make_search(tmp_path, trials=2)
    said: list[str] = []
    with search.lock():
        thread = threading.Thread(
            target=report_command.make_report,
            args=(ReportRequest(names=("search",), watch=True, runs=tmp_path), said.append),
        )
        thread.start()
        deadline = time.monotonic() + 20
        while len(said) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        during = json.loads(block((tmp_path / "search/report/index.html").read_text(), "page"))
    thread.join(20)
    after = json.loads(block((tmp_path / "search/report/index.html").read_text(), "page"))
    assert (during["renew"], during["working"]) == (0.05, True)
    assert (after["renew"], after["working"]) == (0, False)


def test_the_command_tells_where_the_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_search(tmp_path / "runs", trials=2)
    make_run(RunFolder(tmp_path / "runs/one"))
    assert main.command(["report", "search"]) == 0
    assert capsys.readouterr().out.startswith("runs/search/report/index.html: ")
    assert main.command(["report", "search", "one", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["result"]
    assert told["page"] == "report/index.html"
    assert (told["trials"], told["left_out"]) == (3, [])
    assert main.command(["report", "serch"]) == USAGE
    assert capsys.readouterr().err == "troupe: serch: no such run or search in runs; did you mean search?\n"


def test_from_python_it_is_a_function_like_the_others(tmp_path: Path) -> None:
    make_search(tmp_path, trials=1)
    assert cluster.report("search", runs_dir=tmp_path)["trials"] == 1


def test_a_trial_that_waits_has_no_folder_yet_and_is_no_mistake(tmp_path: Path) -> None:
    search = make_search(tmp_path, trials=2)
    search.trials.append(TrialRecord(3, {"learning_rate": 0.1, "width": 8, "upsample": "transposed"}))
    (search.path / "trials/0003").mkdir()
    search.write()
    found = collect.collect(tmp_path, ["search"])
    assert (found.trials[2]["state"], found.trials[2]["rank"], found.left_out) == ("waiting", None, [])


def test_a_trial_alone_and_a_path_can_be_named(tmp_path: Path) -> None:
    make_search(tmp_path, trials=2)
    result, text = page_of(tmp_path, "search/0002")
    assert result["page"] == str(tmp_path / "search/trials/0002/report/index.html")
    assert json.loads(block(text, "page"))["title"] == "search/0002"
    _, text = page_of(tmp_path, str(tmp_path / "search"))
    assert json.loads(block(text, "page"))["title"] == "search"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    make_search(tmp_path, trials=1)
    (tmp_path / "taken").touch()
    with pytest.raises(TroupeError) as raised:
        page_of(tmp_path, "search", out=tmp_path / "taken")
    assert raised.value.code == ENVIRONMENT
    assert raised.value.mistakes == [f"{tmp_path / 'taken'}: is not a folder; use --out DIR"]
