"""A detector network, trained in calibration on several attacks and strengths.

On the input (after Gong et al., 2017), or on what the model computes inside (after Metzen et al., 2017). Each has a
backend of its own, and costs no evaluation of the guarded model; one on activations costs as much as an evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

from guard.profile.spec import Identity
from guard.screen.trial import Answers, Probes, source
from guard.values import Abstention, Evidence, Finding

_ITSELF = Identity()


class NetworkTrial:
    """One answer of the network: logits of (benign, adversarial)."""

    __slots__ = ("_ask", "_name", "_score")

    def __init__(self, name: str) -> None:
        self._name = name
        self._ask = Probes(source(_ITSELF, name))
        self._score: float | None = None

    def ask(self) -> Sequence[Probes]:
        """The input, once, of the network."""
        return (self._ask,) if self._score is None else ()

    def tell(self, probes: Probes, answers: Answers) -> None:  # noqa: ARG002 - one kind of probe
        """Take the network's answer."""
        self._score = float(answers.logits[0, 1] - answers.logits[0, 0])

    def finding(self, duration_s: float = 0.0) -> Finding:
        """The log-odds that the input is adversarial, by the network's own reckoning."""
        if self._score is None:
            return Abstention(self._name, 0, "the detector network was not asked", duration_s)
        return Evidence(detector=self._name, score=self._score, evaluations=0, duration_s=duration_s)
