"""TLS towards clients: who is refused, what a client is called, and certificates that change while Guard runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from structlog.testing import capture_logs

from guard.credentials import LOOK_INTERVAL_S
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.transport import ListenTls
from guard.wire.tls import name_of_peer, server_context
from tests.support.certificates import DAY, Authority, Pair, Secret
from tests.support.waiting import PATIENCE_S, until
from tests.wire.parts import Running, Serve

ENDED = timedelta(seconds=-1)
REQUEST = ModelInferRequest(model_name="digits").SerializeToString()


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs what both sides trust."""
    return Authority()


@pytest.fixture(scope="module")
def stranger() -> Authority:
    """Who signs what nobody trusts."""
    return Authority("stranger")


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Secret:
    """Guard's certificate, and whom it trusts, as Kubernetes mounts them."""
    return Secret(tmp_path / "tls", **authority.issue("guard.example").files, ca=authority.certificate)


def listen(files: Secret, *, mutual: bool = False) -> dict[str, Any]:
    """Settings of a Guard with that certificate."""
    tls = {"certificate_file": files["crt"], "key_file": files["key"]}
    return {"tls": tls | ({"client_ca_file": files["ca"]} if mutual else {})}


def trusting(authority: Authority, shown: Pair | None = None) -> grpc.ChannelCredentials:
    """Credentials of a client."""
    if shown is None:
        return grpc.ssl_channel_credentials(authority.certificate)
    return grpc.ssl_channel_credentials(authority.certificate, shown.key, shown.certificate)


async def code_for(guard: Running, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """What a client with a connection of its own gets."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    if credentials is None:
        made = grpc.aio.insecure_channel(guard.address, options)
    else:
        made = grpc.aio.secure_channel(guard.address, credentials, options)
    async with made as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=PATIENCE_S)
        return await call.code()


async def shown_at(port: int, authority: Authority) -> int:
    """The serial number of the certificate that a new connection sees."""

    def look() -> int:
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as bare,
            context.wrap_socket(bare, server_hostname="guard.example") as wrapped,
        ):
            return x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True)).serial_number

    return await asyncio.to_thread(look)


def serial(made: Pair) -> int:
    """The serial number of a certificate."""
    return x509.load_pem_x509_certificate(made.certificate).serial_number


async def test_tls(serve: Serve, server: Secret, authority: Authority, stranger: Authority) -> None:
    """Who trusts Guard's authority gets through; who trusts another, or speaks no TLS, does not."""
    guard = await serve(listen=listen(server))
    assert await code_for(guard, trusting(authority)) is grpc.StatusCode.OK
    assert await code_for(guard, trusting(stranger)) is grpc.StatusCode.UNAVAILABLE
    assert await code_for(guard, None) is grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls(serve: Serve, server: Secret, authority: Authority, stranger: Authority) -> None:
    """With client_ca_file clients have to show a valid certificate of that authority."""
    guard = await serve(listen=listen(server, mutual=True))
    expected = {
        None: grpc.StatusCode.UNAVAILABLE,
        authority.issue("client"): grpc.StatusCode.OK,
        authority.issue("client", ends_in=ENDED): grpc.StatusCode.UNAVAILABLE,
        stranger.issue("client"): grpc.StatusCode.UNAVAILABLE,
    }
    assert {shown: await code_for(guard, trusting(authority, shown)) for shown in expected} == expected


@pytest.mark.parametrize(
    ("names", "called"),
    [(("b.example", "a.example"), "certificate:127.0.0.1,a.example,b.example"), ((), "certificate:someone")],
)
async def test_a_client_is_who_its_certificate_says(
    serve: Serve, server: Secret, authority: Authority, names: tuple[str, ...], called: str
) -> None:
    """With mutual TLS fairness and memory go by the certificate: its alternative names, else its common name."""
    shown = authority.issue(*names, common="someone")
    guard = await serve(listen=listen(server, mutual=True), credentials=trusting(authority, shown))
    assert (await guard.call("ModelInfer", REQUEST)).code is grpc.StatusCode.OK
    assert guard.screener.clients == [called]


async def test_a_client_without_certificate(serve: Serve, server: Secret, authority: Authority, message: bytes) -> None:
    """Where Guard asks for no certificate, clients go by their address."""
    guard = await serve(listen=listen(server), credentials=trusting(authority))
    assert (await guard.call("ModelInfer", REQUEST)).code is grpc.StatusCode.OK
    assert guard.screener.clients == ["ipv4:127.0.0.1"]


async def test_a_new_certificate(serve: Serve, server: Secret, authority: Authority, stranger: Authority) -> None:
    """Swapped files: new connections see the new certificate and have to please the new authority; old ones go on."""
    ours, theirs = authority.issue("client"), stranger.issue("client")
    guard = await serve(listen=listen(server, mutual=True), credentials=trusting(authority, ours))
    assert (await guard.call("ServerReady")).code is grpc.StatusCode.OK
    renewed = authority.issue("guard.example")
    server.replace(**renewed.files, ca=stranger.certificate)
    ok = grpc.StatusCode.OK

    async def taken() -> bool:
        return await code_for(guard, trusting(authority, theirs)) is ok

    await until(taken)
    assert await code_for(guard, trusting(authority, ours)) is grpc.StatusCode.UNAVAILABLE
    assert (await guard.call("ServerReady")).code is ok
    assert guard.metrics.stale["listen.tls"]() is False


@pytest.mark.parametrize("ends_in", [DAY, ENDED])
async def test_a_broken_new_certificate(serve: Serve, server: Secret, authority: Authority, ends_in: timedelta) -> None:
    """A key of another certificate, or a certificate that has ended: the old one stays; metric and log say so."""
    guard = await serve(listen=listen(server))
    port = int(guard.address.partition(":")[2])
    first, wrong = await shown_at(port, authority), authority.issue("guard.example", ends_in=ends_in)
    key = wrong.key if ends_in is ENDED else authority.issue().key
    stale = guard.metrics.stale["listen.tls"]
    with capture_logs() as log:
        server.replace(crt=wrong.certificate, key=key, ca=b"")
        await until(stale)
        assert await shown_at(port, authority) == first
        await asyncio.sleep(1.2 * LOOK_INTERVAL_S)
        assert stale()
    (line,) = [line for line in log if line["log_level"] == "error"]
    assert line["event"] == "changed files can't be used: what was read before stays in use"
    assert f"listen.tls.{'certificate_file' if ends_in is ENDED else 'key_file'} {server.folder}" in line["problem"]
    good = authority.issue("guard.example")
    server.replace(**good.files, ca=b"")
    await until(lambda: not stale())
    assert await shown_at(port, authority) == serial(good)


async def test_when_certificates_end(serve: Serve, tmp_path: Path, authority: Authority) -> None:
    """Guard exports when each certificate ends, and warns of one that has, with the date; it serves nevertheless."""
    files = Secret(tmp_path / "tls", **authority.issue("guard.example", ends_in=ENDED).files, ca=authority.certificate)
    with capture_logs() as log:
        guard = await serve(listen=listen(files, mutual=True))
    ended = x509.load_pem_x509_certificate(files["crt"].read_bytes()).not_valid_after_utc
    assert {setting: ends() for setting, ends in guard.metrics.ends_s.items()} == {
        "listen.tls.certificate_file": ended.timestamp(),
        "listen.tls.client_ca_file": x509.load_pem_x509_certificate(
            authority.certificate
        ).not_valid_after_utc.timestamp(),
    }
    (warning,) = [line["event"] for line in log if line["log_level"] == "warning"]
    assert f"listen.tls.certificate_file ended on {ended:%Y-%m-%d %H:%M} UTC: replace it" in warning


class TestServerContext:
    """The same files for a server that is no gRPC's."""

    @pytest.fixture
    async def port(self, server: Secret) -> AsyncIterator[int]:
        """A server that says who its client is."""
        tls = ListenTls(**listen(server, mutual=True)["tls"])

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            named = name_of_peer(writer.get_extra_info("peercert"))
            writer.write(str(named).encode())
            await writer.drain()
            writer.close()

        started = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(tls))
        async with started:
            yield started.sockets[0].getsockname()[1]

    async def ask(self, port: int, authority: Authority, shown: Pair | None, folder: Path) -> tuple[str, int]:
        """What a client hears, nothing where it is refused, and the serial number that it sees."""
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        if shown is not None:
            (folder / "client.pem").write_bytes(shown.certificate + shown.key)
            context.load_cert_chain(folder / "client.pem")
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="guard.example")
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            return (await reader.read()).decode(), x509.load_der_x509_certificate(der).serial_number
        finally:
            writer.close()

    async def test_names_and_refusals(
        self, port: int, authority: Authority, stranger: Authority, tmp_path: Path
    ) -> None:
        """A client has the name that gRPC gives it. Who shows nothing, or what has ended or is foreign, is refused."""
        heard, _ = await self.ask(port, authority, authority.issue("a.example", common="someone"), tmp_path)
        assert heard == "certificate:127.0.0.1,a.example"
        heard, _ = await self.ask(port, authority, authority.issue(common="someone"), tmp_path)
        assert heard == "certificate:someone"
        for refused in (None, authority.issue("a.example", ends_in=ENDED), stranger.issue("a.example")):
            heard, _ = await self.ask(port, authority, refused, tmp_path)
            assert heard == ""

    async def test_a_new_certificate(
        self, port: int, server: Secret, authority: Authority, stranger: Authority, tmp_path: Path
    ) -> None:
        """Swapped files: a new connection sees the new certificate, and has to please the new authority."""
        ours, renewed = authority.issue("a.example"), authority.issue("guard.example")
        _, first = await self.ask(port, authority, ours, tmp_path)
        server.replace(**renewed.files, ca=stranger.certificate)
        await asyncio.sleep(1.2 * LOOK_INTERVAL_S)
        heard, second = await self.ask(port, authority, stranger.issue("b.example"), tmp_path)
        assert heard == "certificate:127.0.0.1,b.example"
        assert first != second == serial(renewed)
        assert (await self.ask(port, authority, ours, tmp_path))[0] == ""
