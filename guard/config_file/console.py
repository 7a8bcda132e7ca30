"""Mistakes in what the settings say of the console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from guard.config import Listen, host_and_port
from guard.config_file.document import Document, Mistake
from guard.console.access import REMEDY, is_loopback, unprotected, watch_token
from guard.errors import FileUnusable
from guard.recording import Console


def check(document: Document, base: Path) -> Iterator[Mistake]:
    """Yield the mistakes that validation can't see."""
    console = document.data.get("console")
    if not isinstance(console, dict):
        return
    token_file, enabled = console.get("token_file"), console.get("enabled", Console().enabled)
    if enabled is False:
        for key in console:
            if key != "enabled" and key in Console.model_fields:
                yield document.mistake(
                    ("console", key),
                    f"console.{key} has no effect without console.enabled",
                    f"add `enabled: true`, or remove {key}",
                )
    if isinstance(token_file, str):
        try:
            watch_token(base / token_file, quiet=True)
        except FileUnusable as exc:
            yield document.mistake(("console", "token_file"), exc.problem, exc.remedy)
    host = _admin_host(document)
    if enabled is True and token_file is None and host is not None and not is_loopback(host):
        yield document.mistake(("console", "enabled"), unprotected(host), REMEDY)


def _admin_host(document: Document) -> str | None:
    """The host of the admin port; None where it is malformed, which validation says."""
    listen = document.data.get("listen")
    default = Listen().admin_address
    address = listen.get("admin_address", default) if isinstance(listen, dict) else default
    try:
        return host_and_port(address)[0] if isinstance(address, str) else None
    except ValueError:
        return None
