"""The console of a running Guard, over real HTTP."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from guard.app import Sidecar
from guard.audit.records import records
from guard.audit.segments import segments_of
from guard.config import Unlisted
from guard.recording import Console
from guard.values import Verdict
from tests.app.parts import NOWHERE
from tests.console.parts import House, ask
from tests.support.loop import LoopThread
from tests.support.sidecars import running, settings
from tests.support.waiting import wait_for


class Parsed(HTMLParser):
    """What a browser's parser would complain of, and what is linked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        given = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name in ("href", "src") if (value := given.get(name)) and not value.startswith("#")]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag in {"script", "style"} and "src" not in given:
            self.inline.append(tag)
        if tag not in {"meta", "link", "input", "img", "br", "wbr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close a tag: the last that is open."""
        assert self.open.pop() == tag, tag


def text_of(html: str) -> str:
    """A page's words."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_rates(house: House) -> None:
    """The first page counts what was forwarded and rejected, and says how each model is guarded."""
    port = house.sidecar.admin_port
    counted = rf"forwarded [\d.]+ [\d.]+ {house.forwarded} flagged [\d.]+ [\d.]+ 0 rejected"
    wait_for(lambda: re.search(counted, text_of(ask(port, "/console").text)))  # it looks every two seconds
    words = text_of(ask(port, "/console").text)
    assert re.search(rf"rejected [\d.]+ [\d.]+ {house.rejected} neither", words)
    assert "Model digits enforce" in words
    assert f"policy {house.sidecar.in_force.version}" in words
    assert re.search(r"false-positive rate asked 5\.0%", words)
    assert "benign inputs in it 319" in words
    assert re.search(r"[\d.]+% busy", words)
    load = house.sidecar.in_force.models["digits"].model.engine.busy_s
    assert 0 < load < time.monotonic() - house.began_s


def test_flagged_inputs(house: House) -> None:
    """Each flagged request has its evidence, its picture, and a page of its own; the audit log says the same of it."""
    port, seen = house.sidecar.admin_port, house.flagged.latest()
    assert len(seen) == house.rejected
    overview = ask(port, "/console").text
    logged = {}
    wait_for(lambda: house.log.exists() and segments_of(house.log))
    wait_for(lambda: logged.update({e["id"]: e for e in records(house.log)}) or seen[0].id in logged)
    for each in seen:
        assert f"/console/flagged/{each.id}" in overview
        words = text_of(ask(port, f"/console/flagged/{each.id}").text)
        assert f"client's pseudonym {each.client}" in words.replace("&#39;", "'")
        assert logged[each.id]["data"]["unmapped"]["guard"]["client"]["pseudonym"] == each.client
        assert logged[each.id]["data"]["evidences"][0]["data"] == json.loads(json.dumps(each.told))
        for said in each.told["detectors"]:
            assert said["detector"] in words.replace("_ ", "_")
        shares = [said["share"] for said in each.told["detectors"] if "share" in said]
        assert sum(shares) == pytest.approx(1)
        assert words.count("% of the verdict") == len(shares) + ("Together:" in words)
        picture = ask(port, f"/console/inputs/{each.id}.png")
        assert picture.headers["Content-Type"] == "image/png"
        decoded = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded is not None
        assert decoded.shape == (8, 8)
    assert each.id[:12] in ask(port, "/console/flagged").text


def test_no_client_is_named(house: House) -> None:
    """No page has an address of a client."""
    port = house.sidecar.admin_port
    for path in ("/console", "/console/flagged", f"/console/flagged/{house.flagged.latest()[0].id}"):
        assert "127.0.0.1" not in ask(port, path).text


@pytest.mark.parametrize("path", ["", "/", "?live=off", "/live", "/flagged", "/flagged/ID", "/nowhere", "/flagged/x/y"])
def test_pages_are_sound(house: House, path: str) -> None:
    """Pages are well-formed, with ids that are unique and nothing inline, and what they link is there."""
    port = house.sidecar.admin_port
    page = ask(port, f"/console{path}".replace("ID", house.flagged.latest()[0].id))
    assert page.status == (404 if path in {"/nowhere", "/flagged/x/y"} else 200)
    parsed = Parsed(page.text)
    assert (parsed.open, parsed.inline) == ([], [])
    assert len(set(parsed.ids)) == len(parsed.ids)
    for link in parsed.links:
        assert ask(port, link).status == 200, link
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/console/static/../pages.py", "/console/static/", "/console/inputs/x.png", "/consoles"]
)
def test_what_is_not_there(house: House, path: str) -> None:
    """Nothing but what the console has is served."""
    assert ask(house.sidecar.admin_port, path).status == 404


def test_another_host(house: House) -> None:
    """Without a token only a request for this machine is answered, or a page elsewhere could read the console."""
    page = ask(house.sidecar.admin_port, "/console", headers={"Host": "rebound.example"})
    assert (page.status, "console.token_file" in page.text) == (403, True)
    assert ask(house.sidecar.admin_port, "/metrics", headers={"Host": "rebound.example"}).status == 200


def test_without_models() -> None:
    """A Guard that screens nothing says so, and why it is not ready."""
    given = settings(NOWHERE, {}, unlisted_models=Unlisted.PASS, console=Console(enabled=True))
    with LoopThread() as loop, running(loop, Sidecar(given)) as sidecar:
        wait_for(lambda: "not ready" in ask(sidecar.admin_port, "/console/live").text)
        words = text_of(ask(sidecar.admin_port, "/console").text)
    assert "nothing is screened, only counted" in words
    assert f"{NOWHERE}" in words
    assert "None since Guard started." in words


def test_off_by_default() -> None:
    """Without console.enabled there is no console, and nothing is kept for one."""
    with LoopThread() as loop, running(loop, Sidecar(settings(NOWHERE, {}, unlisted_models=Unlisted.PASS))) as sidecar:
        page = ask(sidecar.admin_port, "/console")
        assert (page.status, "/console" in page.text) == (404, False)
        assert sidecar._console is None
        assert sidecar._server._auditors == []


def test_verdicts_are_all_told(house: House) -> None:
    """The table of verdicts has each that there is."""
    words = text_of(ask(house.sidecar.admin_port, "/console").text)
    assert re.search(r" ".join(rf"{verdict} [\d,]+ [\d.]+%" for verdict in Verdict), words)
