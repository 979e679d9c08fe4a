"""What an operator does in Prefect's pages, in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.integration.servers.browser import Camera
from tests.integration.servers.prefect_server import PrefectServer
from tests.integration.servers.serving import Serving

pytestmark = pytest.mark.integration


@pytest.fixture
def serving(prefect: PrefectServer, tmp_path: Path) -> Iterator[Serving]:
    """A served folder of this test's own."""
    service = Serving(prefect, tmp_path / "serving")
    yield service
    service.stop()


def test_an_operator_fills_the_form_and_watches_an_update_end(
    serving: Serving, prefect: PrefectServer, page: Page, camera: Camera
) -> None:
    timetable = {"cron": "0 2 * * *", "timezone": "Europe/Berlin"}
    serving.add("news-en", schedule=timetable).add("prose")
    serving.start()
    deployment = serving.deployment("update-model/news-en")["id"]
    page.get_by_role("link", name="Deployments").first.click()
    expect(page.get_by_text("news-en").first).to_be_visible()
    camera.take(page, "prefect-deployments")
    page.goto(f"{prefect.url}/v2/deployments/deployment/{deployment}")
    expect(page.get_by_text("update-model").first).to_be_visible()
    camera.take(page, "prefect-deployment")
    page.get_by_role("link", name="Run", exact=True).or_(
        page.get_by_role("button", name="Run", exact=True)
    ).last.click()
    custom = page.get_by_role("menuitem", name="Custom run")
    custom.click()
    expect(page.get_by_text("What to do while another run works on this lineage")).to_be_visible()
    camera.take(page, "prefect-form", full_page=True)
    wait_seconds = page.get_by_label(re.compile("wait_seconds"))
    wait_seconds.fill("-5")
    page.get_by_role("button", name="Submit").click()
    complaint = wait_seconds.evaluate("input => input.validationMessage")
    assert complaint == "Value must be greater than or equal to 0."
    camera.take(page, "prefect-form-refused")
    wait_seconds.fill("60")
    page.get_by_role("button", name="Submit").click()
    # A minute at most, while SQLite makes writers wait for each other.
    [run] = serving.wait_for(lambda: asked_for(serving, deployment), 90, "the run")
    assert run["parameters"]["wait_seconds"] == 60
    page.goto(f"{prefect.url}/v2/runs/flow-run/{run['id']}")
    end = serving.end_of(run["id"], 150)
    assert end["name"] == "PASS", f"{end['message']}; the service said:\n{serving.said[-6000:]}"
    expect(page.get_by_text("PASS", exact=True).first).to_be_visible()
    expect(page.get_by_text(re.compile(r"^news-en 20\d\d-")).first).to_be_visible()
    camera.take(page, "prefect-run")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("news-en-verdict").first.click()
    page.wait_for_url(re.compile("/artifacts/"))
    page.get_by_text(re.compile(r"^[0-9a-f]{8}$")).first.click()
    expect(page.get_by_text("is the champion now").first).to_be_visible()
    camera.take(page, "prefect-artifact")


def test_a_decision_without_a_reason_is_not_started(
    serving: Serving, prefect: PrefectServer, page: Page, camera: Camera
) -> None:
    serving.add("news-de")
    serving.start()
    deployment = serving.deployment("promote-version/news-de")["id"]
    page.goto(f"{prefect.url}/v2/deployments/deployment/{deployment}/run")
    page.get_by_label(re.compile("^version")).fill("1")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text(re.compile("reason.*required|required.*reason")).first).to_be_visible()
    camera.take(page, "prefect-reason-missing")
    assert asked_for(serving, deployment) == []


def asked_for(serving: Serving, deployment: str) -> list[dict[str, Any]]:
    """The runs of a deployment that no schedule made."""
    body = {"flow_runs": {"deployment_id": {"any_": [deployment]}}}
    runs = serving.call("POST", "/flow_runs/filter", body)
    return [run for run in runs if not run["auto_scheduled"]]
