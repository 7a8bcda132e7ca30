"""The memory of queries: what counts, what is forgotten first, and that it never grows."""

from __future__ import annotations

import pytest

from guard.queries.memory import Alike, Radii
from tests.queries.parts import Shown, images, noisy

NOTHING = Alike(client=0, everyone=0, known=False)


def test_near_duplicates_count() -> None:
    """Each distinct near-duplicate counts once, for its client and for all; unrelated images don't."""
    shown = Shown()
    for number, image in enumerate(noisy(images(1)[0], 5)):
        assert shown.look(image) == Alike(client=number, everyone=number, known=False)
    assert shown.look(images(1, seed=1)[0]) == NOTHING


def test_a_repetition_is_no_evidence() -> None:
    """The same values again count nothing and take no room; what came before them still counts."""
    shown = Shown()
    first, second = noisy(images(1)[0], 2)
    shown.look(first)
    for _ in range(10):
        assert shown.look(first) == Alike(client=0, everyone=0, known=True, repeated=True)
    assert shown.look(second).client == 1
    assert len(shown.memory) == 2


def test_clients() -> None:
    """What other clients sent counts among everyone's only; values that anyone sent before are known."""
    shown = Shown()
    for number, image in enumerate(noisy(images(1)[0], 4)):
        assert shown.look(image, client=f"client {number}") == Alike(client=0, everyone=number, known=False)
    assert shown.look(noisy(images(1)[0], 1)[0], client="another") == Alike(client=0, everyone=3, known=True)


def test_the_same_values_of_many_clients_are_one() -> None:
    """An image that very many clients send is one near-duplicate of its like, not many."""
    shown = Shown()
    popular, like_it = noisy(images(1)[0], 2)
    for number in range(20):
        assert shown.look(popular, client=f"client {number}").everyone == 0
    assert shown.look(like_it, client="another").everyone == 1


def test_radii() -> None:
    """Among everyone's queries only nearer ones count than among a client's own."""
    first, second = noisy(images(1)[0], 2, deviation=0.02)
    for radii, expected in ((Radii(150, 0), (1, 0)), (Radii(0, 150), (0, 1)), (Radii(0, 0), (0, 0))):
        shown = Shown(radii=radii)
        shown.look(first)
        alike = shown.look(second)
        assert (alike.client, alike.everyone) == expected


def test_time() -> None:
    """A query counts for as long as it is remembered, since it was last sent."""
    shown = Shown(keep_s=10)
    first, second, third = noisy(images(1)[0], 3)
    shown.look(first, now_s=0)
    shown.look(first, now_s=8)
    assert shown.look(second, now_s=17).client == 1
    assert shown.look(third, now_s=19).client == 1
    assert shown.look(first, now_s=40) == NOTHING


def test_what_others_saw() -> None:
    """A query that another memory saw counts like an own one, once, from when it was seen; an old one is not learnt."""
    shown = Shown(keep_s=10)
    first, second, third, fourth = noisy(images(1)[0], 4)
    for _ in range(3):
        shown.learn(first, seen_s=5, now_s=8)
    shown.learn(second, seen_s=-3, now_s=8)
    assert len(shown.memory) == 1
    assert shown.look(third, now_s=14) == Alike(client=1, everyone=1, known=False)
    assert shown.look(fourth, now_s=16) == Alike(client=1, everyone=1, known=False)  # the third


def test_learning_makes_nothing_older() -> None:
    """What this memory saw later than the other stays as young as it is."""
    shown = Shown(keep_s=10)
    first, second = noisy(images(1)[0], 2)
    shown.look(first, now_s=8)
    shown.learn(first, seen_s=1, now_s=9)
    assert shown.look(second, now_s=17).client == 1


def test_it_never_grows() -> None:
    """More queries than it holds take no more bytes; the oldest is forgotten."""
    shown = Shown(capacity=16)
    before = shown.memory.nbytes
    many = images(40)
    for image in many:
        shown.look(image)
    assert (shown.memory.nbytes, len(shown.memory)) == (before, 16)
    assert shown.look(many[-1]).known
    assert not shown.look(many[0]).known


def test_waiting_does_not_help() -> None:
    """Others' queries between an attacker's, nearly a memory's worth each time, don't push its chain out."""
    shown, others = Shown(capacity=32), iter(images(400, seed=1))
    counts = []
    for image in noisy(images(1)[0], 10):
        counts.append(shown.look(image, "attacker").client)
        for _ in range(20):
            shown.look(next(others), "other")
    assert counts[-1] >= 3


def test_a_flood_of_look_alikes_leaves_others_in_place() -> None:
    """One who sends very many variations of an image takes 64 places, not the whole memory."""
    shown = Shown(capacity=256)
    kept = images(100, seed=1)
    for image in kept:
        shown.look(image, "other")
    for image in noisy(images(1)[0], 1000, deviation=0.005):
        shown.look(image, "attacker")
    assert len(shown.memory) == 164
    assert all(shown.look(image, "other").known for image in kept)


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_the_smallest_memories(capacity: int) -> None:
    """A memory of a query or two goes on, however many resemble each other."""
    shown = Shown(capacity=capacity)
    for image in (*noisy(images(1)[0], 10), *images(10)):
        shown.look(image)
    assert len(shown.memory) == capacity


def test_groups() -> None:
    """Near-duplicates are one group, whoever sends them, also those that another replica saw; others have their own."""
    shown = Shown()
    first, *others = noisy(images(1)[0], 4)
    group = shown.look(first).group
    assert {shown.look(each, client=f"client {n}").group for n, each in enumerate(others)} == {group}
    assert shown.look(images(1, seed=1)[0]).group not in {group, 0}
