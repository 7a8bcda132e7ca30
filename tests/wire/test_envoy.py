"""The endpoint for Envoy: copies of requests, and where and to whom it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest

from guard.errors import AddressUnusable
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.values import Course, Mode
from guard.wire.envoy.process import PROCESS
from tests.support.certificates import Authority, Secret
from tests.support.waiting import PATIENCE_S
from tests.wire.envoy_parts import LISTEN, begin, body, envoy, head
from tests.wire.parts import SERVICE, Decide, Running, Serve


async def mirrored(guard: Running, message: bytes, metadata: Iterable[tuple[str, str]] = ()) -> bytes:
    """Send a copy."""
    async with envoy(guard) as channel:
        return await channel.unary_unary(f"{SERVICE}ModelInfer")(message, metadata=tuple(metadata))


async def test_mirrored(serve: Serve, decide: Decide, message: bytes) -> None:
    """A copy is judged behind, for the client that sent the original, and is not forwarded."""
    guard = await serve(decide(mode=Mode.SHADOW), listen=LISTEN, course=Course.BEHIND)
    assert await mirrored(guard, message, [("x-forwarded-for", "2001:db8::1")]) == b""
    await asyncio.wait_for(guard.metrics.request_ended.wait(), PATIENCE_S)
    assert guard.screener.clients == ["ipv6:%5B2001:db8::1%5D"]
    assert [each["protocol"] for each in guard.metrics.finished] == ["mirror"]
    assert (guard.metrics.upstream, guard.metrics.carried) == ([], ["digits"])


async def test_mirrored_by_mistake(serve: Serve, message: bytes) -> None:
    """Copies are only watched: where the policy means more, none is judged, and the answer says what to write."""
    guard = await serve(listen=LISTEN)
    with pytest.raises(grpc.aio.AioRpcError, match="`mode: shadow`"):
        await mirrored(guard, message)
    assert (guard.screener.asked, guard.metrics.refused) == ([], ["method_denied"])
    assert guard.metrics.carried == ["digits"], "the server ran the original all the same"


async def test_copies_that_are_not_screened(serve: Serve, decide: Decide, message: bytes) -> None:
    """The server gets the original whatever becomes of its copy: it counts if its model can be named."""
    unreadable = ModelInferRequest(model_name="digits", raw_input_contents=[b"x"]).SerializeToString()
    room = {"max_inflight_bytes": len(message) + len(unreadable)}
    guard = await serve(decide(mode=Mode.SHADOW), listen=LISTEN, course=Course.BEHIND, **room)
    guard.screener.release.clear()
    await mirrored(guard, message)
    for copy, why in ((message, "max_inflight_bytes"), (unreadable, "raw"), (b"\x3a\xff", "truncated")):
        with pytest.raises(grpc.aio.AioRpcError, match=why):
            await mirrored(guard, copy)
    assert guard.metrics.carried == ["digits"] * 3


async def test_only_for_envoy(serve: Serve) -> None:
    """The endpoint takes nothing else, and the one for clients has nothing of it."""
    guard = await serve(listen=LISTEN)
    async with envoy(guard) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="for Envoy's ext_proc filter"):
            await channel.unary_unary(f"{SERVICE}ServerLive")(b"")
    assert (await guard.call(PROCESS)).code is grpc.StatusCode.UNIMPLEMENTED


async def test_off_by_default(serve: Serve) -> None:
    """Without an address there is no such endpoint."""
    assert (await serve()).server.envoy_port == 0


async def test_address_in_use(serve: Serve) -> None:
    """An address that is taken is named with its setting."""
    guard = await serve(listen=LISTEN)
    with pytest.raises(AddressUnusable, match=r"listen\.envoy_address"):
        await serve(listen={"envoy_address": f"127.0.0.1:{guard.server.envoy_port}"})


async def test_unix(serve: Serve, tmp_path: Path, message: bytes) -> None:
    """It may be a Unix socket, which is gone after the end."""
    path = tmp_path / "envoy.sock"
    guard = await serve(listen={"envoy_address": f"unix:{path}"})
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = begin(channel)
        for question in (head(), body(message)):
            await call.write(question)
            assert (await call.read()).WhichOneof("response") != "immediate_response"
        await call.done_writing()
    await guard.server.stop(1.0)
    assert not path.exists()


async def test_tls(serve: Serve, tmp_path: Path) -> None:
    """It has the TLS of the others, and asks for the same certificates."""
    authority = Authority()
    files = Secret(tmp_path / "tls", **authority.issue("guard.example").files, ca=authority.certificate)
    tls = {"certificate_file": files["crt"], "key_file": files["key"], "client_ca_file": files["ca"]}
    guard = await serve(listen=LISTEN | {"tls": tls})
    shown = authority.issue("envoy")
    for pair, expected in (((shown.key, shown.certificate), "UNIMPLEMENTED"), ((None, None), "UNAVAILABLE")):
        credentials = grpc.ssl_channel_credentials(authority.certificate, *pair)
        options = (("grpc.use_local_subchannel_pool", 1),)
        address = f"127.0.0.1:{guard.server.envoy_port}"
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            call = channel.unary_unary(f"{SERVICE}ServerReady")(b"", timeout=PATIENCE_S)
            assert (await call.code()).name == expected
