"""The HTTP server's life: where it listens, and how it stops."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import h11
import pytest

from guard.config import Listen, Settings
from guard.config import Upstream as UpstreamSettings
from guard.errors import AddressUnusable, NonFiniteInput
from guard.transport import ListenTls
from guard.wire.server import GuardServer
from tests.support.certificates import Authority
from tests.support.waiting import PATIENCE_S, until
from tests.wire.parts import FixedScreener, RecordedMetrics
from tests.wire.rest.client import ask, connected
from tests.wire.rest.conftest import MethodicalUpstream, StartRest


async def test_an_address_in_use(rest: StartRest) -> None:
    """An address that can't be bound is named, with its setting."""
    guard = await rest()
    other = await rest()
    await other.server.stop(0.0)
    with pytest.raises(
        AddressUnusable, match=r"can't listen on 127.0.0.1:\d+: Address already in use.*listen.http_address"
    ):
        await other.server.start(f"127.0.0.1:{guard.port}")


async def test_no_such_address(rest: StartRest) -> None:
    """... nor one that isn't of this machine."""
    guard = await rest()
    for address in ("192.0.2.1:0", "no.such.host.invalid:1"):
        with pytest.raises(AddressUnusable, match=address):
            await guard.server.start(address)


async def test_ipv6(rest: StartRest) -> None:
    """IPv6 addresses stand in brackets."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    guard = await rest()
    await guard.server.stop(0.0)
    port = await guard.server.start("[::1]:0")
    reader, writer = await asyncio.open_connection("::1", port)
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
    writer.close()


async def test_signals_are_left_alone(rest: StartRest) -> None:
    """The server of a library takes no signals: they are the process's."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    await rest()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_stop_waits(rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any]) -> None:
    """A request that runs is answered before the server is gone; new connections are refused at once."""
    guard = await rest()
    upstream.release.clear()
    running = asyncio.create_task(guard.infer(tensor))
    await upstream.started.wait()
    stopping = asyncio.create_task(guard.server.stop(PATIENCE_S))
    while True:
        try:
            await ask(guard.port, "GET", "/nothing")
        except ConnectionError:
            break
    assert not running.done()
    upstream.release.set()
    answer = await running
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    await stopping


async def test_no_request_is_lost(rest: StartRest) -> None:
    """Clients that ask again and again are told to close before their connections are: none finds its own shut."""
    guard = await rest()

    asked = [0] * 8

    async def ask_until_told(client: int) -> None:
        async with connected(guard.port) as connection:
            while "connection" not in (await connection.ask("GET", "/nothing")).headers:
                asked[client] += 1

    clients = [asyncio.create_task(ask_until_told(client)) for client in range(len(asked))]
    await until(lambda: all(asked))
    await guard.server.stop(PATIENCE_S)
    await asyncio.gather(*clients)


async def test_stop_does_not_wait_for_ever(
    rest: StartRest, upstream: MethodicalUpstream, tensor: dict[str, Any]
) -> None:
    """After the grace period what still runs is cut."""
    guard = await rest()
    upstream.release.clear()
    running = asyncio.create_task(guard.infer(tensor))
    await upstream.started.wait()
    async with asyncio.timeout(PATIENCE_S / 2):
        await guard.server.stop(0.2)
    with pytest.raises((ConnectionError, h11.RemoteProtocolError)):
        await running


async def test_idle_connections_end(rest: StartRest) -> None:
    """A connection without a request doesn't hold up the end."""
    guard = await rest()
    async with connected(guard.port) as connection:
        await connection.ask("GET", "/nothing")
        async with asyncio.timeout(PATIENCE_S / 2):
            await guard.server.stop(PATIENCE_S)
        assert await connection.closed()


async def test_tls(rest: StartRest, tmp_path: Path, tensor: dict[str, Any]) -> None:
    """With listen.tls this port has it too: clients show their certificate, and are told apart by it."""
    authority = Authority()
    files = {"ca": authority.certificate, **authority.issue("localhost").files}
    shown = authority.issue(common="camera").files
    for name, content in {**files, **{f"client-{name}": content for name, content in shown.items()}}.items():
        (tmp_path / name).write_bytes(content)
    guard = await rest(
        tls=ListenTls(certificate_file=tmp_path / "crt", key_file=tmp_path / "key", client_ca_file=tmp_path / "ca")
    )
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca"))
    text = json.dumps(tensor).encode()
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    said = []
    for client_shows in (False, True):
        if client_shows:
            trusting.load_cert_chain(tmp_path / "client-crt", tmp_path / "client-key")
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", guard.port, ssl=trusting)
            writer.write(head % len(text) + text)
            said.append(await reader.read())
            writer.close()
        except OSError:
            said.append(b"")
    assert not said[0]
    assert said[1].startswith(b"HTTP/1.1 200 ")
    assert guard.screener.clients == ["certificate:camera"]
    with pytest.raises(h11.RemoteProtocolError):
        await ask(guard.port, "GET", "/v2")


def both(upstream: MethodicalUpstream, http_address: str, address: str = "127.0.0.1:0") -> GuardServer:
    """A guard with both protocols."""

    async def ready() -> bool:
        return True

    settings = Settings(
        upstream=UpstreamSettings(address=upstream.address),
        listen=Listen(address=address, http_address=http_address),
    )
    return GuardServer(
        screener=FixedScreener(NonFiniteInput("no")), settings=settings, metrics=RecordedMetrics(), ready=ready
    )


async def test_beside_grpc(upstream: MethodicalUpstream, tensor: dict[str, Any]) -> None:
    """HTTP is served where the settings have an address for it, and stops with gRPC."""
    server = both(upstream, "127.0.0.1:0")
    await server.start()
    answer = await ask(server.http_port, "POST", "/v2/models/digits/infer", json.dumps(tensor).encode())
    assert (answer.status, answer.error.startswith("no [")) == (400, True)
    await server.stop(1.0)
    with pytest.raises(ConnectionError):
        await ask(server.http_port, "GET", "/v2")


async def test_an_address_that_fails_beside_grpc(upstream: MethodicalUpstream, free_address: str) -> None:
    """If the one address can't be had, the other is given back."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        in_use = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressUnusable, match=r"listen\.address"):
            await both(upstream, free_address, in_use).start()
        with pytest.raises(AddressUnusable, match=r"listen\.http_address"):
            await both(upstream, in_use).start()
    server = both(upstream, free_address)
    await server.start()
    await server.stop(0.0)
