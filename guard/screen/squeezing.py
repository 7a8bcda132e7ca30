"""Feature squeezing: how far the softmax output moves when needless detail is taken away (Xu et al., NDSS 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from guard.profile.spec import SqueezingSpec
from guard.screen.trial import ITSELF, Probes
from guard.values import Abstention, Evidence, Finding


class SqueezingTrial:
    """Asks for the input and each squeezed copy at once; one answer decides it."""

    def __init__(self, spec: SqueezingSpec) -> None:
        self._spec = spec
        self._plain: Float[Tensor, " classes"] | None = None
        self._distances: dict[Probes, float] = {}

    def ask(self) -> Sequence[Probes]:
        """All copies in one go."""
        if self._plain is not None:
            return ()
        return (ITSELF, *(Probes(squeezer) for squeezer in self._spec.squeezers))

    def tell(self, probes: Probes, logits: Float[Tensor, "count classes"]) -> None:
        """Measure the L1 distance of a squeezed copy's softmax from the input's."""
        probabilities = logits[0].double().softmax(dim=0)
        if probes == ITSELF:
            self._plain = probabilities
            return
        assert self._plain is not None  # noqa: S101 - the engine tells in the order of asking
        self._distances[probes] = float((probabilities - self._plain).abs().sum())

    def finding(self) -> Finding:
        """The largest distance, in [0, 2]; each squeezer's as details."""
        if len(self._distances) < len(set(self._spec.squeezers)):
            return Abstention(self._spec.name, len(self._distances), "not every squeezed copy was classified")
        return Evidence(
            detector=self._spec.name,
            score=max(self._distances.values()),
            evaluations=len(self._distances),
            details={squeezer.name: self._distances[Probes(squeezer)] for squeezer in self._spec.squeezers},
        )
