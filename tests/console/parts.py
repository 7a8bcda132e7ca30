"""What the console's tests share."""

from __future__ import annotations

import http.client
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guard.app import Sidecar
from guard.console.flagged import Flagged
from tests.support import digits
from tests.support.sidecars import Client
from tests.support.waiting import PATIENCE_S


@dataclass
class House:
    """A running Guard, and how many requests were sent to it."""

    sidecar: Sidecar
    log: Path
    forwarded: int = 0
    rejected: int = 0
    began_s: float = 0.0
    """On the monotonic clock: when it was not there yet."""

    def send(self, client: Client, images: np.ndarray) -> None:
        """Send images, and count what became of them."""
        status = client.ask("digits", images).status
        assert status in {"OK", "PERMISSION_DENIED"}
        self.forwarded += status == "OK"
        self.rejected += status != "OK"

    @property
    def flagged(self) -> Flagged:
        """What it keeps for its console."""
        console = self.sidecar._console
        assert console is not None
        return console.flagged

    @property
    def url(self) -> str:
        """Where its console is."""
        return f"http://127.0.0.1:{self.sidecar.admin_port}/console"


@dataclass(frozen=True)
class Page:
    """What an HTTP server answered."""

    status: int
    text: str
    headers: http.client.HTTPMessage
    content: bytes


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    form: dict[str, str] | None = None,
) -> Page:
    """Ask for a page. Redirections are not followed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    body = None if form is None else urllib.parse.urlencode(form)
    sent = ({} if form is None else {"Content-Type": "application/x-www-form-urlencoded"}) | (headers or {})
    try:
        connection.request(method, path, body=body, headers=sent)
        answer = connection.getresponse()
        content = answer.read()
        return Page(answer.status, content.decode(errors="replace"), answer.headers, content)
    finally:
        connection.close()


def bad_ones() -> np.ndarray:
    """Digits under an attack, (n, 1, 8, 8), of which most are rejected."""
    images, labels = digits.load_data().test
    return digits.attack(digits.trained_network(), images[:40], labels[:40], epsilon=0.15)
