"""A pod of deploy/kubernetes without Kubernetes: the commands of its containers, in its order, with a real Triton.

Paths and ports are another's, and tests do what the kubelet would; all else is as it is rendered.
"""

from __future__ import annotations

import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from guard.profile import store
from tests.deploy.rendered import LINK, container, needs_kubectl, policy_text
from tests.support import digits
from tests.support.ports import free_ports
from tests.support.profiles import plain_profile
from tests.support.sidecars import client_of
from tests.support.triton import ENVIRONMENT, Triton

pytestmark = needs_kubectl
FOLDER = "overlays/gpu"
"""Its policy has Triton itself answer Guard's copies: what the secret and loopback are asked most of."""

PORTS = ("8000", "8001", "8002", "9001", "9011")
WAIT_S = 120.0


class Pod:
    """The containers, as processes of this machine under a folder of their own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._processes = ExitStack()
        self._running: list[subprocess.Popen[bytes]] = []
        for name in ("run/guard-link", "run/guard-noise", "profiles/digits", "etc/guard"):
            (root / name).mkdir(parents=True)
        (root / "run/guard-noise/secret").write_bytes(bytes(range(32)))
        store.save(plain_profile(), root / "profiles/digits/profile")
        Triton(root, name="digits", onnx=digits.onnx_file())  # lays out its repository
        text = self._here(policy_text(FOLDER)).replace("drain_delay_s: 5.0", "drain_delay_s: 1.0")
        rate = "false_positive_rate: 0.05\n    screening_budget_s: 60.0"  # what few samples support, on a busy machine
        (root / "etc/guard/policy.yaml").write_text(text.replace("false_positive_rate: 0.01", rate))

    def _here(self, text: str) -> str:
        """The same with this machine's paths and ports."""
        moved = re.sub(r"(?<![\w/])/(run|profiles|etc/guard|models)(?=[/\s]|$)", rf"{self._root}/\1", text)
        return re.sub(r"\b(\d{4})\b", lambda found: self.ports.get(found[1], found[1]), moved)

    def command(self, name: str) -> list[str]:
        """What a container runs: of its image only the entry point is replaced."""
        spec = container(FOLDER, name)
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
        log = self._processes.enter_context((self._root / f"{name}.log").open("wb"))
        process = subprocess.Popen(self.command(name), stdout=log, stderr=subprocess.STDOUT, cwd=self._root)
        self._processes.callback(_kill, process)
        self._running.append(process)
        return process

    def close(self) -> None:
        """End what still runs."""
        self._processes.close()

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
        return 200 <= self.get(container(FOLDER, name)[f"{kind}Probe"])[0] < 400

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds."""
        for _ in range(round(WAIT_S / 0.1)):
            if holds():
                return
            if any(process.poll() is not None for process in self._running):
                break
            threading.Event().wait(0.1)
        logs = [path.read_text(errors="replace")[-2000:] for path in sorted(self._root.glob("*.log"))]
        raise AssertionError("\n".join([f"{what} did not come true", *logs]))


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@contextmanager
def _folder(factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = factory.mktemp("pod")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """A pod of which nothing runs yet."""
    with _folder(tmp_path_factory) as folder:
        made = Pod(folder)
        yield made
        made.close()


def test_the_secret_is_drawn_once(pod: Pod, tmp_path: Path) -> None:
    """It is 256 random bits, which nobody may write; a second run, as after a restart of the node, leaves it."""
    subprocess.run(pod.command(LINK), check=True)
    file = Path(pod.command(LINK)[-1])
    secret = file.read_text()
    assert re.fullmatch("[0-9a-f]{64}", secret)
    assert stat.S_IMODE(file.stat().st_mode) == 0o444
    subprocess.run(pod.command(LINK), check=True)
    assert file.read_text() == secret
    file.unlink()
    subprocess.run(pod.command(LINK), check=True)
    assert file.read_text() != secret


@pytest.mark.parametrize("content", [None, ""], ids=["missing", "empty"])
def test_the_server_does_not_start_without_it(pod: Pod, content: str | None) -> None:
    """A Triton whose secret is missing would serve everybody, or nobody: it does not start."""
    if content is not None:
        Path(pod.command(LINK)[-1]).write_text(content)
    assert pod.start("triton").wait(timeout=60) != 0
    assert "tritonserver" not in (pod._root / "triton.log").read_text()


def test_a_pod_lives_and_ends(pod: Pod) -> None:
    """Guard starts alone and is not ready; with Triton it is; nobody gets round it; and at the end it goes first."""
    subprocess.run(pod.command(LINK), check=True)
    guard = pod.start("guard")
    pod.wait_for(lambda: pod.probe("guard", "startup"), "Guard's start-up without Triton")
    pod.wait_for(lambda: pod.probe("guard", "liveness"), "Guard's liveness without Triton")
    assert not pod.probe("guard", "readiness")
    assert not pod.probe("triton", "startup")

    server = pod.start("triton")
    pod.wait_for(lambda: pod.probe("triton", "startup"), "Triton's start-up")
    pod.wait_for(lambda: pod.probe("guard", "readiness"), "Guard's readiness")
    pod.wait_for(lambda: pod.probe("triton", "liveness"), "Triton's liveness")
    pod.wait_for(lambda: pod.probe("triton", "readiness"), "Triton's readiness")

    image = digits.load_data().test[0][:1]
    with client_of(int(pod.ports["8001"])) as client:
        judged = {"clean", "adversarial"}  # on a busy machine not at the first attempt
        pod.wait_for(lambda: client.ask("digits", image).verdict in judged, "a verdict")
    direct = triton.InferenceServerClient(f"127.0.0.1:{pod.ports['9001']}")
    with pytest.raises(triton.InferenceServerException, match="This protocol is restricted"):
        direct.is_server_live()
    direct.close()
    metrics = {"httpGet": {"port": 9011, "path": "/upstream/metrics"}}
    pod.wait_for(lambda: 'nv_inference_request_success{model="digits"' in pod.get(metrics)[1], "Triton's metrics")

    hooks = {name: container(FOLDER, name)["lifecycle"]["preStop"] for name in ("guard", "triton")}
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pod.get, hooks["triton"])
        *shell, script = hooks["guard"]["exec"]["command"]
        subprocess.run([*shell, script.replace(" 1", f" {guard.pid}")], check=True)
        assert waiting.result(timeout=WAIT_S) == (200, "drained\n")
    pod.wait_for(lambda: pod.probe("guard", "liveness"), "Guard's liveness after the drain")
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=60) == 0
    guard.send_signal(signal.SIGTERM)
    assert guard.wait(timeout=60) == 0
