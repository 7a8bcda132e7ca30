"""What is tormented: Guard as its command runs it, in front of a real Triton that serves a small classifier."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from benchmarks.chaos.heavy import HEAVY, RATE, write_heavy_model, write_heavy_profile
from benchmarks.wire.measure import cpu_s
from benchmarks.wire.payloads import (
    FALSE_POSITIVE_RATE,
    PAYLOADS,
    images,
    over_grpc,
    over_http,
    write_model,
    write_profile,
)
from tests.support.triton import Triton

PAYLOAD = PAYLOADS[0]
SECOND = replace(PAYLOAD, model="second")
"""The same network under another name, for Guards that are told of it."""

LIMIT_BYTES = 16 * 1024 * 1024
"""The largest message of the Guard that many rows share."""

UNRESPONSIVE_S = 0.8
"""The patience of the Guard whose server is stopped, which has to show within a second."""

PATIENCE_S = 20.0
"""Of all others: what shares the processors with the server makes it no less alive."""

_MB = 1024 * 1024
_START_S = 240.0
_STOP_S = 120.0
_SEED = 2


class Guard:
    """A Guard of its own process, which keeps its ports when it is started again."""

    def __init__(
        self, folder: Path, name: str, settings: Mapping[str, Any], program: Sequence[str] = ("guard",)
    ) -> None:
        self.ports: list[int] = []
        self._asked: list[int] = []
        self._program = program
        self._settings = dict(settings)
        self._config = folder / f"{name}.yaml"
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where it serves gRPC."""
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def http_address(self) -> str:
        """Where it serves REST."""
        return f"127.0.0.1:{self.ports[1]}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None  # noqa: S101 - it runs
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            RuntimeError: it did not start, or was not ready in time.
        """
        self._asked = self.ports or [0, 0, 0]
        self._write()
        command = [sys.executable, "-m", *self._program, "serve", "--config", str(self._config), "--log-level", "error"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - nothing of it is foreign
                command, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        self.ports = [int(port) for port in re.findall(r"port (\d+)", self._process.stdout.readline())]
        try:
            if not self.ports:
                raise RuntimeError(f"Guard did not start; its log: {self.log.read_text()[-2000:]}")
            self._until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> int:
        """Tell it to stop, as Kubernetes does, and wait: its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with process:
            process.send_signal(signal.SIGTERM)
            try:
                return process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

    def drain_and_stop(self) -> int:
        """Drain it first, as the chart's preStop hook does."""
        os.kill(self.pid, signal.SIGUSR1)
        self.get("/wait-for-drain")
        return self.stop()

    def get(self, path: str) -> tuple[int, str]:
        """Ask the admin port: status and text."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[-1]}{path}", timeout=_STOP_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def counted(self, sample: str) -> float:
        """The sum of the metrics' samples that match."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(sample, line))

    def rss_mb(self, *, peak: bool = False) -> float:
        """Resident memory: now, or the most since `forget_peak`."""
        found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    def forget_peak(self) -> None:
        """Measure the peak of resident memory from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def fds(self) -> int:
        """Open files and connections."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def cpu_s(self) -> float:
        """Seconds on processors so far."""
        return cpu_s((self.pid,))

    def _write(self) -> None:
        """Write its policy."""
        names = ("address", "http_address", "admin_address")
        listen = {name: f"127.0.0.1:{port}" for name, port in zip(names, self._asked, strict=True)}
        settings = {**self._settings, "listen": {**listen, **self._settings.get("listen", {})}}
        self._config.write_text(json.dumps(settings))

    def _until_ready(self) -> None:
        ends_s, why = time.monotonic() + _START_S, ""
        while time.monotonic() < ends_s:
            with contextlib.suppress(OSError):
                status, why = self.get("/readyz")
                if status == 200:  # noqa: PLR2004 - HTTP's OK
                    return
            time.sleep(0.05)
        raise RuntimeError(f"Guard is not ready: {why}")


class Planted(Guard):
    """A Guard with a fault that comes and goes as told; see `benchmarks.chaos.planted`."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self._fault = folder / f"{name}.fault"
        self.plant("")
        super().__init__(folder, name, settings, ("benchmarks.chaos.planted", str(self._fault)))

    def plant(self, fault: str) -> None:
        """Have that fault from now on, "" for none."""
        new = self._fault.with_suffix(".new")
        new.write_text(fault)
        new.replace(self._fault)

    def change(self, false_positive_rate: float, *, second: bool) -> None:
        """Change the policy of the classifier, and guard a second model as that, or none, once Guard reads it again."""
        models = self._settings["models"]
        models[PAYLOAD.model]["false_positive_rate"] = false_positive_rate
        models.pop(SECOND.model, None)
        if second:
            models[SECOND.model] = dict(models[PAYLOAD.model])
        self._write()


@dataclass(frozen=True, slots=True)
class House:
    """A Triton, what Guards in front of it need, and requests: for its model, for the second and by REST."""

    triton: Triton
    folder: Path
    model: Path
    profile: Path
    heavy_model: Path
    body: bytes
    second_body: bytes
    rest_body: bytes
    held: ExitStack
    shared: dict[str, Guard] = field(default_factory=dict)

    def common(self) -> Guard:
        """A Guard that many rows share, started when the first asks for it."""
        if "common" not in self.shared:
            upstream = {"max_message_bytes": LIMIT_BYTES}
            self.shared["common"] = self.held.enter_context(self.guard("common", upstream=upstream))
        return self.shared["common"]

    def triton_pid(self) -> int:
        """The server, and its group."""
        process = self.triton._process  # noqa: SLF001 - to do it harm
        assert process is not None  # noqa: S101 - it runs
        return process.pid

    def guard(self, name: str, *, policy: Mapping[str, Any] | None = None, **sections: Mapping[str, Any]) -> Guard:
        """A Guard, not started, that flags what is wrong with the classifier's inputs, but for what `policy` says."""
        return Guard(self.folder, name, self._settings(policy or {}, sections))

    def planted(self, name: str, policy: Mapping[str, Any] | None = None, **sections: Mapping[str, Any]) -> Planted:
        """The same, with a fault in it."""
        return Planted(self.folder, name, self._settings(policy or {}, sections))

    def audit(self, folder: Path) -> dict[str, Any]:
        """The section of a policy by which every request is recorded."""
        key = self.folder / "pseudonyms"
        key.write_bytes(os.urandom(32))
        return {"folder": str(folder), "pseudonym_key_file": str(key), "forwards": 1.0}

    def heavy(self, **limits: int) -> Guard:
        """A Guard that enforces, not started, of a model whose screening takes long."""
        profile = write_heavy_profile(self.heavy_model, self.folder)
        policy = {
            "profile": str(profile),
            "model": str(self.heavy_model),
            "false_positive_rate": RATE,
            "mode": "enforce",
            "queries": "skip",
            "screening_budget_s": 2.0,
        }
        upstream = {"address": self.triton.address, "unresponsive_s": PATIENCE_S}
        return Guard(self.folder, "heavy", {"upstream": upstream, "models": {HEAVY.model: policy}, "limits": limits})

    def _settings(self, policy: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        common = {
            "profile": str(self.profile),
            "model": str(self.model),
            "false_positive_rate": FALSE_POSITIVE_RATE,
            "mode": "flag",
            "queries": "skip",
            "screening_budget_s": 5.0,
        }
        upstream = {"address": self.triton.address, "unresponsive_s": PATIENCE_S, **sections.get("upstream", {})}
        models = {PAYLOAD.model: {**common, **policy}}
        return {**sections, "upstream": upstream, "models": models}


@contextmanager
def house(folder: Path) -> Iterator[House]:
    """Start Triton, and stop it at the end."""
    model = write_model(PAYLOAD, folder)
    profile = write_profile(PAYLOAD, model, folder)
    heavy = write_heavy_model(folder)
    with ExitStack() as held:
        triton = Triton(folder, name=PAYLOAD.model, onnx=model, others={HEAVY.model: heavy, SECOND.model: model})
        held.callback(triton.stop)
        triton.start()
        inputs = images(PAYLOAD.shape, 1, _SEED)
        bodies = over_grpc(PAYLOAD, inputs), over_grpc(SECOND, inputs), over_http(PAYLOAD, inputs)
        yield House(triton, folder, model, profile, heavy, *bodies, held)
