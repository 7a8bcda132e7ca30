"""Real servers of two other dialects of the protocol, as child processes: MLServer and KServe's Python server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.ports import free_ports

ENVIRONMENTS = {name: Path(__file__).parents[2] / f".venv-{name}" for name in ("mlserver", "kserve")}
_SUPPORT = Path(__file__).parent
_START_S = 120.0
_STOP_S = 15.0


def needs(dialect: str) -> pytest.MarkDecorator:
    """Skips a test where the server's environment is missing."""
    environment = ENVIRONMENTS[dialect]
    missing = not (environment / ".installed").is_file()
    return pytest.mark.skipif(missing, reason=f"{environment.name} is not there: `make servers` makes it")


@dataclass(frozen=True)
class Running:
    """The addresses of a server that has the classifier `digits`, and where it says what it does."""

    address: str
    http_address: str
    log: Path


@contextmanager
def serving_digits(dialect: str, folder: Path, onnx: Path) -> Iterator[Running]:
    """A server of a dialect, ready. Tests of it are marked with `needs`.

    Raises:
        RuntimeError: it died, or was not ready in time; the message ends in its log.
    """
    ports = free_ports(3)
    shutil.copy(onnx, folder / "model.onnx")
    program, *arguments = _LAID_OUT[dialect](folder, ports)
    log = folder / "log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with log.open("ab") as said:
        process = subprocess.Popen(
            [ENVIRONMENTS[dialect] / "bin" / program, *arguments],
            cwd=folder,
            env=clean,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    running = Running(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", log)
    try:
        _wait_until_ready(process, running)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _lay_out_mlserver(folder: Path, ports: list[int]) -> list[str]:
    shutil.copy(_SUPPORT / "mlserver_model.py", folder / "digits.py")
    server = {
        "host": "127.0.0.1",
        "grpc_port": ports[0],
        "http_port": ports[1],
        "metrics_port": ports[2],
        "parallel_workers": 0,
        "debug": False,
    }
    model = {
        "name": "digits",
        "implementation": "digits.Digits",
        "platform": "onnx",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        "parameters": {"version": "1"},
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return ["mlserver", "start", str(folder)]


def _lay_out_kserve(folder: Path, ports: list[int]) -> list[str]:
    server = _SUPPORT.parents[1] / "examples" / "kserve" / "server.py"
    return ["python", str(server), str(ports[1]), str(ports[0]), str(folder / "model.onnx")]


_LAID_OUT: dict[str, Callable[[Path, list[int]], list[str]]] = {
    "mlserver": _lay_out_mlserver,
    "kserve": _lay_out_kserve,
}


def _wait_until_ready(process: subprocess.Popen[bytes], running: Running) -> None:
    ends_s = time.monotonic() + _START_S
    with grpc.insecure_channel(running.address, options=[("grpc.max_reconnect_backoff_ms", 100)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = service_pb2.ModelReadyRequest(name="digits")
        while time.monotonic() < ends_s and process.poll() is None:
            try:
                if stub.ModelReady(asked, timeout=1.0, wait_for_ready=True).ready:
                    return
            except grpc.RpcError:
                time.sleep(0.1)
    said = running.log.read_text(errors="replace")[-6000:]
    raise RuntimeError(f"the server died or wasn't ready in {_START_S:g} s. Its log ends in:\n{said}")
