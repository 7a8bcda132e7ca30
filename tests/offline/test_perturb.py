"""Perturbations to learn from: each within its norm and the bounds, and able to move a trained model's labels."""

from __future__ import annotations

import pytest
import torch

from guard.offline.perturb import FAMILIES, Perturbation, iterated, single_step, sparse, to_boundary
from tests.support.digits import DigitsData, trained_network

CASES = [(name, strength) for name, (_, strengths) in FAMILIES.items() for strength in strengths]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """The trained classifier of digits."""
    return trained_network()


@pytest.fixture(scope="module")
def x(digits_data: DigitsData) -> torch.Tensor:
    """Digits, in 0..1."""
    return torch.from_numpy(digits_data.test[0][:100])


def rng() -> torch.Generator:
    """The same draws each time."""
    return torch.Generator().manual_seed(0)


def moved(model: torch.nn.Module, x: torch.Tensor, perturbed: torch.Tensor) -> float:
    """Share of the labels that differ."""
    with torch.no_grad():
        return float((model(x).argmax(1) != model(perturbed).argmax(1)).double().mean())


@pytest.mark.parametrize(("family", "strength"), CASES)
def test_stays_within_its_budget(model: torch.nn.Module, x: torch.Tensor, family: str, strength: float) -> None:
    """Whatever the strength, values stay within the bounds and the change within the family's own norm."""
    make, _ = FAMILIES[family]
    before = x.clone()
    perturbed = make(model, x, strength, (0.0, 1.0), rng()).detach()
    assert torch.equal(x, before), "the clean samples are left alone"
    assert perturbed.shape == x.shape
    assert float(perturbed.min()) >= 0
    assert float(perturbed.max()) <= 1
    change = (perturbed - x).flatten(1).abs()
    if make in {single_step, iterated}:
        assert float(change.max()) <= strength + 1e-6
    elif make is sparse:
        assert int((change > 0).sum(dim=1).max()) <= max(1, round(strength * 64))
    assert float(change.max()) > 0


@pytest.mark.parametrize(
    ("family", "least"), [("single_step", 0.5), ("iterated", 0.9), ("to_boundary", 0.9), ("sparse", 0.3)]
)
def test_moves_labels(model: torch.nn.Module, x: torch.Tensor, family: str, least: float) -> None:
    """At its greatest strength each family moves many labels of a trained model, more than noise as large does."""
    make, strengths = FAMILIES[family]
    perturbed = make(model, x, strengths[-1], (0.0, 1.0), rng()).detach()
    change = perturbed - x
    shuffled = change.flatten(1)[:, torch.randperm(64, generator=rng())].reshape(x.shape)
    assert moved(model, x, perturbed) >= least
    assert moved(model, x, perturbed) > 2 * moved(model, x, (x + shuffled).clamp(0, 1))


def test_stronger_moves_more(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Projected gradient ascent moves no fewer labels with a larger budget."""
    shares = [moved(model, x, iterated(model, x, s, (0.0, 1.0), rng())) for s in (0.03, 0.1, 0.3)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_overshoot(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Boundary perturbations end just past the boundary: far smaller than a fixed step, and larger with overshoot."""
    sizes = [
        float((to_boundary(model, x, overshoot, (0.0, 1.0), rng()) - x).flatten(1).norm(dim=1).median())
        for overshoot in (0.02, 1.0)
    ]
    step = float((single_step(model, x, 0.3, (0.0, 1.0), rng()) - x).flatten(1).norm(dim=1).median())
    assert sizes[0] < sizes[1]
    assert sizes[0] < step / 2


@pytest.mark.parametrize("make", [single_step, iterated, sparse, to_boundary])
@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0)])
def test_strengths_are_shares_of_the_range(
    model: torch.nn.Module, x: torch.Tensor, make: Perturbation, bounds: tuple[float, float]
) -> None:
    """In other units the same strength makes the same perturbation: a share of the range, not a number of units."""
    low, span = bounds[0], bounds[1] - bounds[0]
    scaled = make(lambda values: model((values - low) / span), x * span + low, 0.1, bounds, rng()).detach()
    plain = make(model, x, 0.1, (0.0, 1.0), rng()).detach()
    back = (scaled - low) / span
    alike = (back - plain).flatten(1).abs().amax(dim=1) < 1e-2  # rounding may tip a sign or a rank now and then
    assert float(alike.double().mean()) > 0.9
