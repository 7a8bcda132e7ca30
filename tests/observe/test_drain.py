"""The page that a stopping server waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from guard.observe.answer import Answer
from guard.observe.drain import Drain


def said(answer: Answer) -> str:
    """Status and text."""
    return f"{answer[0][:3]} {answer[2].decode().strip()}"


def test_it_waits_for_the_end() -> None:
    """Who asks before the drain began, and who asks while it runs, is answered when it has ended, and not before."""
    drain = Drain(60.0, begins_within_s=60.0)
    with ThreadPoolExecutor(2) as threads:
        early = threads.submit(drain.wait)
        drain.begun.set()
        late = threads.submit(drain.wait)
        threading.Event().wait(0.1)
        assert not early.done()
        assert not late.done()
        drain.ended.set()
        assert {said(each.result(timeout=30)) for each in (early, late)} == {"200 drained"}
    assert said(drain.wait()) == "200 drained"


def test_without_a_drain_nobody_waits_long() -> None:
    """Where only the server is restarted, Guard goes on, and the server may stop soon."""
    assert said(Drain(60.0, begins_within_s=0.01).wait()) == "200 guard is not draining"


def test_waiting_is_bounded() -> None:
    """No crowd can hold threads of Guard by waiting: the ninth is told so at once."""
    drain = Drain(60.0, begins_within_s=60.0)
    ready: Callable[[], bool] = lambda: drain._waiting._value == 0  # type: ignore[attr-defined]  # noqa: E731 - short
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(drain.wait) for _ in range(8)]
        while not ready():
            threading.Event().wait(0.01)
        assert said(drain.wait()).startswith("503")
        drain.begun.set()
        drain.ended.set()
        assert {said(each.result(timeout=30)) for each in waiting} == {"200 drained"}
