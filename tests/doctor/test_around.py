"""Whether the doctor finds a way round Guard."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.config import Listen, Settings, Upstream
from guard.doctor import Level, around
from tests.doctor.parts import look, policy
from tests.support.loop import LoopThread
from tests.support.sidecars import embedded


def test_a_way_round(loop: LoopThread, folder: Path) -> None:
    """A server that other machines reach too is found, with the options that mend it."""
    with embedded(loop, {"digits": folder / "digits.onnx"}, address="0.0.0.0:0") as upstream:
        (finding, _) = look(policy(folder, upstream))["around guard"]
    assert finding.level is Level.PROBLEM
    assert "takes inference by gRPC at 127.0.0.2" in finding.found
    assert "bind it to loopback" in finding.remedy
    assert "--grpc-restricted-protocol" in finding.remedy


@pytest.mark.parametrize(("host", "asked"), [("127.0.0.1", False), ("127.0.0.3", True)])
def test_port_8000_of_guard(
    loop: LoopThread,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    asked: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Where Guard's own HTTP has the server's port, the server is asked if it is on another machine, and else not."""
    monkeypatch.setattr(around, "_is_loopback", lambda each: each == "127.0.0.1")  # and 127.0.0.3 is another machine
    with embedded(loop, {"digits": folder / "digits.onnx"}, address="0.0.0.0:0") as upstream:
        there = upstream.replace("127.0.0.1", host)
        settings = Settings(upstream=Upstream(address=there), listen=Listen(http_address="127.0.0.1:1"))
        (_, of_http) = around.reachable_around(settings, http_port=1)
    assert (of_http.found == "nobody gets inference by HTTP at 127.0.0.3") is asked
    assert (of_http.level is Level.NOTE and "--http-port" in of_http.remedy) is not asked


def test_unix_sockets() -> None:
    """A server behind a socket file has no address that others could call."""
    settings = Settings(upstream=Upstream(address="unix:/run/triton.sock"), listen=Listen())
    (finding,) = around.reachable_around(settings)
    assert finding.level is Level.OK
