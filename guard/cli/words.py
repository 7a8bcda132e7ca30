"""What the commands share: where they print, and how they name things."""

from __future__ import annotations

from rich.console import Console

from guard.config import Settings

out = Console(markup=False, emoji=False, highlight=False)
"""Standard output. Paths and names are shown as they are."""

LARGEST_SEED = 2**31 - 1


def flag(parameter: str) -> str:
    """An option as it is typed: `--admin-address` for `admin_address`."""
    return f"--{parameter.replace('_', '-')}"


def summary(settings: Settings) -> str:
    """Settings in one sentence."""
    guarded = [
        f"{name} ({policy.mode} at {policy.false_positive_rate:g} false positives, unscreened: {policy.on_unscreened})"
        for name, policy in settings.models.items()
    ]
    what = f"guards {', '.join(guarded)}" if guarded else "guards no model"
    return f"upstream {settings.upstream.address}; {what}; other models: {settings.unlisted_models}"
