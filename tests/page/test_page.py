"""The page of `troupe report` in a real browser: it sorts, filters, highlights, plays, and asks nobody for anything."""

from __future__ import annotations

import io
import statistics
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from searches import NASTY, make_run, make_search
from tiers import long

from cluster.reporting import report_command
from cluster.requests.models import ReportRequest
from trainers.run_folders.run_folder import RunFolder

pytestmark = pytest.mark.slow  # it starts a browser

Page = Any  # of conftest.py, which no test imports


def page_of(runs: Path, *names: str, **options: Any) -> Path:
    return Path(report_command.make_report(ReportRequest(names=names, runs=runs, **options))["page"])


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    made = make_search(runs, trials=6)
    made.trials[4].clones = [{"from": "0001", "step": 30, "left": 20, "changed": {"learning_rate": [0.1, 0.08]}}]
    made.write()
    return page_of(runs, "search")


def number_of_curves(page: Page) -> int:
    count: int = page.tell("document.getElementById('curve-plot').data.length")
    return count


@pytest.mark.parametrize(("width", "dark"), [(1300, False), *long((1300, True), (390, False), (390, True))])
def test_every_part_is_drawn_and_nothing_is_asked_of_anybody(search: Path, page: Page, width: int, dark: bool) -> None:
    page.open(search, width, dark)
    parts = page.tell("PARTS.map(part => part.section.id)")
    assert len(parts) == 10
    for part in parts:
        page.see(part)
    assert page.tell("PARTS.filter(part => part.stale).length") == 0
    assert page.tell("document.documentElement.scrollWidth") <= page.tell("innerWidth") == width
    assert page.tell("document.querySelectorAll('.js-plotly-plot').length") == 5
    assert page.tell("[...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0
    page.clean()
    ground = Image.open(io.BytesIO(page.picture())).convert("L").getpixel((2, 880))
    assert isinstance(ground, int)
    assert (ground < 60) is dark


def test_the_leaderboard_sorts_by_any_column_and_says_so(search: Path, page: Page) -> None:
    page.open(search)
    assert page.leaders() == ["0001", "0002", "0003", "0004", "0005", "0006"]
    page.click("th[data-key='learning_rate'] button")
    assert page.leaders() == ["0006", "0005", "0004", "0003", "0002", "0001"]
    assert page.tell("document.querySelector('th[data-key=learning_rate]').getAttribute('aria-sort')") == "ascending"
    page.click("th[data-key='learning_rate'] button")
    assert page.leaders()[0] == "0001"
    page.click("th[data-key='width'] button")
    assert page.leaders() == ["0002", "0004", "0006", "0001", "0003", "0005"]


FILTERS = [
    ("width=8", ["0002", "0004", "0006"]), ("learning_rate>0.002 width!=8", ["0001", "0003"]), ("0004", ["0004"]),
    ("value<=2", ["0001", "0002"]), ("eval_frechet_distance<2", ["0001"]), ("finished rank<=2", ["0001", "0002"]),
    ("onerror", ["0002"]), ("xyzzy", []), ("width>x", []),
]  # fmt: skip


def test_a_filter_holds_for_every_part(search: Path, page: Page) -> None:
    page.open(search)
    for text, left in FILTERS:
        page.see("curves")
        page.filter(text)
        assert number_of_curves(page) == len(left), text
        page.see("samples")
        assert page.texts("#sample-tiles .trial-name") == left
        page.see("leaderboard")
        assert page.leaders() == left, text
        assert page.texts("#trial-list .name") == left
    page.clean()


def test_a_click_anywhere_highlights_a_trial_everywhere(search: Path, page: Page) -> None:
    page.open(search)
    page.click("#leaderboard-table tbody tr:nth-child(3)")
    for part in ("parallel", "settings-plots", "curves", "samples", "verdict", "timeline", "settings"):
        page.see(part)
    assert page.tell("document.querySelector('svg.lines path.marked').dataset.place") == "2"
    assert page.tell("document.querySelectorAll('#curve-plot .trace.marked').length") == 1
    assert page.tell("document.querySelectorAll('#curve-plot .trace.dim').length") == 5
    assert page.tell("document.querySelectorAll('#settings-plot .point.marked').length") == 3
    assert page.tell("document.querySelectorAll('#timeline-plot .point.marked').length") == 1
    assert page.texts("#sample-tiles figure.marked .trial-name") == ["0003"]
    assert page.texts("#verdict-table tr.marked .trial-name") == ["0003"]
    assert page.texts("#settings-table thead .trial-name") == ["0003"]
    page.see("samples")
    page.click("#sample-tiles figure[data-place='4']")
    page.click("#trial-list li:nth-child(3) .name")
    page.see("leaderboard")
    assert page.texts("#leaderboard-table tr.marked td:first-child") == ["0005"]
    page.click("#only-marked")
    assert page.leaders() == ["0005"]
    page.click("#show-all")
    page.click("#unmark")
    assert len(page.leaders()) == 6
    page.clean()


def test_a_click_on_a_curve_or_a_line_highlights_its_trial(search: Path, page: Page) -> None:
    page.open(search)
    page.see("curves")
    page.do(
        "const plot = document.getElementById('curve-plot');plot.emit('plotly_click', {points: [{data: plot.data[1]}]})"
    )
    page.do(
        "const line = document.querySelector('svg.lines path[data-place=\"0\"]');"
        "line.dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    page.rest()
    assert page.tell("[...state.marked].sort()") == ["search/0001", "search/0002"]


def test_hovering_over_a_curve_tells_its_trial_step_and_value(search: Path, page: Page) -> None:
    page.open(search)
    page.see("curves")
    page.do("Plotly.Fx.hover('curve-plot', [{curveNumber: 0, pointNumber: 5}])")
    page.until("document.querySelector('#curve-plot .hovertext')")
    said = page.tell("document.querySelector('#curve-plot .hovertext').textContent")
    assert "0001" in said
    assert "step 60: 1" in said


def test_the_slider_moves_all_trials_to_the_same_step(search: Path, page: Page) -> None:
    page.open(search)
    page.see("samples")
    tiles = "[...document.querySelectorAll('#sample-tiles figure[data-place] img')]"
    sources = f"{tiles}.map(image => image.getAttribute('src').slice(-17))"
    assert set(page.tell(sources)) == {"step_00000060.png"}
    page.move(2)
    assert page.tell(sources) == ["step_00000020.png"] * 6
    assert page.tell("document.getElementById('moment-said').textContent") == "step 20 of 60"
    page.click("#play")
    page.until("document.getElementById('moment').value === '6'")
    page.until("document.getElementById('play').textContent === 'play'")
    assert set(page.tell(sources)) == {"step_00000060.png"}
    page.clean()


def test_a_trial_without_samples_of_a_step_shows_those_before_and_says_so(tmp_path: Path, page: Page) -> None:
    make_run(RunFolder(tmp_path / "long"), 6, level=1.0, width=8)
    make_run(RunFolder(tmp_path / "short"), 2, level=2.0, width=8)
    page.open(page_of(tmp_path, "long", "short", out=tmp_path / "page"))
    page.see("samples")
    assert "step 20" in page.texts("#sample-tiles figure[data-place='1'] .other-step")[0]
    assert page.texts("#sample-tiles figure[data-place='0'] .other-step") == []
    page.clean()


def test_texts_stand_side_by_side_under_the_same_slider(tmp_path: Path, page: Page) -> None:
    for name in ("one", "two"):
        make_run(RunFolder(tmp_path / name), texts=True)
    page.open(page_of(tmp_path, "one", "two", out=tmp_path / "page"))
    page.see("samples")
    assert all("text of step 60" in text and NASTY in text for text in page.texts("#sample-tiles pre"))
    page.move(1)
    assert all("text of step 10" in text for text in page.texts("#sample-tiles pre"))
    page.clean()


def test_a_trial_that_is_hidden_is_hidden_everywhere(search: Path, page: Page) -> None:
    page.open(search)
    page.click("#trial-list li:nth-child(1) input[type=checkbox]")
    assert page.leaders() == ["0002", "0003", "0004", "0005", "0006"]
    page.see("curves")
    assert number_of_curves(page) == 5
    assert len(page.texts("#trial-list .name")) == 6  # it can be had back


def test_a_name_of_ones_own_is_in_every_part_and_is_kept(search: Path, page: Page) -> None:
    page.open(search)
    page.click("#trial-list li:nth-child(1) [title=rename]")
    page.do(
        f"const field = document.querySelector('.name-input'); field.value = '{NASTY}';"
        "field.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))"
    )
    page.rest()
    assert page.leaders()[0] == NASTY
    page.see("curves")
    page.do("Plotly.Fx.hover('curve-plot', [{curveNumber: 0, pointNumber: 5}])")
    page.until("document.querySelector('#curve-plot .hovertext')")
    assert NASTY in page.tell("document.querySelector('#curve-plot .hovertext').textContent")
    for part in ("samples", "timeline", "settings"):
        page.see(part)
    page.load()
    assert page.leaders()[0] == NASTY
    page.clean()
    assert page.tell("document.querySelectorAll('img[src=x]').length") == 0


def test_what_users_wrote_is_text(search: Path, page: Page) -> None:
    page.open(search)
    for part in page.tell("PARTS.map(part => part.section.id)"):
        page.see(part)
    assert NASTY in page.texts("#leaderboard-table td")
    assert page.tell("document.querySelectorAll('img[src=x]').length") == 0
    page.clean()


def test_a_range_of_an_axis_is_kept_by_dragging_and_given_up_by_a_button(search: Path, page: Page) -> None:
    page.open(search)
    page.see("parallel")
    page.do("""
      const grip = document.querySelectorAll('svg.lines .grip')[0], box = grip.getBoundingClientRect();
      grip.setPointerCapture = () => {};
      for (const [kind, share] of [['pointerdown', 0.45], ['pointermove', 0.2], ['pointerup', -0.05]])
        grip.dispatchEvent(new PointerEvent(kind, {clientX: box.x + 5, clientY: box.y + share * box.height}));
    """)
    page.rest()
    page.see("leaderboard")
    assert page.leaders() == ["0001", "0002", "0003"]  # the largest learning rates
    assert page.texts("#ranges button") == ["learning_rate 0.00316 to 0.0316 ×"]
    page.click("#ranges button")
    assert len(page.leaders()) == 6


def test_it_can_be_used_by_keyboard(search: Path, page: Page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.open(search)

    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()
        page.rest()

    press(Keys.TAB)
    assert page.tell("document.activeElement.className") == "skip"
    press("/")
    assert page.tell("document.activeElement.id") == "filter"
    press("width=16")
    assert page.leaders() == ["0001", "0003", "0005"]
    press(Keys.TAB, Keys.SPACE)  # the first button after it is "show all": nothing is highlighted
    assert len(page.leaders()) == 6
    page.do("document.querySelector('th[data-key=value] button').focus()")
    press(Keys.ENTER)
    press(Keys.ENTER)
    assert page.leaders()[0] == "0006"
    page.do("document.getElementById('moment').focus()")
    press(Keys.ARROW_LEFT)
    assert page.tell("document.getElementById('moment').getAttribute('aria-valuetext')") == "step 50"
    unnamed = page.tell("""[...document.querySelectorAll('button, input, select')].filter(e => e.offsetParent &&
      !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).map(e => e.outerHTML)""")
    assert unnamed == []


def test_the_toolbox_of_a_telephone_opens_and_closes(search: Path, page: Page) -> None:
    page.open(search, width=390)
    assert page.tell("getComputedStyle(document.getElementById('toolbox')).visibility") == "hidden"
    page.click("#open-toolbox")
    page.until("getComputedStyle(document.getElementById('toolbox')).visibility === 'visible'")
    page.filter("width=8")
    page.click("#close-toolbox")
    assert page.leaders() == ["0002", "0004", "0006"]
    assert page.texts("#open-toolbox") == ["trials 3/6"]


def test_light_and_dark_can_be_chosen(search: Path, page: Page) -> None:
    page.open(search)
    page.see("curves")
    before = page.tell("document.getElementById('curve-plot').layout.font.color")
    page.click("#theme")
    assert page.tell("document.documentElement.dataset.theme") == "dark"
    assert page.tell("document.getElementById('curve-plot').layout.font.color") != before
    page.load()
    assert page.tell("document.documentElement.dataset.theme") == "dark"


def test_the_family_tree_names_who_took_over_from_whom(search: Path, page: Page) -> None:
    page.open(search)
    page.see("timeline")
    page.until("document.querySelectorAll('#tree-plot .annotation').length === 1")
    page.do("document.querySelector('#tree-list details').open = true")
    (line,) = page.texts("#tree-list li")
    assert line == "0005 took over 0001 at step 30, left its own at step 20; learning_rate 0.1 → 0.08"


def test_one_file_alone_has_everything(search: Path, page: Page, tmp_path: Path) -> None:
    path = page_of(search.parents[2], "search", out=tmp_path / "page", single_file=True)
    alone = tmp_path / "alone.html"
    alone.write_bytes(path.read_bytes())
    page.open(alone)
    for part in ("samples", "verdict", "pictures-of"):
        page.see(part)
    assert page.tell("[...document.images].filter(i => !i.naturalWidth).length") == 0
    page.clean()
    assert [url for url in page.requests() if url.startswith("file:") and not url.endswith("alone.html")] == []


def test_a_page_that_is_watched_loads_itself_anew_as_it_was_left(tmp_path: Path, page: Page) -> None:
    from cluster.reporting import collect, write_page

    make_search(tmp_path, trials=4)
    found = collect.collect(tmp_path, ["search"])
    written = Path(write_page.write_page(found, tmp_path / "search/report", tmp_path, False, renew=2)["page"])
    page.open(written)
    page.filter("width=8")
    page.click("#leaderboard-table tbody tr")
    page.see("samples")
    page.move(2)
    page.do("window.before = true")
    place = page.tell("scrollY")
    page.until("!window.before && document.documentElement.dataset.ready === 'true'", 20)
    page.rest()
    assert page.tell("[...state.marked]") == ["search/0002"]
    assert page.tell("document.getElementById('filter').value") == "width=8"
    assert page.tell("document.getElementById('moment').value") == "2"
    assert abs(page.tell("scrollY") - place) < 50
    page.clean()


def test_a_search_without_trials_and_a_single_run_have_pages_too(tmp_path: Path, page: Page) -> None:
    make_search(tmp_path, trials=0)
    make_run(RunFolder(tmp_path / "one"))
    page.open(page_of(tmp_path, "search"))
    assert "No trial has a value yet" in page.tell("document.getElementById('summary').textContent")
    page.clean()
    page.open(page_of(tmp_path, "one"))
    for part in page.tell("PARTS.map(part => part.section.id)"):
        page.see(part)
    assert page.leaders() == ["one"]
    assert len(page.texts("#settings-table tbody tr")) > 20
    page.clean()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["curves", *long("leaderboard", "settings-plots", "samples")])
def test_with_200_trials_filter_and_highlight_answer_at_once(
    tmp_path_factory: pytest.TempPathFactory, page: Page, part: str
) -> None:
    runs = tmp_path_factory.mktemp("many")
    make_search(runs, trials=200, reports=20)
    page.open(page_of(runs, "search"))
    page.see(part)
    filtered = [page.answers_filter(f"width={(8, 16)[number % 2]}") for number in range(6)]
    marked = [
        page.answers(f"document.querySelectorAll('#trial-list .name')[{number * 7}].click()") for number in range(6)
    ]
    assert statistics.median(filtered[1:]) < 0.3, filtered
    assert statistics.median(marked[1:]) < 0.3, marked
    page.clean()
