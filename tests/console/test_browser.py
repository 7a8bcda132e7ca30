"""The console in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: run `make env`")

from playwright.sync_api import Browser, expect

from guard.app import Sidecar
from guard.config import Unlisted
from guard.recording import Console
from guard.values import Decision
from tests.app.parts import NOWHERE
from tests.audit.parts import rejected, sighting
from tests.console.parts import House
from tests.support.browser import MISSING, chromium, page_of
from tests.support.digits import load_data
from tests.support.loop import LoopThread
from tests.support.sidecars import client_of, running, settings
from tests.support.waiting import wait_for

_CONTRAST = Path(__file__).with_name("contrast.js").read_text()
WIDTHS_PX = (1280, 400, 320)
SCHEMES = ("light", "dark")
TOKEN = "correct-horse-battery"  # noqa: S105 - of this test alone


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser."""
    with chromium() as found:
        if found is None:
            pytest.skip(MISSING)
        yield found


@pytest.fixture(scope="module")
def heated(house: House) -> Decision:
    """A flagged request with a heat map, which digits are too small for."""
    decision = rejected("f" * 32)
    house.flagged.record(sighting(decision))
    wait_for(lambda: house.flagged.find(decision.id))
    return decision


@pytest.mark.parametrize("path", ["", "/flagged", "/flagged/" + "f" * 32])
@pytest.mark.parametrize("width", WIDTHS_PX)
def test_it_fits(browser: Browser, house: House, heated: Decision, width: int, path: str) -> None:
    """No page is wider than a window, down to 320 pixels, and the browser has nothing to complain of."""
    with page_of(browser, width=width) as page:
        page.goto(house.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_can_be_read(browser: Browser, house: House, heated: Decision, scheme: str) -> None:
    """All text stands out from what is behind it as WCAG 2.2 asks of it (AA), in light and in dark."""
    with page_of(browser, scheme=scheme) as page:
        for path in ("", f"/flagged/{heated.id}"):
            page.goto(house.url + path)
            found = page.evaluate(_CONTRAST)
            assert found["looked"] > 30
            assert found["poor"] == []


def test_its_structure(browser: Browser, house: House, heated: Decision) -> None:
    """Who can't see it finds landmarks, a heading for each part, names of tables and charts, and headers of cells."""
    with page_of(browser) as page:
        page.goto(house.url)
        assert page.locator("html").get_attribute("lang") == "en"
        for role in ("banner", "main", "navigation"):
            expect(page.get_by_role(role)).to_have_count(1)
        assert page.get_by_role("heading", level=1).count() == 1
        for section in page.locator("section").all():
            assert section.get_by_role("heading", level=2).count() == 1
        for table in page.get_by_role("table").all():
            assert table.locator("caption").inner_text()
            assert table.locator("th[scope=row]").count() == table.locator("tbody tr").count()
            assert table.locator("thead th:not([scope=col])").count() == 0
        for chart in page.locator("main svg[role=img]").all():
            assert chart.locator(":scope > title").text_content()
        assert page.locator("main svg:not([role=img]):not([aria-hidden]):not(svg svg)").count() == 0
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()


def test_a_heat_map(browser: Browser, house: House, heated: Decision) -> None:
    """A flagged input is drawn, and beside it where the answer hangs, on the same picture."""
    with page_of(browser) as page:
        page.goto(house.url)
        card = page.locator("article", has=page.locator(f"#c-{heated.id}"))
        assert card.locator("rect.heat").count() == 4
        image = card.locator("svg.picture").nth(1).bounding_box()
        hottest = card.locator("rect.hottest").bounding_box()
        assert image is not None
        assert hottest is not None
        assert hottest["width"] == pytest.approx(image["height"] / 2, abs=4), "half of a square picture"
        card.get_by_role("link").click()
        expect(page).to_have_title(re.compile("decision ffffffffffff"))


def test_it_is_live(browser: Browser, house: House) -> None:
    """What is sent while the page is open is counted on it without a reload, and what the reader opened stays open."""
    with page_of(browser) as page, client_of(house.sidecar.grpc_port) as client:
        page.goto(house.url)
        page.get_by_text("p-values of each detector").click()
        page.evaluate("document.marked = true")
        counted = page.locator("tr:has(.swatch.forwarded) td").nth(2)
        expect(counted).to_have_text(str(house.forwarded))
        for image in load_data().test[0][10:30]:
            house.send(client, image[None])
        expect(counted).to_have_text(str(house.forwarded))
        assert page.evaluate("document.marked"), "the page was loaded again"
        assert page.locator("details").first.get_attribute("open") is not None
        expect(page.locator("svg.spread")).not_to_have_count(1)


def test_a_pause(browser: Browser, house: House) -> None:
    """Who wants the page to stand still can have it so, and go on."""
    with page_of(browser) as page:
        page.goto(house.url)
        page.get_by_role("link", name="Pause").click()
        expect(page.locator("[hx-get]")).to_have_count(0)
        page.get_by_role("link", name="Go on").click()
        expect(page.locator("[hx-get]")).to_have_count(1)


def test_without_scripts(browser: Browser, house: House) -> None:
    """Without scripts everything is there, and the page asks to be loaded again by itself."""
    with page_of(browser, script=False) as page:
        page.goto(house.url)
        expect(page.locator("svg.rates rect").first).to_be_attached()
        expect(page.locator(".cards li").first).to_be_visible()
        assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "10"


def test_signing_in(browser: Browser, tmp_path: Path) -> None:
    """A reader types the token, is let in, and is told where the token is if it was another."""
    (tmp_path / "token").write_text(TOKEN)
    console = Console(enabled=True, token_file=tmp_path / "token")
    given = settings(NOWHERE, {}, unlisted_models=Unlisted.PASS, console=console)
    with LoopThread() as loop, running(loop, Sidecar(given)) as sidecar, page_of(browser, complains=True) as page:
        page.goto(f"http://127.0.0.1:{sidecar.admin_port}/console")
        page.get_by_label("Token").fill("something else")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("console.token_file")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="What Guard does now")).to_be_visible()
        (tmp_path / "token").write_text("another-token-of-it")
        expect(page.get_by_role("alert")).to_contain_text("signed out")
        page.get_by_role("link", name="Sign in again").click()
        expect(page.get_by_label("Token")).to_be_visible()
