"""A v2 server as its users see it: through the stock tritonclient, and through the bare protocol where that can't."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

READY_S = 60.0


@dataclass(frozen=True)
class Refused:
    """An error as tritonclient shows it. The message of an expectation is a part of the message that arrives."""

    code: str
    message: str


class Peer:
    """Clients of one address."""

    def __init__(self, address: str) -> None:
        self.client = triton.InferenceServerClient(address)
        self.channel = grpc.insecure_channel(address)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.channel.close()

    def infer(self, *inputs: triton.InferInput, **options: Any) -> service_pb2.ModelInferResponse:
        """Ask the digits model with the stock client."""
        return self.client.infer("digits", list(inputs), **options).get_response()

    def verdict(self, images: np.ndarray) -> str:
        """Guard's verdict on a batch, be it forwarded or rejected."""
        try:
            return self.infer(tensor(images)).parameters["guard_verdict"].string_param
        except triton.InferenceServerException as error:
            if error.status() != "StatusCode.PERMISSION_DENIED":
                raise
            return error.message().partition("guard_verdict=")[2].partition(" ")[0]


def tensor(values: np.ndarray, *, name: str = "input", datatype: str = "FP32") -> triton.InferInput:
    """An input of the stock client."""
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def answer(response: service_pb2.ModelInferResponse) -> dict[str, Any]:
    """All that a response says, without what Guard adds to it."""
    return {
        "model": (response.model_name, response.model_version),
        "id": response.id,
        "parameters": {k: v for k, v in response.parameters.items() if not k.startswith("guard_")},
        "outputs": [(o.name, o.datatype, tuple(o.shape)) for o in response.outputs],
        "contents": list(response.raw_output_contents),
    }


def outcome(ask: Any, peer: Peer, *arguments: Any) -> Any:
    """What `ask` returns, or how it was refused."""
    try:
        return ask(peer, *arguments)
    except triton.InferenceServerException as error:
        return Refused(error.status().removeprefix("StatusCode."), error.message())
    except grpc.RpcError as error:
        return Refused(error.code().name, error.details())


def wait_until_serving(address: str) -> None:
    """Wait until grpc.health.v1 at `address` reports SERVING.

    Raises:
        grpc.RpcError: it did not in time.
    """
    with grpc.insecure_channel(address) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=READY_S)
        next(update for update in watched if update.status == health_pb2.HealthCheckResponse.SERVING)
        watched.cancel()
