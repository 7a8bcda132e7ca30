"""Policies for the digits model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guard.config import ModelPolicy
from guard.values import Mode
from tests.support import digits

NOWHERE = "127.0.0.1:1"


def policy(made: Path, **choices: Any) -> ModelPolicy:
    """A policy that leaves screening all the time it needs, on a busy machine too."""
    return ModelPolicy(
        **{
            "profile": made,
            "model": digits.onnx_file(),
            "false_positive_rate": 0.05,
            "screening_budget_s": 60.0,
            "mode": Mode.ENFORCE,
        }
        | choices
    )
