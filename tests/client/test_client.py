"""The four clients in front of a real Guard, and of a server without one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from guard.client import (
    Action,
    AdversarialInputRejected,
    CallFailed,
    Client,
    DeadlinePassed,
    NotGuarded,
    Retry,
    Tls,
    Verdict,
)
from guard.client.attempts import Attempts
from guard.errors import ConfigError, EnvironmentProblem
from tests.client.conftest import World
from tests.client.peers import KINDS, Waiting, peer


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the clients."""
    return str(request.param)


@pytest.fixture
def client(world: World, kind: str) -> Iterator[Client | Waiting]:
    """It, in front of Guard."""
    with peer(kind, *world.ports) as made:
        yield made


def test_clean(world: World, client: Client | Waiting) -> None:
    """A result is tritonclient's, with the verdict and the id of the decision."""
    answer = client.infer("digits", [client.tensor("input", world.clean)], request_id="7")
    assert (answer.verdict, answer.approximate) == (Verdict.CLEAN, False)
    assert len(answer.id or "") == 32
    assert answer.as_numpy("logits").shape == (1, 10)
    assert np.array_equal(answer.result.as_numpy("logits"), answer.as_numpy("logits"))


def test_adversarial(world: World, client: Client | Waiting) -> None:
    """A rejection says which items of the batch, and finds its decision in the log; it is not tried again."""
    batch = np.concatenate([world.clean, world.attack])
    before = counted(world, "reject")
    with pytest.raises(AdversarialInputRejected, match="adversarial input at item 1 of 2") as caught:
        client.infer("digits", [client.tensor("input", batch)])
    assert (caught.value.items, caught.value.verdict, len(caught.value.id)) == ((1,), Verdict.ADVERSARIAL, 32)
    assert counted(world, "reject") == before + 1


def test_screen_only(world: World, client: Client | Waiting) -> None:
    """A verdict alone: a rejection is no error, and the server is not asked."""
    before = counted(world, "OK", "guard_upstream_requests_total")
    batch = np.concatenate([world.attack, world.clean])
    told = client.screen_only("digits", [client.tensor("input", batch)])
    assert (told.verdict, told.action, told.items) == (Verdict.ADVERSARIAL, Action.REJECT, (0,))
    told = client.screen_only("digits", [client.tensor("input", world.clean)])
    assert (told.verdict, told.action, told.items) == (Verdict.CLEAN, Action.FORWARD, ())
    assert (told.executed, len(told.id or "")) == (False, 32)
    assert counted(world, "OK", "guard_upstream_requests_total") == before


def test_shadow(world: World, kind: str) -> None:
    """In shadow mode Guard says nothing: the answer has no verdict, and that is an error where one is required."""
    with peer(kind, *world.ports) as client:
        answer = client.infer("watched", [client.tensor("input", world.attack)])
        assert (answer.verdict, answer.id) == (None, None)
        with pytest.raises(CallFailed, match="shadow mode") as caught:
            client.screen_only("watched", [client.tensor("input", world.attack)])
        assert caught.value.status == "PERMISSION_DENIED"
    with peer(kind, *world.ports, require_verdict=True) as client, pytest.raises(NotGuarded, match="in shadow mode"):
        client.infer("watched", [client.tensor("input", world.clean)])


@pytest.mark.parametrize("asyncio", [False, True])
def test_without_guard(world: World, asyncio: bool) -> None:  # noqa: FBT001 - a parameter
    """A server without Guard answers without a verdict; asked for a verdict alone it runs the model, and says so."""
    port = int(world.server.rpartition(":")[2])
    with peer("grpc aio" if asyncio else "grpc", port, 0) as client:
        answer = client.infer("digits", [client.tensor("input", world.attack)])
        assert (answer.verdict, answer.id, answer.as_numpy("logits").shape) == (None, None, (1, 10))
        told = client.screen_only("digits", [client.tensor("input", world.clean)])
        assert (told.verdict, told.action, told.executed) == (None, None, True)


def test_refused(world: World, client: Client | Waiting) -> None:
    """What Guard refuses for another reason than a verdict is a call that failed, at once and with an id."""
    with pytest.raises(CallFailed, match="not under guard") as caught:
        client.infer("stranger", [client.tensor("input", world.clean)])
    assert (caught.value.status, len(caught.value.id or "")) == ("PERMISSION_DENIED", 32)
    with pytest.raises(CallFailed) as caught:
        client.infer("digits", [client.tensor("input", world.clean * np.nan)])
    assert caught.value.status == "INVALID_ARGUMENT"


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Where nothing listens the call is made again, as often as was said, and then fails as UNAVAILABLE."""
    failed, wait_after = [], Attempts.wait_after
    monkeypatch.setattr(
        Attempts, "wait_after", lambda attempts, error: failed.append(error) or wait_after(attempts, error)
    )
    retry = Retry(attempts=3, first_wait_s=0.01)
    with peer(kind, 1, 1, retry=retry) as client, pytest.raises(CallFailed) as caught:
        client.infer("digits", [client.tensor("input", np.zeros((1, 1, 8, 8), np.float32))])
    assert [error.status for error in failed] == ["UNAVAILABLE"] * 3
    assert caught.value is failed[-1]


def test_deadline(world: World, kind: str) -> None:
    """A call that takes too long ends, and the client goes on to be of use."""
    with peer(kind, *world.ports) as client:
        images = np.repeat(world.clean, 256, axis=0) + np.float32(0.0)
        images[:, 0, 0, 0] = np.linspace(0, 1, 256)
        with pytest.raises(DeadlinePassed):
            client.infer("digits", [client.tensor("input", images)], deadline_s=0.02)
        assert client.infer("digits", [client.tensor("input", world.clean)]).verdict is Verdict.CLEAN


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_mistakes(kind: str) -> None:
    """Mistakes in what the client is made of are told before any call."""
    with pytest.raises(ConfigError, match="write grpcs:// or https://, or leave out tls"):
        Client(f"{kind}://127.0.0.1:1", tls=Tls())
    with pytest.raises(ConfigError, match="no address to call"):
        Client("127.0.0.1")


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_tritonclient_is_not_installed(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Without tritonclient a client says what to install."""
    monkeypatch.setitem(sys.modules, f"tritonclient.{scheme}", None)  # as Python marks what can't be imported
    with pytest.raises(EnvironmentProblem, match=r"pip install '\.\[client\]' in a clone of Guard"):
        Client(f"{scheme}://127.0.0.1:1")


def test_the_import_is_light() -> None:
    """The SDK is imported without tritonclient, gRPC, and what Guard itself needs."""
    heavy = "{'tritonclient', 'grpc', 'torch', 'onnxruntime', 'pydantic'}"
    code = f"import sys, guard.client; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    subprocess.run([sys.executable, "-c", code], check=True)


def counted(world: World, value: str, name: str = "guard_requests_total") -> float:
    """The sum of a metric's samples for `digits` that have the label value."""
    return sum(
        sample.value
        for family in world.guard.metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and sample.labels["model"] == "digits" and value in sample.labels.values()
    )
