"""ModelStreamInferResponse: whose answer one is, a verdict put on it, and one of Guard's own.

Source: Triton, src/grpc/stream_infer_handler.cc. Every answer has the id of its request, errors too; an error of a
request that never got as far as a model has nothing else. `triton_final_response` is in each answer of a model.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-not-found]  # no stubs for it

from guard.errors import MalformedRequest
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from guard.values import Decision, InferenceOutcome
from guard.wire.message import put_marks, with_verdict
from guard.wire.scan import length_delimited, split_field
from guard.wire.status import Metadata

_INFER_RESPONSE = ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
_OUTPUTS = ModelInferResponse.OUTPUTS_FIELD_NUMBER
_RAW_OUTPUT_CONTENTS = ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
_FINAL = "triton_final_response"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of itself and its answer repeats: its id, and its model's name and version."""

    id: str = ""
    model: str = ""
    version: str = ""

    @staticmethod
    def of(header: ModelInferRequest) -> Asked:
        """What a request says."""
        return Asked(header.id, header.model_name, header.model_version)


@dataclass(frozen=True, slots=True)
class Head:
    """Whose answer a response is. `model` is empty where it names none; `final`: its request gets no other."""

    id: str
    model: str
    final: bool
    outcome: InferenceOutcome


def read_head(response: bytes) -> Head | None:
    """Read the head of a serialised response, without its tensors. None if it is no ModelStreamInferResponse."""
    try:
        envelope, inner = split_field(response, _INFER_RESPONSE)
        # Other servers have streams too, of bare responses; most of their fields are unknown here.
        outer = ModelStreamInferResponse.FromString(envelope)
        if len(UnknownFieldSet(outer)):
            return None
        rest, _ = split_field(inner[0] if len(inner) == 1 else b"".join(inner), _RAW_OUTPUT_CONTENTS)
        rest, _ = split_field(rest, _OUTPUTS)
        head = ModelInferResponse.FromString(rest)
    except (DecodeError, MalformedRequest):
        return None
    final = head.parameters[_FINAL].bool_param if _FINAL in head.parameters else True
    return Head(head.id, head.model_name, final, InferenceOutcome.of_streamed(outer.error_message, head.model_name))


def marked(response: bytes, decision: Decision) -> bytes:
    """A serialised response with the marks of a decision among its parameters (see `with_verdict`)."""
    marks = with_verdict(b"", decision)
    return response + length_delimited(_INFER_RESPONSE, len(marks)) + marks


def error_response(message: str, marks: Metadata, request: Asked) -> bytes:
    """The error that answers `request` on a stream that stays open, in the form of Triton's own."""
    response = ModelStreamInferResponse(error_message=message)
    inner = response.infer_response
    inner.id, inner.model_name, inner.model_version = request.id, request.model, request.version
    inner.parameters[_FINAL].bool_param = True
    put_marks(inner.parameters, ((key.replace("-", "_"), str(value)) for key, value in marks))
    return response.SerializeToString(deterministic=True)
