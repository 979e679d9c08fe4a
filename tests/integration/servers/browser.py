"""Chromium, driven by Playwright."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
_PATIENCE_MS = 60_000
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def running_browser() -> Generator[Browser]:
    """A browser of its own: Playwright's event loop must not outlive the test that uses it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=_ARGUMENTS
        )
        try:
            yield browser
        finally:
            browser.close()


def open_prefect(browser: Browser, url: str, auth_string: str) -> Page:
    """Prefect's pages in a new window, after the login."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(_PATIENCE_MS)
    expect.set_options(timeout=_PATIENCE_MS)
    page.goto(f"{url}/v2/login?redirectTo=%2Fdashboard")
    password = page.locator("input").first
    password.fill(auth_string)
    password.press("Enter")
    page.wait_for_url(re.compile("/dashboard"))
    return page


@dataclass(frozen=True, slots=True)
class Camera:
    """Takes screenshots into ``folder``, or into the folder SCREENSHOTS of the environment."""

    folder: Path

    def take(self, page: Page, name: str, *, full_page: bool = False) -> Path:
        """Save what ``page`` shows as ``<name>.png``."""
        folder = Path(os.environ.get("SCREENSHOTS") or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=full_page, animations="disabled")
        return path
