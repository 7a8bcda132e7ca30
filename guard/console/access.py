"""Who may see the console: whoever knows its token, or, without one, whoever is on this machine."""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING, Final

from guard.config import Settings, host_and_port
from guard.credentials import Watched
from guard.errors import ConfigError, FileUnusable

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

TOKEN: Final = "console.token_file"  # noqa: S105 - the name of a setting
LEAST_CHARACTERS: Final = 16
_COOKIE = "guard_console"
_SIGNED_IN_S = 12 * 3600.0
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+)(:[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def watch_token(path: Path, *, quiet: bool = False) -> Watched[str]:
    """Watch the file with the console's token.

    Raises:
        FileUnusable: it can't be read, or is no token.
    """

    def parse(contents: Mapping[str, bytes], _in_use: str | None) -> str:
        token = contents[TOKEN].rstrip(b"\r\n").decode("latin-1")
        if len(token) < LEAST_CHARACTERS or not _VISIBLE.fullmatch(token):
            raise FileUnusable(
                TOKEN,
                f"{TOKEN} {path} holds no token: a line of {LEAST_CHARACTERS} or more ASCII characters without spaces",
                f"run `head -c 24 /dev/urandom | base64 > {path}`",
            )
        return token

    return Watched({TOKEN: path}, parse, quiet=quiet)


def check_reach(settings: Settings) -> None:
    """Refuse a console without a token where others than this machine reach the admin port.

    Raises:
        ConfigError: they would.
    """
    host, _ = host_and_port(settings.listen.admin_address)
    if settings.console.enabled and settings.console.token_file is None and not is_loopback(host):
        raise ConfigError(f"{unprotected(host)}; {REMEDY}")


def unprotected(host: str) -> str:
    """What is wrong with a console without a token on such a host."""
    return (
        f"console.enabled shows flagged inputs to whoever reaches listen.admin_address, and {host} is not on loopback"
    )


REMEDY: Final = (
    "name a file with a token in console.token_file (`head -c 24 /dev/urandom | base64 > FILE`), or let "
    "listen.admin_address be 127.0.0.1"
)


class Access:
    """Decides who may see the console. Signing in leaves a cookie, which another token in the file makes void."""

    def __init__(self, token: Watched[str] | None, *, now_s: Callable[[], float] = time.time) -> None:
        self._token, self._now_s = token, now_s

    @property
    def asks(self) -> bool:
        """Whether there is a token to ask for."""
        return self._token is not None

    def allows(self, environ: WSGIEnvironment) -> bool:
        """Whether a request comes from someone who may see the console.

        Without a token its host has to be this machine's: else a page that a name server led here could read it.
        """
        if self._token is None:
            named = _HOST.fullmatch(environ.get("HTTP_HOST", ""))
            return named is not None and is_loopback(named[1])
        kind, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if kind.lower() == "bearer":
            return self.knows(given.strip())
        return self._signed_in(environ.get("HTTP_COOKIE", ""))

    def knows(self, given: str) -> bool:
        """Whether it is the token, in a time that tells nothing of it."""
        token = "" if self._token is None else self._token.current()
        return bool(token) and hmac.compare_digest(given.encode(errors="replace"), token.encode())

    def sign_in(self) -> tuple[str, str]:
        """The header that leaves the cookie."""
        ends_s = str(int(self._now_s() + _SIGNED_IN_S))
        return _cookie(f"{ends_s}.{self._mark(ends_s)}", int(_SIGNED_IN_S))

    def sign_out(self) -> tuple[str, str]:
        """The header that takes the cookie away."""
        return _cookie("", 0)

    def _signed_in(self, header: str) -> bool:
        try:
            morsel = SimpleCookie(header).get(_COOKIE)
        except CookieError:
            return False
        ends_s, _, mark = ("" if morsel is None else morsel.value).partition(".")
        genuine = hmac.compare_digest(mark.encode(errors="replace"), self._mark(ends_s).encode())
        return genuine and self._now_s() < int(ends_s)

    def _mark(self, ends_s: str) -> str:
        token = "" if self._token is None else self._token.current()
        return hmac.digest(token.encode(), b"guard console\0" + ends_s.encode(errors="replace"), "sha256").hex()


def _cookie(value: str, seconds: int) -> tuple[str, str]:
    return "Set-Cookie", f"{_COOKIE}={value}; Path=/console; Max-Age={seconds}; HttpOnly; SameSite=Strict"
