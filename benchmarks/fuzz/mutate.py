"""Mutations that keep what they mutate a protobuf message, or JSON, more often than not."""

from __future__ import annotations

import json
from random import Random
from typing import Any, NamedTuple

_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
_NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    7,
    127,
    128,
    255,
    256,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
_UNKNOWN = (b"\xa0\x06\x01", b"\xa2\x06\x02hi", b"\xa3\x06\x08\x01\xa4\x06", b"\xa5\x06\x01\x02\x03\x04", b"\x50\x01")
_TEXTS = (
    b"a",
    b"b",
    b"FP32",
    b"BYTES",
    b"INT8",
    b"guard_verdict",
    b"shared_memory_region",
    b"",
    b"\xff",
    b"1",
    b"\x00",
)
_VALUES: tuple[Any, ...] = (
    0, 1, -1, 255, 256, -129, 1.0, 1.5, 1e39, 1e400, -0.0, 1 << 31, 1 << 63, 1 << 64, True, False, None, "", "a", "1",
    "\u0000", "\ud800", [], [[]], {}, "FP32", "INT8", "BYTES", "BOOL", "FP16", [1], [1, 2, 3], [[1, 2], [3, 4]],
)  # fmt: skip
_TOKENS = (
    b"1e2", b"1E+2", b"1.0", b"-0", b"00", b"01", b"NaN", b"Infinity", b"0x10", b"1e-400", b"123456789012345678901",
    b"/*c*/", b" ", b"\t", b",", b'"', b"\\u0000", b"\\ud83d", b"\xff", b"\xef\xbb\xbf", b"{", b"]", b'"a":1,', b"\x00",
    b'"shape":[2],', b'"datatype":"FP32",', b'"data":[1,2],', b"true", b"null", b"'", b".5", b"5.", b"+1",
)  # fmt: skip


class Field(NamedTuple):
    """A field as it is on the wire: its tag's number and wire type, and its contents without a length."""

    number: int
    wire_type: int
    contents: bytes


def varint(value: int, *, longer: int = 0) -> bytes:
    """Encode, in `longer` bytes more than needed."""
    made = bytearray()
    while value > 0x7F or longer:  # noqa: PLR2004 - seven bits a byte
        longer -= value <= 0x7F  # noqa: PLR2004 - as above
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def fields_of(message: bytes) -> list[Field] | None:
    """The fields of a message; None if it is none."""
    fields, at = [], 0
    while at < len(message):
        tag, at = _read(message, at)
        if tag is None or tag >> 3 == 0:
            return None
        wire_type, begin = tag & 7, at
        if wire_type == 0:
            value, at = _read(message, at)
            if value is None:
                return None
        elif wire_type == _LENGTH_DELIMITED:
            length, begin = _read(message, at)
            if length is None:
                return None
            at = begin + length
        elif wire_type in _FIXED:
            at += _FIXED[wire_type]
        else:
            return None
        if at > len(message):
            return None
        fields.append(Field(tag >> 3, wire_type, message[begin:at]))
    return fields


def written(fields: list[Field], rng: Random | None = None) -> bytes:
    """A message of these fields; with `rng`, now and then in more bytes than needed."""
    made = []
    for field in fields:
        longer = rng.choice((0,) * 30 + (1, 2)) if rng else 0
        made.append(varint(field.number << 3 | field.wire_type, longer=longer))
        if field.wire_type == _LENGTH_DELIMITED:
            made.append(varint(len(field.contents), longer=longer))
        made.append(field.contents)
    return b"".join(made)


def mutated_message(message: bytes, rng: Random) -> bytes:
    """A protobuf message with one change somewhere in it."""
    fields = fields_of(message)
    if not fields or rng.random() < 0.05:  # noqa: PLR2004 - a share
        return mutated_bytes(message, rng)
    at = rng.randrange(len(fields))
    field = fields[at]
    if field.wire_type == _LENGTH_DELIMITED and rng.random() < 0.6:  # noqa: PLR2004 - a share
        fields[at] = field._replace(contents=mutated_message(field.contents, rng))
        return written(fields, rng)
    rng.choice(_CHANGES)(fields, at, rng)
    return written(fields, rng) + (rng.choice(_UNKNOWN) if rng.random() < 0.1 else b"")  # noqa: PLR2004 - a share


def mutated_bytes(data: bytes, rng: Random) -> bytes:
    """Bytes with one change."""
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8)))
    if rng.random() < 0.1:  # noqa: PLR2004 - a share
        return data + rng.choice((b"\x00", b"\x00a", b" ", b"a", b".0"))
    new = rng.choice((b"", rng.randbytes(end - at), data[at:end] * 2, rng.choice(_TEXTS), varint(rng.choice(_NUMBERS))))
    return data[:at] + new + data[end:]


def mutated_json(text: bytes, rng: Random) -> bytes:
    """JSON with one change, in its text or in what it says."""
    if rng.random() < 0.5:  # noqa: PLR2004 - a half
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 0, 1, 1, 4)))
        return text[:at] + rng.choice(_TOKENS) + text[end:]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return mutated_bytes(text, rng)
    return json.dumps(_changed(document, rng)).encode()


def _changed(value: Any, rng: Random) -> Any:
    """A value of JSON with one change somewhere in it."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:  # noqa: PLR2004 - a share
        return rng.choice(_VALUES)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {rng.choice(("data", "shape", "a", "id", "binary_data_size")): rng.choice(_VALUES)}
        return value | {key: _changed(value[key], rng)}
    at = rng.randrange(len(value))
    one = rng.choice(([], [value[at]] * 2, *[[_changed(value[at], rng)]] * 4))
    return [*value[:at], *one, *value[at + 1 :]]


def _drop(fields: list[Field], at: int, _rng: Random) -> None:
    del fields[at]


def _double(fields: list[Field], at: int, rng: Random) -> None:
    fields.insert(rng.randrange(len(fields) + 1), fields[at])


def _swap(fields: list[Field], at: int, rng: Random) -> None:
    other = rng.randrange(len(fields))
    fields[at], fields[other] = fields[other], fields[at]


def _split(fields: list[Field], at: int, rng: Random) -> None:
    """One submessage in two halves, which a parser merges unless the field is repeated."""
    inner = fields_of(fields[at].contents) if fields[at].wire_type == _LENGTH_DELIMITED else None
    if inner:
        cut = rng.randrange(len(inner) + 1)
        halves = [fields[at]._replace(contents=written(half)) for half in (inner[:cut], inner[cut:])]
        fields[at : at + 1] = halves


def _renumber(fields: list[Field], at: int, rng: Random) -> None:
    fields[at] = fields[at]._replace(number=rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100)))


def _retype(fields: list[Field], at: int, rng: Random) -> None:
    """Another wire type, with contents that go with it."""
    contents = fields[at].contents
    made = rng.choice(
        ((0, varint(rng.choice(_NUMBERS))), (1, (contents + bytes(8))[:8]), (5, (contents + bytes(4))[:4]))
    )
    fields[at] = Field(fields[at].number, *rng.choice((made, (_LENGTH_DELIMITED, contents))))


def _revalue(fields: list[Field], at: int, rng: Random) -> None:
    field = fields[at]
    new = varint(rng.choice(_NUMBERS)) if field.wire_type == 0 else mutated_bytes(field.contents, rng)
    if field.wire_type in _FIXED:
        new = (new + bytes(8))[: _FIXED[field.wire_type]]
    fields[at] = field._replace(contents=rng.choice((new, rng.choice(_TEXTS))) if field.wire_type == 2 else new)  # noqa: PLR2004 - as above


_CHANGES = (_drop, _double, _swap, _split, _renumber, _retype, _revalue, _revalue, _split, _double)


def _read(message: bytes, at: int) -> tuple[int | None, int]:
    value = 0
    for index in range(10):
        if at + index >= len(message):
            break
        byte = message[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, at + index + 1
    return None, at
