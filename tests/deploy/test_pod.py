"""A pod of deploy/kubernetes lives and ends, with a real Triton."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tritonclient.grpc as triton

from tests.deploy.pods import WAIT_S, Pod, laid_out
from tests.deploy.rendered import LINK, container, needs_kubectl
from tests.support import digits
from tests.support.sidecars import client_of

pytestmark = needs_kubectl
FOLDER = "overlays/gpu"
"""Its policy has Triton itself answer Guard's copies: what the secret and loopback are asked most of."""


@pytest.fixture
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """A pod of which nothing runs yet."""
    with laid_out(tmp_path_factory, FOLDER) as made:
        yield made


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
    assert "tritonserver" not in (pod.root / "triton.log").read_text()


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

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pod.get, container(FOLDER, "triton")["lifecycle"]["preStop"])
        pod.before_it_ends(guard)
        assert waiting.result(timeout=WAIT_S) == (200, "drained\n")
    pod.wait_for(lambda: pod.probe("guard", "liveness"), "Guard's liveness after the drain")
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=60) == 0
    guard.send_signal(signal.SIGTERM)
    assert guard.wait(timeout=60) == 0
