"""Confidence: how sure the model is of the input itself, at no evaluation beyond the one that names its label.

Minimal attacks (C&W, DeepFool) stop just past the boundary and are less sure than benign inputs; iterated ones end
surer than any. Both directions count. An attacker who knows of it can aim in between, at the price of a larger change.
"""

from __future__ import annotations

from collections.abc import Sequence

from guard.screen.trial import ITSELF, Answers, Probes
from guard.values import Abstention, Evidence, Finding


class ConfidenceTrial:
    """One look at the input's own logits."""

    __slots__ = ("_margin", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._margin: float | None = None

    def ask(self) -> Sequence[Probes]:
        """The input itself, once."""
        return (ITSELF,) if self._margin is None else ()

    def tell(self, probes: Probes, answers: Answers) -> None:  # noqa: ARG002 - one kind of probe
        """Measure how far the label leads."""
        self._margin = float(answers.margins[0])

    def finding(self, duration_s: float = 0.0) -> Finding:
        """Minus the margin of the label over the next class, in logits: high for the unsure."""
        if self._margin is None:
            return Abstention(self._name, 0, "the input was not classified", duration_s)
        return Evidence(detector=self._name, score=-self._margin, evaluations=1, duration_s=duration_s)
