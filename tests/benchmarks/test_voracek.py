"""Sequential certification covers, stops where the paper's algorithms do, and counts what it spends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.references import voracek
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


@pytest.mark.parametrize("threshold", [0.6, 0.8413, 0.9772])
def test_the_sequence_covers(threshold: float) -> None:
    """With the class's probability on the threshold, a wrong answer within 2000 copies is as rare as it says."""
    alpha = 0.05
    refuted, certified = crossing(voracek.betting_boundaries(threshold, alpha, 2000), threshold, 2000)
    assert 0.1 * alpha < refuted + certified <= alpha  # Ville covers both at once


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


RADIUS_1 = voracek.betting_boundaries(voracek.threshold_of(1.0, 1.0), 0.001, 1000)


def alone(model: Flips, boundaries: Boundaries, batch: int = voracek.BATCH) -> voracek.Outcome:
    """One input, zero of class 0, which has all places of each batch."""
    (found,) = voracek.certify_pool(model, ZERO[None], [0], boundaries, sigma=1.0, generator=seeded(), batch=batch)
    return found


@pytest.mark.parametrize(("rate", "answer"), [(0.01, Answer.CERTIFIED), (0.4, Answer.REFUTED)])
def test_sequential_certification_answers(rate: float, answer: Answer) -> None:
    """A radius of sigma holds where under 15.9 % of copies change and fails where more do; whole batches are paid."""
    found = alone(Flips(rate), RADIUS_1, batch=64)
    assert found.answer is answer
    assert 0 < found.copies <= found.evaluations < found.copies + 64
    assert found.evaluations % 64 == 0


def test_sequential_certification_gives_up_at_the_horizon() -> None:
    """With the class's probability on the threshold it ends undecided once the tables do."""
    found = alone(Flips(0.1587), Boundaries(RADIUS_1.lower[:200], RADIUS_1.upper[:200]))
    assert (found.answer, found.copies) == (Answer.UNDECIDED, 200)


def test_mixed_batches_give_each_input_its_own_answer() -> None:
    """In batches mixed from many inputs each gets its own answer, and every place of every batch is accounted for."""
    model = Flips(0.01)
    inputs = torch.tensor([[0.0], [model.edge - 0.3]]).repeat(20, 1)  # the second kind changes in 38 % of its copies
    found = voracek.certify_pool(model, inputs, [0] * 40, RADIUS_1, sigma=1.0, generator=seeded(), batch=16)
    assert [o.answer for o in found] == [Answer.CERTIFIED, Answer.REFUTED] * 20
    assert all(o.copies <= o.evaluations for o in found)
    assert sum(o.evaluations for o in found) == sum(model.batches) == 16 * len(model.batches)
