"""The decision's id is in every line that is logged on the way of a request, whichever thread logs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from guard.errors import BackendError
from tests.gate.parts import CLEAN, Start, request

Events = list[MutableMapping[str, Any]]


@pytest.fixture
def events() -> Iterator[Events]:
    """What is logged, with what is bound to its context."""
    with capture_logs(processors=[merge_contextvars]) as captured:
        yield captured


def named(events: Events, name: str) -> Events:
    """The events of that name."""
    return [event for event in events if event["event"] == name]


async def test_the_decision(start: Start, events: Events) -> None:
    """The decision has the id that the gate was given, and is logged with it."""
    decision = await start().ask(request(CLEAN), decision_id="d-7")
    assert decision.id == "d-7"
    assert [event["decision_id"] for event in named(events, "decision")] == ["d-7"]


async def test_an_item_that_found_no_room(start: Start, events: Events) -> None:
    """The gate's warning of an item that the engine did not take names its request."""
    guard = start(queue=1, live=1)
    busy = await guard.occupy()
    screening = asyncio.create_task(guard.ask(request(CLEAN, CLEAN), decision_id="d-8"))
    await asyncio.sleep(0)  # the task runs up to its wait for the engine
    guard.model.open.set()
    await screening
    await busy
    assert [event["decision_id"] for event in named(events, "an item was not screened")] == ["d-8"]


async def test_a_replica_that_failed(start: Start, events: Events) -> None:
    """The engine's warning of a batch that failed names the requests whose items were in it."""
    guard = start()
    busy = await guard.occupy()
    waiting = [asyncio.create_task(guard.ask(request(CLEAN, CLEAN), decision_id=f"d-{number}")) for number in (1, 2)]
    await asyncio.sleep(0)  # as above
    await asyncio.sleep(0)
    guard.model.failure = BackendError("gone")
    guard.model.open.set()
    await asyncio.gather(*waiting)
    await asyncio.wait([busy])
    mentioned = [event["decision_ids"] for event in named(events, "a replica failed")]
    assert {each for ids in mentioned for each in ids} >= {"d-1", "d-2"}
