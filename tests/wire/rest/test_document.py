"""JSON text: what is read, and what is refused because parsers differ in it."""

from __future__ import annotations

import json

import pytest

from guard.errors import MalformedRequest, MessageTooLarge
from guard.wire.rest import document
from guard.wire.rest.document import load


def test_an_object() -> None:
    """Plain JSON is read as Python reads it."""
    assert load(b' {"a": [1, -2.5, true, null, "\\u00e9\xc3\xa9"], "b": {}}\n') == {
        "a": [1, -2.5, True, None, "éé"],
        "b": {},
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is not JSON: Expecting value"),
        (b"{", "is not JSON"),
        (b"{} {}", "is not JSON: Extra data"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "isn't UTF-8"),
        (b'{"a": "\xff"}', "isn't UTF-8"),
        (b"[1]", "must be a JSON object"),
        (b'{"a": 1, "b": 2, "a": 3}', "the name 'a' twice"),
        (b'{"x": {"a": 1, "a": 1}}', "the name 'a' twice"),
        (b'{"a": 1, "\\u0061": 2}', "the name 'a' twice"),
        (b'{"a": NaN}', "NaN, which is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity, which is no JSON number"),
        (b'{"a": 0x1}', "is not JSON"),
        (b'{"a": 01}', "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nests JSON too deep"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nests JSON too deep"),
    ],
)
def test_what_is_refused(text: bytes, says: str) -> None:
    """Text that is no JSON, or that parsers read differently, is refused."""
    with pytest.raises(MalformedRequest, match=says):
        load(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": [' + b"0," * document.MAX_VALUES + b"0]}",
        b'{"a": [' + b"[]," * document.MAX_VALUES + b"[]]}",
        b"[" * (document.MAX_VALUES + 1),
        b"{" + b'"a":1 ' * (document.MAX_NAMES + 1) + b"}",
        b'{"a": [' + b"{}," * document.MAX_OBJECTS + b"0]}",
        b'{"a": "' + b"x" * document.MAX_BYTES + b'"}',
    ],
)
def test_too_much(text: bytes) -> None:
    """What parsing costs is counted before: no body may hold the event loop for long."""
    with pytest.raises(MessageTooLarge, match="send large tensors in binary"):
        load(text)


def test_much() -> None:
    """A tensor of half a million values is not too much."""
    values = [0] * (document.MAX_VALUES - 10)
    assert load(json.dumps({"a": values}).encode())["a"] == values
