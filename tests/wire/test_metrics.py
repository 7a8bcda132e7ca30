"""What calls leave in the metrics."""

from __future__ import annotations

from tests.wire.parts import Serve


async def test_forwarded(serve: Serve, message: bytes) -> None:
    """A request reports its decision, its time, and how much of it was not the upstream's."""
    guard = await serve()
    await guard.call("ModelInfer", message)
    (finished,) = guard.metrics.finished
    assert (finished["decision"].id, finished["model"], finished["protocol"]) == ("d-1", "digits", "grpc")
    (asked,) = guard.metrics.upstream
    assert (asked["model"], asked["code"]) == ("digits", "OK")
    assert 0 < finished["overhead_s"] <= finished["duration_s"] - asked["duration_s"]
    assert finished["live"] == 1
    assert guard.metrics.live == 0


async def test_pass_through(serve: Serve) -> None:
    """A call that carries no inference reports the upstream's answer, without a model's name."""
    guard = await serve()
    await guard.call("ModelConfig")
    assert [(call["model"], call["code"]) for call in guard.metrics.upstream] == [("", "OK")]
    assert guard.metrics.finished == []
