"""JSON text to plain values. What two parsers could read differently is refused.

Source: RFC 8259, whose sections 4 and 6 leave duplicate names and large numbers to the parser.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from guard.errors import MalformedRequest, MessageTooLarge
from guard.wire.contents import MAX_VALUES

MAX_BYTES = 1 << 24
"""... and `MAX_VALUES`, by its commas and brackets. All of a request is read in one step, on the event loop: this keeps
it to some tenths of a second at worst, which tensors in binary never take."""

MAX_NAMES = 1 << 17
"""... and names, by its colons."""

MAX_OBJECTS = 1 << 14
"""A request needs two for each of its tensors. Each costs a call from the parser to here."""


def load(encoded: bytes | bytearray) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MessageTooLarge: it has too many values.
        MalformedRequest: it is not JSON in UTF-8, no object, too deep, or has a name twice or a number that is none.
    """
    _check_size(encoded)
    try:
        document = _DECODER.decode(str(encoded, "utf-8"))
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"the request is not JSON: {error}") from error
    except RecursionError as error:
        raise MalformedRequest("the request nests JSON too deep") from error
    except ValueError as error:
        raise MalformedRequest("the request is not JSON: it isn't UTF-8, or a number has too many digits") from error
    if not isinstance(document, dict):
        raise MalformedRequest("the request must be a JSON object")
    return document


def _check_size(encoded: bytes | bytearray) -> None:
    """Count what parsing will cost, which takes next to nothing."""
    if (
        len(encoded) > MAX_BYTES
        or sum(encoded.count(mark) for mark in b",[{") > MAX_VALUES
        or encoded.count(b":") > MAX_NAMES
        or encoded.count(b"{") > MAX_OBJECTS
    ):
        raise MessageTooLarge(
            f"the request has more JSON than guard reads at once: {MAX_BYTES} bytes, {MAX_VALUES} values, {MAX_NAMES} "
            f"names or {MAX_OBJECTS} objects; send large tensors in binary (binary_data_size), or smaller batches"
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise MalformedRequest(f"the request has the name {twice[:64]!r} twice in one JSON object")
    return made


def _not_a_number(constant: str) -> NoReturn:
    raise MalformedRequest(f"the request holds {constant}, which is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_not_a_number)
