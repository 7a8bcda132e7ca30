"""What a person may choose for a calibration.

Nothing that takes long to import is imported here: what was typed wrong is told before that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from pydantic import ValidationError

from guard.errors import ConfigError
from guard.profile import spec

Reduced: TypeAlias = Literal["int8", "fp16"]
Precision: TypeAlias = Literal["auto", "fp32"] | Reduced
"""Of a replica: that of the model itself, fewer bits where they earn their place, or whichever is fastest."""

RANGES: Final = {
    "jpeg": (10, 99),
    "blur": (0.1, 5),
    "resize": (0.1, 0.95),
    "brightness": (0.01, 0.5),
    "contrast": (0.01, 0.9),
    "noise": (0.5, 64),
}
"""How severe each kind of harmless change may be declared to be."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Training steps, of batches of 128."""

    surrogate_steps: int = 600
    network_steps: int = 2000
    activation_steps: int = 1500
    denoiser_steps: int = 1200
    auxiliary_steps: int = 1000


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose; the rest is measured.

    `radius_sigmas` is the L2 radius to certify, in deviations of the noise. `mutations` names the kinds of sensitivity
    beside the Gaussian one: uniform, shift_rotate, contrast_brightness. `shared_noise` gives Gaussian sensitivity the
    noise of certificates, so that one evaluation serves both, where it would have the noise that tells most attacks
    from benign inputs. `network` trains detector networks, `occlusion` covers parts of images, to find stickers.
    `precision` is that of the replica: fp32 for the model itself; int8 or fp16, each taken only if it is faster and
    agrees; or auto, for the fastest of the three. `conditions` are the harmless changes that a deployment expects; by
    default mild ones for images, none for other inputs. `left_out` are families of attacks that networks are not shown.
    `ray` is the address of a Ray cluster that scores the samples, or `local`.
    """

    seed: int = 0
    radius_sigmas: float = 0.5
    mutations: tuple[str, ...] = ()
    shared_noise: bool = False
    network: bool = True
    occlusion: bool = True
    precision: Precision = "fp32"
    budget: Budget = field(default_factory=Budget)
    conditions: tuple[spec.Condition, ...] | None = None
    left_out: tuple[str, ...] = ()
    ray: str | None = None


def parse(text: str) -> spec.Condition:
    """A condition as a person writes it: its kind, a colon and the severest that is expected.

    Raises:
        ConfigError: it is none.
    """
    kind, _, most = text.partition(":")
    low, high = RANGES.get(kind, (math.inf, -math.inf))
    try:
        condition = spec.Condition.model_validate({"kind": kind, "most": most})
    except ValidationError:
        condition = None
    if condition is None or not low <= condition.most <= high:
        choices = ", ".join(f"{kind}:{low:g} to {kind}:{high:g}" for kind, (low, high) in RANGES.items())
        raise ConfigError(f"--condition {text}: give a kind and the severest that is expected, from {choices}")
    return condition
