"""A v2 server as its users see it over HTTP: through the stock tritonclient, and by hand where that can't."""

from __future__ import annotations

import http.client
import json
import socket
import time
from types import TracebackType
from typing import Any, Self

import numpy as np
import tritonclient.http as triton_client
from tritonclient.utils import InferenceServerException

from tests.e2e.peer import READY_S, Refused


class HttpPeer:
    """Clients of one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = triton_client.InferenceServerClient(address, concurrency=4)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def infer(self, *inputs: triton_client.InferInput, model: str = "digits", **options: Any) -> dict[str, Any]:
        """Ask with the stock client."""
        return answer(self.client.infer(model, list(inputs), **options))

    def raw(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Ask without any client that knows the protocol. Headers have underscores where there are hyphens."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()


def answer(result: triton_client.InferResult) -> dict[str, Any]:
    """All that an answer says, without what Guard adds to it."""
    response = result.get_response()
    parameters = {k: v for k, v in response.pop("parameters", {}).items() if not k.startswith("guard_")}
    return response | {
        "parameters": parameters,
        "values": [result.as_numpy(o["name"]).tolist() for o in response["outputs"]],
    }


def tensor(values: np.ndarray, *, name: str = "input", datatype: str = "FP32", binary: bool = True) -> Any:
    """An input of the stock client."""
    made = triton_client.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def outcome(ask: Any, peer: HttpPeer, *arguments: Any) -> Any:
    """What `ask` returns, or how it was refused."""
    try:
        return ask(peer, *arguments)
    except InferenceServerException as error:
        return Refused(error.status() or "", error.message())


def error_of(reply: tuple[int, dict[str, str], bytes]) -> Refused:
    """A raw answer that is an error."""
    status, headers, body = reply
    assert headers["content-type"] == "application/json"
    return Refused(str(status), json.loads(body)["error"])


def plain(reply: tuple[int, dict[str, str], bytes]) -> dict[str, Any]:
    """A raw answer, without what Guard adds to it."""
    status, headers, body = reply
    length = int(headers.get("inference-header-content-length", len(body)))
    document = json.loads(body[:length])
    parameters = {k: v for k, v in (document.pop("parameters", None) or {}).items() if not k.startswith("guard_")}
    kind = headers["content-type"]
    return {"status": status, "type": kind, "json": document, "parameters": parameters, "behind": body[length:].hex()}


def wait_until_listening(address: str) -> None:
    """Wait until a server listens at `address`: Triton opens this port last.

    Raises:
        ConnectionError: it does not in time.
    """
    host, _, port = address.rpartition(":")
    ends_s = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection((host, int(port)), READY_S).close()
        except ConnectionError:
            if time.monotonic() > ends_s:
                raise
            time.sleep(0.05)
        else:
            return
