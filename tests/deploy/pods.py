"""A pod of deploy/kubernetes without Kubernetes: the commands of its containers, as processes of this machine.

Paths and ports are another's, and tests do what the kubelet would; all else is as it is rendered.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from guard.profile import store
from tests.deploy.rendered import container, policy_text
from tests.support import digits
from tests.support.ports import free_ports
from tests.support.profiles import plain_profile
from tests.support.triton import ENVIRONMENT, Triton

PORTS = ("8000", "8001", "8002", "9001", "9011")
WAIT_S = 120.0


class Pod:
    """The containers, as processes of this machine under a folder of their own."""

    def __init__(self, root: Path, overlay: str, moved: Mapping[str, str]) -> None:
        self.root = root
        self._overlay, self._moved = overlay, moved
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._processes = ExitStack()
        self._running: list[subprocess.Popen[bytes]] = []
        for name in ("run/guard-link", "profiles/digits", "etc/guard", "var/lib/guard"):
            (root / name).mkdir(parents=True)
        for name in ("guard-noise/secret", "guard-audit/names.key", "guard-audit/captures.key"):
            (root / "run" / name).parent.mkdir(exist_ok=True)
            (root / "run" / name).write_bytes(bytes(range(32)))
        store.save(plain_profile(), root / "profiles/digits/profile")
        shutil.copy(digits.onnx_file(), root / "profiles/digits/model.onnx")
        Triton(root, name="digits", onnx=digits.onnx_file())  # lays out its repository
        text = self._here(policy_text(self._overlay)).replace("drain_delay_s: 5.0", "drain_delay_s: 1.0")
        rate = "false_positive_rate: 0.05\n    screening_budget_s: 60.0"  # what few samples support, on a busy machine
        (root / "etc/guard/policy.yaml").write_text(text.replace("false_positive_rate: 0.01", rate))

    def _here(self, text: str) -> str:
        """The same with this machine's paths, ports and other addresses."""
        text = re.sub(r"(?<![\w/])/(run|profiles|etc/guard|models|var/lib/guard)(?=[/\s]|$)", rf"{self.root}/\1", text)
        text = re.sub(r"\b(\d{4})\b", lambda found: self.ports.get(found[1], found[1]), text)
        for there, here in self._moved.items():
            text = text.replace(there, here)
        return text

    def command(self, name: str) -> list[str]:
        """What a container runs: of its image only the entry point is replaced."""
        spec = container(self._overlay, name)
        command = [*spec.get("command", []), *spec.get("args", [])]
        if name == "guard":
            command = [str(Path(sys.executable).with_name("guard")), *command]
        words = [self._here(word) for word in command]
        # What the pod appends has to overrule what somebody's manifests had before.
        theirs = ["--disable-auto-complete-config", "--grpc-address=0.0.0.0", "--grpc-port=1", "--allow-http=true"]
        launcher = [str(ENVIRONMENT / "bin" / "triton"), *theirs]
        return [each for word in words for each in (launcher if word == "tritonserver" else [word])]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a container."""
        log = self._processes.enter_context((self.root / f"{name}.log").open("wb"))
        process = subprocess.Popen(self.command(name), stdout=log, stderr=subprocess.STDOUT, cwd=self.root)
        self._processes.callback(_kill, process)
        self._running.append(process)
        return process

    def close(self) -> None:
        """End what still runs."""
        self._processes.close()

    def before_it_ends(self, guard: subprocess.Popen[bytes]) -> None:
        """What the kubelet has Guard's container do then."""
        *shell, script = container(self._overlay, "guard")["lifecycle"]["preStop"]["exec"]["command"]
        subprocess.run([*shell, script.replace(" 1", f" {guard.pid}")], check=True)

    def get(self, hook: dict[str, Any]) -> tuple[int, str]:
        """What the kubelet gets where a probe or a hook points; 0 where nothing listens."""
        at = hook["httpGet"]
        url = f"http://127.0.0.1:{self.ports[str(at['port'])]}{at['path']}"
        try:
            with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def probe(self, name: str, kind: str) -> bool:
        """Whether a probe of a container succeeds now."""
        return 200 <= self.get(container(self._overlay, name)[f"{kind}Probe"])[0] < 400

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds."""
        for _ in range(round(WAIT_S / 0.1)):
            if holds():
                return
            if any(process.poll() is not None for process in self._running):
                break
            threading.Event().wait(0.1)
        logs = [path.read_text(errors="replace")[-2000:] for path in sorted(self.root.glob("*.log"))]
        raise AssertionError("\n".join([f"{what} did not come true", *logs]))


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@contextmanager
def laid_out(factory: pytest.TempPathFactory, overlay: str, moved: Mapping[str, str] | None = None) -> Iterator[Pod]:
    """A pod of which nothing runs yet, in a folder that is gone at the end. `moved` are addresses of others."""
    root = factory.mktemp("pod")
    try:
        pod = Pod(root, overlay, moved or {})
        try:
            yield pod
        finally:
            pod.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)
