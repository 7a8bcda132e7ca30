"""TLS, headers and retries of the four clients, with a Guard that passes what it is sent to a server that keeps it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.app import Sidecar
from guard.client import CallFailed, Client, DeadlinePassed, Retry, Tls, Verdict
from guard.config import Listen, Unlisted
from guard.transport import ListenTls
from tests.client.peers import KINDS, Waiting, peer
from tests.support.certificates import Authority
from tests.support.loop import LoopThread
from tests.support.sidecars import running, settings
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import RecordingUpstream

TRACE = {"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
PATIENT = Retry(attempts=1000, first_wait_s=0.02, longest_wait_s=0.1)
STUBBORN = Retry(attempts=2, first_wait_s=3600.0, longest_wait_s=3600.0)
"""A second attempt would never come."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the clients."""
    return str(request.param)


@pytest.fixture(scope="module")
def upstream(loop: LoopThread) -> Iterator[RecordingUpstream]:
    """The server, which answers nothing but what can be read by both protocols."""

    async def make() -> RecordingUpstream:
        server = RecordingUpstream()
        server.body = b""
        await server.start()
        return server

    server = loop.run(make())
    yield server
    loop.run(server.stop())


@contextmanager
def passing(loop: LoopThread, upstream: RecordingUpstream, tls: ListenTls | None = None) -> Iterator[tuple[int, int]]:
    """A Guard that guards no model: its ports."""
    listen = Listen(address="127.0.0.1:0", http_address="127.0.0.1:0", admin_address="127.0.0.1:0", tls=tls)
    with running(loop, Sidecar(settings(upstream.address, {}, listen=listen, unlisted_models=Unlisted.PASS))) as guard:
        yield guard.grpc_port, guard.http_port


@pytest.fixture(scope="module")
def ports(loop: LoopThread, upstream: RecordingUpstream) -> Iterator[tuple[int, int]]:
    """Those of a Guard without TLS."""
    with passing(loop, upstream) as made:
        yield made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Certificates of Guard and of a client, and who signed them."""
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = Authority()
    server, client = authority.issue("guard.example"), authority.issue(common="client")
    contents = {"ca": authority.certificate, "stranger": Authority("stranger").certificate}
    contents |= {"server.crt": server.certificate, "server.key": server.key}
    contents |= {"client.crt": client.certificate, "client.key": client.key}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


@pytest.fixture(scope="module")
def mutual(loop: LoopThread, upstream: RecordingUpstream, files: dict[str, Path]) -> Iterator[tuple[int, int]]:
    """The ports of a Guard that asks clients for certificates."""
    tls = ListenTls(certificate_file=files["server.crt"], key_file=files["server.key"], client_ca_file=files["ca"])
    with passing(loop, upstream, tls) as made:
        yield made


def ask(client: Client | Waiting, **options: Any) -> Verdict | None:
    """Send something: the verdict."""
    tensor = client.tensor("input", np.zeros((1, 1, 8, 8), np.float32))
    return client.infer("any", [tensor], **options).verdict


def lately(kind: str, port: int) -> Verdict | None:
    """Send something to who is not there yet."""
    with peer(kind, port, port, retry=PATIENT) as client:
        return ask(client)


def test_mutual_tls(mutual: tuple[int, int], files: dict[str, Path], kind: str) -> None:
    """With its certificate a client gets through; without one, or where it does not trust Guard's, it does not."""
    shown = Tls(ca_file=files["ca"], certificate_file=files["client.crt"], key_file=files["client.key"])
    with peer(kind, *mutual, tls=shown) as client:
        assert ask(client) is Verdict.UNSCREENED
    for wrong in (Tls(ca_file=files["ca"]), Tls(ca_file=files["stranger"])):
        retry = Retry(attempts=1)
        with peer(kind, *mutual, tls=wrong, retry=retry) as client, pytest.raises(CallFailed) as caught:
            ask(client)
        assert caught.value.status == "UNAVAILABLE"


def test_headers(ports: tuple[int, int], upstream: RecordingUpstream, kind: str) -> None:
    """A call's headers reach the server beside those that the client adds to each; Guard's own can't be forged."""
    with peer(kind, *ports, headers=lambda: TRACE) as client:
        ask(client, headers={"X-Tenant": "a", "Guard-Verdict": "clean"}, request_id="7")
    metadata = upstream.inferred()[-1].metadata
    assert (metadata["traceparent"], metadata["x-tenant"]) == (TRACE["Traceparent"], "a")
    assert not [name for name in metadata if name.startswith("guard")]


def test_guard_comes_back(loop: LoopThread, upstream: RecordingUpstream, free_address: str, kind: str) -> None:
    """A call that finds nobody is made again until somebody is there."""
    port = int(free_address.rpartition(":")[2])
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lately, kind, port)
        threading.Event().wait(0.3)
        assert not asked.done()
        listen = Listen(
            address=free_address if kind.startswith("grpc") else "127.0.0.1:0",
            http_address=free_address if kind.startswith("http") else None,
            admin_address="127.0.0.1:0",
        )
        unguarded = settings(upstream.address, {}, listen=listen, unlisted_models=Unlisted.PASS)
        with running(loop, Sidecar(unguarded)):
            assert asked.result(PATIENCE_S) is Verdict.UNSCREENED


def test_sequences_are_not_repeated(kind: str) -> None:
    """A request of a sequence is made once: who knows whether the first got through."""
    with peer(kind, 1, 1, retry=STUBBORN, deadline_s=None) as client, pytest.raises(CallFailed) as caught:
        ask(client, sequence_id=3, sequence_start=True)
    assert caught.value.status == "UNAVAILABLE"


@pytest.mark.timeout(60)
def test_a_handshake_that_never_ends(kind: str, tmp_path: Path) -> None:
    """The deadline holds for a server that takes the connection, and then says nothing, not even who it is."""
    (tmp_path / "ca.pem").write_bytes(Authority().certificate)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        options = {"tls": Tls(ca_file=tmp_path / "ca.pem"), "retry": Retry(attempts=1), "deadline_s": 0.5}
        with peer(kind, port, port, **options) as client, pytest.raises(CallFailed):
            ask(client)


def test_files_that_are_gone(
    loop: LoopThread, mutual: tuple[int, int], files: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """The files of TLS are read when a client is made: with them gone, a deadline passes as ever, and calls go on."""
    names = ("ca", "client.crt", "client.key")
    own = [tmp_path / name for name in names]
    for name, copy in zip(names, own, strict=True):
        copy.write_bytes(files[name].read_bytes())
    with peer(kind, *mutual, tls=Tls(*own)) as client:
        for copy in own:
            copy.unlink()
        for _ in range(2):  # the second finds the client that was made after the first
            with pytest.raises(DeadlinePassed):
                ask(client, deadline_s=1e-4)
        assert ask(client) is Verdict.UNSCREENED
