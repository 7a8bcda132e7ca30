"""Where the real Envoy carries the traffic, both shapes of deploy/envoy: Guard counts what the real Triton runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from guard.app import Sidecar
from guard.config import Mode
from guard.values import Sender
from tests.e2e.counts import Since
from tests.e2e.house import HEADER, SECRET, request
from tests.e2e.peer import Peer
from tests.e2e.ways import World
from tests.support.envoy import PROGRAM, envoy
from tests.support.sidecars import running, wait_until
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="the real Envoy is not installed (make servers)")

DIGITS = ("digits",)


@contextmanager
def carrying(world: World, folder: Path, shape: str, guard: Sidecar) -> Iterator[Peer]:
    """Envoy by a file of deploy/envoy, and a stock client of it."""
    others = {"message_timeout": "60s"} if shape == "enforce.yaml" else {}
    triton = world.house.triton.address
    with envoy(folder, shape, triton=triton, guard_port=guard.envoy_port, **others) as one, Peer(one.address) as peer:
        yield peer


def send(peer: Peer, images: np.ndarray) -> str:
    """Send a batch that knows the server's secret: the status."""
    try:
        peer.stub.ModelInfer(request(images), metadata=((HEADER, SECRET),), timeout=60.0)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def agree(since: Since, carried: int) -> bool:
    """Whether so many were carried, and what might have run in all is what did."""
    might_have_run = {outcome: count for outcome, count in since.asked("digits").items() if outcome != "failed"}
    return since.asked("digits", Sender.CARRIED) == {"unknown": carried} and (
        since.ran("digits") == sum(might_have_run.values())
    )


def test_asked(world: World, tmp_path: Path) -> None:
    """By enforce.yaml: what Envoy is told to send on counts, what it is told to refuse does not."""
    with carrying(world, tmp_path, "enforce.yaml", world.house.guards[0]) as peer:
        since = Since(world.house.triton, world.house.guards, DIGITS)
        assert [send(peer, world.benign[n : n + 2]) for n in range(5)] == ["OK"] * 5
        assert send(peer, world.attack) == "PERMISSION_DENIED"
        assert send(peer, world.benign[:1].reshape(1, 64)) == "INVALID_ARGUMENT"
        wait_for(lambda: agree(since, 5))


def test_mirrored(world: World, tmp_path: Path) -> None:
    """By shadow.yaml: each copy counts, an attack's too, and that of an input that Guard can't screen."""
    models = {n: p.model_copy(update={"mode": Mode.SHADOW}) for n, p in world.house.settings.models.items()}
    watching = world.house.settings.model_copy(update={"models": models})
    with running(world.house.loop, Sidecar(watching)) as guard:
        wait_until(guard)
        with carrying(world, tmp_path, "shadow.yaml", guard) as peer:
            since = Since(world.house.triton, [*world.house.guards, guard], DIGITS)
            not_a_number = world.benign[:1] * np.float32("nan")
            for images in (world.benign[:1], world.benign[:8], world.attack, not_a_number):
                assert send(peer, images) == "OK"
            wait_for(lambda: agree(since, 4))


def test_mirrored_to_a_guard_that_refuses(world: World, tmp_path: Path) -> None:
    """The originals run whatever Guard makes of their copies: where the policy means to refuse, it judges none."""
    with carrying(world, tmp_path, "shadow.yaml", world.house.guards[0]) as peer:
        since = Since(world.house.triton, world.house.guards, DIGITS)
        assert [send(peer, world.benign[:1]) for _ in range(3)] == ["OK"] * 3
        wait_for(lambda: agree(since, 3))
