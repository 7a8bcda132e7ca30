"""The report in a real browser, wide and narrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: run `make env`")

from playwright.sync_api import Browser, Page

from tests.offline.evaluate.conftest import Heated, Report
from tests.support.browser import MISSING, chromium, page_of

WIDTHS_PX = (1280, 400)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser."""
    with chromium() as found:
        if found is None:
            pytest.skip(MISSING)
        yield found


@pytest.fixture(scope="module", params=["with heat maps", "without"])
def file(request: pytest.FixtureRequest, heated: Heated, report: Report) -> Path:
    """A report of a profile with occlusion, and one without."""
    return heated.file if request.param == "with heat maps" else report.folder / "report.html"


@pytest.fixture(params=WIDTHS_PX)
def page(request: pytest.FixtureRequest, browser: Browser, file: Path) -> Iterator[Page]:
    """It in a window of that width, and 900 pixels high."""
    with page_of(browser, width=request.param) as opened:
        opened.goto(file.as_uri())
        yield opened


def test_it_fits(page: Page) -> None:
    """The page does not move sideways; tables that are wider do, within their frames."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    inside = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
          .filter(each => !each.closest(".scroll table, svg") && each.getBoundingClientRect().right > innerWidth)
          .map(each => each.outerHTML.slice(0, 80))"""
    )
    assert inside == []
    for table in page.locator("table").all():
        frame = table.locator("xpath=..")
        assert frame.evaluate("each => getComputedStyle(each).overflowX") == "auto"


def test_pictures_are_there(page: Page) -> None:
    """All examples have loaded, and are as large beside each other as a person can see."""
    images = page.locator("img").evaluate_all(
        "all => all.map(each => [each.complete, each.naturalWidth, each.width, each.height])"
    )
    assert len(images) >= 4
    for complete, natural, width, height in images:
        assert complete
        assert natural > 0
        assert width >= 64
        assert width == pytest.approx(height, abs=1)


def test_the_summary_is_first(page: Page) -> None:
    """Title and all numbers of the summary are seen without scrolling."""
    assert page.evaluate("scrollY") == 0
    seen = [page.locator("h1"), *page.locator("[aria-label='In short'] b").all()]
    assert len(seen) > 4
    for each in seen:
        box = each.bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 900
