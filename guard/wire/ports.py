"""What the wire needs from the rest of Guard."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from guard.values import Decision, InferRequest

PROTOCOL = "grpc"
"""The value of the `protocol` label for requests that arrive here."""


class Screener(Protocol):
    """Judges requests."""

    async def screen(
        self, request: InferRequest, *, decision_id: str, deadline_s: float | None, client: str = ""
    ) -> Decision:
        """Decide about a request within `deadline_s` seconds from now (None: the client set no deadline).

        `client` is whose turn in the queue it takes.

        Raises:
            RequestError: the request can't be understood or isn't allowed. All else is in the decision.
        """
        ...

    def unverified(self, request: InferRequest) -> str:
        """Why the model of a request is not verified, for the client; "" if it is."""
        ...


class WireMetrics(Protocol):
    """What the wire reports about its traffic."""

    def request_finished(
        self, *, decision: Decision | None, model: str, protocol: str, duration_s: float, overhead_s: float
    ) -> None:
        """An inference request was answered or given up; `model` is empty where none could be read.

        `overhead_s` is the duration less the time spent waiting for the upstream.
        """
        ...

    def request_refused(self, error_code: str) -> None:
        """A call ended in an error of Guard's own: the `code` of its class, or `internal`."""
        ...

    def upstream_finished(self, *, model: str, code: str, duration_s: float) -> None:
        """The upstream answered with a gRPC status code; `model` is empty for calls that carry no inference."""
        ...

    def inflight(self) -> AbstractContextManager[object]:
        """Count an inference request for as long as the context lasts."""
        ...
