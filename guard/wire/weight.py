"""What parsing a request will take, by a look at its fields before: protobuf parses all of it in one step.

It makes sixteen bytes and more of a field of two. So a message that was compressed to a hundred kilobytes could take
gigabytes, and hold up the event loop for a second.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from guard.errors import MessageTooLarge
from guard.pb.grpc_service_pb2 import InferTensorContents, ModelInferRequest
from guard.wire.contents import MAX_VALUES
from guard.wire.scan import large_fields

MAX_SMALL_BYTES = 1 << 19
"""Bytes of a request that are no raw contents, and no list of numbers or BYTES element of `_LARGE_BYTES` or more."""

_LIGHT_BYTES = 4096
"""So much a call takes anyway: it is not looked at. Few requests have more beside raw contents."""

_LARGE_BYTES = 64
_MAX_FIELDS = 1 << 14
"""So many are looked at. What follows counts as small."""

_OF_A_BYTE, _OF_A_SMALL_BYTE, _OF_AN_INTEGER = 2, 24, 24
"""Bytes in memory, of protobuf's and the array's together, at worst."""

_MAX_VARINT_BYTES = 10
_CONTINUED = 0x80
_INPUTS = ModelInferRequest.INPUTS_FIELD_NUMBER
_CONTENTS = ModelInferRequest.InferInputTensor.CONTENTS_FIELD_NUMBER
_STRINGS = InferTensorContents.BYTES_CONTENTS_FIELD_NUMBER
_FIXED = {InferTensorContents.FP32_CONTENTS_FIELD_NUMBER: 4, InferTensorContents.FP64_CONTENTS_FIELD_NUMBER: 8}


def weight(header: bytes) -> int:
    """Bytes that a serialised ModelInferRequest, without its raw contents, takes beside itself once it is read.

    Raises:
        MessageTooLarge: it has too many values, or too much that is small.
        MalformedRequest: its fields don't fit into each other.
    """
    if len(header) <= _LIGHT_BYTES:
        return 0
    small, values, integers = len(header), 0, 0
    for number, contents in _large_contents(header):
        small -= len(contents)
        if number == _STRINGS:
            values += 1
        elif number in _FIXED:
            values += len(contents) // _FIXED[number]
        else:
            integers += (count := _integers(contents))
            values += count
        if values > MAX_VALUES:
            raise MessageTooLarge(
                f"the request holds more than the {MAX_VALUES} typed values allowed: send raw_input_contents"
            )
    if small > MAX_SMALL_BYTES:
        raise MessageTooLarge(
            f"the request has {small} bytes of short strings, names and parameters, more than the {MAX_SMALL_BYTES} "
            "allowed: send raw_input_contents, or smaller batches"
        )
    return _OF_A_BYTE * len(header) + _OF_A_SMALL_BYTE * small + _OF_AN_INTEGER * integers


def _large_contents(header: bytes) -> Iterator[tuple[int, memoryview]]:
    """The large ones of the inputs' typed contents: the number of the field, and its bytes."""
    left = iter(range(_MAX_FIELDS))
    for number, tensor in large_fields(memoryview(header), _LARGE_BYTES, left):
        for inner, contents in large_fields(tensor, _LARGE_BYTES, left) if number == _INPUTS else ():
            for kind, each in large_fields(contents, _LARGE_BYTES, left) if inner == _CONTENTS else ():
                if kind <= _STRINGS:
                    yield kind, each


def _integers(packed: memoryview) -> int:
    """How many varints a packed list has, at least one for each ten bytes."""
    least = len(packed) // _MAX_VARINT_BYTES
    if least > MAX_VALUES:
        return least
    return max(least, int(np.count_nonzero(np.frombuffer(packed, np.uint8) < _CONTINUED)))
