"""Triton and Guard as child processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from examples.prepare import MODEL, Files

_READY_S = 120.0
_STOP_S = 15.0
_CONFIG = f"""name: "{MODEL}"
backend: "python"
max_batch_size: 64
input [{{ name: "input" data_type: TYPE_FP32 dims: [1, 8, 8] }}]
output [{{ name: "logits" data_type: TYPE_FP32 dims: [10] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
"""


def ports(count: int) -> list[int]:
    """Free ports of this machine."""
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in bound]


@contextmanager
def triton(command: Path, folder: Path, files: Files) -> Iterator[str]:
    """A Triton that serves the model: its gRPC address."""
    version = folder / "models" / MODEL / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copy(files.model, version / "model.onnx")
    shutil.copy(Path(__file__).with_name("model.py"), version / "model.py")
    (version.parent / "config.pbtxt").write_text(_CONFIG)
    grpc_port, http_port, metrics_port = ports(3)
    options = {"model-repository": folder / "models", "grpc-port": grpc_port, "http-port": http_port}
    options |= dict.fromkeys(("grpc-address", "http-address", "metrics-address"), "127.0.0.1")
    options["metrics-port"] = metrics_port
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with _running([str(command), "--disable-auto-complete-config", *arguments], folder / "triton.log") as process:
        _wait(f"http://127.0.0.1:{http_port}/v2/health/ready", process, folder / "triton.log")
        yield f"127.0.0.1:{grpc_port}"


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
    with _running(command, folder / "guard.log") as process:
        _wait(f"http://127.0.0.1:{admin_port}/readyz", process, folder / "guard.log")
        yield f"127.0.0.1:{grpc_port}"


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603 - our own
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # Triton's Python backend may outlive it
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_s = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < ends_s:
        unready = contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError)
        with unready, urllib.request.urlopen(url, timeout=5.0):  # noqa: S310 - our own address
            return
        time.sleep(0.1)
    sys.exit(f"{process.args!r} is not ready; the end of {log}:\n{log.read_text(errors='replace')[-2000:]}")
