"""Query attacks, each as the stream of inputs that it sends: ART's, and NES written afresh.

An attack sees a model that answers logits, one 8-bit input after the other, and stops when it has had its budget. What
it sent is kept in order, with the first query that was a success: misclassified, and within the attack's distance of
the clean image. Where each query is changed on its way, the answer is that to the changed one, and the success the
attack's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from art.attacks.evasion import BoundaryAttack, HopSkipJump, SimBA, SquareAttack, ZooAttack
from art.estimators.classification import BlackBoxClassifierNeuralNetwork
from scipy import special
from torch import Tensor, nn

from guard.offline.view import from_bytes, to_bytes
from guard.values import Float32Array

Transform: TypeAlias = Callable[[Float32Array, np.random.Generator], Float32Array]
"""What an attacker does to a query (channels, height, width) before sending it."""

_CLASSES: Final = 10
_HALF_A_LEVEL, _TINY = 0.5 / 255, 1e-5
_PLANNED = 300
"""Steps over which Square's squares shrink. Over 2000 they stay large for longer, and it succeeds later."""
_ASKED_EACH = 20
"""Questions for each query that it has, after which an attack that only repeats itself is stopped."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How far attacks may go: L-inf for Square and NES, L2 for the others; and how many queries they have.

    `patience` is the number of steps that Square may take for each query: on small images many propose what was asked.
    """

    linf: float
    l2: float
    queries: int
    patience: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """What one attack on one image sent, (queries, *dims); the index of its first success, None without one.

    `winner` is that success, (*dims): the attacker's own image, where what was sent of it was changed.
    """

    attack: str
    sent: Float32Array
    success: int | None
    winner: Float32Array | None = None


class _Spent(Exception):
    """The attacker has used its budget."""


class _Oracle:
    """The model as an attacker sees it; it keeps what it is asked."""

    def __init__(
        self,
        net: nn.Module,
        clean: Float32Array,
        budget: Budget,
        *,
        norm: float,
        transform: Transform | None,
        seed: int,
    ) -> None:
        self._net = net
        self._clean = clean
        self._budget, self._norm = budget, norm
        self._transform = transform
        self._rng = np.random.default_rng(seed)
        self._label = int(self._logits(clean).argmax())
        self._asked = 0
        self._answers: dict[bytes, Float32Array] = {}
        self.sent: list[Float32Array] = []
        self.success: int | None = None
        self.winner: Float32Array | None = None

    def __call__(self, x: Float32Array) -> Float32Array:
        """Answer a batch (n, *dims) with logits (n, classes), as far as the budget goes. Repetitions cost nothing."""
        asked = from_bytes(to_bytes(x))
        names = [row.tobytes() for row in asked]
        new = [i for i, name in enumerate(names) if name not in self._answers and name not in names[:i]]
        room = self._budget.queries - len(self.sent)
        self._asked += len(asked)
        if self.success is not None or (new and room <= 0) or self._asked > _ASKED_EACH * self._budget.queries:
            raise _Spent
        if new:
            self._send(asked[new[:room]], [names[i] for i in new[:room]])
        if len(new) > room:
            raise _Spent
        return np.stack([self._answers[name] for name in names])

    def _send(self, asked: Float32Array, names: list[bytes]) -> None:
        sent = asked
        if self._transform is not None:
            sent = from_bytes(to_bytes(np.stack([self._transform(row, self._rng) for row in asked])))
        logits = self._logits(sent)
        self._note_success(asked, logits if self._transform is None else self._logits(asked))
        self._answers.update(zip(names, logits, strict=True))
        self.sent += list(sent)

    @torch.no_grad()
    def _logits(self, x: Float32Array) -> Float32Array:
        logits: Float32Array = self._net(torch.from_numpy(np.ascontiguousarray(x))).numpy()
        return logits

    def _note_success(self, asked: Float32Array, logits: Float32Array) -> None:
        moved = (asked - self._clean).reshape(len(asked), -1)
        limit = self._budget.linf if self._norm == np.inf else self._budget.l2
        rounding = _HALF_A_LEVEL if self._norm == np.inf else 0.0
        near = np.linalg.norm(moved, ord=self._norm, axis=1) <= limit + rounding + _TINY
        won = np.flatnonzero(near & (logits.argmax(1) != self._label))
        if len(won):
            self.success, self.winner = len(self.sent) + int(won[0]), asked[won[0]].copy()


def _art(make: Callable[[BlackBoxClassifierNeuralNetwork, Budget], object]) -> Callable[..., None]:
    def attack(
        oracle: _Oracle, clean: Float32Array, label: int, budget: Budget, _seed: int, start: Float32Array | None
    ) -> None:
        def predict(x: Float32Array) -> Float32Array:
            answer: Float32Array = special.softmax(oracle(x.astype(np.float32)), axis=1).astype(np.float32)
            return answer

        classifier = BlackBoxClassifierNeuralNetwork(predict, clean.shape[1:], _CLASSES, clip_values=(0.0, 1.0))
        beginning = {} if start is None else {"x_adv_init": start}
        made: Any = make(classifier, budget)
        made.generate(clean, y=np.eye(_CLASSES, dtype=np.float32)[[label]], **beginning)

    return attack


def _nes(
    oracle: _Oracle, clean: Float32Array, label: int, budget: Budget, seed: int, _start: Float32Array | None
) -> None:
    """Ilyas et al. (2018): gradients from antithetic Gaussian samples, and steps of its sign within the L-inf ball."""
    rng = np.random.default_rng(seed)
    x = clean.copy()
    oracle(clean)
    sigma, pairs, step = budget.linf / 8, 20, budget.linf / 8
    while True:
        noise = rng.standard_normal((pairs, *clean.shape[1:]), np.float32)
        logits = oracle(np.concatenate([x + sigma * noise, x - sigma * noise]))
        others = np.delete(logits, label, axis=1).max(1)
        loss = others - logits[:, label]
        gradient = np.tensordot(loss[:pairs] - loss[pairs:], noise, axes=1)
        x = np.clip(clean + np.clip(x + step * np.sign(gradient) - clean, -budget.linf, budget.linf), 0, 1)
        oracle(x)


_ATTACKS: Final[dict[str, tuple[float, Callable[..., None]]]] = {
    "Boundary": (
        2,
        _art(
            lambda c, _: BoundaryAttack(c, targeted=False, max_iter=1000, num_trial=20, sample_size=10, verbose=False)
        ),
    ),
    "HopSkipJump": (
        2,
        _art(lambda c, _: HopSkipJump(c, targeted=False, norm=2, max_iter=50, max_eval=1000, verbose=False)),
    ),
    "Square": (
        np.inf,
        _art(
            lambda c, b: SquareAttack(
                c, norm=np.inf, eps=b.linf, max_iter=b.patience * min(b.queries, _PLANNED), nb_restarts=1, verbose=False
            )
        ),
    ),
    "ZOO": (
        2,
        _art(
            lambda c, _: ZooAttack(
                c,
                max_iter=100,
                learning_rate=0.1,
                use_resize=False,
                use_importance=False,
                nb_parallel=64,
                variable_h=0.01,
                verbose=False,
            )
        ),
    ),
    "SimBA": (2, _art(lambda c, _: SimBA(c, attack="px", epsilon=0.2, max_iter=2000, verbose=False))),
    "NES": (np.inf, _nes),
}
ATTACKS: Final = tuple(_ATTACKS)


def run(
    attack: str,
    net: nn.Module,
    clean: Float32Array,
    budget: Budget,
    *,
    seed: int,
    transform: Transform | None = None,
    start: Float32Array | None = None,
) -> Run:
    """Attack one image (1, *dims) until the first success, or the end of the budget.

    Boundary and HopSkipJump begin at `start`, an image of another class, or else look for one among random ones.
    """
    norm, go = _ATTACKS[attack]
    oracle = _Oracle(net, clean, budget, norm=norm, transform=transform, seed=seed)
    label = _label(net, clean)
    np.random.seed(seed)  # noqa: NPY002 - ART draws from the global generator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ART's own
        with suppress(_Spent):
            go(oracle, clean, label, budget, seed, start)
    return Run(attack, np.stack(oracle.sent), oracle.success, oracle.winner)


@torch.no_grad()
def _label(net: nn.Module, x: Float32Array) -> int:
    logits: Tensor = net(torch.from_numpy(x))
    return int(logits.argmax())
