"""One batch for one replica: copies are made into its buffer, classified, and the answers handed to their streams."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

import numpy as np
import structlog
import torch

from guard.errors import BackendError
from guard.model.backend import Backend
from guard.screen.keystream import Draw, Keystream
from guard.screen.live import Share
from guard.screen.mutations import Wanted, make
from guard.screen.trial import ITSELF, MODEL, Answers, Source, compare
from guard.values import FaultReason, Float32Array, IntArray

_NO_FLAGS, _NO_MARGINS = np.empty(0, np.bool_), np.empty(0, np.float32)
_log = structlog.get_logger(__name__)


class Replica:
    """A backend with the buffer that its copies are made in. `key` keys the noise."""

    def __init__(self, name: str, backend: Backend, key: bytes) -> None:
        self.name = name
        self.room = backend.preferred_batch
        self._backend = backend
        self._key = key
        self._keystreams: dict[Source, Keystream] = {}
        self._buffer = np.empty((self.room, *backend.info.shape), dtype=np.float32)
        self._tensor = torch.from_numpy(self._buffer)

    def evaluate(self, shares: Sequence[Share]) -> None:
        """Classify at most `room` copies. A failure becomes the fault of each stream that it hit, and no exception."""
        shares = sorted(shares, key=_source)
        copies = 0
        for _, group in groupby(shares, key=_source):
            members = list(group)
            count = sum(member.copies for member in members)
            self._make(members, self._buffer[copies : copies + count])
            copies += count
        try:
            logits = self._classify(copies)
        except Exception as exc:  # noqa: BLE001 - whatever a replica does must cost findings, not the engine
            ids = list(dict.fromkeys(share.item.decision_id for share in shares))
            _log.warning(
                "a replica failed", backend=self.name, model=self._backend.info.name, error=str(exc), decision_ids=ids
            )
            for item, stream, _ in shares:
                item.fail(stream, FaultReason.BACKEND)
            return
        self._hand_out(shares, logits)

    def _make(self, members: Sequence[Share], out: Float32Array) -> None:
        source = members[0].stream.source
        try:
            make(source.mutation, self._wanted(source, members), out, self._backend.info.bounds)
        except Exception:  # noqa: BLE001 - a mutation's bug must cost its findings, not the engine
            ids = list(dict.fromkeys(member.item.decision_id for member in members))
            _log.exception("a copy could not be made", mutation=source.mutation.kind, decision_ids=ids)
            out[:] = 0  # the rows stay in the batch, and nobody hears of them
            for item, stream, _ in members:
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

    def _classify(self, copies: int) -> Float32Array:
        logits: Float32Array = self._backend.logits(self._tensor[:copies]).numpy()
        expected = (copies, self._backend.info.classes)
        if logits.shape != expected:
            raise BackendError(f"the replica answered shape {logits.shape}, expected {expected}")
        # Answers are kept, and a model that passes its input on answers with a view of what is made next.
        return logits.copy() if np.may_share_memory(logits, self._buffer) else logits

    def _hand_out(self, shares: Sequence[Share], logits: Float32Array) -> None:
        if not np.isfinite(logits).all():
            _fault_non_finite(shares, logits)
        for (item, stream, _), answers in zip(shares, self._answers(shares, logits), strict=True):
            if stream.fault is None:
                item.take(stream, answers)

    def _answers(self, shares: Sequence[Share], logits: Float32Array) -> Iterator[Answers]:
        """The answers of each share."""
        ends = list(accumulate(share.copies for share in shares))
        starts = [0, *ends[:-1]]
        if self.name != MODEL:
            for start, end in zip(starts, ends, strict=True):
                yield Answers(logits[start:end], _NO_FLAGS, _NO_MARGINS, 0, 0.0)
            return
        _, changed, margins, _, _ = compare(logits, _own_labels(shares, logits))
        changes = np.add.reduceat(changed, starts, dtype=np.int64).tolist()
        sums = np.add.reduceat(margins, starts, dtype=np.float64).tolist()
        for start, end, count, margin_sum in zip(starts, ends, changes, sums, strict=True):
            yield Answers(logits[start:end], changed[start:end], margins[start:end], count, margin_sum)


def _source(share: Share) -> int:
    return id(share.stream.source)


def _fault_non_finite(shares: Sequence[Share], logits: Float32Array) -> None:
    start = 0
    for item, stream, copies in shares:
        if not np.isfinite(logits[start : start + copies]).all():
            item.fail(stream, FaultReason.NON_FINITE_OUTPUT)
        start += copies


def _own_labels(shares: Sequence[Share], logits: Float32Array) -> IntArray:
    """The own label of each copy's input, which is read here from the inputs themselves that are in the batch."""
    start = 0
    for item, stream, count in shares:
        if stream.source is ITSELF.source and stream.fault is None:
            item.label = int(logits[start].argmax())
        start += count
    return np.repeat([share.item.label or 0 for share in shares], [share.copies for share in shares])
