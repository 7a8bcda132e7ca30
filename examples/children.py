"""The servers of the examples as child processes: Guard, and what others share."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from examples.prepare import MODEL, Files

_READY_S = 120.0
_STOP_S = 15.0


def ports(count: int) -> list[int]:
    """Free ports of this machine, of those that it does not give away by itself."""
    free: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(free) < count:
            bound, port = stack.enter_context(socket.socket()), random.randrange(10_240, 32_768)  # noqa: S311 - no secret
            with contextlib.suppress(OSError):
                bound.bind(("127.0.0.1", port))
                free.append(port)
    return free


@contextmanager
def guard(upstream: str, folder: Path, files: Files) -> Iterator[str]:
    """A Guard that enforces in front of it: its gRPC address."""
    grpc_port, admin_port = ports(2)
    (folder / "policy.yaml").write_text(
        f"""upstream: {{address: "{upstream}"}}
listen: {{address: "127.0.0.1:{grpc_port}", admin_address: "127.0.0.1:{admin_port}"}}
models:
  {MODEL}:
    profile: {files.profile.resolve()}
    model: {files.model.resolve()}
    mode: enforce
    false_positive_rate: 0.05
    screening_budget_s: 30.0
"""
    )
    command = [sys.executable, "-m", "guard", "serve", "--config", str(folder / "policy.yaml")]
    with running(command, folder / "guard.log") as process:
        wait(f"http://127.0.0.1:{admin_port}/readyz", process, folder / "guard.log")
        yield f"127.0.0.1:{grpc_port}"


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, and what it starts, for as long as the context lasts."""
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started may outlive it, as Triton's Python backend does
        process.wait()


def wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server says that it is ready, or end with the end of its log."""
    ends_s = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < ends_s:
        unready = contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError)
        with unready, urllib.request.urlopen(url, timeout=5.0):  # noqa: S310 - our own address
            return
        time.sleep(0.1)
    sys.exit(f"{process.args!r} is not ready; the end of {log}:\n{log.read_text(errors='replace')[-2000:]}")
