"""Which request of a stream an answer belongs to, and when Guard's own answers may be said.

A model that is not decoupled answers each request once, and Triton sends these answers in the order of the requests,
whatever their ids. So Guard's own answers to such requests wait for their turn: a client that goes by the order would
take one that came early for the answer to another request. And so each answer finds its request.

A decoupled model answers as often as it likes, when it likes, or never, so only ids tell its answers apart:

- one whose id no other request has that may still be answered is its request's;
- without ids, or with one id for several, it is so only while a single request is open, which ends with the answer
  that has `triton_final_response`. Clients have to ask for it (`triton_enable_empty_final_response`);
- else nobody can tell, and nothing is said of it.

Where answers come as these rules don't expect, the server follows others: the ledger is blind from then on, knows of
no answer whose it is, and holds nothing back.

It also tells what became of each request, once: with its first answer, or as unknown as soon as nobody will tell which
answers are its.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from guard.values import Decision, InferenceOutcome
from guard.wire.stream_messages import Head

MAX_REMEMBERED = 1024
"""Requests to decoupled models that may still be answered. The oldest are forgotten, and their answers unmarked."""

Own = TypeVar("Own")


@dataclass(frozen=True, slots=True)
class _Request:
    """A forwarded request, and the policy's name for its model. There is no decision on one that is only watched."""

    id: str
    model: str
    listed: str
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class _Several:
    """Stands for requests to decoupled models that share an id."""


class Ledger(Generic[Own]):
    """The requests of one stream that may still be answered, and Guard's own answers that wait for their turn.

    `settled` is told of each request the policy's name for its model, and what became of it.
    """

    def __init__(self, settled: Callable[[str, InferenceOutcome], None]) -> None:
        self._settled = settled
        self._queue: deque[_Request | tuple[Own]] = deque()
        self._decoupled: dict[str, _Request | _Several] = {}
        self._unanswered: dict[str, str] = {}
        """Those of `_decoupled` without an answer so far: the policy's name for the model, by the request's id."""
        self._decoupled_models: set[str] = set()
        self._blind = False

    def __len__(self) -> int:
        """How many answers, Guard's own among them, will be said in order."""
        return len(self._queue)

    def owed(self) -> bool:
        """Whether the upstream has not answered all, or may not have.

        Nobody can tell of a request to a decoupled model until its final answer, nor of any where the ledger is blind.
        """
        return self._blind or bool(self._decoupled) or any(isinstance(each, _Request) for each in self._queue)

    def forwarded(
        self, request_id: str, model: str, listed: str, decision: Decision | None, *, decoupled: bool
    ) -> None:
        """A request is about to be sent to the upstream."""
        request = _Request(request_id, model, listed, decision)
        if self._blind:
            self._settled(listed, InferenceOutcome.UNKNOWN)
        elif decoupled:
            self._forwarded_to_decoupled(request)
        else:
            self._queue.append(request)

    def answered(self, head: Head | None) -> Decision | None:
        """The upstream answered: the decision on the request whose answer it is, if that is known and there is one."""
        if self._blind or head is None:
            self._go_blind()
            return None
        first = self._queue[0] if self._queue else None
        in_order = isinstance(first, _Request) and first.id == head.id and head.model in {"", first.model}
        decoupled = head.model in self._decoupled_models or (not head.model and head.id in self._decoupled)
        if in_order == decoupled:
            self._go_blind()
            return None
        if decoupled:
            return self._of_decoupled(head)
        self._queue.popleft()
        if not isinstance(first, _Request):
            return None
        self._settled(first.listed, head.outcome)
        return first.decision

    def say(self, own: Own, *, decoupled: bool) -> list[Own]:
        """Take an answer of Guard's own to a request: what may be said now."""
        if decoupled or self._blind:
            return [own]
        self._queue.append((own,))
        return self.due()

    def due(self) -> list[Own]:
        """Guard's own answers whose turn has come."""
        said = []
        while self._queue and (self._blind or isinstance(self._queue[0], tuple)):
            each = self._queue.popleft()
            if isinstance(each, tuple):
                said.append(each[0])
        return said

    def rest(self) -> list[Own]:
        """Guard's own answers that wait for answers of the upstream, which will not come."""
        self._go_blind()
        return self.due()

    def _forwarded_to_decoupled(self, request: _Request) -> None:
        self._decoupled_models.add(request.model)
        if request.id in self._decoupled:
            self._decoupled[request.id] = _Several()
            self._settle(request.id, InferenceOutcome.UNKNOWN)
            self._settled(request.listed, InferenceOutcome.UNKNOWN)
        else:
            self._decoupled[request.id] = request
            self._unanswered[request.id] = request.listed
        if len(self._decoupled) > MAX_REMEMBERED and isinstance(self._forget_oldest(), _Several):
            self._go_blind()  # one of them that comes later would be taken for the only one

    def _of_decoupled(self, head: Head) -> Decision | None:
        request = self._decoupled.get(head.id)
        if not isinstance(request, _Request) or head.model not in {"", request.model}:
            return None
        self._settle(head.id, head.outcome)
        if head.final:
            del self._decoupled[head.id]
        return request.decision

    def _settle(self, request_id: str, outcome: InferenceOutcome) -> None:
        """Tell what became of a request to a decoupled model, unless that was told."""
        if (listed := self._unanswered.pop(request_id, None)) is not None:
            self._settled(listed, outcome)

    def _forget_oldest(self) -> _Request | _Several:
        oldest = next(iter(self._decoupled))
        self._settle(oldest, InferenceOutcome.UNKNOWN)
        return self._decoupled.pop(oldest)

    def _go_blind(self) -> None:
        if self._blind:
            return
        self._blind = True
        in_order = [each.listed for each in self._queue if isinstance(each, _Request)]
        for listed in (*in_order, *self._unanswered.values()):
            self._settled(listed, InferenceOutcome.UNKNOWN)
        self._decoupled.clear()
        self._unanswered.clear()
