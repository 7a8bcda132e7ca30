"""What the wire needs from the rest of Guard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from guard.audit.sighting import Sighting
from guard.tracing import Span, Trace
from guard.values import Course, Decision, InferenceOutcome, InferRequest, Provenance

PROTOCOL = "grpc"
"""The value of the `protocol` label for requests that arrive here."""


class Screener(Protocol):
    """Judges requests."""

    def now(self) -> Screener:
        """The screener as it is now: a request keeps to the policy that it began with."""
        ...

    def listed_as(self, model: str, version: str) -> str:
        """The name that the policy has for a version of a model; where it has none, the model's."""
        ...

    def version(self, model: str, version: str) -> str:
        """The version that the upstream is to be asked for, where a request asks for this one ("" for none)."""
        ...

    def course(self, model: str, version: str = "") -> Course:
        """When a request for a version of a model may reach the upstream, by its policy.

        Raises:
            RequestError: it may not at all, or names no model.
        """
        ...

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

    def provenance(self, request: InferRequest) -> Provenance:
        """By what a request is judged."""
        ...


class Auditor(Protocol):
    """Keeps evidence. It never waits, and never fails."""

    def one_of(self, decision: Decision) -> int:
        """Of how many requests like this one is recorded, this one being it; 0 where it is not to be."""
        ...

    def record(self, sighting: Sighting) -> None:
        """Record a request."""
        ...


class Tracer(Protocol):
    """Traces requests. It never waits, and never fails."""

    def begin(self, metadata: Iterable[Any], within: Trace | None = None) -> Trace:
        """A new trace, linked to the one that a client's metadata tell of; or a span `within` a trace."""
        ...

    def finished(self, span: Span) -> None:
        """Have a span sent to who collects them."""
        ...


class WireMetrics(Protocol):
    """What the wire reports about its traffic."""

    def request_finished(
        self,
        *,
        decision: Decision | None,
        model: str,
        protocol: str,
        duration_s: float,
        overhead_s: float,
        screen_only: bool = False,
    ) -> None:
        """An inference request was answered or given up; `model` is empty where none could be read.

        `overhead_s` is the duration less the time spent waiting for the upstream; `screen_only`: it was not to be
        forwarded.
        """
        ...

    def request_refused(self, error_code: str) -> None:
        """A call ended in an error of Guard's own: the `code` of its class, or `internal`."""
        ...

    def upstream_finished(self, *, model: str, code: str, duration_s: float | None) -> None:
        """The upstream answered with a gRPC status code; `model` is empty for calls that carry no inference.

        A stream has no model and no duration (None).
        """
        ...

    def upstream_streamed(self, model: str, outcome: InferenceOutcome) -> None:
        """It is known what became of a message of a stream that went to the upstream, or it never will be."""
        ...

    def upstream_carried(self, model: str) -> None:
        """Somebody else carries an inference to the upstream, and hears what becomes of it."""
        ...

    def upstream_unresponsive(self, now: bool) -> None:  # noqa: FBT001 - it is what is told
        """The upstream answers nothing any more, or answers again."""
        ...

    def watch_credentials(
        self, section: str, stale: Callable[[], bool], ends_s: Mapping[str, Callable[[], float]]
    ) -> None:
        """Export how it stands with the files of a section, asked of these from another thread.

        `stale`: whether they can't be used, so that what was read before is. `ends_s`: by setting, when certificates
        end, in Unix time.
        """
        ...

    def inflight(self) -> AbstractContextManager[object]:
        """Count an inference request for as long as the context lasts."""
        ...
