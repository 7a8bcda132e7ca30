"""SIGUSR1: a Guard that goes takes calls until load balancers know, ends what runs, and says when it is done."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cli.test_serve import STARTED, get, wait_until_ready
from tests.support import digits
from tests.support.command import Running
from tests.support.loop import LoopThread
from tests.support.sidecars import client_of, embedded
from tests.support.waiting import PATIENCE_S

POLICY = """\
upstream: {{address: "{upstream}"}}
listen: {{address: "127.0.0.1:0", admin_address: "127.0.0.1:0", drain_delay_s: {delay}, drain_grace_s: 30.0}}
models:
  digits:
    {{profile: {folder}/profile, model: {folder}/digits.onnx, mode: flag, false_positive_rate: 0.05,
     screening_budget_s: 60.0}}
"""


def start(running: Running) -> tuple[int, int]:
    """The ports of a Guard that is ready."""
    found = running.wait_for(STARTED)
    wait_until_ready(int(found[2]))
    return int(found[1]), int(found[2])


def test_a_drain(folder: Path, tmp_path: Path) -> None:
    """It is unready at once, answers meanwhile, then refuses; who waits is told; metrics stay until SIGTERM."""
    image = digits.load_data().test[0][:1]
    with LoopThread() as loop, embedded(loop, {"digits": folder / "digits.onnx"}) as upstream:
        (tmp_path / "policy.yaml").write_text(POLICY.format(upstream=upstream, folder=folder, delay=3.0))
        with Running("serve", "--config", "policy.yaml", cwd=tmp_path) as running, ThreadPoolExecutor(1) as thread:
            port, admin = start(running)
            waiting = thread.submit(get, admin, "/wait-for-drain")
            with client_of(port) as client:
                assert client.ask("digits", image).status == "OK"
                running.send(signal.SIGUSR1)
                while "guard is draining" not in get(admin, "/readyz")[1]:
                    threading.Event().wait(0.02)
                if "drained" not in running.log.replace("draining", ""):  # a machine may be slower than the delay
                    assert not waiting.done()
                assert waiting.result(timeout=PATIENCE_S) == (200, "drained\n")
                assert client.ask("digits", image).status == "UNAVAILABLE"
            assert get(admin, "/livez")[0] == 200
            assert "guard_requests_total" in get(admin, "/metrics")[1]
            assert running.end(signal.SIGTERM, within_s=PATIENCE_S) == 0


def test_a_stop_cuts_the_delay_short(folder: Path, tmp_path: Path) -> None:
    """SIGTERM during a drain doesn't wait for load balancers any longer."""
    with LoopThread() as loop, embedded(loop, {"digits": folder / "digits.onnx"}) as upstream:
        (tmp_path / "policy.yaml").write_text(POLICY.format(upstream=upstream, folder=folder, delay=600.0))
        with Running("serve", "--config", "policy.yaml", cwd=tmp_path) as running:
            _, admin = start(running)
            running.send(signal.SIGUSR1)
            while "guard is draining" not in get(admin, "/readyz")[1]:
                threading.Event().wait(0.02)
            assert running.end(signal.SIGTERM, within_s=PATIENCE_S) == 0
