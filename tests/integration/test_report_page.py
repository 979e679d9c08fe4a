"""The reports in a real browser without a network: light, dark, narrow, printed, by keyboard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from storage.layout import Layout
from storage.local_objects import LocalObjects
from tasks.reporting.refresh_report import write_refresh_report
from tasks.reporting.report import render
from tests.integration.servers.browser import Camera
from tests.support.example_refresh import full_example, mint_example
from tests.support.example_report import VERDICTS, example

pytestmark = pytest.mark.integration

AXE = Path(__file__).parents[2] / ".venv/share/axe-core/node_modules/axe-core/axe.min.js"
"""Put there by install.sh."""
Scheme = Literal["light", "dark"]
PAGES = (*VERDICTS, "refresh")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports by their verdicts, and that of a refresh, as files."""
    folder = tmp_path_factory.mktemp("reports")
    paths = {outcome: folder / f"{outcome}.html" for outcome in VERDICTS}
    for outcome, path in paths.items():
        path.write_text(render(example(VERDICTS[outcome])), encoding="utf-8")
    store, layout = LocalObjects(folder / "store"), Layout("demo")
    (folder / "made").mkdir()
    manifest = mint_example(store, layout, full_example(), folder / "made")
    key = write_refresh_report(store, layout, manifest.id, folder)
    return paths | {"refresh": folder / "store" / key}


@pytest.fixture(params=["light", "dark"])
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A browser without a network, in both colour schemes; a request is remembered."""
    scheme: Scheme = request.param
    # The page forbids scripts; axe is one.
    made = browser.new_context(color_scheme=scheme, offline=True, bypass_csp=True)
    yield made
    made.close()


def opened(context: BrowserContext, path: Path, *, width: int = 1200) -> Page:
    """The page; whatever it asks for beside itself fails the test."""
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 900})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert asked == [path.as_uri()]
    return page


def serious(page: Page) -> list[str]:
    """What axe finds that keeps people out, with where."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: Any = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['impact']} {violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("outcome", PAGES)
def test_axe_finds_nothing_serious_even_with_everything_unfolded(
    context: BrowserContext, files: dict[str, Path], outcome: str, camera: Camera
) -> None:
    page = opened(context, files[outcome])
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    camera.take(page, f"report-{outcome}-{'dark' if dark else 'light'}", full_page=True)
    assert serious(page) == []
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert serious(page) == []
    page.set_viewport_size({"width": 400, "height": 900})
    assert serious(page) == []


def test_axe_sees_what_is_wrong(context: BrowserContext, files: dict[str, Path]) -> None:
    page = opened(context, files["PASS"])
    page.evaluate("document.querySelector('h1').style.opacity = 0.4")
    assert any("color-contrast" in found for found in serious(page))


@pytest.mark.parametrize("outcome", PAGES)
@pytest.mark.parametrize("width", [320, 400, 768])
def test_nothing_hangs_over_the_edge_of_a_narrow_screen(
    context: BrowserContext, files: dict[str, Path], outcome: str, width: int, camera: Camera
) -> None:
    page = opened(context, files[outcome], width=width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    camera.take(page, f"report-{outcome}-{width}", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_verdict_and_the_card_are_on_the_first_screen(
    context: BrowserContext, files: dict[str, Path]
) -> None:
    page = opened(context, files["PASS"])
    bottom = page.evaluate("document.querySelector('dl.card').getBoundingClientRect().bottom")
    assert bottom <= 900


def test_dark_is_dark_and_paper_is_white(context: BrowserContext, files: dict[str, Path]) -> None:
    page = opened(context, files["PASS"])
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == ("rgb(21, 24, 29)" if dark else "rgb(255, 255, 255)")
    page.emulate_media(media="print")
    assert page.evaluate(background) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("outcome", ["FAIL", "refresh"])
def test_print_shows_what_is_folded_and_cuts_nothing(
    context: BrowserContext, files: dict[str, Path], outcome: str, tmp_path: Path
) -> None:
    page = opened(context, files[outcome])
    page.emulate_media(media="print")
    # The width of A4 less its margins, at 96 pixels an inch.
    page.set_viewport_size({"width": 688, "height": 1000})
    hidden = """[...document.querySelectorAll('details')].filter(
        one => one.querySelector('table, ul').getBoundingClientRect().height === 0).length"""
    assert page.evaluate(hidden) == 0
    over = """[...document.querySelectorAll('table, svg')].filter(
        one => one.getBoundingClientRect().right > 689).map(
        one => one.querySelector('caption, title')?.textContent ?? one.textContent.slice(0, 60))"""
    assert page.evaluate(over) == []
    printed = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert printed.startswith(b"%PDF")


def test_a_wide_table_is_moved_by_the_keyboard(
    context: BrowserContext, files: dict[str, Path]
) -> None:
    page = opened(context, files["PASS"], width=400)
    region = page.get_by_role("region", name="Every comparison")
    region.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0")


def test_what_a_dropped_text_says_is_seen_and_does_nothing(
    context: BrowserContext, files: dict[str, Path]
) -> None:
    page = opened(context, files["refresh"])
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    text = page.locator("pre", has_text="<script>").first
    assert text.inner_text().startswith("</pre><script>alert(1)</script> \\u202eevil")
    assert page.evaluate("document.scripts.length") == 0
    reading = "[...document.querySelectorAll('.examples li')].every(one => one.offsetWidth > 0)"
    assert page.evaluate(reading)
