"""Replicas that share queries through a real store: what is found, what is in the store, and what never mixes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from guard.queries.memory import Query
from guard.queries.record import Record, Seal
from tests.queries.parts import SECRET, fingerprinter, images, noisy
from tests.queries.replicas import MODEL, Replica, replicas, rotate
from tests.support.stores import Store, needs_store
from tests.support.waiting import wait_for

pytestmark = needs_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A running store."""
    made = Store(tmp_path_factory.mktemp("store"))
    made.start()
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def empty(store: Store) -> None:
    """Nothing is in it from other tests."""
    with store.client() as client:
        client.flushall()


def test_an_attack_over_replicas_is_found(store: Store) -> None:
    """Each of three replicas sees two of six variations, too few; together they find the attack at the fourth."""
    attack = noisy(images(1)[0], 6)
    with replicas(store.url, {}, {}, {}) as three:
        assert rotate(attack, three) == [False] * 3 + [True] * 3
    with replicas(store.url, {"secret": b"1" * 32}, {"secret": b"2" * 32}, {"secret": b"3" * 32}) as alone:
        assert rotate(attack, alone, wait=False) == [False] * 6


def test_an_attack_over_replicas_and_clients_is_found(store: Store) -> None:
    """An attacker who changes replica and address each time is found after five queries."""
    with replicas(store.url, {}, {}) as two:
        found = []
        for number, image in enumerate(noisy(images(1)[0], 8)):
            found.append(two[number % 2].look(image, f"client {number}").suspicious)
            wait_for(lambda: all(len(each.watch) == len(found) for each in two))
    assert found == [False] * 5 + [True] * 3


def test_who_comes_later_knows_what_was_before(store: Store) -> None:
    """A replica that is started, or started again, has the store's queries at once."""
    attack = noisy(images(1)[0], 4)
    with replicas(store.url, {}) as (first,):
        rotate(attack[:3], [first])
        wait_for(lambda: first.counted("sent") == 3)
    with replicas(store.url, {}) as (again,):
        wait_for(lambda: again.counted("received") == 3)
        assert again.look(attack[3]).suspicious


@pytest.mark.parametrize(
    "other",
    [{"secret": b"2" * 32}, {"fingerprint": "1" * 64}, {"model": "other"}, {"span": 2.0}],
    ids=["another secret", "another model", "another name", "another range"],
)
def test_what_never_mixes(store: Store, other: dict[str, Any]) -> None:
    """Replicas with another secret or model have a stream of their own, and learn nothing from these."""
    with replicas(store.url, {}, {}, other) as (one, same, different):
        rotate(noisy(images(1)[0], 3), [one, same])
        different.look(images(1)[0])
        wait_for(lambda: different.counted("sent") == 1)
        assert one.seal.stream == same.seal.stream != different.seal.stream
        assert (different.counted("received"), len(different.watch), len(one.watch)) == (0, 1, 3)
        assert [each.counted("unreadable") for each in (one, same, different)] == [0, 0, 0]


def test_nothing_plain_is_in_the_store(store: Store) -> None:
    """What the store has is a keyed name and fields of a fixed length: no values, client, model or secret."""
    image, client_name = images(1)[0], "10.1.2.3 is its address"
    with replicas(store.url, {}) as (one,):
        one.look(image, client_name)
        wait_for(lambda: one.counted("sent") == 1)
    with store.client() as client:
        (name,) = client.keys()
        ((_, fields),) = client.xrange(name)
    assert name.startswith(b"guard:queries:")
    assert list(fields) == [b"q"]
    assert len(fields[b"q"]) == 8 + 8 + 8 + 8 + 64 + 16
    pairs = [image.ravel()[place : place + 2].tobytes() for place in range(image.size - 1)]
    plain = [client_name.encode()[:8], MODEL.encode(), SECRET[:8], *pairs]
    assert not any(each in name + fields[b"q"] for each in plain)


def test_repetitions_are_not_sent(store: Store) -> None:
    """What a client sends over and over takes no room in the store; another client's is news."""
    with replicas(store.url, {}, {}) as (one, other):
        for client in ("a", "a", "a", "b", "b"):
            one.look(images(1)[0], client)
        wait_for(lambda: len(other.watch) == 2)
        assert one.counted("sent") == 2


def test_size_and_time_in_the_store(store: Store) -> None:
    """The store holds about as many queries as a memory, and forgets the stream when a memory would have."""
    with replicas(store.url, {"capacity": 100, "keep_s": 60.0}) as (one,):
        one.watch.look(images(500), "a").result()
        wait_for(lambda: one.counted("sent") == 500)
        with store.client() as client:
            assert 100 <= client.xlen(one.seal.stream) < 250
            assert 50_000 < client.pttl(one.seal.stream) <= 60_000


def test_old_queries_are_forgotten(store: Store) -> None:
    """What is older than a replica remembers is not learnt, and leaves the store when there is news."""
    with replicas(store.url, {}) as (one,):
        one.watch.look(noisy(images(1)[0], 100), "a").result()
        wait_for(lambda: one.counted("sent") == 100)
    time.sleep(3.1)
    with replicas(store.url, {"keep_s": 3.0}) as (later,), store.client() as client:
        wait_for(lambda: later.counted("received") == 100)
        assert len(later.watch) == 0
        later.look(images(1)[0])
        wait_for(lambda: later.counted("sent") == 1)
        assert 0 < client.xlen(later.seal.stream) < 50


def test_forgeries_are_not_learnt(store: Store) -> None:
    """What somebody without the secret writes into the stream is counted, and nothing else."""
    one = Replica(store.url)
    query_of = fingerprinter().prints(images(1))[0][0]
    with store.client() as client:
        client.xadd(one.seal.stream, {"q": b""})
        client.xadd(one.seal.stream, {"other": b"x" * 112})
        client.xadd(one.seal.stream, {"q": np.tile(query_of, 2)[:14].tobytes()})
    with replicas(store.url, {}) as (other,):
        wait_for(lambda: other.counted("unreadable") == 3 and other.up)
        assert len(other.watch) == 0
    one.close()


def test_many_models_share_one_connection(store: Store) -> None:
    """Two models of a replica go through one connection, each through its own stream."""
    both, other = Replica(store.url), Replica(store.url, model="other", fingerprint="1" * 64)
    both.store.share(other.watch, other.seal, model="other", capacity=64, keep_s=100)
    with replicas(store.url, {}, {"model": "other", "fingerprint": "1" * 64}) as (one, second):
        both.store.start()
        both.look(images(1)[0])
        other.watch.look(images(2, seed=1), "a").result()
        wait_for(lambda: (len(one.watch), len(second.watch)) == (1, 2))
    for each in (both, other):
        each.close()


def test_records() -> None:
    """A record comes back as it was written, and no byte of it can be changed; another key reads nothing."""
    prints = fingerprinter().prints(images(1))[0][0]
    seal, record = Seal(b"k" * 32), Record(Query(prints, 2**64 - 1, 7), b"originID", 1.5)
    content = seal.write(record)
    back = seal.read(content)
    assert back is not None
    np.testing.assert_array_equal(back.query.print, prints)
    assert (back.query.exact, back.query.client, back.origin, back.age_s) == (2**64 - 1, 7, b"originID", 1.5)
    for place in range(len(content)):
        assert seal.read(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]) is None
    assert seal.read(content[:-1]) is None
    assert Seal(b"l" * 32).read(content) is None
