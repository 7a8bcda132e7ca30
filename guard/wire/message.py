"""ModelInferRequest bytes to values and back: the upstream gets exactly what was screened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError

from guard.errors import MalformedRequest, MethodDenied
from guard.pb.grpc_service_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from guard.values import ARRAYS, Decision, InferRequest
from guard.wire.contents import read_inputs
from guard.wire.scan import length_delimited, split_field
from guard.wire.status import APPROXIMATE, marks_of
from guard.wire.weight import weight

RESERVED_PREFIX = "guard_"
"""Parameters by this name are Guard's own: a client's are stripped, so that it can't forge a verdict."""

MAX_PARAMETERS = 1024
"""Parameters of a request or of one tensor: they are walked one by one, on the event loop."""

_RAW_INPUT_CONTENTS = ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_SEQUENCE_PREFIX = "sequence_"
"""Triton's `sequence_id`, `sequence_start` and `sequence_end`."""
_SHARED_MEMORY_PREFIX = "shared_memory_"
_CONTENT_TYPE = "content_type"
"""MLServer and KServe decode tensors as this parameter says, of a tensor or of the whole request."""
_DECODED = "_decoded_payload"
"""MLServer takes a parameter by this name in place of the tensor that it goes with."""


class Split(NamedTuple):
    """A message and its two halves, nothing parsed: the raw contents, as views, and all else.

    `size` is what it takes in memory, in bytes, once it is parsed.
    """

    message: bytes
    header: bytes
    raw: tuple[memoryview, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Parts:
    """A message taken apart: `header` without raw contents and unknown fields, `raw` the raw contents, as views.

    Nothing in it is checked, but a refusal can say which model it was for. `size` is what it takes in memory, in bytes,
    and `message` the message itself, empty where the parts are of another.
    """

    header: ModelInferRequest
    raw: tuple[memoryview, ...]
    size: int
    message: bytes = b""


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request as screening reads it, and what is needed to send it on.

    `header` is the message without its raw contents, without unknown fields and without reserved parameters;
    `raw` are the raw contents, viewed in the message that was parsed. `message` is the one that came.
    """

    infer: InferRequest
    header: ModelInferRequest
    raw: tuple[memoryview, ...]
    message: bytes = b""

    def canonical(self) -> bytes:
        """The one serialisation of what was parsed: every parser reads it alike.

        Fields are merged and in order, unknown ones gone; typed contents stay typed and raw ones raw, because
        servers answer in the form they were asked in. A message that came in this form is not copied.
        """
        parts: list[bytes | memoryview] = [self.header.SerializeToString(deterministic=True)]
        for contents in self.raw:
            parts += (length_delimited(_RAW_INPUT_CONTENTS, len(contents)), contents)
        return self.message if _consists_of(self.message, parts) else b"".join(parts)


def split(message: bytes) -> Split:
    """Tell the raw contents of a serialised ModelInferRequest from what is to be parsed. Nothing is copied of them.

    Raises:
        MalformedRequest: the bytes aren't a request.
        MessageTooLarge: to parse them would take too much (see `weight`).
    """
    header, raw = split_field(message, _RAW_INPUT_CONTENTS)
    return Split(message, header, raw, len(message) + weight(header))


def take_apart(message: bytes | Split) -> Parts:
    """Read a serialised ModelInferRequest. Raw tensors are views on `message`, never copies.

    Raises:
        MalformedRequest, MessageTooLarge: as `split`.
    """
    message, others, raw, size = message if isinstance(message, Split) else split(message)
    try:
        header = ModelInferRequest.FromString(others)
    except DecodeError as error:
        raise MalformedRequest("the message is not a ModelInferRequest: protobuf can't parse it") from error
    header.DiscardUnknownFields()  # type: ignore[attr-defined]  # types-protobuf leaves it out
    return Parts(header, raw, size, message)


def of_pieces(header: ModelInferRequest, contents: Sequence[Sequence[memoryview]], size: int) -> Parts:
    """The parts of a request that came in another form, with the raw contents of each tensor in one piece or several.

    Those in several are copied into what will be sent on, so that this is done once.
    """
    if all(len(pieces) == 1 for pieces in contents):
        return Parts(header, tuple(pieces[0] for pieces in contents), size)
    parts: list[bytes | memoryview] = [header.SerializeToString(deterministic=True)]
    ends, at = [], len(parts[0])
    for pieces in contents:
        length = sum(map(len, pieces))
        parts += (before := length_delimited(_RAW_INPUT_CONTENTS, length), *pieces)
        at += len(before) + length
        ends.append((at - length, at))
    view = memoryview(message := b"".join(parts))
    return Parts(header, tuple(view[begin:end] for begin, end in ends), size, message)


def parse(parts: Parts) -> ParsedRequest:
    """Check that the parts agree, and strip reserved parameters from the header, in place.

    Raises:
        MalformedRequest: they disagree (see `contents.read_inputs`), a name is one that servers cut short, or a
            parameter one that takes the place of a tensor.
        MethodDenied: a tensor lives in shared memory, which can change after it was screened.
    """
    header = parts.header
    _refuse_nul(header.model_name, header.model_version, header.id)
    _clean(header.parameters)
    for tensor in header.inputs:
        _check_tensor(tensor.name, tensor.parameters)
    for output in header.outputs:
        _check_tensor(output.name, output.parameters)
    infer = InferRequest(
        model_name=header.model_name,
        model_version=header.model_version,
        request_id=header.id,
        inputs=read_inputs(header, parts.raw),
        content_type=_content_type(header.parameters, *(tensor.parameters for tensor in header.inputs)),
    )
    return ParsedRequest(infer, header, parts.raw, parts.message)


def in_sequence(header: ModelInferRequest) -> bool:
    """Whether a request says that it is one of a sequence, of which the server may keep a state."""
    return any(name.startswith(_SEQUENCE_PREFIX) for name in header.parameters)


def with_verdict(response: bytes, decision: Decision) -> bytes:
    """A serialised ModelInferResponse with the marks of a decision (see `marks_of`) among its parameters.

    The response isn't parsed: concatenated protobuf messages merge, and the last entry of a map key wins, so an
    entry by these names that was there before does not survive.
    """
    marks = ModelInferResponse()
    put_marks(marks.parameters, marks_of(decision))
    return response + marks.SerializeToString(deterministic=True)


def put_marks(parameters: MutableMapping[str, InferParameter], marks: Iterable[tuple[str, str]]) -> None:
    """Write marks into a response's parameters, in place."""
    for name, value in marks:
        if name == APPROXIMATE:
            parameters[name].bool_param = True
        else:
            parameters[name].string_param = value


def _consists_of(message: bytes, parts: Sequence[bytes | memoryview]) -> bool:
    """Whether a message is these parts in a row. Views are of the message's own raw contents, in their order.

    So they need no comparing: where all that is between them is where it has to be, they are too.
    """
    at = 0
    for part in parts:
        if isinstance(part, bytes) and not message.startswith(part, at):
            return False
        at += len(part)
    return at == len(message)


def _content_type(*places: Mapping[str, InferParameter]) -> str | None:
    """The content type that is asked for, rather one that means something else than arrays, be it empty."""
    asked = [parameters[_CONTENT_TYPE].string_param for parameters in places if _CONTENT_TYPE in parameters]
    return next((each for each in asked if each != ARRAYS), ARRAYS if asked else None)


def _check_tensor(name: str, parameters: MutableMapping[str, InferParameter]) -> None:
    """Check what an input and an output have in common, and strip reserved parameters, in place."""
    _refuse_nul(name)
    if parameters:
        _clean(parameters)
        _refuse_shared_memory(name, parameters)


def _refuse_shared_memory(tensor: str, parameters: Mapping[str, InferParameter]) -> None:
    if any(name.startswith(_SHARED_MEMORY_PREFIX) for name in parameters):
        raise MethodDenied(
            f"tensor {tensor!r} is in shared memory, which Guard can't screen because it can change afterwards; "
            "send the tensor in the request"
        )


def _refuse_nul(*names: str) -> None:
    """Refuse names that hold NUL: Triton's C interface ends them there, and so takes one model for another."""
    for name in names:
        if "\0" in name:
            raise MalformedRequest(f"the request has a name, version or id with a NUL in it ({name!r}); leave that out")


def _clean(parameters: MutableMapping[str, InferParameter]) -> None:
    """Strip reserved parameters, in place."""
    if not parameters:
        return
    if len(parameters) > MAX_PARAMETERS:
        raise MalformedRequest(f"the request has {len(parameters)} parameters in one place, more than {MAX_PARAMETERS}")
    _refuse_nul(*parameters)
    if _DECODED in parameters:
        raise MalformedRequest(
            f"the request has a parameter {_DECODED!r}, which some servers take in place of a tensor; leave it out"
        )
    for name in [name for name in parameters if name.startswith(RESERVED_PREFIX)]:
        del parameters[name]
