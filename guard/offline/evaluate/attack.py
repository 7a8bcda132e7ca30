"""What a row of the table of attacks holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Access(StrEnum):
    """What an attacker has of the model."""

    GRADIENTS = "gradients"
    TRANSFER = "another model"
    ANSWERS = "answers"


class Portion(StrEnum):
    """How many images one call of an attack gets: what it makes of them depends on the others, or takes long."""

    MANY = "many"
    FEW = "few"
    ONE = "one"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Attack:
    """One row: ART's class, or what is Guard's own, and its parameters, or the `parts` of a chain.

    Of a chain each part gets what the last one left. `linf` is the strength of an attack bounded in L-inf. A `minimal`
    one stops just beyond the model's boundary, where rounding to 8 bits may bring it back: such images are then moved a
    little further. `most` bounds the images of slow attacks. A part that takes more classes than the model has is left
    out of its chain.
    """

    name: str
    setting: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    access: Access = Access.GRADIENTS
    portion: Portion = Portion.MANY
    linf: float | None = None
    minimal: bool = False
    most: int | None = None
    images_only: bool = False
    least_classes: int = 2
    parts: tuple[Attack, ...] = ()

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"{self.name}, {self.setting}"
