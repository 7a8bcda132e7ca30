"""The GPU's noise kernel, run by Triton's interpreter: its values are those of Philox, and its noise is what is asked.

Where Triton's language is not installed, which comes with torch for CUDA only, the kernel's tests are skipped, and
`make test-kernel` gets it and runs them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from guard.values import Float32Array

SCALE, LOW, HIGH = 0.5, -0.75, 1.0
SHAPE = (3, 40, 30)
"""3600 values: three blocks of the kernel and part of a fourth."""
SEEDS = np.array([0, 1, 2**40 + 1, -1, 1, -(2**63)], np.int64)
KEY_A, KEY_B = 0x9E3779B9, 0xBB67AE85
ROUND_A, ROUND_B = 0xD2511F53, 0xCD9E8D57
WORD = 0xFFFFFFFF

Words = npt.NDArray[np.uint64]


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10 of Salmon et al. (2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * np.uint64(ROUND_A), c2 * np.uint64(ROUND_B)
        high_a, low_a = a >> np.uint64(32), a & np.uint64(WORD)
        high_b, low_b = b >> np.uint64(32), b & np.uint64(WORD)
        c0, c1, c2, c3 = high_b ^ c1 ^ np.uint64(k0), low_b, high_a ^ c3 ^ np.uint64(k1), low_a
        k0, k1 = (k0 + KEY_A) & WORD, (k1 + KEY_B) & WORD
    return c0, c1, c2, c3


def uniform(words: Words) -> npt.NDArray[np.float64]:
    """From 0 to 1, of 32 bits of which the first folds the rest."""
    signed = words.astype(np.uint32).view(np.int32)
    return np.where(signed < 0, ~signed, signed) * 4.6566127342e-10


def noise(kind: str, seed: int, values: int) -> npt.NDArray[np.float64]:
    """What a copy of this seed gets, before it is scaled."""
    at, none = np.arange(values, dtype=np.uint64), np.zeros(values, np.uint64)
    first, second, _, _ = philox((at, none, none, none), (seed & WORD, seed >> 32 & WORD))
    if kind == "uniform":
        return 2 * uniform(first) - 1
    radius = np.sqrt(-2 * np.log(np.maximum(1e-7, uniform(first))))  # Box and Muller (1958)
    return radius * np.cos(2 * np.pi * uniform(second))


@pytest.fixture(scope="module")
def inputs() -> Float32Array:
    """An input a copy, different ones."""
    return np.random.default_rng(0).random((len(SEEDS), *SHAPE), np.float32)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Float32Array], Mapping[str, Float32Array]]:
    """Copies of inputs, by the kind of noise."""
    if find_spec("triton") is None:
        pytest.skip("Triton's language is not installed here: `make test-kernel` gets it")
    folder = tmp_path_factory.mktemp("kernel")

    def made(inputs: Float32Array) -> Mapping[str, Float32Array]:
        np.savez(folder / "in.npz", inputs=inputs, seeds=SEEDS, numbers=np.array([SCALE, LOW, HIGH]))
        command = [sys.executable, "-m", "tests.screen.interpreted_kernel", "in.npz", "out.npz"]
        paths = [str(folder / name) for name in command[3:]]
        subprocess.run([*command[:3], *paths], check=True, cwd=Path(__file__).parents[2], timeout=300)
        with np.load(folder / "out.npz") as file:
            return dict(file)

    return made


@pytest.fixture(scope="module")
def copies(
    make: Callable[[Float32Array], Mapping[str, Float32Array]], inputs: Float32Array
) -> Mapping[str, Float32Array]:
    """Copies of `inputs`."""
    return make(inputs)


def test_the_reference() -> None:
    """The reference here is Philox: it gives the published answers to the counters and keys of zeros and of ones."""
    zeros, ones = (tuple(np.array([word], np.uint64) for _ in range(4)) for word in (0, WORD))
    assert [int(word[0]) for word in philox(zeros, (0, 0))] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert [int(word[0]) for word in philox(ones, (WORD, WORD))] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_values(copies: Mapping[str, Float32Array], inputs: Float32Array, kind: str) -> None:
    """Each copy is its own input and the noise of its seed, 64 bits of it, value by value; uniform ones are clipped."""
    values = int(np.prod(SHAPE))
    for x, seed, copy in zip(inputs, SEEDS.tolist(), copies[kind][:-1], strict=True):
        expected = x + SCALE * noise(kind, seed, values).reshape(SHAPE)
        expected = np.clip(expected, LOW, HIGH) if kind == "uniform" else expected
        np.testing.assert_allclose(copy, expected, atol=2e-5)
    assert np.isnan(copies[kind][-1]).all()


@pytest.mark.parametrize(("kind", "law"), [("gaussian", stats.norm(0, SCALE)), ("uniform", stats.uniform(-0.5, 1))])
def test_distribution(
    make: Callable[[Float32Array], Mapping[str, Float32Array]], kind: str, law: stats.rv_continuous
) -> None:
    """On an input of zeros, far from its bounds, noise is distributed as asked; other seeds give other noise."""
    made = make(np.zeros((len(SEEDS), *SHAPE), np.float32))[kind][:-1].reshape(len(SEEDS), -1)
    distinct = np.delete(made, 4, axis=0)
    np.testing.assert_array_equal(made[4], made[1])  # the same seed
    assert stats.kstest(distinct.ravel(), law.cdf).pvalue > 1e-4
    correlations = np.corrcoef(distinct) - np.eye(len(distinct))
    assert np.abs(correlations).max() < 6 / made.shape[1] ** 0.5
