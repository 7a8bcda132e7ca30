"""Crafting: an attack's row of the table, run on 8-bit images, its results rounded to 8 bits and kept on disk.

A portion of images is the unit that is kept.
"""

from __future__ import annotations

import importlib.metadata
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from guard.offline.evaluate.attack import Access, Attack, Portion
from guard.offline.evaluate.carlini import carlini
from guard.offline.evaluate.kept import Arrays, Kept, key_of
from guard.offline.evaluate.rows import OWN_CARLINI
from guard.offline.evaluate.target import Answers, Viewed, art, with_answers, with_gradients
from guard.offline.nets import one_thread
from guard.offline.view import Bytes, from_bytes, to_bytes
from guard.values import Float32Array, IntArray

FORMAT = 1
"""Of what is kept: raised where crafting changes in a way that its settings don't show."""

_FURTHER = (1.02, 1.05, 1.1, 1.2, 1.4)
_PORTIONS = {Portion.MANY: 100, Portion.FEW: 10, Portion.ONE: 10, Portion.ALL: None}


@dataclass(frozen=True, slots=True)
class Victim:
    """The model under attack. `fingerprint` is its own, `surrogate` makes another one, when it is first asked for."""

    answers: Answers
    module: nn.Module
    exact: bool
    fingerprint: str
    surrogate: Callable[[], nn.Module]
    _made: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input as attackers see it."""
        return self.answers.view.shape

    def estimator(self, attack: Attack) -> Any:
        """The model as this attack may see it."""
        classes = self.answers.view.info.classes
        if attack.access is Access.ANSWERS:
            return _answering(attack, self.answers, classes)
        key = str(attack.access)
        if key not in self._made:
            module = self.module if attack.access is Access.GRADIENTS else self.surrogate()
            self._made[key] = with_gradients(Viewed(module, self.answers.view), self.shape, classes)
        return self._made[key]


@dataclass(frozen=True, slots=True)
class Crafted:
    """What an attack made of images, (n, *shape) in 8 bits; what that took, in seconds and answers of the model."""

    images: Bytes
    elapsed_s: float
    answers: int


@dataclass(frozen=True)
class Crafter:
    """Runs attacks on a victim and keeps what they made."""

    victim: Victim
    seed: int
    kept: Kept

    def craft(self, attack: Attack, images: Bytes, labels: IntArray, advance: Callable[[int], None]) -> Crafted:
        """Attack images. What an attack of the toolbox raises is the caller's to handle: it may raise anything."""
        size = _PORTIONS[attack.portion] or max(len(images), 1)
        portions = []
        for start in range(0, len(images), size):
            part, truth = images[start : start + size], labels[start : start + size]
            key = self._key(attack, part, truth)
            arrays = self.kept.get(key)
            if arrays is None:
                arrays = self._portion(attack, part, truth, key)
                self.kept.put(key, arrays)
            portions.append(arrays)
            advance(len(part))
        return Crafted(
            np.concatenate([images[:0], *(portion["images"] for portion in portions)]),
            sum(float(portion["elapsed_s"]) for portion in portions),
            sum(int(portion["answers"]) for portion in portions),
        )

    def _portion(self, attack: Attack, images: Bytes, labels: IntArray, key: str) -> Arrays:
        asked, started = self.victim.answers.asked, time.perf_counter()
        x = from_bytes(images)
        made = generate(attack, self.victim.estimator, x, seed=int(key[:8], 16))
        rounded = to_bytes(made)
        if attack.minimal:
            rounded = self._further(x, made, rounded, labels)
        return {
            "images": rounded,
            "elapsed_s": np.array(time.perf_counter() - started),
            "answers": np.array(self.victim.answers.asked - asked),
        }

    def _further(self, x: Float32Array, made: Float32Array, rounded: Bytes, labels: IntArray) -> Bytes:
        """Images that rounding brought back are moved further the same way, by the least that helps."""
        for factor in _FURTHER:
            back = np.flatnonzero(self.victim.answers.labels(rounded) == labels)
            if not len(back):
                break
            moved = to_bytes(x[back] + factor * (made[back] - x[back]))
            helped = self.victim.answers.labels(moved) != labels[back]
            rounded[back[helped]] = moved[helped]
        return rounded

    def _key(self, attack: Attack, images: Bytes, labels: IntArray) -> str:
        row = asdict(attack) | {"most": None}  # it chooses images, and changes nothing of what is made
        what = {
            "format": FORMAT,
            "model": self.victim.fingerprint,
            "exact": self.victim.exact,
            "attack": row,
            "seed": self.seed,
            "versions": self._versions,
        }
        return key_of(what, images, labels)

    @cached_property
    def _versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in ("adversarial-robustness-toolbox", "torch", "numpy")}


def generate(attack: Attack, estimator: Callable[[Attack], Any], x: Float32Array, *, seed: int) -> Float32Array:
    """What ART makes of inputs (n, *shape) in [0, 1]; not rounded. The same seed makes the same."""
    with _seeded(seed), one_thread():
        if attack.parts:
            return _chain(attack, estimator, x)
        return _run(attack, estimator(attack), x)


def _run(attack: Attack, estimator: Any, x: Float32Array) -> Float32Array:
    if attack.method == OWN_CARLINI:
        return np.asarray(carlini(estimator.model, torch.from_numpy(x), **attack.parameters))
    method = getattr(art(), attack.method)
    if attack.name == "Patch":
        made = _stick(method, attack, estimator, x)
    elif attack.name == "Spatial":
        last = np.moveaxis(x, 1, -1)  # ART moves along the wrong axes where channels are first
        each = [method(estimator, **attack.parameters).generate(one[None]) for one in last]
        made = np.moveaxis(np.concatenate(each), -1, 1)
    else:
        made = method(estimator, **attack.parameters).generate(x.copy())
    result: Float32Array = np.asarray(made, np.float32)
    return result


def _stick(method: Any, attack: Attack, estimator: Any, x: Float32Array) -> Float32Array:
    """Learn a sticker on all images, and stick it on each at a place drawn by chance."""

    class Sticker(method):  # type: ignore[misc]
        def reset_patch(self, initial_patch_value: Any) -> None:
            """ART tells a number from an array by Python's type of it, and hands itself one of numpy's."""
            super().reset_patch(float(initial_patch_value))

    sticker = Sticker(estimator, **attack.parameters)
    target = np.full(len(x), attack.parameters["target"])
    sticker.generate(x, np.eye(estimator.nb_classes, dtype=np.float32)[target])
    made: Float32Array = sticker.apply_patch(x, attack.parameters["scale_max"])
    return made


def _chain(attack: Attack, estimator: Callable[[Attack], Any], x: Float32Array) -> Float32Array:
    """Each part on those images of which those before made nothing that survives 8 bits."""
    made, left = x.copy(), np.arange(len(x))
    labels = _labels(estimator(attack.parts[0]), x)
    for part in attack.parts:
        if estimator(part).nb_classes < part.least_classes:
            continue
        made[left] = from_bytes(to_bytes(_run(part, estimator(part), x[left])))
        left = left[_labels(estimator(part), made[left]) == labels[left]]
        if not len(left):
            break
    return made


def _labels(estimator: Any, x: Float32Array) -> IntArray:
    labels: IntArray = estimator.predict(x).argmax(axis=1)
    return labels


def _answering(attack: Attack, answers: Answers, classes: int) -> Any:
    """The model for an attack that asks it: SimBA wants probabilities, spatial search has channels last."""
    shape = answers.view.shape
    if attack.name == "SimBA":
        return with_answers(lambda x: _softmax(answers.logits(x)), shape, classes)
    if attack.name == "Spatial":
        return with_answers(
            lambda x: answers.logits(np.moveaxis(x, -1, 1)), (*shape[1:], shape[0]), classes, channels_first=False
        )
    return with_answers(answers.logits, shape, classes)


def _softmax(logits: Float32Array) -> Float32Array:
    probabilities: Float32Array = torch.from_numpy(logits).softmax(dim=1).numpy()
    return probabilities


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """ART draws from the global generators of numpy, torch and Python; they are as before at the end."""
    state, other = np.random.get_state(), random.getstate()  # noqa: NPY002 - ART's own
    with torch.random.fork_rng(devices=[]):
        np.random.seed(seed)  # noqa: NPY002 - as above
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002 - as above
            random.setstate(other)
