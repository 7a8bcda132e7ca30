"""A running service to attack: the embedded server alone, or behind a sidecar that rejects, and its clients."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import numpy as np
import tritonclient.grpc as triton

from guard.app import Sidecar
from guard.background import LoopThread
from guard.config import Limits, Listen, ModelPolicy, Queries, Settings, Upstream
from guard.embedded import EmbeddedServer
from guard.errors import BackendError
from guard.values import Float32Array, Mode

NAME: Final = "model"
_READY_S = 120.0
_ANSWER_S = 120.0
_SCREENING_S = 60.0
_REJECTED = "guard_verdict=adversarial"


@dataclass(frozen=True, slots=True)
class Memory:
    """What the sidecar remembers: for how long, and how many."""

    keep_s: float
    capacity: int


@contextmanager
def model_server(loop: LoopThread, model: Path) -> Iterator[str]:
    """The embedded server with one model; the value is its address."""
    server = EmbeddedServer({NAME: model})
    port = loop.run(server.start())
    try:
        yield f"127.0.0.1:{port}"
    finally:
        loop.run(server.stop(1.0))


@contextmanager
def sidecar(
    loop: LoopThread, upstream: str, folder: Path, *, rate: float, memory: Memory | None, secret: Path
) -> Iterator[int]:
    """Guard in enforce mode with the folder's model and profile; the value is its HTTP port.

    Without a memory the detectors are alone. Time doesn't decide what is rejected: there is plenty for screening.
    """
    policy = ModelPolicy(
        profile=folder / "profile",
        model=folder / "model.onnx",
        mode=Mode.ENFORCE,
        false_positive_rate=rate,
        queries=Queries.SKIP if memory is None else Queries.REJECT,
        query_memory_s=86_400.0 if memory is None else memory.keep_s,
        screening_budget_s=_SCREENING_S,
    )
    guard = Sidecar(
        Settings(
            upstream=Upstream(address=upstream),
            listen=Listen(address="127.0.0.1:0", http_address="127.0.0.1:0", admin_address="127.0.0.1:0"),
            limits=Limits() if memory is None else Limits(max_remembered_queries=memory.capacity),
            noise_secret_file=secret,
            models={NAME: policy},
        )
    )
    loop.run(guard.start())
    try:
        _wait_until_ready(guard)
        yield guard.http_port
    finally:
        loop.run(guard.stop(1.0))


def _wait_until_ready(guard: Sidecar) -> None:
    ends_s = time.monotonic() + _READY_S
    while reasons := guard.unready():
        if time.monotonic() > ends_s:
            raise BackendError(f"the sidecar is not ready: {'; '.join(reasons)}")
        time.sleep(0.05)


class DirectClient:
    """Asks the embedded server itself, which knows no clients."""

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address)

    def ask(self, image: Float32Array, source: str) -> Float32Array:  # noqa: ARG002 - the server doesn't look at it
        """The logits of one image (*dims)."""
        tensor = triton.InferInput("input", [1, *image.shape], "FP32")
        tensor.set_data_from_numpy(image[None])
        logits: Float32Array = self._client.infer(NAME, [tensor]).as_numpy("logits")[0]
        return logits

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class HttpClient:
    """Asks Guard over HTTP with binary tensors, from whatever loopback address it is told to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._source = ""
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, image: Float32Array, source: str) -> Float32Array | None:
        """The logits of one image (*dims); None if Guard said that it is adversarial.

        Raises:
            BackendError: there is any other answer, or none.
        """
        try:
            response = self._answer(image[None], source)
            body = response.read()
        except (OSError, http.client.HTTPException) as exc:
            raise BackendError(f"the sidecar does not answer: {exc}") from exc
        if response.status == HTTPStatus.OK:
            return _logits(body, int(response.headers["Inference-Header-Content-Length"]))
        if response.status == HTTPStatus.FORBIDDEN and _REJECTED in body.decode():
            return None
        raise BackendError(f"the sidecar answers {response.status}: {body.decode(errors='replace')}")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _answer(self, batch: Float32Array, source: str) -> http.client.HTTPResponse:
        if self._connection is None or source != self._source:
            self.close()
            self._source = source
            self._connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=_ANSWER_S, source_address=(source, 0)
            )
        text = json.dumps(_head(batch)).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        self._connection.request("POST", f"/v2/models/{NAME}/infer", text + batch.tobytes(), headers)
        return self._connection.getresponse()


def _head(batch: Float32Array) -> dict[str, object]:
    size = {"binary_data_size": batch.nbytes}
    return {
        "inputs": [{"name": "input", "datatype": "FP32", "shape": list(batch.shape), "parameters": size}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }


def _logits(body: bytes, json_bytes: int) -> Float32Array:
    return np.frombuffer(body[json_bytes:], "<f4").copy()
