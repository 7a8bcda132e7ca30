"""What a request holds: items of another shape, and encoded images that take time or can't be read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from guard.decode.preprocessing import ImageReader
from guard.errors import BackendError, BackendTimeout, GuardError, MalformedRequest
from guard.profile.spec import ImagePreprocessing, ServerPreprocessing
from guard.values import Action, Float32Array, InferRequest, Layout, Mode, UnscreenedReason, Verdict, WireTensor
from tests.decode.parts import png
from tests.gate.parts import CLEAN, Start, request
from tests.profile.parts import INFO

SERVERS = ServerPreprocessing(input="IMAGE", upstream_model="prepare", upstream_output="tensor")


class Server:
    """A server whose answer is a clean input, or an error."""

    def __init__(self) -> None:
        self.error: GuardError | None = None

    def ask(self, images: Sequence[bytes], **_asked: object) -> Float32Array:
        """Answer."""
        if self.error is not None:
            raise self.error
        return np.array([CLEAN] * len(images), np.float32)

    def close(self) -> None:
        """Nothing to close."""


def wide(items: int = 2) -> InferRequest:
    """A request whose items have three values where the profile has two."""
    values = np.ones((items, 3), np.float32)
    return InferRequest(
        "digits", "", "", (WireTensor("input", "FP32", values.shape, raw=memoryview(values.tobytes())),)
    )


def encoded(*images: bytes) -> InferRequest:
    """A request with encoded images."""
    tensor = WireTensor("IMAGE", "BYTES", (len(images),), typed=np.array(images, np.object_))
    return InferRequest("digits", "", "", (tensor,))


@pytest.fixture
def server() -> Server:
    """The guarded server's preprocessing."""
    return Server()


@pytest.fixture
def reader(server: Server) -> Iterator[ImageReader]:
    """Reads images by that."""
    reader = ImageReader(SERVERS, INFO, server=server)
    yield reader
    reader.close()


@pytest.mark.parametrize(
    ("mode", "policy", "action"),
    [
        (Mode.ENFORCE, Action.REJECT, Action.REJECT),
        (Mode.ENFORCE, Action.FORWARD, Action.FORWARD),
        (Mode.FLAG, Action.REJECT, Action.FLAG),
        (Mode.SHADOW, Action.REJECT, Action.FORWARD),
    ],
)
async def test_another_shape(start: Start, mode: Mode, policy: Action, action: Action) -> None:
    """Items of a shape that only the model knows are unscreened, each of them, counted, and treated by the policy."""
    guard = start(mode=mode, on_unscreened=policy, free=(0,))
    decision = await guard.ask(wide())
    assert (decision.verdict, decision.reason, len(decision.items)) == (
        Verdict.UNSCREENED,
        UnscreenedReason.OTHER_SHAPE,
        2,
    )
    assert decision.action is action
    assert guard.counted("guard_unscreened_requests_total") == {"other_shape": 1}
    assert guard.model.evaluated == []
    assert (await guard.ask(request(CLEAN))).verdict is Verdict.CLEAN


async def test_a_shape_that_nobody_takes(start: Start) -> None:
    """Where the model's shape is fixed, another one is no request to it; nor are more items than a request may hold."""
    with pytest.raises(MalformedRequest, match=r"must have shape \[n, 2\]"):
        await start().ask(wide())
    with pytest.raises(MalformedRequest, match="holds 17 items"):
        await start(free=(0,)).ask(wide(17))


async def test_encoded(start: Start, reader: ImageReader) -> None:
    """Images are screened as what they become; what the server itself made is not approximate."""
    guard = start(images=reader)
    decision = await guard.ask(encoded(b"one", b"two"))
    assert (decision.verdict, len(decision.items), decision.approximate) == (Verdict.CLEAN, 2, False)
    with pytest.raises(MalformedRequest, match="holds 17 items"):
        await guard.ask(encoded(*[b""] * 17))
    with pytest.raises(MalformedRequest, match="exactly one input, named 'IMAGE'"):
        await guard.ask(request(CLEAN))
    with pytest.raises(MalformedRequest, match="asks for content_type 'np'"):  # which images are not
        await guard.ask(replace(encoded(b"one"), content_type="np"))


async def test_approximate(start: Start) -> None:
    """A decision on images that Guard decoded itself says that it is approximate; damaged ones are refused."""
    info = replace(INFO, shape=(1, 2), layout=Layout.HW)
    own = ImageReader(ImagePreprocessing(input="IMAGE", size_px=(1, 2), colour="grey", scale=1.0), info)
    guard = start(images=own)
    levels = np.array([[200, 10]], np.uint8)
    decision = await guard.ask(encoded(png(levels)))
    assert decision.approximate
    assert decision.verdict is not Verdict.UNSCREENED
    assert guard.model.evaluated[0] == (200.0, 10.0)
    with pytest.raises(MalformedRequest, match="item 1 of 2: an item is neither"):
        await guard.ask(encoded(png(levels), b"no image"))
    own.close()


async def test_decoding_takes_turns(start: Start) -> None:
    """A client that sends many large images does not keep another waiting until they are all decoded."""
    own = ImageReader(
        ImagePreprocessing(input="IMAGE", size_px=(1, 2), colour="grey", scale=1.0),
        replace(INFO, shape=(1, 2), layout=Layout.HW),
    )
    guard = start(images=own)
    large = png(np.zeros((1000, 1000, 3), np.uint8))
    greedy = [asyncio.create_task(guard.ask(encoded(*[large] * 16), client="greedy")) for _ in range(8)]
    await asyncio.sleep(0)
    modest = await guard.ask(encoded(png(np.array([[200, 10]], np.uint8))), client="modest")
    assert modest.verdict is not Verdict.UNSCREENED
    assert not any(task.done() for task in greedy[2:])
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    own.close()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BackendTimeout("late"), UnscreenedReason.DEADLINE),
        (BackendError("broken"), UnscreenedReason.FAULT),
    ],
)
async def test_a_server_that_cannot(
    start: Start, reader: ImageReader, server: Server, error: GuardError, reason: UnscreenedReason
) -> None:
    """Images that could not be preprocessed are unscreened, for the reason that they were not."""
    server.error = error
    decision = await start(images=reader).ask(encoded(b""))
    assert (decision.verdict, decision.reason) == (Verdict.UNSCREENED, reason)


@pytest.mark.parametrize(
    ("budget_s", "deadline_s", "reason"),
    [(60.0, -1.0, UnscreenedReason.CLIENT_DEADLINE), (1e-9, None, UnscreenedReason.DEADLINE)],
)
async def test_no_time_to_decode(
    start: Start, reader: ImageReader, budget_s: float, deadline_s: float | None, reason: UnscreenedReason
) -> None:
    """Images have the request's time and no more."""
    guard = start(images=reader, screening_budget_s=budget_s)
    assert (await guard.ask(encoded(b""), deadline_s=deadline_s)).reason is reason
