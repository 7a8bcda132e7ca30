"""Making and comparing copies on a device, which is the CPU here: seeds, distributions, and the host's comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.device import _compared, seeds
from guard.screen.engine import Engine
from guard.screen.keystream import Draw, Keystream
from guard.screen.trial import MODEL, compare
from guard.values import Float32Array
from tests.screen.parts import TIMEOUT_S, FakeBackend, itself_and_mutants, model_info, steady


def screen(backend: FakeBackend, x: Float32Array, specs: Sequence[spec.DetectorSpec]) -> None:
    """Screen one input with copies made on the device."""
    engine = Engine(detectors=build_detectors(specs), backends={MODEL: backend}, secret=b"secret", on_device=True)
    engine.start()
    try:
        engine.submit(x).result(TIMEOUT_S)
    finally:
        engine.stop()


@settings(deadline=None)
@given(data=st.data(), copies=st.integers(1, 12), classes=st.integers(2, 5))
def test_compared(data: st.DataObject, copies: int, classes: int) -> None:
    """Comparisons on the device are those of the host, for labels that are known and for inputs in the batch."""
    values = st.sampled_from([-1.0, 0.0, 0.5, 2.0, float("nan"), float("inf")])
    logits = np.array(
        data.draw(st.lists(st.lists(values, min_size=classes, max_size=classes), min_size=copies, max_size=copies)),
        dtype=np.float32,
    )
    rows = np.array(data.draw(st.lists(st.integers(-1, copies - 1), min_size=copies, max_size=copies)))
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=copies, max_size=copies)))
    shown = np.array(data.draw(st.lists(st.integers(0, copies - 1), unique=True)), dtype=np.int64)
    (changed, finite, found, margins), shown_logits = _compared(torch.from_numpy(logits), rows, labels, shown)
    rights = np.isfinite(logits).all(axis=1)
    np.testing.assert_array_equal(finite > 0, rights)
    np.testing.assert_array_equal(shown_logits, logits[shown])
    own = np.where(rows < 0, labels, logits.argmax(axis=1)[rows])
    heard = rights & ((rows < 0) | rights[rows])  # nobody hears of the others
    expected = compare(logits[heard], own[heard])
    np.testing.assert_array_equal(changed[heard] > 0, expected.changed)
    np.testing.assert_array_equal(margins[heard], expected.margins)
    np.testing.assert_array_equal(found[rights], logits.argmax(axis=1)[rights])


@settings(deadline=None)
@given(start=st.integers(0, 50), copies=st.integers(1, 20))
def test_seeds(start: int, copies: int) -> None:
    """A copy's seed depends on its number and not on the chunk it is made in, and no two copies share one."""
    draw = Draw(Keystream(b"k" * 16), b"n" * 12, 0, 70)
    whole = seeds([draw])
    assert len(set(whole.tolist())) == 70
    np.testing.assert_array_equal(seeds([draw._replace(start=start, copies=copies)]), whole[start : start + copies])
    np.testing.assert_array_equal(seeds([draw, draw._replace(start=start, copies=1)]), [*whole, whole[start]])


def noisy(specs: Sequence[spec.DetectorSpec], seen: int) -> Tensor:
    """Copies of a constant input of 4000 values, at least so many, without the input."""
    backend = FakeBackend(lambda x: steady(x[:, :3]), info=model_info((4000,)))
    x = np.full(4000, 500, np.float32)
    screen(backend, x, specs)
    mutants = itself_and_mutants(backend, x)[1]
    assert len(mutants) >= seen
    return mutants - 500


def test_gaussian() -> None:
    """Noise is Gaussian of the deviation asked for, within a copy, and copies are not alike."""
    noise = noisy((spec.SensitivitySpec(mutation=spec.Gaussian(sigma=0.5), p0=0.02, p1=0.2),), 15).double()
    assert stats.kstest((noise / 0.5).flatten().numpy(), "norm").pvalue > 1e-4
    assert abs(float(noise.mean())) < 4 * 0.5 / noise.numel() ** 0.5
    assert float(np.abs(np.corrcoef(noise.numpy()) - np.eye(len(noise))).max()) < 6 / 4000**0.5


def test_uniform() -> None:
    """Noise is uniform over the width asked for, both ways, and copies stay within the model's bounds."""
    uniform = spec.SensitivitySpec(mutation=spec.Uniform(width=0.5), p0=0.02, p1=0.2)
    noise = noisy((uniform,), 15).double()
    assert stats.kstest(noise.flatten().numpy(), "uniform", (-0.5, 1.0)).pvalue > 1e-4
    backend = FakeBackend(steady)
    screen(backend, np.array([0, 1000, 500], np.float32), (uniform,))
    copies = torch.cat(backend.batches)
    assert (float(copies.min()), float(copies.max())) == (0.0, 1000.0)
