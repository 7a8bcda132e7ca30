"""A real browser without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.support.waiting import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = f"no browser is installed: {', '.join(NAMES)} (Debian package chromium), or `playwright install chromium`"

_MS = 1000


@contextmanager
def chromium() -> Iterator[Browser | None]:
    """A Chromium that is installed, by the system or by Playwright; None if none is."""
    expect.set_options(timeout=PATIENCE_S * _MS)
    with sync_playwright() as playwright:
        file = _file(playwright)
        if file is None:
            yield None
            return
        # Where tests run as root, as they do in containers, Chromium's own sandbox can't.
        browser = playwright.chromium.launch(executable_path=file, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def _file(playwright: Playwright) -> str | None:
    own = playwright.chromium.executable_path
    return next((found for name in NAMES if (found := shutil.which(name))), own if Path(own).exists() else None)


@contextmanager
def page_of(
    browser: Browser, *, width: int = 1280, scheme: str = "light", script: bool = True, complains: bool = False
) -> Iterator[Page]:
    """A page of a reader whose window is that wide, and who likes it light or dark.

    The browser `complains` where a page is refused: it then may.

    Raises:
        AssertionError: at the end, if the browser complained of something.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=script,
    )
    page, complaints = context.new_page(), list[str]()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(PATIENCE_S * _MS)
    try:
        yield page
        assert complains or complaints == []
    finally:
        context.close()
