"""Photographs the console: `python -m benchmarks.console --data FOLDER`.

LeNet-5 on MNIST, served by a real Triton; Guard in front of it, honest clients, and from half-way on an attacker. Guard
only flags at first. Then the policy file is changed, and it rejects.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

import guard
from benchmarks.console import photographs
from benchmarks.console.traffic import attacked, sending
from benchmarks.detection.subjects import SUBJECTS, Name
from benchmarks.detection.workshop import Workshop
from guard.offline.options import Options
from tests.support.ports import free_ports
from tests.support.triton import Triton

FOLDER: Final = Path(".cache") / "detection" / Name.MNIST
PICTURES: Final = Path("docs") / "console"
_READY_S = 120.0
_POLICY = """upstream: {{address: "{upstream}"}}
listen: {{address: "127.0.0.1:{grpc}", admin_address: "127.0.0.1:{admin}"}}
console: {{enabled: true}}
models:
  mnist:
    profile: {folder}/{profile}
    model: {folder}/model.onnx
    mode: {mode}
    false_positive_rate: 0.01
    screening_budget_s: 30.0
"""


def main() -> None:
    """Attack, and photograph."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with mnist.npz")
    parser.add_argument("--out", type=Path, default=PICTURES, help="where the pictures go")
    parser.add_argument("--minutes", type=float, default=5.5, help="how long requests are sent before")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console = Console()
    workshop = Workshop(Name.MNIST, FOLDER, images=40, seed=0, console=console)
    workshop.fill(asked.data)
    workshop.calibrate(profile := f"profile-{_recipe()}", Options())
    _, held_out = SUBJECTS[Name.MNIST].splits(asked.data)
    crafted = FOLDER / "console.npy"
    if not crafted.exists():
        console.print("attacking the model, once: it takes minutes")
        np.save(crafted, attacked(SUBJECTS[Name.MNIST].net(), held_out))
    bad = np.load(crafted)
    with tempfile.TemporaryDirectory() as made, _triton(Path(made)) as upstream:
        policy = Path(made) / "policy.yaml"
        ports = free_ports(2)
        values = {
            "upstream": upstream,
            "folder": FOLDER.resolve(),
            "profile": profile,
            "grpc": ports[0],
            "admin": ports[1],
        }
        policy.write_text(_POLICY.format(mode="flag", **values))
        with _guard(policy, Path(made) / "guard.log", ports[1]):
            part_s = asked.minutes * 60 / 4
            console.print(f"sending requests for {asked.minutes:g} minutes")
            with sending(ports[0], held_out.images, bad, pause_s=part_s * 2):
                time.sleep(part_s * 3)
                policy.write_text(_POLICY.format(mode="enforce", **values))
                time.sleep(part_s)
                written, heated = photographs.take(f"http://127.0.0.1:{ports[1]}/console", asked.out)
    console.print(f"{len(written)} pictures are in {asked.out}; {heated:.0%} of the inputs kept have a heat map")


def _recipe() -> str:
    """Another one when the code changes that makes profiles: an older profile would lack what is new."""
    rooms = (Path(guard.__file__).with_name(name) for name in ("offline", "profile", "screen"))
    files = sorted(file for room in rooms for file in room.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@contextmanager
def _triton(folder: Path) -> Iterator[str]:
    server = Triton(folder / "triton", name="mnist", onnx=FOLDER / "model.onnx")
    (folder / "triton").mkdir(exist_ok=True)
    server.start()
    try:
        yield server.address
    finally:
        server.stop()


@contextmanager
def _guard(policy: Path, log: Path, admin_port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "guard", "serve", "--config", str(policy), "--log-level", "error"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)  # noqa: S603 - our own
    try:
        ends_s = time.monotonic() + _READY_S
        while not _ready(admin_port):
            if process.poll() is not None or time.monotonic() > ends_s:
                sys.exit(f"Guard is not ready:\n{log.read_text()}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30.0)


def _ready(admin_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=5.0) as answer:
            return re.match(rb"ready", answer.read()) is not None
    except OSError:
        return False


if __name__ == "__main__":
    main()
