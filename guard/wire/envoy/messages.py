"""What Envoy asks and is answered, as values and bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from guard.pb import ext_proc_pb2 as pb
from guard.wire.metadata import is_forgeable
from guard.wire.rest.metadata import client_name
from guard.wire.rest.reply import JSON
from guard.wire.rest.statuses import failure, of_reply
from guard.wire.scan import split_field
from guard.wire.status import Metadata
from guard.wire.upstream import Reply

NAMESPACE = "guard"
"""Where Envoy's dynamic metadata has the marks of a request that goes on."""

_BODY = pb.ProcessingRequest.REQUEST_BODY_FIELD_NUMBER
_CONTENT = pb.HttpBody.BODY_FIELD_NUMBER
_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


@dataclass(frozen=True, slots=True)
class Question:
    """One message of Envoy's. `body` is that of a request, as a view on the message; None in all other questions."""

    asked: pb.ProcessingRequest
    body: memoryview | None = None


def read(message: bytes) -> Question:
    """Read a message of Envoy's without copying the body in it."""
    others, bodies = split_field(message, _BODY)
    asked = pb.ProcessingRequest.FromString(others)
    if not bodies:
        return Question(asked)
    _, contents = split_field(bodies[-1], _CONTENT) if len(bodies[-1]) else (b"", ())
    return Question(asked, contents[-1] if contents else memoryview(b""))


@dataclass(frozen=True, slots=True)
class Head:
    """The headers of a request."""

    pairs: tuple[tuple[str, str], ...]
    ends: bool

    @classmethod
    def of(cls, headers: pb.HttpHeaders) -> Head:
        """The headers as Envoy tells them, pseudo-headers among them."""
        pairs = tuple((each.key, each.raw_value.decode("latin-1")) for each in headers.headers.headers)
        return cls(pairs, headers.end_of_stream)

    def get(self, name: str) -> str:
        """The value of a header, "" where there is none."""
        return next((value for key, value in self.pairs if key == name), "")

    @property
    def speaks_grpc(self) -> bool:
        """Whether it is a gRPC call."""
        return self.get("content-type").startswith("application/grpc")

    def client(self, otherwise: str) -> str:
        """Whose request it is: who called Envoy, which adds that address to what the client says of itself."""
        address = self.get("x-forwarded-for").rpartition(",")[2].strip()
        return client_name(address) if address else otherwise


def header_mutation(head: Head, secret: Metadata) -> pb.HeaderMutation:
    """What is made of a request's headers: what clients may not claim is taken off, and the server's secret added."""
    removed = sorted({key for key, _ in head.pairs if is_forgeable(key)})
    return pb.HeaderMutation(set_headers=_options(secret), remove_headers=removed)


def go_on(mutation: pb.HeaderMutation, *, without_body: bool) -> pb.ProcessingResponse:
    """Let a request's headers pass, and say whether the body will be asked about."""
    response = pb.HeadersResponse(response=pb.CommonResponse(header_mutation=mutation))
    answer = pb.ProcessingResponse(request_headers=response)
    if without_body:
        answer.mode_override.SetInParent()  # all its fields have their defaults, so no body is sent
    return answer


def send_on(body: bytes | None, marks: Metadata) -> pb.ProcessingResponse:
    """Let a request pass: with another body, or as it came (None). `marks` are for its answer."""
    answer = pb.ProcessingResponse(request_body=pb.BodyResponse())
    if body is not None:
        common = answer.request_body.response
        common.body_mutation.body = body
        common.header_mutation.remove_headers.append("content-length")
    if marks:
        answer.dynamic_metadata.update({NAMESPACE: {key: str(value) for key, value in marks}})
    return answer


def answer_on(body: bytes | None) -> pb.ProcessingResponse:
    """Let the server's answer pass: with another body, or as it came (None)."""
    answer = pb.ProcessingResponse(response_body=pb.BodyResponse())
    if body is not None:
        answer.response_body.response.body_mutation.body = body
    return answer


def end(reply: Reply, marks: Metadata, *, as_grpc: bool) -> pb.ProcessingResponse:
    """Answer a request in the server's place, with the status and trailers that it would have over gRPC."""
    ended = pb.ImmediateResponse(status=pb.HttpStatus(code=int(of_reply(reply))), details="guard")
    if as_grpc:
        ended.grpc_status.status = reply.code.value[0]
        ended.body = reply.details.encode()
        ended.headers.set_headers.extend(_options(marks))
    else:
        written = failure(reply, marks)
        ended.body = b"".join(written.body)
        ended.headers.set_headers.extend(_options((key.decode(), value) for key, value in (JSON, *written.headers)))
    return pb.ProcessingResponse(immediate_response=ended)


def untouched(kind: str) -> pb.ProcessingResponse:
    """Let what Envoy asks about pass as it is: each question wants an answer of its own kind."""
    answer = pb.ProcessingResponse()
    getattr(answer, kind).SetInParent()
    return answer


def _options(pairs: Iterable[tuple[str, str | bytes]]) -> list[pb.HeaderValueOption]:
    return [
        pb.HeaderValueOption(
            header=pb.HeaderValue(key=key, raw_value=value if isinstance(value, bytes) else value.encode()),
            append_action=_OVERWRITE,
        )
        for key, value in pairs
    ]
