"""Calls of a v2 server by threads, in Guard's own errors, and each model asked in the way that it takes."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc

from guard.channel import Channel, Link
from guard.errors import BackendError, BackendTimeout, UpstreamUnavailable
from guard.pb import grpc_service_pb2 as v2
from guard.values import InferenceOutcome

_SERVICE: Final = "/inference.GRPCInferenceService/"
_SEQUENCE_BITS: Final = 63
"""Of an id that no client will hit on, in the int64 that the protocol has for it."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How a model wants to be asked: on a stream if it is decoupled, with a sequence's marks if it takes sequences."""

    streamed: bool = False
    in_sequences: bool = False


_PLAIN = _Way()
_Ended: TypeAlias = tuple[InferenceOutcome, v2.ModelInferResponse | BackendError]


class Client:
    """A synchronous v2 client that raises Guard's errors. Threads may share it."""

    def __init__(self, server: Link) -> None:
        self._address = server.address
        self._channel = Channel(server)
        self._ways: dict[str, _Way] = {}
        self.asked: Callable[[InferenceOutcome], None] = lambda _: None
        """Called for each inference that was asked for, once it is over."""

    def infer(self, request: v2.ModelInferRequest, timeout_s: float) -> v2.ModelInferResponse:
        """The answer to an inference; the first one of a decoupled model, and that to a sequence of one.

        How Triton's models want to be asked is in their configurations, which are looked at when one refuses.

        Raises:
            BackendTimeout, UpstreamUnavailable, BackendError: as `call`.
        """
        way = self._ways.get(request.model_name, _PLAIN)
        try:
            return self._ask(request, way, timeout_s)
        except BackendTimeout:
            raise
        except BackendError:
            known = self._configured(request, timeout_s)
            if known == way:
                raise
            self._ways[request.model_name] = known
            return self._ask(request, known, timeout_s)

    def one_by_one(self, model: str) -> bool:
        """Whether a model is known to take no batches, since it takes sequences."""
        return self._ways.get(model, _PLAIN).in_sequences

    def call(self, method: str, request: Any, answer: Any, timeout_s: float) -> Any:
        """The answer to a call of a method.

        Raises:
            BackendTimeout: none within the time-out.
            UpstreamUnavailable: no connection.
            BackendError: the server answered with an error.
        """
        try:
            return self._send(method, request, answer, timeout_s)
        except grpc.RpcError as exc:
            raise self._error(method, exc, timeout_s) from exc

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _ask(self, request: v2.ModelInferRequest, way: _Way, timeout_s: float) -> v2.ModelInferResponse:
        if way.in_sequences:
            request = _sequence_of_one(request)
        method, ask = ("ModelStreamInfer", self._on_a_stream) if way.streamed else ("ModelInfer", self._plainly)
        try:
            outcome, answer = ask(method, request, timeout_s)
        except grpc.RpcError as exc:
            self.asked(InferenceOutcome.of(exc.code().name))
            raise self._error(method, exc, timeout_s) from exc
        self.asked(outcome)
        if isinstance(answer, BackendError):
            raise answer
        return answer

    def _send(self, method: str, request: Any, answer: Any, timeout_s: float) -> Any:
        return self._channel.call(_SERVICE + method, request.SerializeToString(), answer.FromString, timeout_s)

    def _plainly(self, method: str, request: v2.ModelInferRequest, timeout_s: float) -> _Ended:
        return InferenceOutcome.ANSWERED, self._send(method, request, v2.ModelInferResponse, timeout_s)

    def _on_a_stream(self, method: str, request: v2.ModelInferRequest, timeout_s: float) -> _Ended:
        heard = self._channel.stream(
            _SERVICE + method, request.SerializeToString(), v2.ModelStreamInferResponse.FromString, timeout_s
        )
        for message in heard:
            if message.error_message:
                outcome = InferenceOutcome.of_streamed(message.error_message, message.infer_response.model_name)
                return outcome, BackendError(f"{self._address} answered {method} with: {message.error_message}")
            if message.infer_response.outputs:
                return InferenceOutcome.ANSWERED, message.infer_response
        silent = f"{self._address} answered {method} with nothing: model {request.model_name!r} kept silent"
        return InferenceOutcome.UNKNOWN, BackendError(silent)

    def _configured(self, request: v2.ModelInferRequest, timeout_s: float) -> _Way:
        """As a model's configuration has it; other servers than Triton tell none."""
        asked = v2.ModelConfigRequest(name=request.model_name, version=request.model_version)
        try:
            config = self.call("ModelConfig", asked, v2.ModelConfigResponse, timeout_s).config
        except BackendError:
            return _PLAIN
        return _Way(config.model_transaction_policy.decoupled, config.HasField("sequence_batching"))

    def _error(self, method: str, error: grpc.RpcError, timeout_s: float) -> BackendError | UpstreamUnavailable:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return BackendTimeout(f"{self._address} did not answer {method} within {timeout_s:g} s")
        if code is grpc.StatusCode.UNAVAILABLE:
            return UpstreamUnavailable(
                f"no inference server answers at {self._address} ({details}): is it running, and is this its gRPC port?"
            )
        return BackendError(f"{self._address} answered {method} with {code.name}: {details}")


def _sequence_of_one(request: v2.ModelInferRequest) -> v2.ModelInferRequest:
    marked = v2.ModelInferRequest()
    marked.CopyFrom(request)
    marked.parameters["sequence_id"].int64_param = 1 + secrets.randbits(_SEQUENCE_BITS - 1)
    marked.parameters["sequence_start"].bool_param = marked.parameters["sequence_end"].bool_param = True
    return marked
