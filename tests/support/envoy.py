"""The real Envoy as a child process, configured by a file of deploy/envoy."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.ports import free_ports

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".venv-envoy" / "bin" / "envoy"
FOLDER = ROOT / "deploy" / "envoy"
LISTEN, TRITON, GUARD = 8020, 8001, 8012
"""The ports in those files."""

_START_S = 60.0
_STOP_S = 10.0


def configuration(name: str, ports: Mapping[int, int], **others: Any) -> dict[str, Any]:
    """A file of deploy/envoy with other ports, and other values of the settings that are named, wherever those are."""
    changed: dict[str, Any] = _changed(yaml.safe_load((FOLDER / name).read_text()), ports, others)
    return changed


def _changed(value: Any, ports: Mapping[int, int], others: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_changed(each, ports, others) for each in value]
    if not isinstance(value, dict):
        return value
    if "port_value" in value:
        return {"address": "127.0.0.1", "port_value": ports[value["port_value"]]}
    return {key: others.get(key, _changed(each, ports, others)) for key, each in value.items()}


@dataclass(frozen=True, slots=True)
class Envoy:
    """One that runs."""

    address: str
    pid: int


@contextmanager
def envoy(folder: Path, name: str, *, triton: str, guard_port: int, **others: Any) -> Iterator[Envoy]:
    """Envoy between clients and a Triton, by a file of deploy/envoy, on a free port."""
    (port,) = free_ports(1)
    ports = {LISTEN: port, TRITON: int(triton.rpartition(":")[2]), GUARD: guard_port}
    config, log = folder / "envoy.json", folder / "envoy.log"
    config.write_text(json.dumps(configuration(name, ports, **others)))
    options = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
    with log.open("wb") as said, subprocess.Popen([PROGRAM, "-c", config, *options], stderr=said) as process:
        try:
            _wait_for_port(port, process, log)
            yield Envoy(f"127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_s = time.monotonic() + _START_S
    while time.monotonic() < ends_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        threading.Event().wait(0.05)
    raise RuntimeError(f"Envoy does not serve. It said:\n{log.read_text(errors='replace')[-6000:]}")
