"""Requests that are judged and not forwarded. A client asks for it with a header, where the policy allows it.

The answer has no outputs, but the verdict and what the policy would do, as parameters. Whatever else the header says
is refused, and so is a stream with it: who asked for no inference gets none. It never reaches the guarded server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from guard.config import ScreenOnly
from guard.errors import MalformedRequest, MethodDenied, Unsupported
from guard.pb.grpc_service_pb2 import ModelInferResponse
from guard.values import Course, Decision, InferRequest
from guard.wire.message import with_verdict

HEADER: Final = "guard-screen-only"
"""gRPC metadata, or a header of HTTP."""

_YES = "true"


# gRPC's stubs type a metadata pair differently in each place, hence Any.
def said(metadata: Iterable[Any]) -> str | None:
    """What a request says in the header; None where it has none."""
    values = [str(value) for key, value in metadata if key.lower() == HEADER]
    return ", ".join(values) if values else None


def check(value: str, policy: ScreenOnly, course: Course) -> None:
    """Check that a request may ask for a verdict alone.

    Raises:
        MalformedRequest: the header says something that Guard doesn't know.
        MethodDenied: the policy does not allow it, or tells clients nothing of this model.
    """
    if value != _YES:
        raise MalformedRequest(f"the header {HEADER} must be {_YES!r}, not {value!r}; leave it out to have inference")
    if policy is ScreenOnly.DENY:
        raise MethodDenied(
            f"guard does not answer requests with the header {HEADER} here: set `screen_only: allow` in its policy"
        )
    if course is Course.BEHIND:
        raise MethodDenied(
            f"the model is in shadow mode, in which guard tells clients no verdict, so the header {HEADER} can't be "
            "answered: leave it out, or set the model's `mode: flag`"
        )


def refuse_stream(value: str | None) -> None:
    """Refuse a stream with the header.

    Raises:
        Unsupported: it has it.
    """
    if value is not None:
        raise Unsupported(f"guard answers the header {HEADER} for ModelInfer only, not for streams; leave it out")


def answer(request: InferRequest, decision: Decision) -> bytes:
    """The serialised ModelInferResponse that tells what was decided, without outputs."""
    response = ModelInferResponse(
        model_name=request.model_name, model_version=request.model_version, id=request.request_id
    )
    response.parameters["guard_screen_only"].bool_param = True
    response.parameters["guard_action"].string_param = decision.action
    return with_verdict(response.SerializeToString(deterministic=True), decision)
