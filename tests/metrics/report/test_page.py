"""The page as a person uses it, in a real Chromium: keys, pointer, dark, narrow."""

from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from bitstack.container.manifest import Manifest
from bitstack.metrics.report import Report, html
from bitstack.metrics.report.levels import level_map
from bitstack.metrics.report.memory import memory_sizes
from chromium import Chromium

WIDE_ELEMENTS = """[...document.querySelectorAll('body *')].filter(e =>
  !e.closest('.scroll, .hidden') && e.getBoundingClientRect().right > innerWidth + 1).length"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(html(report), encoding="utf-8")
    return file


def silent(browser: Chromium, page: Path) -> bool:
    """No errors, and nothing was requested but the page itself."""
    assert browser.errors == []
    assert browser.requests == [page.resolve().as_uri()]
    return True


def shown_bytes(browser: Chromium) -> int:
    return int(browser.text("#t-bytes").split(" ")[0].replace(",", ""))


def shown_levels(browser: Chromium) -> list[str]:
    return list(browser.value("[...document.querySelectorAll('.map td')].map(c => c.innerText)"))


def test_the_keyboard_reaches_the_slider_and_moves_block_by_block(
    browser: Chromium, page: Path, report: Report
) -> None:
    browser.open(page)
    for _ in range(30):
        if browser.value("document.activeElement.id") == "budget":
            break
        browser.press("Tab")
    assert browser.value("document.activeElement.id") == "budget"
    browser.press("Home")
    assert shown_bytes(browser) == report.sizes[0]
    for blocks in (1, 2, 3):
        browser.press("ArrowRight")
        assert shown_bytes(browser) == report.sizes[blocks]
    browser.press("ArrowDown")
    assert shown_bytes(browser) == report.sizes[2]
    browser.press("End")
    assert shown_bytes(browser) == report.sizes[-1]
    assert browser.text("#t-next") == "none"
    browser.press("PageDown")
    assert report.sizes[0] < shown_bytes(browser) < report.sizes[-1]
    assert browser.value("getComputedStyle(document.activeElement).getPropertyValue('--fill')")
    assert silent(browser, page)


def test_levels_and_next_block_follow_the_order(
    browser: Chromium, page: Path, report: Report
) -> None:
    manifest = report.manifest
    browser.open(page)
    browser.value("document.getElementById('budget').focus()")
    browser.press("Home")
    cells = [cell.stacks for row in level_map(manifest).rows for cell in row.cells]
    for blocks in (0, 1, 5):
        browser.press("Home")
        browser.press("ArrowRight", blocks)
        levels, _ = manifest.budgets.levels(report.sizes[blocks])
        assert shown_levels(browser) == [str(levels[stack]) for (stack,) in cells]
        stack = manifest.order[blocks]
        entry = manifest.stacks[stack]
        assert entry.name.endswith(browser.text("#t-next"))
        how = browser.text("#t-next-how")
        added = report.sizes[blocks + 1] - report.sizes[blocks]
        assert f"level {levels[stack]} to {levels[stack] + 1} of {entry.levels}" in how
        assert f"+{added:,} bytes" in how
        ringed = "[...document.querySelectorAll('.map td')].findIndex(c => c.matches('.next'))"
        assert cells[browser.value(ringed)] == [stack]
    browser.press("End")
    assert set(shown_levels(browser)) == {str(entry.levels) for entry in manifest.stacks}
    assert browser.value("document.querySelectorAll('.map .next').length") == 0


def test_measured_figures_are_exact_and_those_between_say_so(
    browser: Chromium, page: Path, report: Report
) -> None:
    browser.open(page)
    browser.value("document.getElementById('budget').focus()")
    for row in report.rows:
        browser.press("Home")
        browser.press("ArrowRight", row.blocks)
        assert row.scored is not None
        assert browser.text("#t-loss") == f"{row.scored.bits_per_byte:.4f}"
        assert browser.text("#t-loss-how").endswith("; measured")
        assert browser.text("#t-speed-how") == "measured"
    first, second = report.rows[:2]
    assert first.scored is not None
    assert second.scored is not None
    browser.press("Home")
    browser.press("ArrowRight")
    assert first.blocks + 1 < second.blocks
    low, high = sorted([first.scored.bits_per_byte, second.scored.bits_per_byte])
    assert low <= float(browser.text("#t-loss")) <= high
    assert f"interpolated, {first.name} to {second.name}" in browser.text("#t-loss-how")
    words = browser.value("document.activeElement.getAttribute('aria-valuetext')")
    assert "bits/byte" in words
    assert "interpolated" in words


def test_the_pointer_drags_clicks_and_sees_tips(
    browser: Chromium, page: Path, report: Report
) -> None:
    browser.open(page)
    box = "JSON.stringify(document.querySelectorAll('button.mark')[0].getBoundingClientRect())"
    x, y = browser.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])(JSON.parse({box}))")
    tip = "getComputedStyle(document.querySelector('button.mark .tip')).visibility"
    assert browser.value(tip) == "hidden"
    browser.click(x, y)
    assert browser.value(tip) == "visible"
    assert shown_bytes(browser) == report.sizes[0]
    browser.value("document.querySelector('.rail').scrollIntoView({block: 'center'})")
    x, y, width = browser.value(
        "(b => [b.x, b.y + b.height / 2, b.width])"
        "(document.querySelector('.rail').getBoundingClientRect())"
    )
    middle = (report.sizes[0] * report.sizes[-1]) ** 0.5  # the axis is logarithmic
    browser.click(x + width / 2, y)
    fits = max(size for size in report.sizes if size <= middle * 1.01)
    assert 0.93 * fits < shown_bytes(browser) <= fits
    gap = """Math.abs(document.querySelector('.cursor').getBoundingClientRect().x
      - document.querySelector('.rail').getBoundingClientRect().x)"""
    browser.value("document.getElementById('budget').focus()")
    browser.press("Home")
    assert browser.value(gap) < 2, "the marker stands where the slider does"
    assert silent(browser, page)


@pytest.mark.parametrize("width", [320, 375, 700, 1280])
def test_no_word_of_a_chart_is_printed_over_another(
    browser: Chromium, page: Path, width: int
) -> None:
    browser.open(page, width=width)
    for chart in range(int(browser.value("document.querySelectorAll('.plot').length"))):
        boxes = browser.value(
            f"""[...document.querySelectorAll('.plot')[{chart}].parentElement.querySelectorAll(
              '.label, .tick, figcaption > *')].filter(e => !e.hidden
              && getComputedStyle(e).visibility === 'visible').map(e => {{
                const b = e.getBoundingClientRect(), r = document.createRange();
                r.selectNodeContents(e); const t = r.getBoundingClientRect();
                return [e.textContent, t.left, t.top, t.right, t.bottom]; }})"""
        )
        assert len(boxes) > 4
        for one, other in combinations(boxes, 2):
            (_, left, top, right, bottom), (_, l2, t2, r2, b2) = one, other
            over = left < r2 - 1 and l2 < right - 1 and top < b2 - 1 and t2 < bottom - 1
            assert not over, (one, other)


def test_the_line_that_loads_the_budget_is_copied(
    browser: Chromium, page: Path, report: Report
) -> None:
    browser.open(page)
    browser.value("document.getElementById('budget').focus()")
    browser.press("Home")
    lines = browser.text("#load-python").splitlines()
    assert lines == [
        "import bitstack",
        f'model = bitstack.load("{report.container}", budget="floor")',
    ]
    browser.press("ArrowRight")
    assert f'budget="{report.sizes[1]}"' in browser.text("#load-python")
    assert f"--budget {report.sizes[1]} " in browser.text("#load-command")
    browser.value(
        "navigator.clipboard.writeText = text => (window.copied = text, Promise.resolve())"
    )
    browser.page.locator("[data-from=load-command]").click()
    assert browser.value("window.copied") == browser.text("#load-command")
    assert browser.text("[data-from=load-command]") == "Copied"
    assert silent(browser, page)


def test_the_text_that_fits_beside_the_model(browser: Chromium, page: Path, report: Report) -> None:
    most = report.memory.positions
    assert most is not None
    browser.open(page)
    browser.value("document.getElementById('budget').focus()")
    browser.press("Home")
    for size in memory_sizes(report):
        browser.page.select_option("#memory", str(size))
        room = size - report.sizes[0]
        tokens = max(n for n in range(most + 1) if n == 0 or report.memory.bytes(n) <= room)
        assert browser.text("#t-context") == f"{tokens:,}"
    assert tokens == most
    assert silent(browser, page)


@pytest.mark.parametrize("width", [320, 375, 700])
def test_it_fits_a_narrow_screen(browser: Chromium, page: Path, width: int) -> None:
    browser.open(page, width=width, height=700)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(WIDE_ELEMENTS) == 0
    assert browser.value("document.getElementById('budget').getBoundingClientRect().height") >= 44
    sizes = "Math.min(...[...document.querySelectorAll('p, dt, dd, th, td')].map(e => "
    assert browser.value(sizes + "parseFloat(getComputedStyle(e).fontSize)))") >= 11


def test_many_layers_stay_readable(browser: Chromium, report: Report, tmp_path: Path) -> None:
    """Figures of narrow columns are left out, and so are numbers of layers without room."""
    manifest = report.manifest
    layers = 28
    stacks = [
        entry.model_copy(update={"layer": layer, "name": f"{entry.name}.{layer}"})
        for layer in range(layers)
        for entry in manifest.stacks
        if entry.layer == 0
    ]
    order = [stack for stack, entry in enumerate(stacks) for _ in range(entry.levels - 1)]
    deep = Manifest.model_construct(**dict(manifest) | {"stacks": stacks, "order": order})
    page = tmp_path / "deep.html"
    page.write_text(html(Report("deep", deep, [])), encoding="utf-8")
    browser.open(page, width=375)
    assert browser.value("document.querySelector('.map').className") == "map dense"
    places = browser.value(
        """[...document.querySelectorAll('.layer')].filter(e =>
          getComputedStyle(e).visibility === 'visible').map(e => {
            const range = document.createRange(); range.selectNodeContents(e);
            const box = range.getBoundingClientRect(); return [box.left, box.right]; })"""
    )
    assert len(places) == layers / 4
    assert all(right <= left for (_, right), (left, _) in pairwise(places))
    assert browser.value("document.documentElement.scrollWidth") <= 375
    assert silent(browser, page)
    browser.open(page, width=1280)
    assert browser.value("document.querySelector('.map').className") == "map"


def test_light_and_dark(browser: Chromium, page: Path, tmp_path: Path) -> None:
    means = []
    for scheme in ("light", "dark"):
        browser.open(page, color_scheme=scheme)
        browser.screenshot(tmp_path / f"{scheme}.png")
        picture = imread(tmp_path / f"{scheme}.png")[..., :3]
        assert picture.std() > 0.03, "not blank"
        means.append(picture.mean())
        assert _contrast(browser) >= 4.5
    assert means[0] > 0.8
    assert means[1] < 0.25
    assert silent(browser, page)


def _contrast(browser: Chromium) -> float:
    """The least contrast (WCAG 2.1) of soft text and of every level's figure on its ground."""
    pairs = browser.value(
        """(() => {
        const canvas = document.createElement('canvas').getContext('2d', {
          willReadFrequently: true});
        const rgb = color => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
          return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)]; };
        const page = getComputedStyle(document.body).backgroundColor;
        const soft = [...document.querySelectorAll('.sub, .tick, .value')].map(e =>
          [getComputedStyle(e).color, page]);
        const cells = [...document.querySelectorAll('.swatch')].map(e =>
          [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]);
        return [...soft, ...cells].map(pair => pair.map(rgb)); })()"""
    )
    colors = np.array(pairs) / 255
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    return float((light.max(1) / light.min(1)).min())


def test_nothing_moves_for_those_who_do_not_want_it(browser: Chromium, page: Path) -> None:
    duration = "getComputedStyle(document.querySelector('.map td')).transitionDuration"
    browser.open(page, reduced_motion="reduce")
    assert browser.value(duration) == "0s"
    browser.open(page, reduced_motion="no-preference")
    assert browser.value(duration) != "0s"


def test_a_mixture_of_experts_without_measurements(
    browser: Chromium, experts: Report, tmp_path: Path
) -> None:
    page = tmp_path / "experts.html"
    page.write_text(html(experts), encoding="utf-8")
    browser.open(page, width=375)
    browser.value("document.getElementById('budget').focus()")
    browser.press("Home")
    order = experts.manifest.order
    steps = 1 + next(
        i for i, s in enumerate(order) if experts.manifest.stacks[s].expert is not None
    )
    browser.press("ArrowRight", steps)
    assert shown_bytes(browser) == experts.sizes[steps]
    assert "1.3" in shown_levels(browser), "one expert of four at level 2"
    assert browser.value("document.getElementById('t-loss')") is None
    assert browser.value(WIDE_ELEMENTS) == 0
    assert silent(browser, page)
