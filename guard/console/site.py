"""Which page a request to the console gets, if it may see any."""

from __future__ import annotations

import time
from http import HTTPStatus
from importlib.resources import files
from threading import Lock
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from guard.console.access import Access
from guard.console.flagged import Flagged
from guard.console.pages import Pages
from guard.observe.answer import Answer

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

HOME: Final = "/console"
_FRESH_S: Final = 1.0
_MOST_FORM_BYTES: Final = 4096
_STATIC: Final = {
    "console.css": "text/css; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
_NOT_KEPT: Final = ("Cache-Control", "no-store")
_KEPT: Final = ("Cache-Control", "private, max-age=300")
_ASKS: Final = ("WWW-Authenticate", "Bearer")
_GONE: Final = "Only the latest flagged requests are kept in memory: this one is gone, or there never was such a page."
_ELSEWHERE: Final = "Without console.token_file the console is for this machine alone: ask for localhost, or 127.0.0.1."


class Site:
    """Answers what is asked for under /console. Called on the admin port's threads."""

    def __init__(self, pages: Pages, flagged: Flagged, access: Access) -> None:
        self._pages, self._flagged, self._access = pages, flagged, access
        folder = files("guard.console") / "static"
        self._static = {name: (folder / name).read_bytes() for name in _STATIC}
        self._lock = Lock()
        self._fragment = ""
        self._made_s = -_FRESH_S

    def answer(self, environ: WSGIEnvironment) -> Answer:
        """Answer a request."""
        status, headers, body = self._answer(environ)
        return status, [*headers, *_HEADERS], body

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        path, method = environ["PATH_INFO"].removeprefix(HOME), environ["REQUEST_METHOD"]
        if path.startswith("/static/") and (name := path.removeprefix("/static/")) in self._static:
            return _file(_STATIC[name], self._static[name])
        if method == "POST" and path in {"/sign-in", "/sign-out"}:
            return self._posted(path, environ)
        if method not in {"GET", "HEAD"}:
            page = self._pages.problem("Nothing to change", "The console only shows.")
            return _html(HTTPStatus.METHOD_NOT_ALLOWED, page, ("Allow", "GET, HEAD"))
        if not self._access.allows(environ):
            return self._refused(path)
        return self._shown(path.strip("/").split("/"), live="live=off" not in environ.get("QUERY_STRING", ""))

    def _shown(self, parts: list[str], *, live: bool) -> Answer:
        """What there is at an address."""
        if parts[0] == "inputs" and (thumbnail := self._thumbnail(parts[1:])) is not None:
            return thumbnail
        found = self._page(parts, live=live)
        if found is None:
            return _html(HTTPStatus.NOT_FOUND, self._pages.problem("Not here", _GONE))
        return _html(HTTPStatus.OK, found)

    def _page(self, parts: list[str], *, live: bool) -> str | None:
        """The page with this address, if there is one."""
        match parts:
            case [""]:
                return self._pages.overview(live=live)
            case ["live"]:
                return self._live()
            case ["flagged"]:
                return self._pages.all_flagged()
            case ["flagged", decision_id]:
                return self._pages.one_flagged(decision_id)
        return None

    def _live(self) -> str:
        """What changes, made once a second at most, however many look."""
        with self._lock:
            if time.monotonic() - self._made_s >= _FRESH_S:
                self._fragment, self._made_s = self._pages.fragment(), time.monotonic()
            return self._fragment

    def _thumbnail(self, parts: list[str]) -> Answer | None:
        seen = self._flagged.find(parts[0].removesuffix(".png")) if len(parts) == 1 else None
        return None if seen is None or seen.thumbnail is None else _file("image/png", seen.thumbnail.png)

    def _refused(self, path: str) -> Answer:
        if not self._access.asks:
            return _html(HTTPStatus.FORBIDDEN, self._pages.problem("Another host was named", _ELSEWHERE))
        page = self._pages.signed_out() if path == "/live" else self._pages.sign_in(wrong=False)
        return _html(HTTPStatus.UNAUTHORIZED, page, _ASKS)

    def _posted(self, path: str, environ: WSGIEnvironment) -> Answer:
        if path == "/sign-out":
            return _home(self._access.sign_out())
        if not self._access.knows(_form(environ).get("token", [""])[0].strip()):
            return _html(HTTPStatus.UNAUTHORIZED, self._pages.sign_in(wrong=True), _ASKS)
        return _home(self._access.sign_in())


def _form(environ: WSGIEnvironment) -> dict[str, list[str]]:
    """The fields of a short form; none of anything else."""
    length = environ.get("CONTENT_LENGTH", "")
    if not (length.isascii() and length.isdecimal()) or int(length) > _MOST_FORM_BYTES:
        return {}
    try:
        return parse_qs(environ["wsgi.input"].read(int(length)).decode("latin-1"), max_num_fields=8)
    except ValueError:  # more fields
        return {}


def _line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


def _html(status: HTTPStatus, page: str, *more: tuple[str, str]) -> Answer:
    return _line(status), [("Content-Type", "text/html; charset=utf-8"), _NOT_KEPT, *more], page.encode()


def _file(kind: str, content: bytes) -> Answer:
    return _line(HTTPStatus.OK), [("Content-Type", kind), _KEPT], content


def _home(cookie: tuple[str, str]) -> Answer:
    return _line(HTTPStatus.SEE_OTHER), [("Location", HOME), ("Content-Type", "text/plain"), _NOT_KEPT, cookie], b""
