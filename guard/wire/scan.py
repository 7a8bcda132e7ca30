"""One pass over the top-level fields of a protobuf message, so that large byte fields are viewed and not copied.

Source: Protocol Buffers, "Encoding" (wire types, varints).
"""

from __future__ import annotations

from collections.abc import Iterator

from guard.errors import MalformedRequest

MAX_TOP_LEVEL_FIELDS = 4096
"""A request needs one field per input, output and parameter. The bound keeps hostile messages from holding the loop."""

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_TAG_BYTES, _MAX_VARINT_BYTES = 5, 10
_MAX_TAG = (1 << 32) - 1
_MAX_UINT64 = (1 << 64) - 1


def split_field(message: bytes | memoryview, number: int) -> tuple[bytes, tuple[memoryview, ...]]:
    """Separate the length-delimited field `number` from all others.

    Returns the bytes of the other fields, in order, and the contents of each occurrence of the field, as views.

    Raises:
        MalformedRequest: the message is truncated, has a bad varint, a group, an unknown wire type, too many fields,
            or holds the field with another wire type.
    """
    view = memoryview(message)
    others: list[memoryview] = []
    contents: list[memoryview] = []
    at = fields = others_from = 0
    while at < len(view):
        fields += 1
        if fields > MAX_TOP_LEVEL_FIELDS:
            raise MalformedRequest(f"the message has more than {MAX_TOP_LEVEL_FIELDS} top-level fields")
        start = at
        tag, begin, at = _field(message, at)
        if tag >> 3 == number:
            if tag & 7 != _LENGTH_DELIMITED:
                raise MalformedRequest(f"field {number} of the message has wire type {tag & 7}, expected bytes")
            others.append(view[others_from:start])
            others_from = at
            contents.append(view[begin:at])
    if not contents:
        return bytes(message), ()
    return b"".join((*others, view[others_from:])), tuple(contents)


def large_fields(message: memoryview, least_bytes: int, left: Iterator[int]) -> Iterator[tuple[int, memoryview]]:
    """Number and contents of the length-delimited fields of so many bytes, among as many fields as are `left`.

    Raises:
        MalformedRequest: the message is truncated, has a bad varint, a group or an unknown wire type.
    """
    at = 0
    while at < len(message) and next(left, None) is not None:
        tag, begin, at = _field(message, at)
        if at - begin >= least_bytes and tag & 7 == _LENGTH_DELIMITED:
            yield tag >> 3, message[begin:at]


def length_delimited(number: int, length: int) -> bytes:
    """The tag and length that precede `length` bytes of field `number`."""
    return _encode_varint(number << 3 | _LENGTH_DELIMITED) + _encode_varint(length)


def _field(message: bytes | memoryview, at: int) -> tuple[int, int, int]:
    """The tag of the field that starts at `at`, and where its contents begin and end."""
    tag, begin = _varint(message, at, _MAX_TAG_BYTES)
    if tag > _MAX_TAG or tag >> 3 == 0:
        raise MalformedRequest(f"the message has an invalid field tag at byte {at}")
    wire_type, at = tag & 7, begin
    if wire_type == _LENGTH_DELIMITED:
        length, begin = _varint(message, at, _MAX_VARINT_BYTES)
        end = begin + length
    elif wire_type == _VARINT:
        end = _varint(message, at, _MAX_VARINT_BYTES)[1]
    elif wire_type in _FIXED_BYTES:
        end = at + _FIXED_BYTES[wire_type]
    else:
        raise MalformedRequest(f"the message has wire type {wire_type} at byte {at}, which the protocol doesn't use")
    if end > len(message):
        raise MalformedRequest(f"the message is truncated: a field at byte {at} needs {end - len(message)} more bytes")
    return tag, begin, end


def _varint(message: bytes | memoryview, at: int, max_bytes: int) -> tuple[int, int]:
    if at < len(message) and (byte := message[at]) < 0x80:  # noqa: PLR2004 - the continuation bit: nearly all end at once
        return byte, at + 1
    value = 0
    for index in range(max_bytes):
        if at + index >= len(message):
            raise MalformedRequest(f"the message is truncated within a varint at byte {at}")
        byte = message[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            if value > _MAX_UINT64:
                break
            return value, at + index + 1
    raise MalformedRequest(f"the message has a varint that is too long at byte {at}")


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
