"""The doctor beside a real Triton: is there a way round Guard?"""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.config import Settings, Upstream, host_and_port
from guard.doctor import Level
from guard.doctor.around import reachable_around
from guard.transport import RestrictedProtocol
from tests.support.triton import Triton

PROTOCOLS = "health,inference"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a Guard that has the secret."""
    (tmp_path / "secret").write_text("open sesame")
    secret = RestrictedProtocol(key="guard-key", value_file=tmp_path / "secret")
    return Settings(upstream=Upstream(address="127.0.0.1:1", restricted_protocol=secret))


def levels(settings: Settings, triton: Triton) -> list[Level]:
    """What is found by gRPC and by HTTP."""
    upstream = settings.upstream.model_copy(update={"address": triton.address})
    there = settings.model_copy(update={"upstream": upstream})
    return [finding.level for finding in reachable_around(there, host_and_port(triton.http_address)[1])]


def test_without_the_secret(triton: Triton, settings: Settings, digits_onnx: Path, tmp_path: Path) -> None:
    """A Triton that asks nobody for the secret that Guard has is open, by both protocols; one that does is not."""
    assert levels(settings, triton) == [Level.PROBLEM, Level.PROBLEM]
    secured = "grpc-restricted-protocol", "http-restricted-api"
    options = dict.fromkeys(secured, f"{PROTOCOLS}:guard-key=open sesame")
    metadata = (("triton-grpc-protocol-guard-key", "open sesame"),)
    locked = Triton(tmp_path, name="digits", onnx=digits_onnx, options=options, metadata=metadata)
    locked.start()
    try:
        assert levels(settings, locked) == [Level.OK, Level.OK]
    finally:
        locked.stop()
