"""What the guarded server says of itself, shown on the admin port.

A server beside Guard listens on loopback only, so that nobody gets round Guard. The kubelet and Prometheus call the
pod's address: they ask here.
"""

from __future__ import annotations

import http.client
from http import HTTPStatus

from guard.channel import Link
from guard.config import host_and_port
from guard.errors import GuardError
from guard.model.client import Client
from guard.observe.answer import Answer, Page, text, unavailable
from guard.pb import grpc_service_pb2 as v2

_TIMEOUT_S = 3.0
_MOST_BYTES = 64 * 1024 * 1024


class UpstreamPages:
    """Pages about the guarded server, which is asked anew each time. Called on the admin port's threads; close it."""

    def __init__(self, link: Link, metrics_address: str | None) -> None:
        self._client = Client(link)
        self._metrics_address = metrics_address

    def pages(self) -> dict[str, Page]:
        """The pages by their paths."""
        health: dict[str, Page] = {"/upstream/livez": self._live, "/upstream/readyz": self._ready}
        return health if self._metrics_address is None else {**health, "/upstream/metrics": self._metrics}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _live(self) -> Answer:
        try:
            live = self._client.call("ServerLive", v2.ServerLiveRequest(), v2.ServerLiveResponse, _TIMEOUT_S).live
        except GuardError as exc:
            return unavailable([str(exc)])
        return text(HTTPStatus.OK, "live") if live else unavailable(["the upstream says that it is not live"])

    def _ready(self) -> Answer:
        try:
            ready = self._client.call("ServerReady", v2.ServerReadyRequest(), v2.ServerReadyResponse, _TIMEOUT_S).ready
        except GuardError as exc:
            return unavailable([str(exc)])
        return text(HTTPStatus.OK, "ready") if ready else unavailable(["the upstream says that it is not ready"])

    def _metrics(self) -> Answer:
        address = str(self._metrics_address)
        connection = http.client.HTTPConnection(*host_and_port(address), timeout=_TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            body = response.read(_MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as exc:
            why = str(getattr(exc, "strerror", None) or exc or type(exc).__name__)
            problem = f"no metrics come from {address} ({why}); is upstream.metrics_address where the server has them?"
            return text(HTTPStatus.BAD_GATEWAY, problem)
        finally:
            connection.close()
        if response.status != HTTPStatus.OK or len(body) > _MOST_BYTES:
            return text(HTTPStatus.BAD_GATEWAY, f"{address} answered {response.status} with {len(body)} bytes")
        return "200 OK", [("Content-Type", response.headers.get("Content-Type", "text/plain"))], body
