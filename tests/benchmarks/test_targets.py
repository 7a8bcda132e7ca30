"""What is asked of detection beside what was reached: met, not met, or open where images are too few to say."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.detection import targets
from benchmarks.detection.subjects import Name
from guard.offline.evaluate.results import Count


def count(number: int, of: int) -> dict[str, Any]:
    """As results have it."""
    return Count(number, of).as_json()


def attack(name: str, number: int, of: int, linf: float | None = None) -> dict[str, Any]:
    """A row of the results; a quarter of it is caught after laundering."""
    caught = {"0.05": count(number, of), "0.01": count(number, of)}
    washed = {"condition": "JPEG 95", "caught": {"0.05": count(of // 4, of)}}
    return {"attack": name, "setting": "L2", "linf": linf, "caught": caught, "laundered": [washed]}


def rows(*attacks: dict[str, Any], noisy: int = 5) -> dict[str, str]:
    """The column `met`, by what was asked."""
    drift = [
        {"kind": "noise", "setting": "4/255", "expected": True, "flagged": {"0.05": count(noisy, 100)}},
        {"kind": "noise", "setting": "16/255", "expected": False, "flagged": {"0.05": count(100, 100)}},
    ]
    flagged = {"0.05": count(200, 4000), "0.01": count(80, 4000)}
    found = {"rates": [0.05, 0.01], "false_positives": flagged, "drift": drift, "attacks": list(attacks)}
    lines = [line.split(" | ") for line in targets.markdown(Name.CIFAR10, found) if line.startswith("| ")][2:]
    return {asked.strip("| "): met.strip("| ") for asked, _, met in lines}


def test_met_or_not() -> None:
    """Rates by their intervals, attacks by shares and means, drift where it was expected."""
    found = rows(attack("FGSM", 99, 100), attack("PGD", 96, 100))
    assert found["honest images flagged, at 5%: no more"] == "yes"
    assert found["honest images flagged, at 1%: no more"] == "**no**"
    assert found["honest images flagged under each expected change, at 5%: no more than 10%"] == "yes"
    assert found["each attack caught, at 5%: 85%"] == "yes"
    assert found["attacks caught, at 5%: mean 95%"] == "yes"
    assert found["laundered attacks caught, at 5%: mean 75%"] == "**no**"
    assert found["laundered attacks caught, at 5%: worst 50%"] == "**no**"


@pytest.mark.parametrize(("caught", "of", "met"), [(80, 100, "open"), (60, 100, "**no**"), (0, 0, "yes")])
def test_few_images_leave_it_open(caught: int, of: int, met: str) -> None:
    """A share below what is asked is a miss only if its interval is; an attack that never won says nothing."""
    assert rows(attack("FGSM", 99, 100), attack("C&W", caught, of))["each attack caught, at 5%: 85%"] == met


def test_rows_of_an_attack_are_also_taken_together() -> None:
    """Each of five rows may be chance, and all of them not."""
    asked = "each attack caught, at 5%: 85%"
    assert rows(attack("C&W", 15, 20), attack("FGSM", 99, 100))[asked] == "open"
    assert rows(*[attack("C&W", 15, 20)] * 5, attack("FGSM", 99, 100))[asked] == "**no**"


def test_what_nobody_needs_lifts_no_mean_unseen() -> None:
    """Beside the mean is that without L-inf of more than 8/255."""
    caught = [attack("PGD", 50, 100, linf=8 / 255), attack("PGD", 100, 100, linf=16 / 255), attack("C&W", 60, 100)]
    flagged = {rate: count(5, 4000) for rate in ("0.05", "0.01")}
    found = {"rates": [0.05, 0.01], "false_positives": flagged, "drift": [], "attacks": caught}
    lines = "\n".join(targets.markdown(Name.CIFAR10, found))
    assert "| 70.0%; 55.0% without L-inf of more than 8/255 | **no** |" in lines


@pytest.mark.parametrize(("noisy", "met"), [(10, "yes"), (14, "open"), (30, "**no**")])
def test_drift(noisy: int, met: str) -> None:
    """So with honest images."""
    asked = "honest images flagged under each expected change, at 5%: no more than 10%"
    assert rows(attack("FGSM", 99, 100), noisy=noisy)[asked] == met


def test_nothing_is_asked_of_digits() -> None:
    """They are a demo."""
    assert not list(targets.markdown(Name.DIGITS, {"rates": [0.05, 0.01]}))
