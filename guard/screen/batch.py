"""One batch for one replica: copies are made into its buffer, classified, and the answers handed to their streams."""

from __future__ import annotations

import hmac
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import structlog
import torch
from torch import Tensor

from guard.errors import BackendError
from guard.model.backend import Backend
from guard.screen.boundaries import BoolArray
from guard.screen.flight import Evaluator, Flight, Pending
from guard.screen.keystream import Draw, Keystream
from guard.screen.live import LiveItem, Share
from guard.screen.mutations import Wanted, make
from guard.screen.trial import ITSELF, MODEL, Answers, Source, compare
from guard.values import FaultReason, Float32Array, IntArray

BATCHES = 2
"""One is filled while another is classified."""


_NO_FLAGS, _NO_MARGINS = np.empty(0, np.bool_), np.empty(0, np.float32)
_log = structlog.get_logger(__name__)


class Compared(NamedTuple):
    """What the guarded model said, one row a copy: as in `Answers`."""

    logits: Float32Array
    changed: BoolArray
    margins: Float32Array


class Replica(ABC):
    """A backend with the batches that its copies are made in, (room, *dims) each. `key` keys the noise.

    While one is classified, another is filled.
    """

    def __init__(self, name: str, backend: Backend, key: bytes, batches: Sequence[Tensor]) -> None:
        self.name = name
        self.room = len(batches[0])
        self._backend = backend
        self._key = key
        self._keystreams: dict[Source, Keystream] = {}
        self._free = list(batches)

    @property
    def free(self) -> bool:
        """Whether it has a batch that can be filled."""
        return bool(self._free)

    def launch(self, shares: Sequence[Share], evaluator: Evaluator | None = None) -> Flight:
        """Make at most `room` copies and have them classified: by the evaluator, or here and now."""
        began = time.perf_counter()
        batch = self._free.pop()
        shares = sorted(shares, key=_source)
        copies = 0
        for _, group in groupby(shares, key=_source):
            members = list(group)
            count = sum(member.copies for member in members)
            self._try_to_make(members, batch[copies : copies + count])
            copies += count
        for item, stream, count in shares:
            item.sent(stream, count)
        pending = Pending(partial(self._classify, batch[:copies]))
        if evaluator is None:
            pending.run()
        else:
            evaluator.ask(pending)
        return Flight(shares, batch, copies, began, pending)

    def land(self, flight: Flight) -> None:
        """Wait for the answers and hand them out. A failure becomes the fault of each stream that it hit."""
        try:
            answers = list(self._answers(flight))
        except Exception as exc:  # noqa: BLE001 - whatever a replica does must cost findings, not the engine
            ids = list(dict.fromkeys(share.item.decision_id for share in flight.shares))
            _log.warning(
                "a replica failed", backend=self.name, model=self._backend.info.name, error=str(exc), decision_ids=ids
            )
            for item, stream, _ in flight.shares:
                item.fail(stream, FaultReason.BACKEND)
            return
        finally:
            self._free.append(flight.batch)
        for (item, stream, _), answered in zip(flight.shares, answers, strict=True):
            if stream.fault is None:
                item.take(stream, answered)

    @abstractmethod
    def _make(self, source: Source, members: Sequence[Share], rows: Tensor) -> None:
        """Make the next copies of streams from one source, as these rows of a batch."""

    @abstractmethod
    def _compare(self, flight: Flight, logits: Tensor) -> Compared:
        """Compare with the inputs' own labels, which the inputs in the batch get here; fault what isn't finite."""

    def _try_to_make(self, members: Sequence[Share], rows: Tensor) -> None:
        source = members[0].stream.source
        try:
            self._make(source, members, rows)
        except Exception:  # noqa: BLE001 - a mutation's bug must cost its findings, not the engine
            if len(members) > 1:  # one after the other, so that it costs the findings of no other item
                for member, part in zip(members, torch.split(rows, [member.copies for member in members]), strict=True):
                    self._try_to_make([member], part)
                return
            item, stream, _ = members[0]
            _log.exception("a copy could not be made", mutation=source.mutation.kind, decision_id=item.decision_id)
            rows.zero_()  # they stay in the batch, and nobody hears of them
            item.fail(stream, FaultReason.DETECTOR)

    def _wanted(self, source: Source, members: Sequence[Share]) -> list[Wanted]:
        if source.tag is None:
            return [Wanted(item.x, copies, start=stream.sent) for item, stream, copies in members]
        if source not in self._keystreams:
            self._keystreams[source] = Keystream(hmac.digest(self._key, source.tag, "sha256"))
        keystream = self._keystreams[source]
        return [
            Wanted(item.x, copies, Draw(keystream, item.nonce, stream.sent, copies), stream.sent)
            for item, stream, copies in members
        ]

    def _classify(self, copies: Tensor) -> Tensor:
        logits = self._backend.logits(copies)
        expected = (len(copies), self._backend.info.classes)
        if tuple(logits.shape) != expected:
            raise BackendError(f"the replica answered shape {tuple(logits.shape)}, expected {expected}")
        return logits

    def _answers(self, flight: Flight) -> Iterator[Answers]:
        """The answers of each share."""
        logits, shares = flight.pending.result(), flight.shares
        ends = list(accumulate(share.copies for share in shares))
        starts = [0, *ends[:-1]]
        if self.name != MODEL:
            values = on_host(logits, flight.batch)
            fault_non_finite(shares, np.isfinite(values))
            for start, end in zip(starts, ends, strict=True):
                yield Answers(values[start:end], _NO_FLAGS, _NO_MARGINS, 0, 0.0)
            return
        values, changed, margins = self._compare(flight, logits)
        changes = np.add.reduceat(changed, starts, dtype=np.int64).tolist()
        sums = np.add.reduceat(margins, starts, dtype=np.float64).tolist()
        for start, end, count, margin_sum in zip(starts, ends, changes, sums, strict=True):
            yield Answers(values[start:end], changed[start:end], margins[start:end], count, margin_sum)


class HostReplica(Replica):
    """Copies are made in the host's memory, and answers compared there."""

    def __init__(self, name: str, backend: Backend, key: bytes) -> None:
        shape = (backend.preferred_batch, *backend.info.shape)
        super().__init__(name, backend, key, [torch.zeros(shape) for _ in range(BATCHES)])

    def _make(self, source: Source, members: Sequence[Share], rows: Tensor) -> None:
        info = self._backend.info
        make(source.mutation, self._wanted(source, members), rows.numpy(), info.bounds, info.layout)

    def _compare(self, flight: Flight, logits: Tensor) -> Compared:
        shares, values = flight.shares, on_host(logits, flight.batch)
        fault_non_finite(shares, np.isfinite(values))
        for item, row in inputs_in(shares):
            item.label = int(values[row].argmax())
        return Compared(*compare(values, known_labels(shares))[:3])


def on_host(logits: Tensor, batch: Tensor) -> Float32Array:
    """Logits to keep: a model that passes its input on answers with a view of what is made next."""
    values: Float32Array = logits.cpu().numpy()
    shared = batch.device.type == "cpu" and np.may_share_memory(values, batch.numpy())
    return values.copy() if shared else values


def fault_non_finite(shares: Sequence[Share], finite: BoolArray) -> None:
    """Fail the streams with answers that aren't finite; `finite` has one row a copy."""
    if finite.all():
        return
    start = 0
    for item, stream, copies in shares:
        if not finite[start : start + copies].all():
            item.fail(stream, FaultReason.NON_FINITE_OUTPUT)
        start += copies


def inputs_in(shares: Sequence[Share]) -> Iterator[tuple[LiveItem, int]]:
    """The items whose unchanged input is in the batch, and its row."""
    row = 0
    for item, stream, copies in shares:
        if stream.source is ITSELF.source and stream.fault is None:
            yield item, row
        row += copies


def known_labels(shares: Sequence[Share]) -> IntArray:
    """The own label of each copy's input, as far as it is known; 0 where it is not."""
    return np.repeat([share.item.label or 0 for share in shares], [share.copies for share in shares])


def share_out(wanted: Sequence[Share], room: int, shares: list[Share]) -> int:
    """Put as much of what is wanted into a batch as it has room for; the room that is left."""
    for share in wanted:
        if room == 0:
            break
        shares.append(share if share.copies <= room else share._replace(copies=room))
        room -= shares[-1].copies
    return room


def _source(share: Share) -> int:
    return id(share.stream.source)
