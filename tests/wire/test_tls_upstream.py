"""TLS and the restricted protocol's secret towards the guarded server, for every hop that calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from guard.channel import Channel, Link
from guard.config import Cancellation, Upstream
from guard.credentials import LOOK_INTERVAL_S
from guard.errors import FileUnusable
from tests.support.certificates import DAY, Authority, Secret
from tests.support.waiting import PATIENCE_S, until
from tests.wire.parts import RecordingUpstream, Serve

READY = "/inference.GRPCInferenceService/ServerReady"


class NamingUpstream(RecordingUpstream):
    """Keeps, too, who its clients' certificates say they are."""

    def __init__(self) -> None:
        super().__init__()
        self.callers: list[bytes] = []

    async def _answer(self, context: Any) -> bytes:
        self.callers += context.peer_identities() or ()
        return await super()._answer(context)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs everything here."""
    return Authority()


@pytest.fixture
async def secured(authority: Authority, request: pytest.FixtureRequest) -> AsyncIterator[NamingUpstream]:
    """A guarded server that wants to see certificates. A parameter says how long its own is valid yet."""
    shown = authority.issue("triton.example", ends_in=getattr(request, "param", DAY))
    made = NamingUpstream()
    roots = authority.certificate
    await made.start(credentials=grpc.ssl_server_credentials([(shown.key, shown.certificate)], roots, True))
    yield made
    made.release.set()
    await made.stop()


@pytest.fixture
def client(tmp_path: Path, authority: Authority) -> Secret:
    """Guard's certificate towards the upstream, and whom it trusts."""
    return Secret(tmp_path / "tls", **authority.issue(common="first").files, ca=authority.certificate)


def tls(files: Secret, **more: str) -> dict[str, Any]:
    """Settings of TLS with those files."""
    return {"tls": {"certificate_file": files["crt"], "key_file": files["key"], "ca_file": files["ca"]} | more}


async def test_mutual_tls(serve: Serve, secured: NamingUpstream, client: Secret, message: bytes) -> None:
    """Guard shows its certificate to an upstream that it trusts, and calls pass."""
    guard = await serve(address=secured.address, reach=tls(client))
    assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.OK
    assert secured.callers == [b"first"]
    assert set(guard.metrics.ends_s) == {"upstream.tls.certificate_file", "upstream.tls.ca_file"}


async def test_the_name_in_the_certificate(
    serve: Serve, secured: NamingUpstream, client: Secret, message: bytes
) -> None:
    """The certificate has to name the host of the address, or server_name where that says another."""
    named = await serve(address=secured.address, reach=tls(client, server_name="triton.example"))
    assert (await named.call("ModelInfer", message)).code is grpc.StatusCode.OK
    misnamed = await serve(address=secured.address, reach=tls(client, server_name="other.example"))
    answer = await misnamed.call("ModelInfer", message)
    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert "that it speaks TLS as upstream.tls says" in answer.message


@pytest.mark.parametrize("what", ["foreign authority", "no certificate", "no TLS"])
async def test_what_does_not_pass(
    serve: Serve, secured: NamingUpstream, client: Secret, message: bytes, what: str
) -> None:
    """An upstream of a foreign authority is not called, and one that wants a certificate refuses who has none."""
    reach = tls(client)
    if what == "foreign authority":
        client.replace(crt=client["crt"].read_bytes(), key=client["key"].read_bytes(), ca=Authority().certificate)
    else:
        reach = {} if what == "no TLS" else {"tls": {"ca_file": client["ca"]}}
    guard = await serve(address=secured.address, reach=reach)
    answer = await guard.call("ModelInfer", message)
    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert "guard can't reach the upstream" in answer.message
    assert secured.received == []


@pytest.mark.parametrize(
    ("secured", "code"), [(DAY, grpc.StatusCode.OK), (-DAY, grpc.StatusCode.UNAVAILABLE)], indirect=["secured"]
)
async def test_a_certificate_that_ended(
    serve: Serve, secured: NamingUpstream, client: Secret, message: bytes, code: grpc.StatusCode
) -> None:
    """An upstream whose certificate has ended is not called."""
    guard = await serve(address=secured.address, reach=tls(client))
    assert (await guard.call("ModelInfer", message)).code is code
    assert len(secured.received) == (1 if code is grpc.StatusCode.OK else 0)


async def test_a_new_certificate(
    serve: Serve, secured: NamingUpstream, client: Secret, authority: Authority, message: bytes
) -> None:
    """New files are used for new calls, without a restart; calls that run end on the connection that they began on."""
    guard = await serve(address=secured.address, reach=tls(client))
    secured.release.clear()
    running = guard.start_call("ModelInfer", message)
    await asyncio.wait_for(secured.started.wait(), PATIENCE_S)
    client.replace(**authority.issue(common="second").files, ca=authority.certificate)
    await asyncio.sleep(1.2 * LOOK_INTERVAL_S)
    late = guard.start_call("ModelInfer", message)
    await until(lambda: secured.callers[1:] == [b"second"])
    secured.release.set()
    assert [await running.code(), await late.code()] == [grpc.StatusCode.OK] * 2
    assert secured.callers == [b"first", b"second"]
    assert guard.metrics.stale["upstream.tls"]() is False


async def test_a_broken_new_certificate(serve: Serve, secured: NamingUpstream, client: Secret, message: bytes) -> None:
    """A broken pair leaves the old one in use, and the metric says so."""
    guard = await serve(address=secured.address, reach=tls(client))
    client.replace(crt=b"broken", key=b"broken", ca=b"broken")
    await until(guard.metrics.stale["upstream.tls"])
    assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.OK


async def test_threads_use_the_same(secured: NamingUpstream, client: Secret, authority: Authority) -> None:
    """The connection of Guard's own evaluations has the same certificates, and takes up new ones."""

    def identity() -> bytes:
        return bytes(channel.call(READY, b"", bytes, PATIENCE_S))

    with closing(Channel(Link(Upstream(address=secured.address, **tls(client))))) as channel:
        await asyncio.to_thread(identity)
        client.replace(**authority.issue(common="second").files, ca=authority.certificate)
        await asyncio.sleep(1.2 * LOOK_INTERVAL_S)
        await asyncio.to_thread(identity)
    assert secured.callers == [b"first", b"second"]


class TestSecret:
    """The secret of a Triton with a restricted protocol."""

    @pytest.fixture
    def reach(self, tmp_path: Path) -> dict[str, Any]:
        """Settings with a secret."""
        (tmp_path / "secret").write_text("sesame\n")
        return {"restricted_protocol": {"key": "guard", "value_file": tmp_path / "secret"}}

    async def test_every_call_has_it(
        self, serve: Serve, upstream: RecordingUpstream, reach: dict[str, Any], message: bytes
    ) -> None:
        """Inference, what passes, and Guard's own questions carry it; a client's forgery is gone."""
        guard = await serve(reach=reach, cancellation=Cancellation.AUTO)
        forged = (("triton-grpc-protocol-guard", "forged"), ("triton-grpc-protocol-other", "forged"), ("kept", "1"))
        await guard.call("ModelInfer", message, metadata=forged)
        await guard.call("ModelConfig", metadata=forged)
        with closing(Channel(Link(Upstream(address=upstream.address, **reach)))) as channel:
            await asyncio.to_thread(channel.call, READY, b"", bytes, PATIENCE_S)
        assert {call.method for call in upstream.received} == {
            "ServerMetadata",
            "ModelInfer",
            "ModelConfig",
            "ServerReady",
        }
        for call in upstream.received:
            restricted = {key: value for key, value in call.metadata.items() if key.startswith("triton-grpc-protocol-")}
            assert restricted == {"triton-grpc-protocol-guard": "sesame"}
        assert upstream.inferred()[0].metadata["kept"] == "1"

    async def test_a_new_secret(
        self, serve: Serve, upstream: RecordingUpstream, reach: dict[str, Any], tmp_path: Path
    ) -> None:
        """A new secret in the file is used without a restart; an empty one is not."""
        guard = await serve(reach=reach)
        (tmp_path / "secret").write_text("new")
        await asyncio.sleep(1.2 * LOOK_INTERVAL_S)
        await guard.call("ServerReady")
        (tmp_path / "secret").write_text("")
        await until(guard.metrics.stale["upstream.restricted_protocol"])
        await guard.call("ServerReady")
        assert [call.metadata["triton-grpc-protocol-guard"] for call in upstream.received] == ["new", "new"]

    @pytest.mark.parametrize("content", ["", "\n", "two\nlines", " space", "caf\u00e9"])
    def test_what_metadata_cannot_carry(self, reach: dict[str, Any], tmp_path: Path, content: str) -> None:
        """A secret that can't be sent is refused at start, and is not shown."""
        (tmp_path / "secret").write_text(content)
        with pytest.raises(FileUnusable, match="one line without spaces around it") as raised:
            Link(Upstream(**reach))
        assert "caf" not in str(raised.value)
        assert raised.value.setting == "upstream.restricted_protocol.value_file"
