"""An auxiliary model: how unlikely the guarded model's label is to a small one that calibration trained beside it.

What is made to fool one model fools another less often, the less the smaller the change is (Liu et al., ICLR 2017). The
small one was shown attacks, too, with the label of what they were made of. It costs no evaluation of the guarded model
beyond the one that names the input's label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guard.profile.spec import Identity
from guard.screen.trial import ITSELF, MODEL, Answers, Probes, source
from guard.values import Abstention, Evidence, Finding, Float32Array


class AuxiliaryTrial:
    """One answer of each model to the input itself."""

    __slots__ = ("_asked", "_logits", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked = (ITSELF, Probes(source(Identity(), name)))
        self._logits: dict[str, Float32Array] = {}

    def ask(self) -> Sequence[Probes]:
        """The input, once of each."""
        return () if self._logits else self._asked

    def tell(self, probes: Probes, answers: Answers) -> None:
        """Keep a model's logits."""
        self._logits[probes.source.backend] = answers.logits[0]

    def finding(self, duration_s: float = 0.0) -> Finding:
        """Minus the log-probability that the auxiliary model gives the guarded one's label, in nats."""
        if len(self._logits) < len(self._asked):
            return Abstention(self._name, 0, "not both models were asked", duration_s)
        label, logits = self._logits[MODEL].argmax(), self._logits[self._name].astype(np.float64)
        score = float(np.logaddexp.reduce(logits) - logits[label])
        return Evidence(detector=self._name, score=score, evaluations=0, duration_s=duration_s)
