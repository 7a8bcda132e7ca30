"""Drift: raised once, of whom, cleared once, and hardly ever where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from guard import stats
from guard.decide.drift import Drift
from guard.values import (
    DriftChange,
    DriftDirection,
    DriftScope,
    Evidence,
    Fault,
    FaultReason,
    Float64Array,
    ItemDecision,
    UnscreenedReason,
    Verdict,
)

Draw = Callable[[np.random.Generator], float]

BENIGN = np.sort(np.random.default_rng(0).normal(size=400))
THRESHOLD = stats.p_value_threshold(len(BENIGN), 0.01)


def drift(*, benign: Float64Array = BENIGN, false_alarm: float = 1e-4, seed: int = 0) -> Drift:
    """Watches for drift away from some benign scores."""
    rng = np.random.default_rng(seed)
    return Drift(n=len(benign), threshold=THRESHOLD, false_alarm=false_alarm, rng=rng)


def item(score: float, benign: Float64Array = BENIGN, *, name: float | None = None) -> ItemDecision:
    """An item with a score, judged as `Judge` does it; items with one name are repetitions."""
    p_value, ties = stats.conformal_p_value(benign, score), stats.ties(benign, score)
    verdict = Verdict.ADVERSARIAL if p_value <= THRESHOLD else Verdict.CLEAN
    return ItemDecision(verdict, p_value, (Evidence("network", score if name is None else name, 0),), ties=ties)


def ordinary(rng: np.random.Generator) -> float:
    """A score as of the calibration data."""
    return float(rng.normal())


def shaky(rng: np.random.Generator) -> float:
    """A score after the camera changed."""
    return float(rng.normal(1.0))


def dull(rng: np.random.Generator) -> float:
    """A score where inputs became easier."""
    return float(rng.normal(-1.0))


def crowded(rng: np.random.Generator) -> float:
    """A score of views of one scene."""
    return float(rng.normal(0.0, 0.2))


def attack(rng: np.random.Generator) -> float:
    """A score of an attack."""
    return float(rng.normal(6.0))


def traffic(clients: dict[str, Draw], items: int, rng: np.random.Generator) -> Iterator[tuple[ItemDecision, str]]:
    """Items of clients in turn."""
    names = list(clients)
    for number in range(items):
        client = names[number % len(names)]
        yield item(clients[client](rng)), client


def changes(found: Drift, sent: Iterable[tuple[ItemDecision, str]]) -> list[tuple[int, DriftChange]]:
    """What was raised and cleared, and after how many items."""
    seen = ((number, found.observe([each], client)) for number, (each, client) in enumerate(sent, 1))
    return [(number, change) for number, change in seen if change is not None]


def everyone(draw: Draw, clients: int = 8) -> dict[str, Draw]:
    """Clients whose inputs are all of one kind."""
    return {f"client {number}": draw for number in range(clients)}


@pytest.mark.parametrize(
    ("draw", "direction"),
    [
        (shaky, DriftDirection.MORE_EXTREME),
        (dull, DriftDirection.LESS_EXTREME),
        (crowded, DriftDirection.MORE_ALIKE),
    ],
)
def test_raised_and_cleared(draw: Draw, direction: DriftDirection) -> None:
    """A change of all clients is raised for several of them within 200 items, stays, and is cleared when it is over."""
    found, rng = drift(), np.random.default_rng(3)
    assert changes(found, traffic(everyone(ordinary), 1000, rng)) == []
    raised = changes(found, traffic(everyone(draw), 2500, rng))
    assert raised[-1][1].scope is found.suspected is DriftScope.SEVERAL_CLIENTS
    assert len(raised) <= 2
    assert raised[0][0] <= 200
    assert raised[0][1].direction is direction
    assert raised[0][1].log_martingale >= np.log(1e4)
    ((after, cleared),) = changes(found, traffic(everyone(ordinary), 2500, rng))
    assert cleared.scope is found.suspected is None
    assert after <= 2000


def test_one_client() -> None:
    """Where all traffic comes from one address, drift is raised as that client's."""
    found, rng = drift(), np.random.default_rng(4)
    ((after, raised),) = changes(found, traffic({"proxy": shaky}, 500, rng))
    assert (raised.scope, after <= 150) == (DriftScope.ONE_CLIENT, True)


@pytest.mark.parametrize("others", [1, 7])
def test_an_attack_is_not_everybodys_drift(others: int) -> None:
    """However much one client attacks, the drift of several is not suspected; that one client's is."""
    found, rng = drift(), np.random.default_rng(5)
    clients = everyone(ordinary, others) | {"attacker": attack}
    ((_, raised),) = changes(found, traffic(clients, 2000, rng))
    assert raised.scope is DriftScope.ONE_CLIENT
    assert found.log_martingale(DriftScope.SEVERAL_CLIENTS) < 1


def test_an_attack_does_not_hide_drift() -> None:
    """While a client attacks, drift of the others widens the suspicion."""
    found, rng = drift(), np.random.default_rng(6)
    clients = everyone(ordinary, 3) | {"attacker": attack}
    assert [c.scope for _, c in changes(found, traffic(clients, 900, rng))] == [DriftScope.ONE_CLIENT]
    clients = everyone(shaky, 3) | {"attacker": attack}
    assert [c.scope for _, c in changes(found, traffic(clients, 1500, rng))] == [DriftScope.SEVERAL_CLIENTS]


def test_a_flood_does_not_hide_drift() -> None:
    """A client that sends ordinary inputs, ten for each of the others', doesn't water their drift down."""
    found, rng = drift(), np.random.default_rng(7)
    calm = [({"flood": ordinary}, 10), (everyone(ordinary, 4), 1)]
    changed = [({"flood": ordinary}, 10), (everyone(shaky, 4), 4)]
    for _ in range(30):
        for clients, items in calm:
            assert changes(found, traffic(clients, items, rng)) == []
    seen = []
    for _ in range(200):
        for clients, items in changed:
            seen += changes(found, traffic(clients, items, rng))
    assert seen[-1][1].scope is DriftScope.SEVERAL_CLIENTS


@pytest.mark.parametrize("levels", [None, 6])
def test_false_alarms(levels: int | None) -> None:
    """Runs of benign traffic raise no more false alarms than allowed, with ties among the scores and without.

    Each run has a calibration set of its own: thirty scores, which are far from their distribution.
    """
    rng, alarms, runs = np.random.default_rng(8), 0, 50
    for run in range(runs):
        scores = rng.normal(size=430) if levels is None else rng.integers(0, levels, 430).astype(np.float64)
        benign = np.sort(scores[:30])
        found = drift(benign=benign, false_alarm=0.05, seed=run)
        items = (item(float(score), benign, name=float(n)) for n, score in enumerate(scores[30:]))
        alarms += bool(changes(found, ((each, "client") for each in items)))
    assert binomtest(alarms, runs, 0.05, alternative="greater").pvalue > 1e-3


UNSCREENED = ItemDecision(Verdict.UNSCREENED, 0.001, (Evidence("network", 9.0, 0),), UnscreenedReason.FAULT)
LATE = ItemDecision(Verdict.ADVERSARIAL, 0.001, (Evidence("a", 9.0, 0), Fault("b", FaultReason.DEADLINE)))
UNSEEN = ItemDecision(Verdict.UNSCREENED, None, (), UnscreenedReason.OVERLOAD)


@pytest.mark.parametrize("uncounted", [UNSCREENED, LATE, UNSEEN])
def test_what_was_not_screened_whole(uncounted: ItemDecision) -> None:
    """An item that no calibration score went through like is not counted."""
    found = drift()
    assert changes(found, ((uncounted, "client") for _ in range(200))) == []
    assert found.log_martingale(DriftScope.ONE_CLIENT) == 0


def test_repetitions() -> None:
    """A health check that sends the same few inputs all day counts once for each of them."""
    found = drift()
    checks = [item(attack(np.random.default_rng(n))) for n in range(3)]
    assert changes(found, ((checks[n % 3], "probe") for n in range(600))) == []
    again = drift()
    changes(again, ((each, "probe") for each in checks))
    assert found.log_martingale(DriftScope.ONE_CLIENT) == again.log_martingale(DriftScope.ONE_CLIENT)


def test_what_is_flagged_for_behaviour_counts_like_others() -> None:
    """Only the p-value counts, so a client that is rejected for probing has no other weight."""
    seen = []
    for verdict in (Verdict.CLEAN, Verdict.ADVERSARIAL, Verdict.ABSTAIN):
        found, rng = drift(), np.random.default_rng(9)
        changes(found, ((replace(item(ordinary(rng)), verdict=verdict), "client") for _ in range(100)))
        seen.append(found.log_martingale(DriftScope.ONE_CLIENT))
    assert seen[0] == seen[1] == seen[2] != 0


def test_many_clients_take_no_more_room() -> None:
    """What is kept does not grow with clients and items."""
    found, rng = drift(), np.random.default_rng(10)
    changes(found, ((item(ordinary(rng)), f"client {n}") for n in range(1500)))
    assert len(found._groups) <= 16
    assert len(found._recent) <= 1024
