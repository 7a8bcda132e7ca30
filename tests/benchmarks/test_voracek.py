"""Sequential certification covers, stops where the paper's algorithms do, and counts what it spends."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks.references import cohen, voracek
from benchmarks.references.voracek import Answer, Boundaries
from tests.benchmarks.fake_model import ZERO, Flips, seeded


def crossing(boundaries: Boundaries, p: float, horizon: int) -> tuple[float, float]:
    """The exact chances that a count of rate p is ever refuted and ever certified."""
    alive, refuted, certified = np.ones(1), 0.0, 0.0
    for t in range(1, horizon):
        counts = np.arange(t + 1)
        alive = np.append(alive * (1 - p), 0.0) + np.append(0.0, alive * p)
        low, high = counts <= boundaries.lower[t], counts >= boundaries.upper[t]
        refuted, certified = refuted + alive[low].sum(), certified + alive[high].sum()
        alive[low | high] = 0.0
    return refuted, certified


@pytest.mark.parametrize("make", [voracek.betting_boundaries, voracek.union_bound_boundaries])
@pytest.mark.parametrize("threshold", [0.6, 0.8413, 0.9772])
def test_a_sequence_covers(make: Callable[[float, float, int], Boundaries], threshold: float) -> None:
    """With the class's probability on the threshold, either wrong answer within 2000 copies is as rare as it says."""
    alpha = 0.05
    refuted, certified = crossing(make(threshold, alpha, 2000), threshold, 2000)
    assert 0.1 * alpha < refuted + certified
    assert refuted <= alpha
    assert certified <= alpha
    assert make is not voracek.betting_boundaries or refuted + certified <= alpha  # Ville covers both at once


def test_betting_tables_stop_where_the_algorithm_does() -> None:
    """On random streams the tables end where a gambler who plays the algorithm line by line does."""
    threshold, alpha, horizon = 0.84, 0.01, 1000
    boundaries = voracek.betting_boundaries(threshold, alpha, horizon)
    rng = np.random.default_rng(0)
    for rate in rng.uniform(0.6, 1.0, 100):
        log_q, heads, stop, table_stop = 0.0, 0, 0, 0
        for t, coin in enumerate((rng.random(horizon - 1) < rate).tolist()):
            guess = (heads + 0.5) / (t + 1)
            log_q += math.log(guess if coin else 1 - guess)
            heads += coin
            log_p = heads * math.log(threshold) + (t + 1 - heads) * math.log(1 - threshold)
            stop = stop or (t + 1) * (log_q - log_p > math.log(1 / alpha))
            table_stop = table_stop or (t + 1) * (boundaries.answer(heads, t + 1) is not None)
        assert stop == table_stop


def test_union_bound_tables_stop_where_the_algorithm_does() -> None:
    """On random streams the tables end as Clopper-Pearson bounds at the looks do, or earlier after the last open look.

    Once a count has reached what the next look asks for, that look's answer is certain.
    """
    threshold, alpha, horizon = 0.84, 0.01, 1000
    boundaries = voracek.union_bound_boundaries(threshold, alpha, horizon)
    rng = np.random.default_rng(0)
    decided = 0
    for rate in rng.uniform(0.6, 1.0, 100):
        agreeing = np.append(0, np.cumsum(rng.random(horizon) < rate)).tolist()
        table_stop = next((t for t in range(1, horizon) if boundaries.answer(agreeing[t], t)), horizon)
        looks, last_look, looked_at = 0, 0, None
        for t in range(1, horizon):
            if t <= 1.1 ** (11 + looks):
                continue
            looks += 1
            share = 5 * alpha / ((looks + 4) * (looks + 5))
            certified = cohen.lower_confidence_bound(agreeing[t], t, share) > threshold
            refuted = cohen.lower_confidence_bound(t - agreeing[t], t, share) > 1 - threshold
            if certified or refuted:
                looked_at = Answer.CERTIFIED if certified else Answer.REFUTED
                break
            last_look = t
        if looked_at:
            assert last_look < table_stop <= t
            assert boundaries.answer(agreeing[table_stop], table_stop) is looked_at
            decided += 1
    assert decided > 60


RADIUS_1 = voracek.betting_boundaries(voracek.threshold_of(1.0, 1.0), 0.001, 1000)


@pytest.mark.parametrize(("rate", "answer"), [(0.01, Answer.CERTIFIED), (0.4, Answer.REFUTED)])
def test_sequential_certification_answers(rate: float, answer: Answer) -> None:
    """A radius of sigma holds where under 15.9 % of copies change and fails where more do; whole batches are paid."""
    found = voracek.certify_at(Flips(rate), ZERO, 0, RADIUS_1, sigma=1.0, generator=seeded(), batch=64)
    assert found.answer is answer
    assert 0 < found.copies <= found.evaluations < found.copies + 64
    assert found.evaluations % 64 == 0


def test_sequential_certification_gives_up_at_the_horizon() -> None:
    """With the class's probability on the threshold it ends undecided once the tables do."""
    found = voracek.certify_at(
        Flips(0.1587), ZERO, 0, Boundaries(RADIUS_1.lower[:200], RADIUS_1.upper[:200]), sigma=1.0, generator=seeded()
    )
    assert (found.answer, found.copies) == (Answer.UNDECIDED, 200)


def test_mixed_batches_give_each_input_its_own_answer() -> None:
    """In batches mixed from many inputs each gets its own answer, and every place of every batch is accounted for."""
    model = Flips(0.01)
    inputs = torch.tensor([[0.0], [model.edge - 0.3]]).repeat(20, 1)  # the second kind changes in 38 % of its copies
    found = voracek.certify_pool(model, inputs, [0] * 40, RADIUS_1, sigma=1.0, generator=seeded(), batch=16)
    assert [o.answer for o in found] == [Answer.CERTIFIED, Answer.REFUTED] * 20
    assert all(o.copies <= o.evaluations for o in found)
    assert sum(o.evaluations for o in found) == sum(model.batches) == 16 * len(model.batches)
