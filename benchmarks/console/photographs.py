"""Takes pictures of the console with a real browser."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.support.browser import MISSING, chromium, page_of

TALLEST_PX: Final = {1280: 1620, 400: 2600}
"""How much of a page is shown, by its width."""

SCHEMES: Final = ("light", "dark")
_COLOURS = 256  # a third of the bytes, and no colour is off by more than six of 255


def take(url: str, folder: Path) -> tuple[list[Path], float]:
    """Photograph the first page, wide, narrow, light and dark, and one input: where, and what share has a heat map."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        if browser is None:
            sys.exit(MISSING)
        addresses, heated = _kept(browser, url)
        written = [_one(browser, next(iter(heated or addresses)), folder / "one.png")]
        for width in TALLEST_PX:
            for scheme in SCHEMES:
                with page_of(browser, width=width, scheme=scheme) as page:
                    page.goto(url)
                    page.wait_for_selector(".cards li")
                    path = folder / f"console-{width}-{scheme}.png"
                    written.append(_photograph(page, path, width, TALLEST_PX[width]))
    return written, len(heated) / len(addresses)


def _kept(browser: Browser, url: str) -> tuple[list[str], list[str]]:
    """Pages of the inputs that are kept, and those with a heat map."""
    with page_of(browser, complains=True) as page:  # newer inputs take the place of some meanwhile
        page.goto(f"{url}/flagged")
        paths = re.findall(r'href="/console(/flagged/\w+)"', page.content())
        addresses, heated = [url + path for path in paths], []
        for address in addresses:
            page.goto(address)
            if page.locator("rect.hottest").count():
                heated.append(address)
    return addresses, heated


def _one(browser: Browser, url: str, path: Path) -> Path:
    with page_of(browser) as page:
        page.goto(url)
        return _photograph(page, path, 1280, 900)


def _photograph(page: Page, path: Path, width: int, tallest: int) -> Path:
    tall = min(int(page.evaluate("document.documentElement.scrollHeight")), tallest)
    taken = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": width, "height": tall})
    few = (
        Image.open(io.BytesIO(taken))
        .convert("RGB")
        .quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    few.save(path, optimize=True)
    return path
