"""The guarded server asked with encoded images: by its own preprocessing model, or by the guarded model itself."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

import numpy as np

from guard.channel import Link
from guard.datatypes import BYTES
from guard.errors import BackendError, BackendTimeout
from guard.model.client import Client
from guard.model.upstream import read_output
from guard.pb import grpc_service_pb2 as v2
from guard.values import Float32Array, InferenceOutcome

LONGEST_S = 60.0
_LENGTH = struct.Struct("<I")


class EncodedClient:
    """A v2 server whose models take encoded images, one an element of a BYTES tensor. Close it."""

    def __init__(self, server: Link) -> None:
        self._client = Client(server)
        self.version = ""
        """The version that answered last."""
        self._ranks: dict[tuple[str, str], tuple[int, bool]] = {}

    def count(self, asked: Callable[[InferenceOutcome], None]) -> None:
        """Call `asked` for each inference that the server is asked for, once it is over, on the thread that asks."""
        self._client.asked = asked

    def ask(
        self,
        images: Sequence[bytes],
        *,
        model: str,
        input_name: str,
        output_name: str,
        timeout_s: float = LONGEST_S,
        version: str = "",
    ) -> Float32Array:
        """A model's output for images, one row each: all at once where the model takes batches.

        Raises:
            BackendTimeout: no answer within the time-out.
            UpstreamUnavailable: no connection.
            BackendError: any other failure.
        """
        ends_s = time.monotonic() + min(timeout_s, LONGEST_S)
        rank, batched = self._rank(model, input_name, _left(ends_s))
        parts = [images] if batched else [[image] for image in images]
        rows = []
        for part in parts:
            request = v2.ModelInferRequest(model_name=model, model_version=version)
            request.inputs.add(name=input_name, datatype=BYTES, shape=[len(part), *[1] * (rank - 1)])
            request.outputs.add(name=output_name)
            request.raw_input_contents.append(b"".join(_LENGTH.pack(len(each)) + each for each in part))
            response = self._client.infer(request, _left(ends_s))
            self.version = str(response.model_version)
            try:
                rows.append(_rows(response, output_name, len(part)))
            except (KeyError, ValueError) as exc:  # a data type without numbers, or values that make no whole rows
                raise BackendError(
                    f"model {model!r} does not answer {output_name!r} with numbers, as many for each image"
                ) from exc
        return np.concatenate(rows)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _rank(self, model: str, input_name: str, timeout_s: float) -> tuple[int, bool]:
        """How many dimensions the input has, and whether the first is free; asked once."""
        if (model, input_name) not in self._ranks:
            metadata = self._client.call(
                "ModelMetadata", v2.ModelMetadataRequest(name=model), v2.ModelMetadataResponse, timeout_s
            )
            shapes = {each.name: list(each.shape) for each in metadata.inputs if each.datatype == BYTES}
            if not shapes.get(input_name):
                raise BackendError(f"model {model!r} has no {BYTES} input {input_name!r}; those it has: {list(shapes)}")
            self._ranks[model, input_name] = len(shapes[input_name]), shapes[input_name][0] == -1
        return self._ranks[model, input_name]


def _left(ends_s: float) -> float:
    left_s = ends_s - time.monotonic()
    if left_s <= 0:
        raise BackendTimeout("no time is left to ask the guarded server")
    return left_s


def _rows(response: v2.ModelInferResponse, name: str, count: int) -> Float32Array:
    shape = next((list(each.shape) for each in response.outputs if each.name == name), [])
    values = read_output(response, name)
    return values.reshape(count, *(shape[1:] if shape[:1] == [count] else [-1]))
