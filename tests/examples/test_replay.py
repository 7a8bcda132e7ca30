"""The example that sends what is in a file: what it prints is what Guard says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from guard.app import Sidecar
from guard.profile import store
from guard.values import Mode
from tests.app.parts import policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import plain_profile
from tests.support.sidecars import embedded, running, settings, wait_until

ROOT = Path(__file__).parents[2]


def test_verdicts_are_counted(tmp_path: Path) -> None:
    """It sends the file's inputs in turn until the time is over, and counts the verdicts, rejections among them."""
    images, labels = digits.load_data().test
    attacks = digits.attack(digits.trained_network(), images[:40], labels[:40], epsilon=0.1)
    np.savez(tmp_path / "some.npz", inputs=np.concatenate([images[:2], attacks]))
    store.save(plain_profile(), tmp_path / "profile")
    with LoopThread() as loop, embedded(loop, {"digits": digits.onnx_file()}) as upstream:
        given = settings(upstream, {"digits": policy(tmp_path / "profile", mode=Mode.ENFORCE)})
        with running(loop, Sidecar(given)) as sidecar:
            wait_until(sidecar)
            address = f"127.0.0.1:{sidecar.grpc_port}"
            options = ["--address", address, "--pace", "0", "--seconds", "5"]
            command = [sys.executable, "-m", "examples.replay", str(tmp_path / "some.npz"), *options]
            ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
            counted = sidecar.metrics.registry.get_sample_value(
                "guard_items_total", {"model": "digits", "verdict": "adversarial"}
            )
    assert ran.returncode == 0, ran.stderr
    assert "'clean': " in ran.stdout
    assert f"'adversarial, rejected': {counted:.0f}" in ran.stdout.splitlines()[-1]
