"""Which decisions are recorded."""

from __future__ import annotations

import pytest

from guard.audit.sampling import Sampler
from guard.recording import Audit
from guard.values import Action, Decision, Mode, UnscreenedReason, Verdict
from tests.audit.parts import decision, probing, rejected

CLEAN = decision()
FLAGGED = decision(Verdict.ADVERSARIAL, Action.FLAG)
SHADOWED = decision(Verdict.ADVERSARIAL, mode=Mode.SHADOW, intended=Action.REJECT)
PROBED = decision(Verdict.CLEAN, Action.FORWARD, probing(suspicious=True))
UNSEEN = decision(Verdict.UNSCREENED, reason=UnscreenedReason.CLIENT_DEADLINE)
UNLISTED = decision(Verdict.UNSCREENED, reason=UnscreenedReason.UNLISTED_MODEL)


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.s


def sampler(clock: Clock, drawn: float, **more: float) -> Sampler:
    """A sampler that draws the same number each time."""
    return Sampler(Audit(flags_per_s=2.0, flags_beyond=0.1, **more), now_s=clock, draw=lambda: drawn)


def test_rejections_are_always_recorded() -> None:
    """However many are rejected, and whatever is drawn, each is recorded."""
    chosen = sampler(Clock(), 0.999)
    assert [chosen.one_of(rejected()) for _ in range(50)] == [1] * 50


@pytest.mark.parametrize(
    "flagged", [FLAGGED, SHADOWED, PROBED, UNSEEN], ids=["flag", "shadow", "queries", "unscreened"]
)
def test_flags_are_recorded_up_to_a_rate(flagged: Decision) -> None:
    """What is flagged, would be, probes, or went on unseen is recorded up to the rate, and sampled beyond it."""
    clock = Clock()
    unlucky, lucky = sampler(clock, 0.999), sampler(clock, 0.05)
    assert [unlucky.one_of(flagged) for _ in range(4)] == [1, 1, 0, 0]
    assert [lucky.one_of(flagged) for _ in range(4)] == [1, 1, 10, 10]
    clock.s = 0.5
    assert [unlucky.one_of(flagged) for _ in range(3)] == [1, 0, 0]


@pytest.mark.parametrize("forwarded", [CLEAN, UNLISTED], ids=["clean", "not guarded"])
def test_forwards_are_sampled(forwarded: Decision) -> None:
    """Of what is simply let through the share that the settings say is recorded, and says of how many it is one."""
    assert sampler(Clock(), 0.0011).one_of(forwarded) == 0
    assert sampler(Clock(), 0.0009).one_of(forwarded) == 1000
    assert sampler(Clock(), 0.0, forwards=0.0).one_of(forwarded) == 0
    assert sampler(Clock(), 0.999, forwards=1.0).one_of(forwarded) == 1


def test_draws_are_fair() -> None:
    """Of many requests about the right share is drawn: within six standard deviations."""
    chosen = Sampler(Audit(forwards=0.1))
    drawn = sum(chosen.one_of(CLEAN) > 0 for _ in range(10_000))
    assert abs(drawn - 1000) < 6 * 30
