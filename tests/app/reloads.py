"""A Guard whose policy is a real file, which tests replace as editors and Kubernetes do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import generate_latest

from guard.app import Reload, Sidecar
from guard.config_file import load_settings
from tests.support.loop import LoopThread
from tests.support.sidecars import running

POLL_S = 0.02


def write(path: Path, upstream: str, models: Mapping[str, Mapping[str, Any]], **others: Any) -> None:
    """Put a policy in the place of another, as editors do."""
    listen = {"address": "127.0.0.1:0", "admin_address": "127.0.0.1:0"}
    replace(
        path,
        yaml.safe_dump({"upstream": {"address": upstream}, "listen": listen, "models": dict(models), **others}),
    )


def replace(path: Path, text: str) -> None:
    """Put a file in the place of another."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text)
    os.replace(beside, path)  # noqa: PTH105 - what is tested is the system call


@contextmanager
def reloading(loop: LoopThread, policy: Path, *, poll_s: float = POLL_S) -> Iterator[tuple[Sidecar, Reload]]:
    """Guard as the policy says, and goes on to say."""
    reload = Reload(policy, poll_s=poll_s)

    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(reload.run(sidecar))

    async def end(task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait({task})

    with running(loop, Sidecar(load_settings(policy))) as sidecar:
        task = loop.run(begin())
        try:
            yield sidecar, reload
        finally:
            loop.run(end(task))


def exported(sidecar: Sidecar) -> dict[str, float]:
    """The metrics by series, as they are written."""
    lines = generate_latest(sidecar.metrics.registry).decode().splitlines()
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def reloads(sidecar: Sidecar, outcome: str) -> float:
    """How often the policy was read again, with this outcome."""
    return exported(sidecar)[f'guard_config_reloads_total{{outcome="{outcome}"}}']
