"""The engine with copies made and compared on a device, which is the CPU here: as on the host, but for other noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guard.errors import BackendError
from guard.model.backend import Backend
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.device import DeviceReplica
from guard.screen.engine import Engine
from guard.screen.live import LiveItem
from guard.screen.trial import MODEL, NETWORK, Answers, Detector, Probes, source
from guard.values import Abstention, Certified, Evidence, Fault, FaultReason, Finding, Float32Array, Screening
from tests.screen.parts import (
    TIMEOUT_S,
    FakeBackend,
    item,
    itself_and_mutants,
    model_info,
    pixels,
    running,
    steady,
    untimed,
)
from tests.screen.test_isolation import Unreliable

GAUSSIAN = spec.Gaussian(sigma=0.5)
SENSITIVITY = spec.SensitivitySpec(mutation=GAUSSIAN, p0=0.02, p1=0.2)
QUIET = (
    spec.ConfidenceSpec(),
    spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=8), spec.BitDepth(bits=7))),
    spec.NetworkSpec(sha256=""),
)
ALL = (
    *QUIET,
    SENSITIVITY,
    spec.SensitivitySpec(mutation=spec.Uniform(width=0.5), p0=0.05, p1=0.2, undecided="abstain"),
    spec.SensitivitySpec(mutation=spec.ContrastBrightness(contrast=0.1, brightness=0.001), p0=0.02, p1=0.2),
    spec.SmoothingSpec(sigma=0.5, radius=0.25),
)


def network() -> FakeBackend:
    """A detector network whose answer is the input's first values."""
    return FakeBackend(lambda x: torch.stack([x[:, 0], x[:, 1]], dim=1), info=model_info(classes=2), batch=3)


@contextmanager
def on_device(
    backend: Backend, detectors: Sequence[Detector], *, secret: bytes = b"secret", max_live_items: int = 16
) -> Iterator[Engine]:
    """An engine whose replicas make copies on their device."""
    backends: Mapping[str, Backend] = {MODEL: backend, NETWORK: network()}
    engine = Engine(
        detectors=detectors, backends=backends, secret=secret, max_live_items=max_live_items, on_device=True
    )
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def screen(
    backend: Backend, x: Float32Array, specs: Sequence[spec.DetectorSpec] = ALL, secret: bytes = b"secret"
) -> Screening:
    """Screen one input in an engine of its own."""
    with on_device(backend, build_detectors(specs), secret=secret) as engine:
        return engine.submit(x).result(TIMEOUT_S)


@cache
def alone(number: int) -> tuple[int | None, tuple[Finding, ...]]:
    """What an item gets when it is the only one and nothing fails."""
    return untimed(screen(FakeBackend(pixels), item(number)))


@pytest.mark.parametrize("number", range(1, 6))
def test_as_on_the_host(number: int) -> None:
    """Label and findings that rest on no noise are bit by bit those of the host."""
    with running(FakeBackend(pixels), build_detectors(QUIET), others={NETWORK: network()}) as engine:
        host = untimed(engine.submit(item(number)).result(TIMEOUT_S))
    assert (alone(number)[0], alone(number)[1][: len(QUIET)]) == host


def test_spends_as_on_the_host() -> None:
    """Streams are shared, charged and stopped as on the host."""
    screening = screen(FakeBackend(steady), item(1), (SENSITIVITY, spec.SmoothingSpec(sigma=0.5, radius=0.25)))
    assert screening.spent == {"label": 1, "sensitivity_gaussian": 15, "smoothing": 7}
    assert [type(finding) for finding in screening.findings] == [Evidence, Certified]


def test_replay() -> None:
    """A replayed input gets bit-identical findings, in this process and in another with the same secret."""
    with on_device(FakeBackend(pixels), build_detectors(ALL)) as engine:
        once, again = (untimed(engine.submit(item(5)).result(TIMEOUT_S)) for _ in range(2))
    assert once == again == alone(5)


@pytest.mark.parametrize(
    ("secret", "fingerprint", "nudge"),
    [(b"other", "ab", 0.0), (b"secret", "cd", 0.0), (b"secret", "ab", 1e-6)],
    ids=["secret", "model", "input"],
)
def test_noise_is_bound(secret: bytes, fingerprint: str, nudge: float) -> None:
    """Another secret, another model or another input, however near, gets other noise."""

    def noise(secret: bytes, fingerprint: str, nudge: float) -> Tensor:
        backend = FakeBackend(steady, info=model_info(fingerprint=fingerprint))
        x = item(1)
        x[1] += nudge
        screen(backend, x, (SENSITIVITY,), secret)
        return itself_and_mutants(backend, x)[1] - torch.from_numpy(x)

    assert torch.equal(noise(b"secret", "ab", 0.0), noise(b"secret", "ab", 0.0))
    difference = noise(b"secret", "ab", 0.0) - noise(secret, fingerprint, nudge)
    assert float(difference.abs().min()) > 1e-5


@pytest.mark.parametrize("batch", [1, 3, 7, 256])
def test_batches_change_nothing(batch: int) -> None:
    """Findings do not depend on the company or the size of batches, which never exceed what the replica prefers."""
    backend = FakeBackend(pixels, batch=batch)
    with on_device(backend, build_detectors(ALL), max_live_items=5) as engine:
        futures = [engine.submit(item(n)) for n in range(1, 9)]
        together = [untimed(future.result(TIMEOUT_S)) for future in futures]
    assert max(backend.sizes) <= batch
    assert together == [alone(n) for n in range(1, 9)]
    assert len({label for label, _ in together}) > 1


@settings(max_examples=25, deadline=None)
@given(
    failures=st.dictionaries(
        st.integers(0, 12), st.sampled_from(["backend_error", "bug", "nan_row"]), min_size=1, max_size=4
    ),
    batch=st.sampled_from([1, 5, 16, 64]),
    live=st.sampled_from([1, 3, 16]),
)
def test_each_gets_its_own(failures: dict[int, str], batch: int, live: int) -> None:
    """Whatever fails, each item gets the findings it would get alone, or the fault that hit its own copies."""
    unreliable = Unreliable(failures, lambda _turn: None)
    with on_device(FakeBackend(unreliable, batch=batch), build_detectors(ALL), max_live_items=live) as engine:
        futures = {n: engine.submit(item(n)) for n in range(1, 7)}
        screened = {n: untimed(future.result(TIMEOUT_S)) for n, future in futures.items()}
    for number, (label, findings) in screened.items():
        hit = unreliable.hit.get(number, set())
        expected_label, expected = alone(number)
        assert label in ({expected_label, None} if hit else {expected_label})
        for found, right in zip(findings, expected, strict=True):
            assert found == right or (isinstance(found, Fault) and found.reason in hit)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (BackendError("gone"), FaultReason.BACKEND),
        (ValueError("a bug"), FaultReason.BACKEND),
        (torch.zeros(2, 3), FaultReason.BACKEND),
        (torch.zeros(9), FaultReason.BACKEND),
        (torch.full((9, 3), float("nan")), FaultReason.NON_FINITE_OUTPUT),
        (torch.full((9, 3), float("inf")), FaultReason.NON_FINITE_OUTPUT),
    ],
    ids=["backend-error", "bug", "too-few-rows", "one-dimension", "nan", "inf"],
)
def test_replica_fails(answer: Exception | Tensor, reason: FaultReason) -> None:
    """A replica's failure faults each detector of the items in that batch, which then have no label."""

    def respond(_x: Tensor) -> Tensor:
        if isinstance(answer, Exception):
            raise answer
        return answer

    screening = screen(FakeBackend(respond), item(1), (spec.ConfidenceSpec(), SENSITIVITY))
    assert [finding.reason for finding in screening.findings if isinstance(finding, Fault)] == [reason] * 2
    assert screening.label is None


def test_copy_that_cannot_be_made() -> None:
    """Copies that can't be made cost the finding that needed them and no other."""
    median = spec.SqueezingSpec(squeezers=(spec.Median(),))
    unmade, confidence, sensitivity = screen(
        FakeBackend(steady), item(1), (median, spec.ConfidenceSpec(), SENSITIVITY)
    ).findings
    assert isinstance(unmade, Fault)
    assert unmade.reason is FaultReason.DETECTOR
    assert [type(finding) for finding in (confidence, sensitivity)] == [Evidence, Evidence]


def test_answers_are_kept_apart() -> None:
    """A model that answers with a view of its own input gets the findings of one that answers with a copy."""
    kept, cloned = FakeBackend(lambda x: x, batch=2), FakeBackend(torch.clone, batch=2)
    assert untimed(screen(kept, item(1))) == untimed(screen(cloned, item(1)))


class AsksForNoise:
    """A trial that asks for noisy copies one at a time and keeps their logits."""

    name, stage = "asks", 0

    def __init__(self) -> None:
        self.told: list[Answers] = []

    def open(self) -> AsksForNoise:
        """One input."""
        return self

    def ask(self) -> Sequence[Probes]:
        """The next copy."""
        return () if len(self.told) == 3 else (Probes(source(GAUSSIAN), len(self.told)),)

    def tell(self, probes: Probes, answers: Answers) -> None:  # noqa: ARG002 - one kind of probe
        """Keep the logits."""
        self.told.append(answers)

    def finding(self, duration_s: float = 0.0) -> Finding:
        """Nothing."""
        return Abstention(self.name, 0, "", duration_s)


def test_logits_that_are_looked_at() -> None:
    """A trial that asks is shown the logits of its noisy copies, also where a sequential one walks on them too."""
    asks, backend = AsksForNoise(), FakeBackend(pixels)
    with on_device(backend, [*build_detectors((SENSITIVITY,)), asks]) as engine:
        engine.submit(item(3)).result(TIMEOUT_S)
    mutants = itself_and_mutants(backend, item(3))[1]
    np.testing.assert_array_equal(np.concatenate([told.logits for told in asks.told]), pixels(mutants[:3]).numpy())


def test_uploaded_once() -> None:
    """An input goes to the device once, whichever copies are made of it; read-only memory will do."""
    x = item(2)
    x.flags.writeable = False
    live = LiveItem(x, bytes(12), [list(enumerate(build_detectors(ALL)))], {MODEL, NETWORK})
    replica = DeviceReplica(MODEL, FakeBackend(pixels, batch=4), b"key")
    uploaded = set()
    for _ in range(4):
        (share, *_rest) = live.wants(MODEL)
        replica.land(replica.launch([share._replace(copies=min(share.copies, replica.room))]))
        live.advance()
        uploaded.add(id(live.on_device))
    assert len(uploaded) == 1
    np.testing.assert_array_equal(live.on_device, x)
