"""Serves a request without a collector of traces, in a process of its own."""

from __future__ import annotations

from pathlib import Path

from guard.app import Sidecar
from tests.app.parts import policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.sidecars import client_of, embedded, running, settings, wait_until


def serve_one(profile: str) -> None:
    """Start a Guard, and send it a request that it screens and lets through."""
    with LoopThread() as loop, embedded(loop, {"digits": digits.onnx_file()}) as upstream:
        given = settings(upstream, {"digits": policy(Path(profile))})
        with running(loop, Sidecar(given)) as sidecar, client_of(sidecar.grpc_port) as client:
            wait_until(sidecar)
            seen = client.ask("digits", digits.load_data().test[0][:1])
            assert (seen.status, seen.verdict) == ("OK", "clean")
