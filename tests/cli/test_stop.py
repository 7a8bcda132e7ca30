"""How `guard demo` ends when it is told to, whatever it is doing."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import Running
from tests.support.waiting import PATIENCE_S

# The demo, as its command runs it, without its minutes of work before and after the servers.
SERVING = """\
import sys, threading
from pathlib import Path
from guard.cli import main
from guard.demo import run

def serve(request, console, tell):
    with run.noise_secret() as secret, run._servers(Path("digits.onnx"), Path("profile"), secret) as (sidecar, port):
        print(sidecar.grpc_port, sidecar.admin_port, port, secret, flush=True)
        threading.Event().wait()

run.run = serve
sys.argv = ["guard", "demo"]
main()
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_while_it_serves(folder: Path, signum: signal.Signals) -> None:
    """A signal stops its servers, removes the secret, and ends it soon, with the code of an interruption."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVING], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        *ports, secret = running.stdout.readline().split()
        assert Path(secret).is_file()
        running.send_signal(signum)
        _, errors = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    assert not Path(secret).exists()
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_while_it_works(tmp_path: Path) -> None:
    """While it trains a signal ends it at once."""
    with Running("demo", cwd=tmp_path) as running:
        while not (tmp_path / "guard-demo").is_dir():
            pass
        assert running.end(signal.SIGTERM, within_s=PATIENCE_S) == 130
    assert running.log == ""
