"""The page of a comparison in a real browser: legible, reachable by keyboard, whole at any width.

Skipped where there is no Chromium, unless DRIFT_REQUIRE_BROWSER=1.
"""

import json
import runpy
from pathlib import Path

import pytest

from common.comparison import methods
from common.comparison.summarise import summarise
from common.evaluation.records import Variant
from common.report import comparison

HERE = Path(__file__)
BROWSER = runpy.run_path(str(HERE.with_name("test_report_browser.py")))
STUDY = runpy.run_path(str(HERE.parents[1] / "common" / "synthetic_study.py"))
tab, luminance, COMPLAINTS = BROWSER["tab"], BROWSER["luminance"], BROWSER["COMPLAINTS"]
make_run = STUDY["make_run"]

SPOTS = """[...document.querySelectorAll('.view')].find(v => v.checkVisibility())
           .querySelectorAll('.spot')"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Nine methods, two of them with long names, one of them with two strengths; and noise."""
    folder = tmp_path_factory.mktemp("study")
    long = "a_method_without_any_space_that_is_much_longer_than_a_telephone_is_wide"
    prompts = ("rose", "owl", "a_prompt_without_spaces_that_is_long", "rocket")
    for number, name in enumerate([None, "emoji-kl", *"abcdef", long, long]):
        make_run(
            folder / str(number),
            lambda done, n=number: (5 + (2 - 0.02 * n) * done, 0.4 - (0.3 - 0.02 * n) * done),
            name=name, prompts=prompts, grids=number < 3,
            recipe="emoji-grpo" if name is None else "emoji-kl",
            overrides=[f"objective.kl_weight={0.01 * number}"] if number == 9 else [],
            variants=[Variant(update) for update in (0, 10, 20, 40)],
        )  # fmt: skip
    make_run(
        folder / "coin", lambda done: (5 - done, 0.4 - 0.1 * done), recipe="emoji-neutral",
        prompts=prompts, variants=[Variant(update) for update in (0, 10, 20, 40)],
        scorers=("embedded",),
    )  # fmt: skip
    study = methods.gather([folder], "test")
    summary = summarise(study, "emoji-grpo", replicas=20)
    return comparison.build(summary, study, folder / "out")[-1]


@pytest.mark.parametrize("width", [1280, 390])
def test_it_loads_in_silence_and_fits(tab, page, width):
    tab.show(page, width=width)
    assert [event for event in tab.events if event.get("method") in COMPLAINTS] == []
    asked = [
        event["params"]["request"]["url"]
        for event in tab.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert tab.value("document.documentElement.scrollWidth") <= width
    outside = tab.value(
        """[...document.querySelectorAll('body *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && e.checkVisibility())
        .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""
    )
    assert outside == []
    assert (
        tab.value("[...document.querySelectorAll('.view')].filter(v => v.checkVisibility()).length")
        == 1
    )
    small = tab.value(
        "[...document.querySelectorAll('.others svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert len(small) == 1  # the held-out alignment
    assert 200 < small[0] <= width
    sizes = tab.value("[...document.images].map(i => i.naturalWidth)")
    assert sizes
    assert min(sizes) > 0


@pytest.mark.parametrize("width", [1280, 390])
def test_every_point_shows_its_values_when_it_has_the_focus(tab, page, width):
    tab.show(page, width=width)
    count = tab.value(f"{SPOTS}.length")
    assert count == 1 + 10 * 3 + 3  # the last three of noise alone
    shown = tab.value(
        f"""[...{SPOTS}].map(spot => {{
          spot.focus();
          const tip = spot.querySelector('.tip'), box = tip.getBoundingClientRect();
          const inside = box.left >= 0 && box.right <= innerWidth && box.width > 150;
          return [tip.checkVisibility(), inside, tip.innerText];
        }})"""
    )
    for visible, inside, text in shown:
        assert visible
        assert inside, text
        assert "held-out alignment" in text
    assert "before tuning" in shown[0][2]
    assert "noise alone\nno reward, update 40" in shown[-1][2]
    assert (
        tab.value("[...document.querySelectorAll('.tip')].filter(t => t.checkVisibility()).length")
        == 1
    )


def test_tab_goes_from_point_to_point(tab, page):
    tab.show(page, width=1280)
    labels = []
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            tab("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        labels.append(tab.value("document.activeElement.getAttribute('aria-label')"))
    assert labels[0].startswith("base model, before tuning")
    assert labels[1].startswith("emoji-grpo, update 10")
    assert labels[2].startswith("emoji-grpo, update 20")


def test_the_pointer_on_a_point_shows_its_values_and_pales_the_others(tab, page):
    tab.show(page, width=1280)
    box = tab.value(f"{SPOTS}[6].getBoundingClientRect().toJSON()")
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    tab("Input.dispatchMouseEvent", type="mouseMoved", **middle)
    tip = tab.value(
        "[...document.querySelectorAll('.tip')].find(t => t.checkVisibility()).innerText"
    )
    assert "emoji-kl\nupdate 40" in tip
    pale = tab.value(
        """Object.fromEntries([...document.querySelectorAll('.view.wide g[class]')]
           .map(g => [g.getAttribute('class'), getComputedStyle(g).opacity]))"""
    )
    assert pale.pop("m1") == "1"
    assert set(pale.values()) == {"0.12"}
    assert len(pale) == 9
    assert "noise" in pale


def test_points_lie_on_the_drawn_markers(tab, page):
    """The middle of the base model's spot is the middle of the ring that is drawn for it."""
    for width in (1280, 390):
        tab.show(page, width=width)
        gaps = tab.value(
            f"""(() => {{
              const spot = {SPOTS}[0], view = spot.parentElement;
              const rings = [...view.querySelectorAll('svg use, svg path')]
                .filter(e => getComputedStyle(e).strokeWidth === '1.8px');
              const [a, b] = [spot, rings.at(-1)].map(e => e.getBoundingClientRect())
                .map(r => [r.x + r.width / 2, r.y + r.height / 2]);
              return [a[0] - b[0], a[1] - b[1]];
            }})()"""
        )
        assert max(map(abs, gaps)) < 2, (width, gaps)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_lines_stand_out_from_the_page(tab, page, scheme):
    tab.show(page, width=1280, scheme=scheme)
    paper = luminance(tab.value("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.05) == (scheme == "dark")
    texts = tab.value(
        "[...document.querySelectorAll('.plot text')].map(e => getComputedStyle(e).fill)"
    )
    lines = tab.value(
        """[...document.querySelectorAll('.view g[class] path')].map(e => getComputedStyle(e))
        .filter(s => parseFloat(s.strokeWidth) > 1).map(s => s.stroke)"""
    )
    assert len(texts) > 20
    assert len(set(lines)) == 10
    for colours, least in ((set(texts), 4.5), (set(lines), 3.0)):  # WCAG: text, graphics
        for colour in colours:
            high, low = sorted((paper, luminance(colour)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= least, (scheme, colour)


def test_configurations_unfold(tab, page):
    tab.show(page, width=390)
    assert tab.value("document.querySelector('details table').checkVisibility()") is False
    tab.value("document.querySelectorAll('details')[9].open = true")
    seen = json.dumps(tab.value("document.querySelectorAll('details')[9].innerText"))
    assert "objective.kl_weight" in seen
    assert tab.value("document.documentElement.scrollWidth") <= 390
