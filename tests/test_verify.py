"""The verifier: is the served model the one in the profile? Asked of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import load, numpy_helper, save

from guard.embedded import EmbeddedServer
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.profile.profile import Canaries
from guard.values import ModelInfo
from guard.verify import Verifier
from tests.support.digits import DigitsData
from tests.support.links import link
from tests.support.ports import free_address
from tests.support.waiting import PATIENCE_S

DIFFERS = "the served model differs from the one in the profile"
UNREACHABLE = "no inference server answers at"
OTHER_MODEL = "the served model is another than the one in its profile; the operator of guard has to calibrate again"


@pytest.fixture
def info(digits_onnx: Path) -> ModelInfo:
    """What a profile of the digits says of its model."""
    return inspect_onnx(digits_onnx, name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8))


@pytest.fixture
def canaries(digits_onnx: Path, digits_data: DigitsData, info: ModelInfo) -> Canaries:
    """Eight digits with the model's own answers."""
    inputs = digits_data.calibration[0][:8]
    return Canaries(inputs, OnnxBackend(digits_onnx.read_bytes(), info).logits(torch.from_numpy(inputs)).numpy())


@pytest.fixture
def retrained(digits_onnx: Path, tmp_path: Path) -> Path:
    """The same network with other weights, as another training run leaves them."""
    model = load(digits_onnx)
    rng = np.random.default_rng(0)
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer)
        if values.dtype == np.float32:
            noisy = values * rng.normal(1, 0.2, values.shape).astype(np.float32)
            initializer.CopyFrom(numpy_helper.from_array(noisy, initializer.name))
    save(model, tmp_path / "retrained.onnx")
    return tmp_path / "retrained.onnx"


Start = Callable[..., Awaitable[tuple[EmbeddedServer, str]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """A function that serves a model file, under a name and at an address, and gives the server and its address."""
    servers: list[EmbeddedServer] = []

    async def serve(path: Path, *, name: str = "digits", address: str = "127.0.0.1:0") -> tuple[EmbeddedServer, str]:
        server = EmbeddedServer({name: path}, address=address)
        servers.append(server)
        return server, f"127.0.0.1:{await server.start()}"

    yield serve
    for server in servers:
        await server.stop(0)


@asynccontextmanager
async def watching(address: str, info: ModelInfo, canaries: Canaries) -> AsyncIterator[Verifier]:
    """A verifier at work that asks often, and compares only when it must."""
    verifier = Verifier(link(address), info, canaries, poll_interval_s=0.01, compare_interval_s=1e6)
    verifier.start()
    try:
        yield verifier
    finally:
        await verifier.stop()


async def problem(verifier: Verifier, says: str | None) -> None:
    """Wait until the verifier's problem begins so, or (None) until it has none; it reports to nobody by itself."""
    async with asyncio.timeout(PATIENCE_S):
        while not (verifier.problem is None if says is None else (verifier.problem or "").startswith(says)):  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.005)


async def test_nothing_passes_unasked(info: ModelInfo, canaries: Canaries) -> None:
    """Before the first comparison the model has not passed, and the problem says so; stopping then is fine."""
    verifier = Verifier(link("127.0.0.1:1"), info, canaries)
    assert verifier.unverified() == "the served model was not compared with its profile yet; retry in a moment"
    assert verifier.problem == "the served model was not compared with the profile yet"
    await verifier.stop()


async def test_right_model_passes(start: Start, digits_onnx: Path, info: ModelInfo, canaries: Canaries) -> None:
    """A server that answers the canaries like the profile's model passes, and leaves no problem."""
    _, address = await start(digits_onnx)
    async with watching(address, info, canaries) as verifier:
        await problem(verifier, None)
        assert verifier.unverified() is None


async def test_other_versions_do_not_pass(start: Start, digits_onnx: Path, info: ModelInfo, canaries: Canaries) -> None:
    """Only the version that answered the canaries is the profile's; asking for it by number is fine."""
    _, address = await start(digits_onnx)
    async with watching(address, info, canaries) as verifier:
        await problem(verifier, None)
        assert verifier.unverified("1") is None
        told = verifier.unverified("2")
        assert told is not None
        assert told.endswith("was not verified against its profile; ask for version '1', or for none")


@pytest.mark.parametrize("noise", [0.01, 0.03])
async def test_tolerance(start: Start, digits_onnx: Path, info: ModelInfo, canaries: Canaries, noise: float) -> None:
    """Logits may differ by two in a hundred of the largest, as another runtime's rounding makes them, and no more."""
    _, address = await start(digits_onnx)
    moved = replace(canaries, logits=canaries.logits + np.float32(noise * np.abs(canaries.logits).max()))
    alike = noise < 0.02
    async with watching(address, info, moved) as verifier:
        await problem(verifier, None if alike else DIFFERS)
        assert (verifier.unverified() is None) is alike


async def test_another_model_does_not_pass(start: Start, retrained: Path, info: ModelInfo, canaries: Canaries) -> None:
    """The same architecture trained otherwise is not the model in the profile; the problem says what to do."""
    _, address = await start(retrained)
    async with watching(address, info, canaries) as verifier:
        await problem(verifier, DIFFERS)
        assert verifier.unverified() == OTHER_MODEL
        assert verifier.problem is not None
        assert verifier.problem.endswith("calibrate again for the model that is served")


async def test_another_model_stays_a_problem(
    start: Start, retrained: Path, info: ModelInfo, canaries: Canaries
) -> None:
    """Until the right model is served each check compares again; none between comparisons makes the problem go."""
    _, address = await start(retrained)
    verifier = Verifier(link(address), info, canaries, compare_interval_s=1e6)
    answers = [await asyncio.to_thread(verifier._check) for _ in range(3)]
    assert [answer is not None and answer.startswith(DIFFERS) for answer in answers] == [True] * 3
    await verifier.stop()


async def test_non_finite_answers_do_not_pass(
    start: Start, digits_onnx: Path, info: ModelInfo, canaries: Canaries
) -> None:
    """A model that answers NaN where the profile has numbers is another model."""
    _, address = await start(digits_onnx)
    broken = replace(canaries, inputs=np.full_like(canaries.inputs, np.nan))
    async with watching(address, info, broken) as verifier:
        await problem(verifier, DIFFERS)
        assert verifier.unverified() == OTHER_MODEL


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "other"}, "the upstream says that model 'other' is not ready"),
        ({"classes": 7}, "model 'digits' answered shape (8, 10)"),
        ({"input_name": "image"}, "127.0.0.1:"),
    ],
)
async def test_server_without_the_model(
    start: Start, digits_onnx: Path, canaries: Canaries, changes: dict, says: str
) -> None:
    """A server that lacks the model, or has one with other tensors, is a problem that repeats what it said.

    What clients are told repeats nothing, for it may be a library's text.
    """
    _, address = await start(digits_onnx)
    info = inspect_onnx(digits_onnx, name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8))
    async with watching(address, replace(info, **changes), canaries) as verifier:
        await problem(verifier, says)
        told = verifier.unverified()
        assert told is not None
        assert told.startswith(f"the inference server at {address} did not answer as the profile's model does")
        assert "check that the model is loaded and ready there" in told


async def test_server_that_comes_later(start: Start, digits_onnx: Path, info: ModelInfo, canaries: Canaries) -> None:
    """A server that is down is a problem and no pass; once it is up with the right model, it passes.

    Clients are told which server it is that does not answer.
    """
    server, address = await start(digits_onnx, address=free_address())
    await server.stop(0)
    async with watching(address, info, canaries) as verifier:
        await problem(verifier, UNREACHABLE)
        told = verifier.unverified()
        assert told is not None
        assert told.startswith(f"the inference server at {address} does not answer")
        assert told.endswith("check that it is running")
        await start(digits_onnx, address=address)
        await problem(verifier, None)
        assert verifier.unverified() is None


async def test_stays_verified_while_unreachable(
    start: Start, digits_onnx: Path, info: ModelInfo, canaries: Canaries
) -> None:
    """A model that was recognised stays so while its server is away, though Guard is not ready."""
    server, address = await start(digits_onnx, address=free_address())
    async with watching(address, info, canaries) as verifier:
        await problem(verifier, None)
        await server.stop(0)
        await problem(verifier, UNREACHABLE)
        assert verifier.unverified() is None


async def test_server_that_returns_with_another_model(
    start: Start, digits_onnx: Path, retrained: Path, info: ModelInfo, canaries: Canaries
) -> None:
    """A server that was away is compared again as soon as it is back, for that is when models change."""
    server, address = await start(digits_onnx, address=free_address())
    async with watching(address, info, canaries) as verifier:
        await problem(verifier, None)
        await server.stop(0)
        await problem(verifier, UNREACHABLE)
        await start(retrained, address=address)
        await problem(verifier, DIFFERS)
        assert verifier.unverified() == OTHER_MODEL
