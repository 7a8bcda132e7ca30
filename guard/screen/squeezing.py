"""Feature squeezing: how far the softmax output moves when needless detail is taken away (Xu et al., NDSS 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from guard.profile.spec import SqueezingSpec
from guard.screen.trial import ITSELF, Answers, Probes, source
from guard.values import Abstention, Evidence, Finding, Float32Array, Float64Array


class SqueezingTrial:
    """Asks for the input and each squeezed copy at once; one answer decides it."""

    __slots__ = ("_asked", "_logits", "_name", "_squeezers")

    def __init__(self, name: str, squeezers: Mapping[str, Probes]) -> None:
        self._name = name
        self._squeezers = squeezers
        self._asked = (ITSELF, *squeezers.values())
        self._logits: list[Float32Array] = []

    def ask(self) -> Sequence[Probes]:
        """All copies in one go."""
        return () if self._logits else self._asked

    def tell(self, probes: Probes, answers: Answers) -> None:  # noqa: ARG002 - they come in the order of asking
        """Keep the logits of a squeezed copy, or of the input."""
        self._logits.append(answers.logits[0])

    def finding(self, duration_s: float = 0.0) -> Finding:
        """The largest distance, in [0, 2]; each squeezer's as details."""
        if len(self._logits) < len(self._asked):
            told = max(len(self._logits) - 1, 0)
            return Abstention(self._name, told, "not every squeezed copy was classified", duration_s)
        probabilities = _softmax(np.array(self._logits, dtype=np.float64))
        distances = np.abs(probabilities[1:] - probabilities[0]).sum(axis=1).tolist()
        return Evidence(
            detector=self._name,
            score=max(distances),
            evaluations=len(self._squeezers),
            details=dict(zip(self._squeezers, distances, strict=True)),
            duration_s=duration_s,
        )


def squeezed(spec: SqueezingSpec) -> dict[str, Probes]:
    """The copies that its trials ask for, by squeezer."""
    return {squeezer.name: Probes(source(squeezer)) for squeezer in spec.squeezers}


def _softmax(logits: Float64Array) -> Float64Array:
    powers: Float64Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
