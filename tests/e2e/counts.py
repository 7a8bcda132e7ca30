"""The two sides of a bypass alert: what a Triton says that it ran, and what Guards say that they asked of it."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from dataclasses import dataclass, field

from guard.app import Sidecar
from guard.values import InferenceOutcome, Sender
from tests.support.triton import Triton

_RAN = re.compile(r'^nv_inference_request_success\{model="([^"]+)",version="[^"]+"\} (\S+)$', re.MULTILINE)
_ASKED = "guard_upstream_inferences_total"


def ran(triton: Triton) -> Counter[str]:
    """Triton's own count of successful inferences, by model."""
    with urllib.request.urlopen(f"http://{triton.metrics_address}/metrics", timeout=10) as response:
        exported = response.read().decode()
    total = Counter[str]()
    for model, count in _RAN.findall(exported):
        total[model] += int(float(count))
    return total


def asked(guards: list[Sidecar], model: str, *senders: Sender) -> Counter[str]:
    """What all of these Guards counted for a model and these senders (none: all), by outcome."""
    total = Counter[str]()
    for guard in guards:
        for sender in senders or Sender:
            for outcome in InferenceOutcome:
                labels = {"model": model, "sender": sender, "outcome": outcome}
                total[outcome] += int(guard.metrics.registry.get_sample_value(_ASKED, labels) or 0)
    return total


@dataclass
class Since:
    """Both counts, from now on."""

    triton: Triton
    guards: list[Sidecar]
    models: tuple[str, ...]
    _ran: Counter[str] = field(init=False)
    _asked: dict[tuple[str, tuple[Sender, ...]], Counter[str]] = field(init=False)

    def __post_init__(self) -> None:
        self._ran = ran(self.triton)
        senders = ((), *((sender,) for sender in Sender))
        self._asked = {(model, some): asked(self.guards, model, *some) for model in self.models for some in senders}

    def ran(self, model: str) -> int:
        """What Triton ran."""
        return ran(self.triton)[model] - self._ran[model]

    def asked(self, model: str, *senders: Sender) -> dict[str, int]:
        """What Guards counted, by outcome, for one sender or for all of them."""
        return dict(asked(self.guards, model, *senders) - self._asked[model, senders])


def bounded(triton: Triton, guards: list[Sidecar], model: str) -> bool:
    """Whether a Triton that only these Guards ever asked ran what was answered, and no more than might have run too."""
    counted = asked(guards, model)
    return counted["answered"] <= ran(triton)[model] <= counted["answered"] + counted["unknown"]
