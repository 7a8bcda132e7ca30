"""A channel between a memory and the store: what waits, what is sent again, and how old it is on the other side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from guard.queries.channel import BATCH, MOST_WAITING, Channel
from guard.queries.memory import Query
from guard.queries.record import Seal
from guard.sharing import Sharing, StoreFailure

SEAL = Seal(b"k" * 32)


class Counted:
    """What was counted."""

    def __init__(self) -> None:
        self.shared: dict[Sharing, int] = dict.fromkeys(Sharing, 0)

    def queries_shared(self, model: str, what: Sharing, number: int) -> None:
        """Add them up."""
        assert model == "digits"
        self.shared[what] += number

    def query_store_failed(self, why: StoreFailure) -> None:
        """No channel knows of this."""
        raise AssertionError(why)


class End:
    """A channel, its clock, and what it learnt."""

    def __init__(self, origin: bytes) -> None:
        self.now_s = 0.0
        self.learnt: list[tuple[int, float]] = []
        self.most_at_once = 0
        self.counted = Counted()
        self.channel = Channel("digits", SEAL, self._learn, self.counted, origin=origin, now_s=lambda: self.now_s)

    def put(self, *numbers: int) -> None:
        """Queries of these names."""
        for number in numbers:
            self.channel.put(Query(np.full(8, number, np.uint64), number, 1))

    def batch(self) -> list[int]:
        """Names of the queries that are to be sent."""
        records = [SEAL.read(content) for content in self.channel.batch()]
        return [record.query.exact for record in records if record is not None]

    def _learn(self, queries: Sequence[tuple[Query, float]]) -> Future[None]:
        self.learnt += [(query.exact, age_s) for query, age_s in queries]
        self.most_at_once = max(self.most_at_once, len(queries))
        done: Future[None] = Future()
        done.set_result(None)
        return done


def test_a_batch_stays_until_it_is_sent() -> None:
    """What the store did not take is sent again, in order, and then what came meanwhile."""
    end = End(b"a" * 8)
    end.put(1, 2)
    assert end.batch() == [1, 2]
    end.put(3)
    assert end.batch() == [1, 2]
    assert end.channel.sent() == 2
    assert end.batch() == [3]
    assert end.channel.sent() == 1
    assert end.batch() == []
    assert end.counted.shared[Sharing.SENT] == 3


def test_what_waits_is_bounded() -> None:
    """Where too many wait, the oldest are dropped, one for each that comes, and counted."""
    end = End(b"a" * 8)
    end.put(*range(MOST_WAITING + 300))
    sent: list[int] = []
    while batch := end.batch():
        assert len(batch) <= BATCH
        sent += batch
        end.channel.sent()
    assert sent == list(range(300, MOST_WAITING + 300))
    assert end.counted.shared[Sharing.DROPPED] == 300


def test_age() -> None:
    """How long ago a query was seen is the time that it waited, and the time since the store got it."""
    one, other = End(b"a" * 8), End(b"b" * 8)
    one.put(7)
    one.now_s = 40.0  # for so long the store was gone; clocks of replicas have nothing in common
    (content,) = one.channel.batch()
    other.channel.receive([(content, 2.0)])
    assert other.learnt == [(7, 42.0)]


def test_what_is_received() -> None:
    """Own queries and what can't be read are not learnt; the rest is, a few at a time, for requests come in between."""
    one, other = End(b"a" * 8), End(b"b" * 8)
    one.put(*range(100))
    contents = [(content, 0.0) for content in one.channel.batch()]
    one.channel.receive(contents)
    other.channel.receive([*contents, (b"", 0.0), (contents[0][0][1:], 0.0)])
    assert one.learnt == []
    assert [name for name, _ in other.learnt] == list(range(100))
    assert other.most_at_once <= 16
    assert other.counted.shared == {Sharing.SENT: 0, Sharing.DROPPED: 0, Sharing.RECEIVED: 100, Sharing.UNREADABLE: 2}
