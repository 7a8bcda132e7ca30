"""Noise: the words of the published cipher, each used once, and the distributions that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats as distributions

from guard.screen.keystream import KEY_BYTES, NONCE_BYTES, Draw, Keystream, gaussians, seeded, uniforms
from guard.values import Float32Array

KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NONCE = bytes(NONCE_BYTES)
SIGNIFICANCE = 1e-4
SIZES = (1, 2, 3, 4, 7, 784, 3072, 32_766, 32_767, 32_768, 32_769, 70_000)
"""Values in a copy: odd, even, and about the number of words that are made at a time."""


def draw(start: int, copies: int, *, key: bytes = KEY, nonce: bytes = NONCE) -> Draw:
    """The noise of some copies."""
    return Draw(Keystream(key), nonce, start, copies)


def normal(draws: Sequence[Draw], values: int, sigma: float = 1.0) -> Float32Array:
    """Gaussians in memory that held something else."""
    out = np.full((sum(each.copies for each in draws), values), np.nan, dtype=np.float32)
    gaussians(draws, sigma, out)
    return out


MAKERS = pytest.mark.parametrize("make", [uniforms, normal], ids=["uniforms", "gaussians"])
Make = Callable[[Sequence[Draw], int], Float32Array]


def write(key: bytes, nonce: bytes, block: int, size: int) -> bytes:
    """Some of a keystream."""
    buffer = bytearray(size + 16)
    Keystream(key).write(nonce, block, size, memoryview(buffer))
    return bytes(buffer[:size])


class TestWords:
    """The keystream."""

    def test_published_vector(self) -> None:
        """It is AES-128 in counter mode: NIST SP 800-38A, F.5.1, whose counter begins at f0f1...feff."""
        expected = (
            "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae"
            "6a2cc3787889374fbeb4c81b17ba6c44e89c399ff0f198c6d40a31db156cabfe"
        )
        assert write(KEY, bytes(range(0xF0, 0xFC)), 0xFCFDFEFF, 64).hex() == expected

    @pytest.mark.parametrize("block", [0, 1, 255, 2**31, 2**32 - 8])
    def test_position(self, block: int) -> None:
        """Words are those at their position, wherever one begins: the cipher of nonce and counter."""
        nonce = bytes(range(NONCE_BYTES))
        counters = b"".join(nonce + (block + i).to_bytes(4, "big") for i in range(8))
        encryptor = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()  # noqa: S305 - how counter mode is defined
        assert write(KEY, nonce, block, 128) == encryptor.update(counters)

    @pytest.mark.parametrize("values", [8, 784, 70_000])
    def test_no_word_is_used_twice(self, values: int) -> None:
        """No two copies, inputs or keys share any noise: each block of the cipher is used once."""
        draws = [
            draw(start, 3, key=key, nonce=nonce)
            for key in (KEY, KEY[::-1])
            for nonce in (NONCE, b"\1" * NONCE_BYTES)
            for start in (0, 3)
        ]
        blocks = uniforms(draws, values).reshape(-1, 4)  # 96 bits of each block: no two are the same by chance
        assert len(np.unique(blocks, axis=0)) == len(blocks)


@MAKERS
@pytest.mark.parametrize("values", SIZES)
def test_draws_change_nothing(make: Make, values: int) -> None:
    """A copy has the same noise however copies are cut into draws, and whatever is made with it."""
    most = 70 if values < 784 else 5
    whole = make([draw(0, most)], values)
    for cuts in ([0, 1, most], [0, most // 2, most // 2 + 1, most], list(range(most + 1))):
        assert np.array_equal(make([draw(a, b - a) for a, b in pairwise(cuts)], values), whole)
    other = draw(0, 7, nonce=b"\1" * NONCE_BYTES)
    among = make([other, draw(2, 3), other, draw(0, 2)], values)
    assert np.array_equal(among[7:10], whole[2:5])
    assert np.array_equal(among[17:], whole[:2])
    assert np.array_equal(among[:7], among[10:17])


@MAKERS
def test_key_and_nonce(make: Make) -> None:
    """The same key and nonce give the same noise, another of either gives other noise, and so does each copy."""
    once = make([draw(0, 2)], 100)
    assert np.array_equal(once, make([draw(0, 2)], 100))
    others = [draw(0, 2, key=bytes([*KEY[:-1], KEY[-1] ^ 1])), draw(0, 2, nonce=bytes([*NONCE[:-1], 1])), draw(2, 2)]
    for other in others:
        assert (make([other], 100) == once).mean() < 0.01
    assert (once[0] == once[1]).mean() < 0.01


def test_seeded() -> None:
    """Seeded noise repeats with its seed; with another, or drawn later from the same generator, it is other noise."""
    rng = np.random.default_rng(1)
    once, later = (uniforms([seeded(rng, 3)], 50) for _ in range(2))
    assert np.array_equal(once, uniforms([seeded(np.random.default_rng(1), 3)], 50))
    assert not np.array_equal(once, later)
    assert not np.array_equal(once, uniforms([seeded(np.random.default_rng(2), 3)], 50))


@MAKERS
def test_threads(make: Make) -> None:
    """Threads that make noise at the same time don't disturb each other."""
    expected = [make([draw(0, 20, key=bytes([i]) * KEY_BYTES)], 5000) for i in range(4)]

    def work(i: int) -> bool:
        mine = draw(0, 20, key=bytes([i]) * KEY_BYTES)
        return all(np.array_equal(make([mine], 5000), expected[i]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.parametrize("values", [3, 784, 70_001])
def test_uniform(values: int) -> None:
    """Uniforms are uniform over [0, 1), 1 excluded."""
    found = uniforms([draw(0, 200_000 // values + 1)], values).ravel()
    assert distributions.kstest(found, "uniform").pvalue > SIGNIFICANCE
    assert 0 <= found.min() < 1e-4
    assert 1 - 1e-4 < found.max() < 1


@pytest.mark.parametrize("sigma", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("values", [1, 3, 784, 70_001])
def test_normal(values: int, sigma: float) -> None:
    """Gaussians are normal with deviation sigma."""
    found = normal([draw(0, 200_000 // values + 1)], values, sigma).ravel()
    assert distributions.kstest(found, "norm", args=(0, sigma)).pvalue > SIGNIFICANCE


def test_moments_and_tails() -> None:
    """Mean, variance, skewness and kurtosis are those of the normal, and so are its tails as far out as can be seen."""
    found = normal([draw(0, 1000)], 3072).ravel().astype(np.float64)
    n, errors = len(found), 4.0
    assert abs(found.mean()) < errors / np.sqrt(n)
    assert abs(found.var() - 1) < errors * np.sqrt(2 / n)
    assert abs(distributions.skew(found)) < errors * np.sqrt(6 / n)
    assert abs(distributions.kurtosis(found)) < errors * np.sqrt(24 / n)
    for tail in (2.0, 3.0, 4.0, 4.5):
        for side in (found, -found):
            beyond = int((side > tail).sum())
            assert distributions.binomtest(beyond, n, distributions.norm.sf(tail)).pvalue > SIGNIFICANCE


def test_pairs() -> None:
    """The two values of a pair are independent: their squares sum to what an exponential distribution says."""
    made = normal([draw(0, 500)], 784).astype(np.float64)
    sums = (made[:, :392] ** 2 + made[:, 392:] ** 2).ravel() / 2
    assert distributions.kstest(sums, "expon").pvalue > SIGNIFICANCE
    angles = np.arctan2(made[:, 392:], made[:, :392]).ravel() / np.pi
    assert distributions.kstest(angles, "uniform", args=(-1, 2)).pvalue > SIGNIFICANCE


def correlation(a: Float32Array, b: Float32Array) -> float:
    """In units of its own deviation where there is none."""
    return abs(float(np.corrcoef(a.ravel(), b.ravel())[0, 1])) * np.sqrt(a.size)


@pytest.mark.parametrize("values", [8, 783, 784, 70_000])
def test_uncorrelated(values: int) -> None:
    """Values are uncorrelated with each other, the two of a pair too, in themselves and in their squares."""
    made = normal([draw(0, 400_000 // values)], values)
    half = -(-values // 8) * 4 if values <= 32_768 else 16_384
    rest = min(values - half, half)
    for power in (1, 2):
        noise = made**power
        assert correlation(noise[:, :rest], noise[:, half : half + rest]) < 4.5  # the two of a pair
        assert correlation(noise[:-1], noise[1:]) < 4.5  # of neighbouring copies
        for lag in (1, 2, 4):
            assert correlation(noise[:, :-lag], noise[:, lag:]) < 4.5
    flat = made[: len(made) // 2 * 2].reshape(2, -1)
    assert correlation(flat[0], flat[1]) < 4.5


def test_copies_are_uncorrelated() -> None:
    """No copy is correlated with another, of the same input or of another one."""
    made = normal([draw(0, 20), draw(0, 20, nonce=b"\1" * NONCE_BYTES), draw(0, 20, key=KEY[::-1])], 70_000)
    correlations = np.corrcoef(made) - np.eye(60)
    assert np.abs(correlations).max() * np.sqrt(70_000) < 5.5


def test_scales_with_sigma() -> None:
    """Sigma scales the same draws."""
    np.testing.assert_allclose(normal([draw(0, 9)], 99, 0.25), normal([draw(0, 9)], 99) / 4, rtol=1e-5)


def test_always_finite() -> None:
    """Among ten million values none is NaN or infinite, or further out than 6.7 deviations."""
    for start in range(0, 100, 10):
        made = normal([draw(start, 10)], 100_000)
        assert float(np.abs(made).max()) < 6.7  # false for NaN


class Stuck(Keystream):
    """Words that are all the same."""

    def __init__(self, word: int) -> None:
        super().__init__(KEY)
        self._word = word

    def write(self, nonce: bytes, block: int, size: int, buffer: memoryview) -> None:  # noqa: ARG002 - all the same
        """The same."""
        buffer[:size] = self._word.to_bytes(4, "little") * (size // 4)


@pytest.mark.parametrize("word", [0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1], ids=hex)
def test_extreme_words(word: int) -> None:
    """No word there is makes anything but a number within its range."""
    stuck = [Draw(Stuck(word), NONCE, 0, 2)]
    assert float(np.abs(normal(stuck, 9)).max()) < 6.7  # false for NaN
    assert 0 <= float(uniforms(stuck, 9).min()) <= float(uniforms(stuck, 9).max()) < 1
