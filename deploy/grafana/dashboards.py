"""Guard's dashboards for Grafana, as code: `make dashboards` writes the JSON files beside this one.

Every expression here is checked: that it parses, and that each metric in it is one that Guard exports.
"""

# ruff: noqa: INP001 - a script beside what it makes, no part of a package

from __future__ import annotations

import json
import warnings
from pathlib import Path

from deploy.grafana.attacks import attacks
from deploy.grafana.service import service

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # as in parts.py
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

FOLDER = Path(__file__).parent


def files() -> dict[str, str]:
    """The content of each file by its name."""
    boards = {"guard-attacks.json": attacks(), "guard-service.json": service()}
    return {
        name: json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for name, board in boards.items()
    }


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
