"""The engine at work: sharing, replay, batches, admission, deadlines and cancellation."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from guard.errors import DeadlineExceeded, EngineStopped, Overloaded
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.sensitivity import SensitivityTrial
from guard.screen.trial import ITSELF, MODEL, NETWORK
from guard.values import Certified, Evidence, Fault, FaultReason
from tests.screen.parts import (
    TIMEOUT_S,
    FakeBackend,
    HeldBackend,
    drive,
    eventually,
    item,
    itself_and_mutants,
    model_info,
    numbers,
    pixels,
    running,
    screen,
    steady,
    untimed,
)

GAUSSIAN = spec.Gaussian(sigma=0.5)
CONFIDENCE = spec.ConfidenceSpec()
SENSITIVITY = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2)
SMOOTHING = spec.SmoothingSpec(sigma=0.5, radius=0.25)
SQUEEZING = spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=8), spec.BitDepth(bits=7)))
NETWORK_SPEC = spec.NetworkSpec(sha256="")
ALL = (CONFIDENCE, SENSITIVITY, SMOOTHING, SQUEEZING)


class TestEvaluations:
    """What is spent, and on whose account."""

    @pytest.mark.parametrize("specs", [(SENSITIVITY, SMOOTHING), (SMOOTHING, SENSITIVITY)], ids=["first", "second"])
    def test_shared(self, specs: tuple[spec.DetectorSpec, ...]) -> None:
        """Sensitivity and a certificate with one sigma share their copies: 22 beside the label for a stable input."""
        backend = FakeBackend(steady)
        screening = screen(backend, specs, item(1))
        spent = dict(screening.spent)
        assert spent.pop("label") == 1
        assert sum(spent.values()) == 22
        assert sum(backend.sizes) == 23
        assert [finding.evaluations for finding in screening.findings] == [
            22 if isinstance(finding, Certified) else 15 for finding in screening.findings
        ]

    def test_charged_to_who_asked_first(self) -> None:
        """A copy is charged once, to the detector that asked for it first; a detector's own network costs nothing."""
        network = FakeBackend(lambda x: torch.zeros(len(x), 2), info=model_info(classes=2))
        specs = (*ALL, NETWORK_SPEC)
        with running(FakeBackend(steady), build_detectors(specs), others={NETWORK: network}) as engine:
            screening = engine.submit(item(1)).result(TIMEOUT_S)
        assert screening.spent == {"label": 1, "sensitivity_gaussian": 15, "smoothing": 7, "squeezing": 2}
        assert network.sizes == [1]

    def test_different_sigma_shares_nothing(self) -> None:
        """Copies under another sigma are others."""
        smoothing = spec.SmoothingSpec(sigma=0.6, radius=0.3)
        screening = screen(FakeBackend(steady), (SENSITIVITY, smoothing), item(1))
        assert screening.spent == {"label": 1, "sensitivity_gaussian": 15, "smoothing": 22}

    def test_one_batch_for_all_that_is_asked(self) -> None:
        """What trials ask for in one go is classified in one go: the input, its squeezed copies and first mutants."""
        backend = FakeBackend(steady)
        screen(backend, ALL, item(1))
        assert backend.sizes == [1 + 8 + 2, 14]

    def test_two_items_share_batches(self) -> None:
        """Items that wait together are classified together."""
        backend = HeldBackend(steady, batch=36)
        with running(backend, build_detectors(ALL)) as engine:
            first = engine.submit(item(1))
            assert backend.entered.wait(TIMEOUT_S)
            others = [engine.submit(item(n)) for n in (2, 3)]
            backend.release.set()
            for future in (first, *others):
                future.result(TIMEOUT_S)
        assert backend.sizes == [11, 14 + 2 * 11, 2 * 14]

    def test_copies_are_made_while_the_model_runs(self) -> None:
        """While a full batch is classified, more items are let in to fill another; each gets its own answers."""
        let_in = []

        def answer(x: Tensor) -> Tensor:
            if len(backend.batches) == 2:
                let_in.append(eventually(lambda: engine.live == 6))
            return pixels(x)

        backend = HeldBackend(answer, batch=33)
        with running(backend, build_detectors(ALL)) as engine:
            futures = {1: engine.submit(item(1))}
            assert backend.entered.wait(TIMEOUT_S)
            futures |= {n: engine.submit(item(n)) for n in range(2, 9)}
            backend.release.set()
            found = {n: untimed(future.result(TIMEOUT_S)) for n, future in futures.items()}
        assert let_in == [True]
        assert found == {n: untimed(screen(FakeBackend(pixels), ALL, item(n))) for n in found}

    @pytest.mark.parametrize(
        ("deadline_s", "order"),
        [(10.0, [{1}, {1}, {2, 3}, {2}, {3}, {3}]), (None, [{1}, {1}, {2, 3}, {3}, {2}, {3}])],
    )
    def test_few_copies_take_turns_when_time_is_short(self, deadline_s: float | None, order: list[set[int]]) -> None:
        """With a deadline near, a small batch is classified before the next is made: later items don't overtake."""
        backend = HeldBackend(steady, batch=14)
        with running(backend, build_detectors(ALL)) as engine:
            futures = [engine.submit(item(1), deadline_s=deadline_s)]
            assert backend.entered.wait(TIMEOUT_S)
            futures += [engine.submit(item(n), deadline_s=deadline_s) for n in (2, 3)]
            time.sleep(0.7)  # which tells the engine that a batch takes so long
            backend.release.set()
            for future in futures:
                future.result(TIMEOUT_S)
        assert [numbers(batch) for batch in backend.batches] == order


class TestFindings:
    """One finding a detector, reproducible."""

    def test_one_each_in_order(self) -> None:
        """Each detector returns exactly one finding, in the order of configuration, each with its duration."""
        screening = screen(FakeBackend(pixels), ALL, item(4))
        names = [finding.detector for finding in screening.findings]
        assert names == ["confidence", "sensitivity_gaussian", "smoothing", "squeezing"]
        assert all(finding.duration_s > 0 for finding in screening.findings)

    @pytest.mark.parametrize("number", range(1, 6))
    def test_told_what_was_asked(self, number: int) -> None:
        """A trial is told the answers about exactly the copies it asked for, in their order."""
        backend = FakeBackend(pixels, batch=3)
        screening = screen(backend, (SENSITIVITY,), item(number))
        itself, mutants = itself_and_mutants(backend, item(number))
        trial = SensitivityTrial(SENSITIVITY)
        drive(trial, lambda asked: pixels(itself if asked == ITSELF else mutants[asked.start :][: asked.copies]))
        assert untimed(screening)[1] == (trial.finding(screening.label),)

    def test_no_detectors(self) -> None:
        """Without detectors there are no findings, and nothing hangs."""
        assert screen(FakeBackend(steady), (), item(1)).findings == ()

    def test_replay(self) -> None:
        """A replayed input gets bit-identical findings, in this process and in another with the same secret."""
        backend = FakeBackend(pixels)
        with running(backend, build_detectors(ALL)) as engine:
            once, again = (untimed(engine.submit(item(5)).result(TIMEOUT_S)) for _ in range(2))
        assert once == again == untimed(screen(FakeBackend(pixels), ALL, item(5)))

    def test_zeros_have_no_signs(self) -> None:
        """An input that is equal, but for the sign of a zero, gets the same findings: there is no drawing again."""
        plus, minus = item(5), item(5)
        plus[1], minus[1] = 0.0, -0.0
        assert untimed(screen(FakeBackend(pixels), ALL, plus)) == untimed(screen(FakeBackend(pixels), ALL, minus))

    @pytest.mark.parametrize(
        ("secret", "fingerprint", "nudge"),
        [(b"other", "ab", 0.0), (b"secret", "cd", 0.0), (b"secret", "ab", 1e-6)],
        ids=["secret", "model", "input"],
    )
    def test_noise_is_bound(self, secret: bytes, fingerprint: str, nudge: float) -> None:
        """Another secret, another model or another input, however near, gets other noise."""

        def noise(secret: bytes, fingerprint: str, nudge: float) -> Tensor:
            backend = FakeBackend(steady, info=model_info(fingerprint=fingerprint))
            x = item(1)
            x[1] += nudge
            screen(backend, (SENSITIVITY,), x, secret)
            return itself_and_mutants(backend, x)[1] - torch.from_numpy(x)

        assert torch.equal(noise(b"secret", "ab", 0.0), noise(b"secret", "ab", 0.0))
        difference = noise(b"secret", "ab", 0.0) - noise(secret, fingerprint, nudge)
        assert float(difference.abs().min()) > 1e-5

    @pytest.mark.parametrize("batch", [1, 3, 7, 256])
    def test_batches_change_nothing(self, batch: int) -> None:
        """Findings do not depend on the company or the size of batches, which never exceed what the replica prefers."""
        backend = FakeBackend(pixels, batch=batch)
        with running(backend, build_detectors(ALL), max_live_items=5) as engine:
            futures = [engine.submit(item(n)) for n in range(1, 9)]
            together = [untimed(future.result(TIMEOUT_S)) for future in futures]
        assert max(backend.sizes) <= batch
        assert together == [untimed(screen(FakeBackend(pixels), ALL, item(n))) for n in range(1, 9)]
        assert len({label for label, _ in together}) > 1


class TestAdmission:
    """The queue, its bound, and what leaves it early."""

    def test_queue_full(self) -> None:
        """What the queue has no room for is Overloaded at once; what waits is screened when there is room."""
        backend = HeldBackend(steady)
        with running(backend, build_detectors(ALL), max_queued_items=1, max_live_items=1) as engine:
            live = engine.submit(item(1))
            assert backend.entered.wait(TIMEOUT_S)
            queued = engine.submit(item(2))
            assert engine.depth == 1
            with pytest.raises(Overloaded, match="1 item is waiting"):
                engine.submit(item(3))
            backend.release.set()
            assert live.result(TIMEOUT_S).label == queued.result(TIMEOUT_S).label == 1
            assert engine.depth == 0

    def test_live_items_are_bounded(self) -> None:
        """No more items than allowed are screened at a time, oldest first."""
        backend = HeldBackend(steady)
        with running(backend, build_detectors(ALL), max_live_items=2) as engine:
            futures = [engine.submit(item(n)) for n in range(1, 7)]
            backend.release.set()
            for future in futures:
                future.result(TIMEOUT_S)
        served = [numbers(batch) for batch in backend.batches]
        assert all(len(together) <= 2 for together in served)
        first_seen = [min(turn for turn, together in enumerate(served) if n in together) for n in range(1, 7)]
        assert first_seen == sorted(first_seen)

    def test_leaves_the_queue_for_free(self) -> None:
        """An item that expired or was cancelled in the queue costs no evaluation."""
        backend = HeldBackend(steady)
        with running(backend, build_detectors(ALL), max_live_items=1) as engine:
            live = engine.submit(item(1))
            assert backend.entered.wait(TIMEOUT_S)
            expired, cancelled = engine.submit(item(2), deadline_s=0.0), engine.submit(item(3))
            last = engine.submit(item(4))
            assert cancelled.cancel()
            backend.release.set()
            for future in (live, last):
                future.result(TIMEOUT_S)
            assert isinstance(expired.exception(TIMEOUT_S), DeadlineExceeded)
        assert numbers(torch.cat(backend.batches)) == {1, 4}

    def test_cancelled_while_live(self) -> None:
        """An item that is cancelled while it is screened costs nothing further."""
        backend = HeldBackend(steady)
        with running(backend, build_detectors(ALL)) as engine:
            live = engine.submit(item(1))
            assert backend.entered.wait(TIMEOUT_S)
            assert live.cancel()
            other = engine.submit(item(2))
            backend.release.set()
            other.result(TIMEOUT_S)
        assert [1 in numbers(batch) for batch in backend.batches] == [True, False, False]

    def test_deadline_midway(self) -> None:
        """At its deadline an item keeps what its answers decided by then; the rest is Fault(DEADLINE)."""
        deadline_s = 3.0

        def slow(x: Tensor) -> Tensor:
            while time.monotonic() < due:
                time.sleep(0.01)  # the passing of time is what is tested
            return steady(x)

        backend = FakeBackend(slow)
        with running(backend, build_detectors(ALL)) as engine:
            due = time.monotonic() + deadline_s + 0.1
            screening = engine.submit(item(1), deadline_s=deadline_s).result(TIMEOUT_S)
        assert screening.label == 1
        confidence, sensitivity, smoothing, squeezing = screening.findings
        assert isinstance(confidence, Evidence)
        assert isinstance(squeezing, Evidence)
        for cut_short in (sensitivity, smoothing):
            assert isinstance(cut_short, Fault)
            assert cut_short.reason is FaultReason.DEADLINE
        assert len(backend.batches) == 1

    def test_not_started(self) -> None:
        """An engine that was not started takes nothing, and can be stopped."""
        engine = Engine(detectors=(), backends={MODEL: FakeBackend(steady)}, secret=b"")
        with pytest.raises(EngineStopped):
            engine.submit(item(1))
        engine.stop()
        assert not engine.alive
