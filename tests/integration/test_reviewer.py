"""A reviewer at MLflow's pages: what changed, what got better and worse, how to go back."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.integration.judged import Judged
from tests.integration.servers.browser import Camera
from tests.integration.servers.mlflow_server import MlflowServer

pytestmark = pytest.mark.integration

_PATIENCE_MS = 60_000
"""One worker serves the pages' many parts, on a machine that is busy with other things."""


@pytest.fixture
def reviewer(browser: Browser, mlflow_server: MlflowServer) -> Iterator[BrowserContext]:
    """Logged in."""
    login = {"username": mlflow_server.username, "password": mlflow_server.password}
    context = browser.new_context(
        viewport={"width": 1200, "height": 860},
        http_credentials=login,  # pyright: ignore[reportArgumentType]  a dict of two strings
    )
    context.set_default_timeout(_PATIENCE_MS)
    expect.set_options(timeout=_PATIENCE_MS)
    yield context
    context.close()


def open_version(reviewer: BrowserContext, server: MlflowServer, number: int) -> Page:
    page = reviewer.new_page()
    page.goto(f"{server.uri}/#/models/tiny/versions/{number}")
    expect(page.get_by_text("Data in")).to_be_visible()
    # MLflow opens its assistant's panel at the first visit; it stays closed afterwards.
    page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()
    return page


def test_a_reviewer_reads_the_verdict_opens_the_report_and_follows_the_parent(
    reviewer: BrowserContext, judged: Judged, mlflow_server: MlflowServer, camera: Camera
) -> None:
    page = open_version(reviewer, mlflow_server, 3)
    camera.take(page, "mlflow-version")
    expect(page.get_by_text("PASS: published, in use.")).to_be_visible()
    expect(page.get_by_text("better: new data")).to_be_visible()
    expect(page.get_by_text("perennial rollback --reason")).to_be_visible()

    with reviewer.expect_page() as opened:
        page.get_by_role("link", name="Report", exact=True).click()
    report = opened.value
    frame = report.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="What changed")).to_be_visible()
    expect(frame.get_by_text("PASS", exact=True).first).to_be_visible()
    camera.take(report, "mlflow-report")

    with reviewer.expect_page() as opened:
        page.get_by_role("link", name="Parent 1-").click()
    parent = opened.value
    expect(parent.get_by_role("heading", name="Version 1")).to_be_visible()
    expect(parent.get_by_text("PASS: published.")).to_be_visible()
    expect(parent.get_by_role("link", name="Child 3-")).to_be_visible()


def test_a_refused_version_says_what_got_worse(
    reviewer: BrowserContext, judged: Judged, mlflow_server: MlflowServer, camera: Camera
) -> None:
    page = open_version(reviewer, mlflow_server, 2)
    expect(page.get_by_text("FAIL: refused by its verdict.")).to_be_visible()
    expect(page.get_by_text("worse: old prose")).to_be_visible()
    expect(page.get_by_text("perennial promote 2-")).to_be_visible()
    camera.take(page, "mlflow-refused")


def test_a_report_runs_no_scripts(
    reviewer: BrowserContext, judged: Judged, mlflow_server: MlflowServer
) -> None:
    page = open_version(reviewer, mlflow_server, 3)
    with reviewer.expect_page() as opened:
        page.get_by_role("link", name="Report", exact=True).click()
    report = opened.value
    frame = report.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="What changed")).to_be_visible()
    # MLflow's frame would let them run; the page itself forbids them.
    inner = report.frames[-1]
    inner.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = "document.title = 'a script ran'";
        document.body.append(script);
    }""")
    assert inner.title() != "a script ran"
    assert report.locator("iframe").get_attribute("sandbox") == "allow-scripts"
