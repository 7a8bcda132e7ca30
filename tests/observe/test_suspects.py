"""How many clients are behind what is detected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from guard.observe.metrics import Metrics
from guard.observe.suspects import DETECTIONS_S, LEAST_QUERIES, QUERIES_S, Recent, Suspects
from guard.values import Decision, Probing

Scrape = Callable[[], dict[str, float]]


@pytest.mark.parametrize(
    ("clients", "share"), [("", 0.0), ("a", 1.0), ("ab", 0.5), ("aaab", 0.75), ("abcd", 0.25), ("abcc", 0.5)]
)
def test_the_share_of_the_client_with_most(clients: str, share: float) -> None:
    """It is the largest share of the detections that one client has; 0 without any."""
    suspects = Suspects()
    for client in clients:
        suspects.detections.add(client)
    assert suspects.top_share() == share


def test_what_is_long_ago_counts_no_more() -> None:
    """Detections count for five minutes, suspicious queries for ten."""
    now = 1000.0
    suspects = Suspects(lambda: now)
    for _ in range(LEAST_QUERIES):
        suspects.queries.add("a")
    suspects.detections.add("a")
    now += DETECTIONS_S + 1
    suspects.detections.add("b")
    suspects.detections.add("c")
    assert suspects.top_share() == 0.5
    assert suspects.attacking() == 1
    now += QUERIES_S
    assert (suspects.top_share(), suspects.attacking()) == (0.0, 0)


def test_a_few_suspicious_queries_are_no_attack() -> None:
    """A client counts from the tenth suspicious query on, each client for itself."""
    suspects = Suspects()
    for number in range(LEAST_QUERIES - 1):
        suspects.queries.add("a")
        suspects.queries.add(f"client {number}")
    assert suspects.attacking() == 0
    suspects.queries.add("a")
    assert suspects.attacking() == 1


def test_a_flood_takes_no_more_room() -> None:
    """Of more events than are kept the last ones count."""
    recent = Recent(60.0)
    for _ in range(10_000):
        recent.add("a")
    for _ in range(100):
        recent.add("b")
    assert sorted(recent.by_client()) == [100, 4096 - 100]


def test_adversarial_items_count_for_their_client(metrics: Metrics, scrape: Scrape, decision: Decision) -> None:
    """A decision's adversarial items and suspicious queries count for who sent them, and its other items do not."""
    probing = Probing("queries", of_client=9, of_everyone=9, suspicious=True)
    queried = replace(decision.items[1], findings=(probing,))
    for client in ("a", "a", "a", "b"):
        metrics.decided(replace(decision, items=(*decision.items, *[queried] * 4)), client)
    samples = scrape()
    assert samples["guard_client_detections_top_share_ratio{model=digits}"] == 0.75
    assert samples["guard_query_attack_clients{model=digits}"] == 1
    assert not [key for key in samples if "client=" in key]
