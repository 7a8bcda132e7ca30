"""Who may see the console."""

from __future__ import annotations

from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from guard.app import Sidecar
from guard.config import Listen, Settings, Unlisted
from guard.console.access import Access, check_reach, is_loopback, watch_token
from guard.errors import ConfigError, FileUnusable
from guard.recording import Console
from tests.app.parts import NOWHERE
from tests.console.parts import ask
from tests.support.loop import LoopThread
from tests.support.sidecars import running, settings
from tests.support.waiting import wait_for

TOKEN = "correct-horse-battery"  # noqa: S105 - of this test alone
OTHER = "incorrect-horse-battery"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with the token."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def visit(**given: str) -> dict[str, Any]:
    """What a server is told of a request."""
    return {"HTTP_HOST": "guard.example:9011", **given}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The admin port of a Guard whose console asks for a token."""
    token_file = tmp_path_factory.mktemp("access") / "token"
    token_file.write_text(TOKEN)
    given = settings(NOWHERE, {}, unlisted_models=Unlisted.PASS, console=Console(enabled=True, token_file=token_file))
    with LoopThread() as loop, running(loop, Sidecar(given)) as sidecar:
        yield sidecar.admin_port


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
    ],
)
def test_what_is_loopback(host: str, *, expected: bool) -> None:
    """Names and addresses that only this machine reaches."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize("address", ["0.0.0.0:9011", "[::]:9011", "guard.example:9011"])
def test_others_need_a_token(address: str, token_file: Path) -> None:
    """A console that others reach is refused without a token, and the message names both ways out."""
    listen = Listen(admin_address=address)
    with pytest.raises(ConfigError, match=r"not on loopback; name a file with a token in console.token_file"):
        check_reach(Settings(listen=listen, console=Console(enabled=True)))
    check_reach(Settings(listen=listen, console=Console(enabled=True, token_file=token_file)))
    check_reach(Settings(listen=listen))


def test_guard_does_not_start_open_to_all() -> None:
    """Nor does Guard as a library begin with such a console."""
    given = settings(
        NOWHERE,
        {},
        unlisted_models=Unlisted.PASS,
        listen=Listen(address="127.0.0.1:0", admin_address="0.0.0.0:0"),
        console=Console(enabled=True),
    )
    with pytest.raises(ConfigError, match=r"console\.token_file"):
        Sidecar(given)


@pytest.mark.parametrize(
    "content", ["", "\n", "fifteen-letters\n", "sixteen letters!!\n", "two-lines-of-it\nsecond-line"]
)
def test_what_is_no_token(tmp_path: Path, content: str) -> None:
    """What is short, or has spaces or several lines, is refused with what to run."""
    (tmp_path / "token").write_text(content)
    with pytest.raises(FileUnusable, match=r"head -c 24 /dev/urandom \| base64"):
        watch_token(tmp_path / "token")


def test_the_header(token_file: Path) -> None:
    """Who sends the token as a bearer gets in; who sends another, a part of it, or nothing, does not."""
    access = Access(watch_token(token_file))
    assert access.allows(visit(HTTP_AUTHORIZATION=f"Bearer {TOKEN}"))
    assert access.allows(visit(HTTP_AUTHORIZATION=f"bearer {TOKEN}"))
    for wrong in (f"Bearer {OTHER}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer ", f"Basic {TOKEN}", "\xff"):
        assert not access.allows(visit(HTTP_AUTHORIZATION=wrong))
    assert not access.allows(visit())
    assert not access.allows({"HTTP_HOST": "127.0.0.1"}), "the token is asked for on this machine too"


def test_the_cookie(token_file: Path) -> None:
    """Signing in leaves a cookie that lasts half a day, that nobody can make up, and that another token makes void."""
    now_s = 1000.0
    access = Access(watch_token(token_file), now_s=lambda: now_s)
    name, header = access.sign_in()
    morsel = SimpleCookie(header)["guard_console"]
    assert name == "Set-Cookie"
    assert (morsel["path"], morsel["httponly"], morsel["samesite"]) == ("/console", True, "Strict")
    assert TOKEN not in header
    cookie = f"guard_console={morsel.value}"
    assert access.allows(visit(HTTP_COOKIE=f"theme=dark; {cookie}"))
    ends_s, _, mark = morsel.value.partition(".")
    for wrong in (
        f"{int(ends_s) + 1}.{mark}",
        f"{ends_s}.{mark[:-1]}",
        ends_s,
        f".{mark}",
        "",
        f"\u0664{ends_s}.{mark}",
    ):
        assert not access.allows(visit(HTTP_COOKIE=f"guard_console={wrong}"))
    token_file.write_text(OTHER)
    wait_for(lambda: not access.allows(visit(HTTP_COOKIE=cookie)))
    token_file.write_text(TOKEN)
    wait_for(lambda: access.allows(visit(HTTP_COOKIE=cookie)))
    now_s += 12 * 3600
    assert not access.allows(visit(HTTP_COOKIE=cookie))


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("127.0.0.1:9011", True), ("localhost", True), ("[::1]:9011", True), ("rebound.example:9011", False), ("", False)],
)
def test_without_a_token_the_host_is_this_machine(host: str, *, allowed: bool) -> None:
    """A page elsewhere whose name is led to this machine can't read the console in a browser."""
    assert Access(None).allows({"HTTP_HOST": host}) is allowed


def test_nothing_is_shown_without_the_token(port: int) -> None:
    """Without the token all pages ask for it, but for what makes that page look right."""
    for path in ("/console", "/console/flagged", "/console/flagged/x", "/console/inputs/x.png", "/console/nowhere"):
        page = ask(port, path)
        assert (page.status, page.headers["WWW-Authenticate"]) == (401, "Bearer"), path
        assert 'type="password"' in page.text
    assert ask(port, "/console/live").status == 401
    assert ask(port, "/console/static/console.css").status == 200
    assert ask(port, "/metrics").status == 200, "as it was"
    assert ask(port, "/console", headers={"Authorization": f"Bearer {TOKEN}"}).status == 200


def test_signing_in_and_out(port: int) -> None:
    """The form takes the token, leaves a cookie, and the cookie lets in until it is taken away."""
    wrong = ask(port, "/console/sign-in", method="POST", form={"token": OTHER})
    assert (wrong.status, wrong.headers["Set-Cookie"]) == (401, None)
    assert 'role="alert"' in wrong.text
    right = ask(port, "/console/sign-in", method="POST", form={"token": TOKEN})
    assert (right.status, right.headers["Location"]) == (303, "/console")
    cookie = right.headers["Set-Cookie"].partition(";")[0]
    page = ask(port, "/console", headers={"Cookie": cookie})
    assert page.status == 200
    assert "Sign out" in page.text
    left = ask(port, "/console/sign-out", method="POST", headers={"Cookie": cookie})
    assert (left.status, "Max-Age=0" in left.headers["Set-Cookie"]) == (303, True)


@pytest.mark.parametrize("headers", [{"Content-Length": "9999999"}, {"Content-Length": "-1"}, {"Content-Length": "x"}])
def test_a_form_that_is_none(port: int, headers: dict[str, str]) -> None:
    """A form that is too long, or of no length, is not read."""
    assert ask(port, "/console/sign-in", method="POST", headers=headers).status in {400, 401}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_nothing_can_be_changed(port: int, method: str) -> None:
    """The console only shows, whoever asks."""
    page = ask(port, "/console", method=method, headers={"Authorization": f"Bearer {TOKEN}"})
    assert (page.status, page.headers["Allow"]) == (405, "GET, HEAD")
