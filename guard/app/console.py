"""The console of a sidecar, where the settings want one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.config import Settings
from guard.console.console import Console
from guard.console.state import EngineLoad

if TYPE_CHECKING:
    from guard.app.sidecar import Sidecar


def open_console(settings: Settings, sidecar: Sidecar) -> Console | None:
    """A console about a sidecar, not started yet; None where it is off.

    Raises:
        ConfigError: others than this machine would reach it without a token, or a file of it can't be used.
    """
    if not settings.console.enabled:
        return None
    room = settings.limits.max_queued_items

    def engines() -> dict[str, EngineLoad]:
        found = {name: guarded.model.engine for name, guarded in sidecar.in_force.models.items()}
        return {name: EngineLoad(e.depth, room, e.live, e.busy_s, e.alive) for name, e in found.items()}

    return Console(
        settings,
        registry=sidecar.metrics.registry,
        engines=engines,
        unready=sidecar.unready,
        refused=lambda: sidecar.refused,
    )
