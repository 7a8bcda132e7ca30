"""One batch for one replica: copies are made into its buffer, classified, and the answers handed to their streams."""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import structlog
import torch
from torch import Tensor

from guard.errors import BackendError
from guard.model.backend import Backend
from guard.screen.boundaries import BoolArray
from guard.screen.keystream import Draw, Keystream
from guard.screen.live import LiveItem, Share
from guard.screen.mutations import Wanted, make
from guard.screen.trial import ITSELF, MODEL, Answers, Source, compare
from guard.values import FaultReason, Float32Array, IntArray

_NO_FLAGS, _NO_MARGINS = np.empty(0, np.bool_), np.empty(0, np.float32)
_log = structlog.get_logger(__name__)


class Compared(NamedTuple):
    """What the guarded model said, one row a copy: as in `Answers`."""

    logits: Float32Array
    changed: BoolArray
    margins: Float32Array


class Replica(ABC):
    """A backend with the batch that its copies are made in, (room, *dims). `key` keys the noise."""

    def __init__(self, name: str, backend: Backend, key: bytes, batch: Tensor) -> None:
        self.name = name
        self.room = len(batch)
        self._backend = backend
        self._key = key
        self._keystreams: dict[Source, Keystream] = {}
        self._batch = batch

    def evaluate(self, shares: Sequence[Share]) -> None:
        """Classify at most `room` copies. A failure becomes the fault of each stream that it hit, and no exception."""
        shares = sorted(shares, key=_source)
        copies = 0
        for _, group in groupby(shares, key=_source):
            members = list(group)
            count = sum(member.copies for member in members)
            self._try_to_make(members, copies, copies + count)
            copies += count
        try:
            answers = list(self._answers(shares, self._classify(copies)))
        except Exception as exc:  # noqa: BLE001 - whatever a replica does must cost findings, not the engine
            ids = list(dict.fromkeys(share.item.decision_id for share in shares))
            _log.warning(
                "a replica failed", backend=self.name, model=self._backend.info.name, error=str(exc), decision_ids=ids
            )
            for item, stream, copies in shares:
                item.fail(stream, FaultReason.BACKEND, spent=copies)
            return
        for (item, stream, _), answered in zip(shares, answers, strict=True):
            if stream.fault is None:
                item.take(stream, answered)

    @abstractmethod
    def _make(self, source: Source, members: Sequence[Share], start: int, end: int) -> None:
        """Make the next copies of streams from one source, as the rows from `start` to `end` of the batch."""

    @abstractmethod
    def _compare(self, shares: Sequence[Share], logits: Tensor) -> Compared:
        """Compare with the inputs' own labels, which the inputs in the batch get here; fault what isn't finite."""

    def _try_to_make(self, members: Sequence[Share], start: int, end: int) -> None:
        source = members[0].stream.source
        try:
            self._make(source, members, start, end)
        except Exception:  # noqa: BLE001 - a mutation's bug must cost its findings, not the engine
            if len(members) > 1:  # one after the other, so that it costs the findings of no other item
                for member in members:
                    self._try_to_make([member], start, start + member.copies)
                    start += member.copies
                return
            item, stream, _ = members[0]
            _log.exception("a copy could not be made", mutation=source.mutation.kind, decision_id=item.decision_id)
            self._batch[start:end] = 0  # the rows stay in the batch, and nobody hears of them
            item.fail(stream, FaultReason.DETECTOR)

    def _wanted(self, source: Source, members: Sequence[Share]) -> list[Wanted]:
        if source.tag is None:
            return [Wanted(item.x, copies) for item, _, copies in members]
        if source not in self._keystreams:
            self._keystreams[source] = Keystream(hmac.digest(self._key, source.tag, "sha256"))
        keystream = self._keystreams[source]
        return [
            Wanted(item.x, copies, Draw(keystream, item.nonce, stream.known, copies))
            for item, stream, copies in members
        ]

    def _classify(self, copies: int) -> Tensor:
        logits = self._backend.logits(self._batch[:copies])
        expected = (copies, self._backend.info.classes)
        if tuple(logits.shape) != expected:
            raise BackendError(f"the replica answered shape {tuple(logits.shape)}, expected {expected}")
        return logits

    def _answers(self, shares: Sequence[Share], logits: Tensor) -> Iterator[Answers]:
        """The answers of each share."""
        ends = list(accumulate(share.copies for share in shares))
        starts = [0, *ends[:-1]]
        if self.name != MODEL:
            values = on_host(logits, self._batch)
            fault_non_finite(shares, np.isfinite(values))
            for start, end in zip(starts, ends, strict=True):
                yield Answers(values[start:end], _NO_FLAGS, _NO_MARGINS, 0, 0.0)
            return
        values, changed, margins = self._compare(shares, logits)
        changes = np.add.reduceat(changed, starts, dtype=np.int64).tolist()
        sums = np.add.reduceat(margins, starts, dtype=np.float64).tolist()
        for start, end, count, margin_sum in zip(starts, ends, changes, sums, strict=True):
            yield Answers(values[start:end], changed[start:end], margins[start:end], count, margin_sum)


class HostReplica(Replica):
    """Copies are made in the host's memory, and answers compared there."""

    def __init__(self, name: str, backend: Backend, key: bytes) -> None:
        self._buffer = np.empty((backend.preferred_batch, *backend.info.shape), dtype=np.float32)
        super().__init__(name, backend, key, torch.from_numpy(self._buffer))

    def _make(self, source: Source, members: Sequence[Share], start: int, end: int) -> None:
        make(source.mutation, self._wanted(source, members), self._buffer[start:end], self._backend.info.bounds)

    def _compare(self, shares: Sequence[Share], logits: Tensor) -> Compared:
        values = on_host(logits, self._batch)
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
            item.fail(stream, FaultReason.NON_FINITE_OUTPUT, spent=copies)
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
