"""The door by itself: its bound, turns, and who leaves for whom; and what an item is expected to take."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import Overloaded
from guard.screen.admission import Door, Job, Pace
from tests.screen.parts import TIMEOUT_S, item


def job(client: str, name: str = "") -> Job:
    """A job of a client, known by name."""
    return Job(item(1), None, Future(), name, client)


def names(door: Door) -> list[str]:
    """What waits, in the order in which it is let in; nothing waits any more."""
    return [each.decision_id for each in door.drain()]


class TestDoor:
    """The queue by itself."""

    def test_turns(self) -> None:
        """Clients take turns, each with its oldest first, however many jobs each has handed in."""
        door = Door(10)
        for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
            assert door.enter(job(name[0], name)) is None
        assert len(door) == 6
        assert names(door) == ["a1", "b1", "c1", "a2", "b2", "a3"]
        assert len(door) == 0

    def test_turn_is_kept(self) -> None:
        """Who comes back queues behind those whose turn it is."""
        door = Door(10)
        door.enter(job("a", "a1"))
        door.enter(job("b", "b1"))
        assert door.next(0.0).decision_id == "a1"
        door.enter(job("a", "a2"))
        assert names(door) == ["b1", "a2"]

    def test_full(self) -> None:
        """One client can't queue more than there is room for."""
        door = Door(2)
        door.enter(job("a", "a1"))
        door.enter(job("a", "a2"))
        with pytest.raises(Overloaded, match="2 items are waiting"):
            door.enter(job("a", "a3"))
        assert names(door) == ["a1", "a2"]

    def test_newcomer(self) -> None:
        """The client that fills the queue loses its newest to others, as long as it has two more than they."""
        door = Door(5)
        for name in ("b1", "a1", "a2", "a3", "a4"):
            door.enter(job(name[0], name))
        assert door.enter(job("c", "c1")).decision_id == "a4"
        assert door.enter(job("b", "b2")).decision_id == "a3"
        for greedy in ("a", "b", "c"):
            with pytest.raises(Overloaded):
                door.enter(job(greedy))
        assert names(door) == ["b1", "a1", "c1", "b2", "a2"]

    def test_not_vice_versa(self) -> None:
        """A client that fills the queue takes nothing from those with less."""
        door = Door(3)
        for name in ("a1", "b1", "a2"):
            door.enter(job(name[0], name))
        with pytest.raises(Overloaded):
            door.enter(job("a"))
        assert names(door) == ["a1", "b1", "a2"]

    def test_empty(self) -> None:
        """An empty queue gives nothing, at once or after a while; a job that comes meanwhile ends the wait."""
        door = Door(1)
        assert door.next(0.0) is None
        assert door.next(0.01) is None
        arrives = threading.Timer(0.05, lambda: door.enter(job("a", "a1")))
        arrives.start()
        assert door.next(TIMEOUT_S).decision_id == "a1"
        arrives.join()

    @given(
        room=st.integers(1, 6),
        steps=st.lists(st.one_of(st.sampled_from("abcd"), st.just("next")), max_size=60),
    )
    def test_books_balance(self, room: int, steps: list[str]) -> None:
        """Whatever comes and goes: never more than there is room for, nothing lost, and no richer client spared."""
        door, waiting, left = Door(room), Counter[str](), 0
        entered = 0
        for number, step in enumerate(steps):
            if step == "next":
                given_out = door.next(0.0)
                assert (given_out is None) is (waiting.total() == 0)
                if given_out is not None:
                    waiting[given_out.client] -= 1
                    left += 1
                continue
            try:
                evicted = door.enter(job(step, str(number)))
            except Overloaded:
                assert waiting.total() == room
                assert max(waiting.values()) <= waiting[step] + 1
                continue
            entered += 1
            if evicted is not None:
                assert waiting.total() == room
                assert waiting[evicted.client] == max(waiting.values()) >= waiting[step] + 2
                waiting[evicted.client] -= 1
                left += 1
            waiting[step] += 1
            assert len(door) == waiting.total() <= room
        assert left + len(names(door)) == entered

    def test_threads(self) -> None:
        """Nothing is lost or given out twice where many hand in and take out at once."""
        door, taken, handed_in = Door(10_000), [], threading.Event()

        def hand_in(client: str) -> None:
            for number in range(200):
                door.enter(job(client, f"{client}{number}"))

        def take_out() -> None:
            while not handed_in.is_set() or len(door):
                if (each := door.next(0.01)) is not None:
                    taken.append(each.decision_id)

        givers = [threading.Thread(target=hand_in, args=(client,)) for client in "abc"]
        takers = [threading.Thread(target=take_out) for _ in range(2)]
        for thread in (*takers, *givers):
            thread.start()
        for thread in givers:
            thread.join(TIMEOUT_S)
        handed_in.set()
        for thread in takers:
            thread.join(TIMEOUT_S)
        assert sorted(taken) == sorted(f"{client}{number}" for client in "abc" for number in range(200))

    def test_ahead(self) -> None:
        """What comes before a client's next job: its own, and of each other client one more than that at most."""
        door = Door(20)
        for client, count in (("a", 10), ("b", 2)):
            for _ in range(count):
                door.enter(job(client))
        assert [door.ahead(client) for client in ("c", "b", "a")] == [2, 5, 12]


class TestPace:
    """What an item is expected to take."""

    def test_unmeasured(self) -> None:
        """Before anything was measured, nothing is expected."""
        pace = Pace()
        assert pace.item_s == 0
        pace.evaluated(10, 0.1)
        assert pace.item_s == 0

    def test_product(self) -> None:
        """An item takes its evaluations at their price."""
        pace = Pace()
        pace.evaluated(10, 0.1)
        pace.finished(23)
        assert pace.item_s == pytest.approx(0.23)

    def test_follows(self) -> None:
        """It follows what is measured, slowly: one outlier moves it little, a lasting change all the way."""
        pace = Pace()
        for _ in range(100):
            pace.evaluated(10, 0.1)
            pace.finished(20)
        pace.evaluated(10, 0.2)
        assert 0.2 < pace.item_s < 0.22
        for _ in range(200):
            pace.evaluated(10, 0.2)
        assert pace.item_s == pytest.approx(0.4, rel=0.01)

    def test_expired(self) -> None:
        """An item that ran out of time teaches what it cost until then, where that is more than was known."""
        pace = Pace()
        pace.evaluated(1, 0.01)
        pace.expired(40)
        assert pace.item_s == pytest.approx(0.4)
        pace.expired(4)
        assert pace.item_s == pytest.approx(0.4)
