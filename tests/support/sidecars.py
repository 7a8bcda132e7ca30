"""Guard and the embedded server in front of a test, and what a stock client sees of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from guard.app import Sidecar
from guard.config import Listen, ModelPolicy, Settings, Upstream
from guard.embedded import EmbeddedServer
from tests.support.loop import LoopThread

READY_S = 60.0
ANY_PORT = "127.0.0.1:0"


@contextmanager
def embedded(loop: LoopThread, models: Mapping[str, Path], *, address: str = "127.0.0.1:0") -> Iterator[str]:
    """The embedded server; the value is its address."""
    server = EmbeddedServer(models, address=address)
    port = loop.run(server.start())
    try:
        yield f"127.0.0.1:{port}"
    finally:
        loop.run(server.stop(1.0))


def settings(upstream: str, models: Mapping[str, ModelPolicy], /, *, http: bool = False, **others: Any) -> Settings:
    """Settings on free ports of this machine, over HTTP too where that is wanted."""
    listen = Listen(address=ANY_PORT, admin_address=ANY_PORT, http_address=ANY_PORT if http else None)
    return Settings(**({"upstream": Upstream(address=upstream), "listen": listen, "models": dict(models)} | others))


@contextmanager
def running(loop: LoopThread, sidecar: Sidecar) -> Iterator[Sidecar]:
    """Guard, started and stopped."""
    loop.run(sidecar.start())
    try:
        yield sidecar
    finally:
        loop.run(sidecar.stop(1.0))


@contextmanager
def serving(chosen: Settings) -> Iterator[Sidecar]:
    """Guard on a loop of its own, once it is ready."""
    with LoopThread() as loop, running(loop, Sidecar(chosen)) as sidecar:
        wait_until(sidecar)
        yield sidecar


def wait_until(sidecar: Sidecar, *, ready: bool = True, says: str = "") -> list[str]:
    """Wait until Guard is ready, or until it is not and one of its reasons says so: the reasons.

    Raises:
        AssertionError: it did not in time.
    """
    for _ in range(round(READY_S / 0.05)):
        reasons = sidecar.unready()
        if (ready and not reasons) or (not ready and any(says in reason for reason in reasons)):
            return reasons
        threading.Event().wait(0.05)
    raise AssertionError(reasons)


@dataclass(frozen=True)
class Seen:
    """An answer as tritonclient shows it: `status` is OK or an error's; `verdict` is None where Guard told none."""

    status: str
    verdict: str | None
    message: str = ""
    logits: np.ndarray | None = None


class Client:
    """A stock tritonclient of a server that has classifiers of digits."""

    def __init__(self, port: int) -> None:
        self._client = triton.InferenceServerClient(f"127.0.0.1:{port}")

    def ask(self, model: str, images: np.ndarray, *, version: str = "") -> Seen:
        """Send a batch of images, (n, 1, 8, 8)."""
        tensor = triton.InferInput("input", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images)
        try:
            result = self._client.infer(model, [tensor], model_version=version)
        except triton.InferenceServerException as error:
            _, mark, rest = error.message().partition("guard_verdict=")
            return Seen(error.status().removeprefix("StatusCode."), rest.split()[0] if mark else None, error.message())
        parameters = result.get_response().parameters
        verdict = parameters["guard_verdict"].string_param if "guard_verdict" in parameters else None
        return Seen("OK", verdict, logits=result.as_numpy("logits"))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@contextmanager
def client_of(port: int) -> Iterator[Client]:
    """A client, closed at the end."""
    client = Client(port)
    try:
        yield client
    finally:
        client.close()
