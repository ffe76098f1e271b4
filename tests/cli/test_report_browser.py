"""The report in a real browser: it loads in silence, fits every width and is legible in the dark.

Skipped where there is no Chromium, unless DRIFT_REQUIRE_BROWSER=1. The browser is driven by the
DevTools protocol over a pipe (file descriptors 3 and 4), which needs no library and no port.
"""

import base64
import io
import json
import os
import runpy
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common import report
from common.audit.measure import compare
from common.prompts import Prompt
from common.report import audit_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("DRIFT_REQUIRE_BROWSER") == "1"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# Chromium expects its pipe at 3 and 4, which another file of this process may hold: a small
# program between the two puts it there.
PLUG = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 300.0
"""Seconds that one answer of the browser may take."""

COMMON = Path(__file__).parents[1] / "common"
make_run = runpy.run_path(str(COMMON / "test_report.py"))["make_run"]
side = runpy.run_path(str(COMMON / "test_audit.py"))["side"]


class Tab:
    """One page of a headless Chromium, and all that it complained about."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        ends = (to_browser, from_browser)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", PLUG, *map(str, ends), CHROMIUM, *FLAGS),
                *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in ends:
            os.close(end)
        self._unread, self._number, self._session = b"", 0, {}
        self.events: list[dict[str, Any]] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            left = max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self._in], [], [], left)
            chunk = os.read(self._in, 2**16) if ready else b""
            if not chunk:
                raise TimeoutError(f"no answer from {CHROMIUM} (exit {self._process.poll()})")
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def show(self, page: Path, *, width: int, scheme: str = "light") -> None:
        """Load a page at a width and wait until it is there."""
        self(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self("Emulation.setEmulatedMedia", features=[feature])
        self.events.clear()
        self("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives on the page."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"]["value"]

    def screenshot(self, *, whole: bool = False) -> np.ndarray:
        """What is seen: uint8 [H, W, 3]. whole: of the page, not only of its first screen."""
        data = self("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            return np.asarray(image.convert("RGB"))

    def close(self) -> None:
        """End the browser and everything that it started."""
        self._session = {}
        try:
            self("Browser.close")
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._in)
            os.close(self._out)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if CHROMIUM is None:
        assert not REQUIRED, "DRIFT_REQUIRE_BROWSER=1, but there is no chromium on PATH"
        pytest.skip("no chromium on PATH")
    tab = Tab(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    long = "a_prompt_without_any_space_that_is_much_longer_than_a_telephone_is_wide_" * 2
    return report.build(make_run(folder / "run", prompts=["strawberry", "cat face", "rose", long]))


COMPLAINTS = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}


def test_it_loads_in_silence_and_asks_for_nothing_else(tab: Tab, page: Path):
    tab.show(page, width=1280)
    assert [event for event in tab.events if event.get("method") in COMPLAINTS] == []
    asked = [
        event["params"]["request"]["url"]
        for event in tab.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]


def test_a_complaint_would_be_heard(tab: Tab, tmp_path: Path):
    page = tmp_path / "loud.html"
    page.write_text("<!doctype html><title>x</title><script>throw Error('heard')</script>")
    tab.show(page, width=1280)
    assert "heard" in json.dumps([e for e in tab.events if e.get("method") in COMPLAINTS])


def test_every_picture_is_there(tab: Tab, page: Path):
    tab.show(page, width=1280)
    sizes = tab.value("[...document.images].map(i => [i.naturalWidth, i.naturalHeight])")
    assert sizes == [[8 * 64 + 7 * 2, 64]] * 16  # of four evaluations
    plots = tab.value(
        "[...document.querySelectorAll('.plot svg')].map(s => s.getBoundingClientRect().height)"
    )
    assert len(plots) == 12
    assert min(plots) > 150


OUTSIDE = """[...document.querySelectorAll('body *:not(thead, thead *)')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && e.checkVisibility())
    .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(tab: Tab, page: Path, width: int):
    tab.show(page, width=width)
    assert tab.value("innerWidth") == width
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert tab.value(OUTSIDE) == []


def audit_page_of_a_run(folder: Path) -> Path:
    """An audit with long names of scorers, groups and prompts."""
    long = "a_name_without_any_space_that_is_much_longer_than_a_telephone_is_wide"
    prompts = [Prompt(i, f"{long} {i}", {"kind": f"{long}{i % 2}"}) for i in range(4)]
    sides = [side(0), side(1, hacked=True)]
    for each in sides:
        each.heldout[f"my_package.rewards:{long}"] = -each.reward
    done = compare(*sides, prompts, skipped={long: f"needs {long}"}, group_by="kind", seed=0)
    (folder / "audit.html").write_text(audit_page.render(done, title=long, facts=[long]))
    return folder / "audit.html"


@pytest.mark.parametrize("width", [1280, 360])
def test_tables_of_an_audit_fit_a_telephone(tab: Tab, tmp_path: Path, width: int):
    tab.show(audit_page_of_a_run(tmp_path), width=width)
    assert tab.value("innerWidth") == width
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert tab.value(OUTSIDE) == []
    hidden = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    assert tab.value(f"{hidden}.length") == 0
    cells = "[...document.querySelectorAll('.numbers tbody td')].filter(e => e.textContent)"
    assert tab.value(f"{cells}.length") > 60
    assert tab.value(f"{cells}.every(e => e.dataset.label && e.checkVisibility())")
    label = "getComputedStyle(document.querySelector('.numbers td'), '::before').content"
    assert tab.value(label) == ('"Value"' if width == 360 else "none")


def test_labels_in_plots_do_not_run_into_each_other(tab: Tab, page: Path):
    tab.show(page, width=390)
    clashes = tab.value(
        """[...document.querySelectorAll('.plot svg')].flatMap(svg => {
          const boxes = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
          return boxes.flatMap(([t, a], i) => boxes.slice(i + 1)
            .filter(([_, b]) => a.left < b.right && b.left < a.right
                             && a.top + 2 < b.bottom - 2 && b.top + 2 < a.bottom - 2)
            .map(([u, _]) => t.textContent + ' | ' + u.textContent));
        })"""
    )
    assert clashes == []


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2.2)."""
    channels = np.array([int(part) for part in colour[4:-1].split(",")]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_lines_of_plots_stand_out_from_the_page(tab: Tab, page: Path, scheme: str):
    tab.show(page, width=1280, scheme=scheme)
    paper = luminance(tab.value("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.05) == (scheme == "dark")
    texts = tab.value(
        "[...document.querySelectorAll('.plot text')].map(e => getComputedStyle(e).fill)"
    )
    lines = tab.value(
        """[...document.querySelectorAll('.plot path')].map(e => getComputedStyle(e))
        .filter(s => parseFloat(s.strokeWidth) > 1).map(s => s.stroke)"""
    )
    assert len(texts) > 80
    assert len(lines) > 12
    for colours, least in ((set(texts), 4.5), (set(lines), 3.0)):  # WCAG: text, graphics
        for colour in colours:
            high, low = sorted((paper, luminance(colour)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= least, (scheme, colour)


def test_pictures_are_seen_on_the_first_screen(tab: Tab, page: Path):
    tab.show(page, width=1280)
    first = tab.value("document.images[0].getBoundingClientRect().toJSON()")
    assert first["bottom"] < 800
    box = {side: round(first[side]) for side in ("left", "right", "top", "bottom")}
    seen = tab.screenshot()[box["top"] : box["bottom"], box["left"] : box["right"]]
    red = (seen[..., 0] > 180) & (seen[..., 1] < 110) & (seen[..., 2] < 110)
    assert red.mean() > 0.05  # strawberries
