"""How often a call is made, and for how long."""

from __future__ import annotations

import pytest

from guard.client import CallFailed, DeadlinePassed, Retry
from guard.client.attempts import Attempts
from guard.client.values import address_of
from guard.errors import ConfigError

GONE = CallFailed("UNAVAILABLE", "nobody there")


def test_waits_double() -> None:
    """Waits grow from the first to the longest, each shortened by up to a half; after the last attempt the error is."""
    attempts = Attempts(Retry(attempts=5, first_wait_s=1.0, longest_wait_s=3.0), None, safe=True)
    waits = [attempts.wait_after(GONE) for _ in range(4)]
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits, (1.0, 2.0, 3.0, 3.0), strict=True)), waits
    with pytest.raises(CallFailed, match="nobody there"):
        attempts.wait_after(GONE)


@pytest.mark.parametrize("status", ["PERMISSION_DENIED", "INVALID_ARGUMENT", "INTERNAL", "DEADLINE_EXCEEDED"])
def test_what_is_not_repeated(status: str) -> None:
    """A refusal stays one, and a failure within the server is not provoked again."""
    with pytest.raises(CallFailed, match="why"):
        Attempts(Retry(), None, safe=True).wait_after(CallFailed(status, "why; retry with backoff"))


def test_unsafe() -> None:
    """What must not be made twice is not."""
    with pytest.raises(CallFailed):
        Attempts(Retry(), None, safe=False).wait_after(GONE)


def test_no_attempt_past_the_deadline() -> None:
    """Where the wait would outlast the deadline, the error comes at once, and no attempt begins after it."""
    attempts = Attempts(Retry(first_wait_s=100.0, longest_wait_s=100.0), 5.0, safe=True)
    assert 0 < (attempts.remaining_s() or 0) <= 5.0
    with pytest.raises(CallFailed, match="nobody there"):
        attempts.wait_after(GONE)
    with pytest.raises(DeadlinePassed, match="longer than the 0 s allowed; raise deadline_s"):
        Attempts(Retry(), 0.0, safe=True).remaining_s()


@pytest.mark.parametrize(
    ("text", "target", "http", "tls"),
    [
        ("127.0.0.1:8011", "127.0.0.1:8011", False, False),
        ("grpc://guard:8011", "guard:8011", False, False),
        ("grpcs://[::1]:8011", "[::1]:8011", False, True),
        ("http://guard:8010/", "guard:8010", True, False),
        ("https://guard:443", "guard:443", True, True),
        ("unix:/run/guard.sock", "unix:/run/guard.sock", False, False),
    ],
)
def test_addresses(text: str, target: str, http: bool, tls: bool) -> None:  # noqa: FBT001 - parameters of a table
    """The scheme says the protocol, and whether there is TLS."""
    address = address_of(text)
    assert (address.target, address.http, address.tls) == (target, http, tls)


@pytest.mark.parametrize(
    "text", ["", "guard", "ftp://guard:1", "http://guard", "http://guard:80/v2", "https://user@guard:1"]
)
def test_wrong_addresses(text: str) -> None:
    """An address of another form is refused with those that there are."""
    with pytest.raises(ConfigError, match="write grpc://host:port, grpcs://host:port"):
        address_of(text)
