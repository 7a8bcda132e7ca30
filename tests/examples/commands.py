"""How the tests start examples."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(example: str, *options: object) -> list[str]:
    """What starts an example."""
    return [sys.executable, "-m", f"examples.{example}", *map(str, options)]
