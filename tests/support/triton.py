"""A real Triton server as a child process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
import onnxruntime

from guard.pb import grpc_service_pb2 as v2
from tests.support.ports import free_ports

ENVIRONMENT = Path(__file__).parents[2] / ".venv-triton"
MAX_BATCH_SIZE = 64
_MODEL = Path(__file__).with_name("triton_model.py")
_START_S = 120.0
_STOP_S = 30.0
_LOG_TAIL_CHARACTERS = 6000
_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(double)": "TYPE_FP64",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int8)": "TYPE_INT8",
}


class Triton:
    """Serves an ONNX model, and others by their names, on free loopback ports, from a repository under `folder`.

    `options` are more of the server's own, and `metadata` what those ask of who calls it.

    The ports stay the same over restarts, so that what stands in front of the server needs no new address.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        onnx: Path,
        environment: Path = ENVIRONMENT,
        options: Mapping[str, str] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        others: Mapping[str, Path] | None = None,
    ) -> None:
        self.address = ""
        self.http_address = ""
        self.metrics_address = ""
        self._options = dict(options or {})
        self._metadata = metadata
        self.log = folder / "triton.log"
        self._environment = environment
        self._repository = folder / "models"
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []
        for each, file in ({name: onnx} | dict(others or {})).items():
            _write_model(self._repository / each, each, file)

    def add(self, name: str, model: Path, config: str) -> None:
        """Lay out another model of Python, before the server starts. `config` is all but its name and backend."""
        version = self._repository / name / "1"
        version.mkdir(parents=True)
        shutil.copy(model, version / "model.py")
        (version.parent / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\n{config}')

    def amend(self, name: str, config: str) -> None:
        """Add to the configuration of an ONNX model, before the server starts."""
        with (self._repository / name / "config.pbtxt").open("a") as file:
            file.write(config + "\n")

    def start(self) -> None:
        """Start the server and wait until it is ready.

        Raises:
            RuntimeError: its environment is missing, or it died or was not ready in time; the message ends in its log.
        """
        launcher = self._environment / "bin" / "triton"
        if not (self._environment / ".installed").is_file():
            raise RuntimeError(
                f"The real Triton server that these tests need is not installed in {self._environment}: "
                "run `make test`, which installs it first (or `make triton`, which does nothing else)."
            )
        self._ports = self._ports or free_ports(3)
        self.address, self.http_address, self.metrics_address = (f"127.0.0.1:{port}" for port in self._ports)
        options = {
            "model-repository": self._repository,
            "grpc-address": "127.0.0.1",
            "grpc-port": self._ports[0],
            "http-address": "127.0.0.1",
            "http-port": self._ports[1],
            "metrics-address": "127.0.0.1",
            "metrics-port": self._ports[2],
            "exit-timeout-secs": 5,
        } | self._options
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                # Without auto-completion it is ready in 1 s rather than 6.
                [launcher, "--disable-auto-complete-config", *(f"--{k}={v}" for k, v in options.items())],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # one group with its Python backend, to be killed with it
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def ensure_running(self) -> None:
        """Start the server again if it died: a storm of expired deadlines crashes Triton 2.51."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self.start()

    def stop(self) -> None:
        """Stop the server within seconds. It is not an error if it doesn't run."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # a Python backend outlives a server that crashed
            self._process.wait()
            self._process = None

    def log_tail(self) -> str:
        """The last of what the server said."""
        return self.log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:] if self.log.exists() else ""

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _START_S
        with grpc.insecure_channel(self.address, options=[("grpc.max_reconnect_backoff_ms", 100)]) as channel:
            server_ready = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerReady",
                request_serializer=v2.ServerReadyRequest.SerializeToString,
                response_deserializer=v2.ServerReadyResponse.FromString,
            )
            while time.monotonic() < deadline_s:
                if self._process is None or self._process.poll() is not None:
                    raise RuntimeError(
                        f"Triton died while it started. Its log, {self.log}, ends in:\n{self.log_tail()}"
                    )
                with contextlib.suppress(grpc.RpcError):
                    if server_ready(
                        v2.ServerReadyRequest(), timeout=1.0, wait_for_ready=True, metadata=self._metadata
                    ).ready:
                        return
        raise RuntimeError(f"Triton wasn't ready in {_START_S:g} s. Its log, {self.log}, ends in:\n{self.log_tail()}")


def _write_model(folder: Path, name: str, onnx: Path) -> None:
    """Lay out one model of Triton's repository, its configuration complete."""
    version = folder / "1"
    version.mkdir(parents=True)
    shutil.copy(_MODEL, version / "model.py")
    shutil.copy(onnx, version / "model.onnx")
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    tensors = [("input", value) for value in session.get_inputs()] + [("output", o) for o in session.get_outputs()]
    lines = [f'name: "{name}"', 'backend: "python"', f"max_batch_size: {MAX_BATCH_SIZE}"]
    lines += [
        f'{kind} [{{ name: "{value.name}" data_type: {_TYPES[value.type]} dims: {value.shape[1:]} }}]'
        for kind, value in tensors
    ]
    lines.append("instance_group [{ count: 1 kind: KIND_CPU }]")
    (folder / "config.pbtxt").write_text("\n".join(lines) + "\n")
