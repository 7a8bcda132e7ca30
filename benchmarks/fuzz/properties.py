"""What holds of every input of Guard's parsers. The first byte of a case says which of them it is for."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable

import numpy as np
from google.protobuf.message import DecodeError

from guard.decode.images import Colour, decode_image, size_of
from guard.errors import RequestError
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelMetadataResponse
from guard.values import Action, Decision, Mode, Verdict
from guard.wire.message import RESERVED_PREFIX, ParsedRequest, parse, take_apart
from guard.wire.receive import unpacked
from guard.wire.rest.control import question
from guard.wire.rest.document import MAX_BYTES
from guard.wire.rest.request import read, read_bare
from guard.wire.rest.routes import Kind, Route, find
from guard.wire.stream_messages import marked, read_head

MAX_TIMES_INPUT = 100
"""Bytes of memory that one byte of input may take."""

SLACK_BYTES = 4 << 20
"""... and what the allocators round up to."""

MAX_CPU_S = 1.0
_INFLATED_BYTES = 1 << 16
_PIXELS = 1 << 14
_KIBIBYTE = 1024
_DECISION = Decision("id", "digits", Mode.FLAG, Verdict.CLEAN, None, Action.FORWARD, Action.FORWARD, ())
_TYPES = ("FP32", "BYTES", "UINT8", "BF16", "NONE", "")
_LOOP = asyncio.new_event_loop()


class Broken(AssertionError):
    """A property does not hold."""


def check(case: bytes) -> str:
    """Give a case to its parser. Returns the parser's name with what came of it.

    Raises:
        Broken: a property does not hold.
    """
    parser = PARSERS[case[0] % len(PARSERS)] if case else PARSERS[0]
    before_bytes, started_s = peak_bytes(), time.process_time()
    try:
        parser(case[1:])
        outcome = "taken"
    except RequestError:
        outcome = "refused"
    took_s, grew_bytes = time.process_time() - started_s, peak_bytes() - before_bytes
    if took_s > MAX_CPU_S:
        raise Broken(f"{parser.__name__} took {took_s:.2f} s for {len(case)} bytes")
    if grew_bytes > MAX_TIMES_INPUT * len(case) + SLACK_BYTES:
        raise Broken(f"{parser.__name__} took {grew_bytes} bytes of memory for {len(case)} bytes")
    return f"{parser.__name__} {outcome}"


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE


def message(body: bytes) -> None:
    """A ModelInferRequest: what leaves is what protobuf reads of what came, less what Guard takes out."""
    parsed = parse(take_apart(body))
    try:
        came = ModelInferRequest.FromString(body)
    except DecodeError as error:
        raise Broken("guard takes a message that protobuf does not") from error
    came.DiscardUnknownFields()  # type: ignore[attr-defined]  # types-protobuf leaves it out
    for parameters in (holder.parameters for some in ([came], came.inputs, came.outputs) for holder in some):
        for name in [name for name in parameters if name.startswith(RESERVED_PREFIX)]:
            del parameters[name]
    canonical = _canonical(parsed)
    if came.SerializeToString(deterministic=True) != canonical:
        raise Broken("the canonical message says something else than the one that came")


def stream(body: bytes) -> None:
    """A message of a stream, which may be compressed."""
    inflated = _LOOP.run_until_complete(unpacked("the request", body, _INFLATED_BYTES))
    if len(inflated) > _INFLATED_BYTES:
        raise Broken("a message was inflated past the limit")
    if inflated is not body:
        message(inflated)


def answer(body: bytes) -> None:
    """A message of the upstream's stream: with Guard's marks it has the same head."""
    head = read_head(body)
    if head is not None and read_head(marked(body, _DECISION)) != head:
        raise Broken("with guard's marks an answer has another head")


def rest(body: bytes) -> None:
    """A body of REST. The first two bytes say how many of it are behind the JSON."""
    behind, body = int.from_bytes(body[:2], "little"), body[2:]
    parts, _ = read((body,), max(0, len(body) - behind), "digits", "")
    _canonical(parse(parts))


def bare(body: bytes) -> None:
    """A body of REST that is one tensor. The first four bytes make up the model's metadata."""
    datatype, rank, dim, size = (*body[:4], 0, 0, 0, 0)[:4]
    metadata = ModelMetadataResponse(name="digits")
    metadata.inputs.add(
        name="x", datatype=_TYPES[datatype % len(_TYPES)], shape=([-1] * (rank % 4)) + ([dim - 1, size] * (rank // 128))
    )
    parts, _ = read_bare((body[4:],), "digits", "", metadata)
    _canonical(parse(parts))


def path(body: bytes) -> None:
    """The path of a request of HTTP."""
    find(body)


def index(body: bytes) -> None:
    """The body of a request for the index of the repository."""
    if len(body) <= MAX_BYTES:
        question(Route(Kind.INDEX), (body,))


def image(body: bytes) -> None:
    """An encoded image. The first byte says how it is wanted: in grey, or turned as its EXIF data says."""
    how, data = (body or b"\0")[0], body[1:]
    colour: Colour = "L" if how & 1 else "RGB"
    decoded = decode_image(data, colour=colour, orient=bool(how & 2), max_pixels=_PIXELS)
    size = size_of(data, max_pixels=_PIXELS)
    if decoded.mode != colour or decoded.size not in {size, size[::-1]}:
        raise Broken("an image is decoded to another size than its header says, or in other colours than are wanted")


PARSERS: tuple[Callable[[bytes], None], ...] = (message, rest, stream, answer, bare, path, index, image)
"""A case's first byte chooses."""


def _canonical(parsed: ParsedRequest) -> bytes:
    """The canonical message: to protobuf it is what was screened, and to Guard itself, and it is a fixed point."""
    canonical = parsed.canonical()
    read_again = ModelInferRequest.FromString(canonical)
    raw = [bytes(contents) for contents in parsed.raw]
    if list(read_again.raw_input_contents) != raw:
        raise Broken("the canonical message has other raw contents")
    for tensor, screened in zip(read_again.inputs, parsed.infer.inputs, strict=True):
        if (tensor.name, tensor.datatype, tuple(tensor.shape)) != (screened.name, screened.datatype, screened.shape):
            raise Broken("the canonical message has another input than was screened")
    again = parse(take_apart(canonical))
    if again.canonical() != canonical:
        raise Broken("the canonical message is no fixed point")
    for one, other in zip(again.infer.inputs, parsed.infer.inputs, strict=True):
        if one.raw != other.raw or not _same(one.typed, other.typed):
            raise Broken("the canonical message has other values")
    return canonical


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
