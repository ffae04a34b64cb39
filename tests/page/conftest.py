"""Chromium without a window, one for all tests of pages; they are skipped where it, or its driver, is missing."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
         "disable-component-update", "disable-sync")  # fmt: skip
OURS = ("file:", "data:", "blob:", "chrome:", "chrome-untrusted:", "about:")  # the browser's first tab is chrome:


ANSWER = """
const done = arguments[arguments.length - 1];
const began = performance.now();
const shown = () => done((performance.now() - began) / 1000);
const drawn = () => (DRAWING.size ? Promise.all(DRAWING).then(drawn) : requestAnimationFrame(() => setTimeout(shown)));
ACT;
drawn();
"""
REST = """
window.resting = true;
const look = (frames) => {
  if (DRAWING.size) Promise.all(DRAWING).then(() => look(3));
  else if (frames) requestAnimationFrame(() => look(frames - 1));
  else setTimeout(() => { window.resting = false; });
};
look(3);
"""
FILTER = """
const field = document.getElementById('filter');
field.value = TEXT;
field.dispatchEvent(new Event('input'))"""


class Page:
    """A page of `troupe report` in a browser: what a person does, and what they see."""

    def __init__(self, driver: Any, blank: Path) -> None:
        self.driver, self.blank = driver, blank

    def open(self, path: Path, width: int = 1300, dark: bool = False) -> Page:
        """As somebody sees it who has never looked at a page before."""
        self.driver.get(self.blank.as_uri())
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.driver.get_log("browser"), self.driver.get_log("performance")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(path.as_uri())
        return self.loaded()

    def load(self) -> Page:
        """Once more."""
        self.driver.refresh()
        return self.loaded()

    def loaded(self) -> Page:
        self.until("document.documentElement.dataset.ready === 'true' && PARTS.some(part => part.near)")
        self.rest()
        return self

    def do(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def tell(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def until(self, expression: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not self.tell(expression):
            assert time.monotonic() < deadline, f"never: {expression}; {self.driver.get_log('browser')}"
            time.sleep(0.02)

    def rest(self) -> None:
        """Until nothing is drawn for three frames: parts that have come into view are told one frame later."""
        self.do(REST)
        self.until("!window.resting")

    def see(self, part: str) -> None:
        """Scroll to a part, and wait until it is drawn."""
        self.do(f"document.getElementById('{part}').scrollIntoView()")
        self.until(f"PARTS.every(part => part.section.id !== '{part}' || !part.stale || !part.section.offsetParent)")
        self.rest()

    def click(self, selector: str) -> None:
        self.do(f"document.querySelector({json.dumps(selector)}).click()")
        self.rest()

    def filter(self, text: str) -> None:
        self.do(FILTER.replace("TEXT", json.dumps(text)))
        self.rest()

    def answers(self, act: str) -> float:
        """Seconds from a deed to the first frame after everything in view is drawn anew."""
        seconds: float = self.driver.execute_async_script(ANSWER.replace("ACT", act))
        return seconds

    def answers_filter(self, text: str) -> float:
        return self.answers(FILTER.replace("TEXT", json.dumps(text)))

    def move(self, place: int) -> None:
        """The slider of the samples."""
        self.do(f"const m = document.getElementById('moment'); m.value = {place}; m.dispatchEvent(new Event('input'))")

    def texts(self, selector: str) -> list[str]:
        """Of every element that can be seen."""
        found: list[str] = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent).map(e => e.textContent)",
            selector,
        )
        return found

    def leaders(self) -> list[str]:
        return self.texts("#leaderboard-table tbody td:first-child")

    def requests(self) -> set[str]:
        """Every address that was asked for since the page was opened."""
        messages = [json.loads(line["message"])["message"] for line in self.driver.get_log("performance")]
        asked = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return {one["request"]["url"] for one in asked}

    def complaints(self) -> list[str]:
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]

    def clean(self) -> None:
        """Neither a complaint nor a request to anywhere, nor a script of somebody else's."""
        assert self.complaints() == []
        assert [url for url in self.requests() if not url.startswith(OURS)] == []
        assert self.tell("document.getElementById('trouble').hidden")

    def picture(self) -> bytes:
        return base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium and chromedriver here")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page without anything, of the same origin as all pages that are files."""
    path = tmp_path_factory.mktemp("blank") / "blank.html"
    path.write_text("<!doctype html><title>blank</title>")
    return path


@pytest.fixture
def page(browser: Any, blank: Path) -> Iterator[Page]:
    shown = Page(browser, blank)
    yield shown
    browser.get("about:blank")
