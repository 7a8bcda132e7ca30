"""How the tests start examples, and read what they print."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(example: str, *options: object) -> list[str]:
    """What starts an example."""
    return [sys.executable, "-m", f"examples.{example}", *map(str, options)]


def counts(table: str) -> tuple[list[int], list[int]]:
    """Of clean and of attacked samples: how many were sent, answered and rejected."""
    rows = re.findall(r"(?:clean|attacked)\W+(\d+)\D+(\d+)\D+(\d+)", table)
    clean, attacked = ([int(number) for number in row] for row in rows)
    return clean, attacked
