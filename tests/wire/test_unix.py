"""Guard on a Unix socket: who may open it, what was left by a Guard before, and what its clients are called."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton

from guard.errors import AddressUnusable
from tests.support.certificates import Authority, Secret
from tests.wire.parts import RecordingUpstream, Serve


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket goes."""
    return tmp_path / "guard.sock"


@pytest.fixture
def file(path: Path) -> Iterator[None]:
    """A file in its place, which is left as it is."""
    path.write_text("mine")
    yield
    assert path.read_text() == "mine"


def mode_of(path: Path) -> int | None:
    """The rights of a file; None if there is none."""
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_it_serves(serve: Serve, upstream: RecordingUpstream, path: Path, message: bytes, form: str) -> None:
    """Calls pass, all clients of the socket are one, and nothing is left of it when Guard stops."""
    guard = await serve(listen={"address": form.format(path)})
    assert (await guard.call("ModelInfer", message)).code is grpc.StatusCode.OK
    assert guard.screener.clients == ["unix"]
    await guard.server.stop(1.0)
    assert mode_of(path) is None


async def test_tritonclient(serve: Serve, upstream: RecordingUpstream, path: Path) -> None:
    """The stock client takes such an address."""
    guard = await serve(listen={"address": f"unix:{path}"})
    upstream.body = b"\x08\x01"  # live

    def ask() -> bool:
        with triton.InferenceServerClient(guard.address) as client:
            return bool(client.is_server_live())

    assert await asyncio.to_thread(ask)


@pytest.mark.parametrize(("access", "mode"), [(None, 0o660), ("owner", 0o600), ("group", 0o660), ("everyone", 0o666)])
async def test_who_may_open_it(serve: Serve, path: Path, access: str | None, mode: int) -> None:
    """The socket's file has the rights that listen.socket_access says, the group's unless it says others."""
    await serve(listen={"address": f"unix:{path}"} | ({"socket_access": access} if access else {}))
    assert mode_of(path) == mode


async def test_what_a_dead_guard_left(serve: Serve, path: Path) -> None:
    """The file of a socket on which nobody answers is replaced."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    guard = await serve(listen={"address": f"unix:{path}"})
    assert (await guard.call("ServerReady")).code is grpc.StatusCode.OK


async def test_a_server_that_runs(serve: Serve, path: Path) -> None:
    """A socket on which somebody answers is left alone, and goes on answering."""
    first = await serve(listen={"address": f"unix:{path}"})
    with pytest.raises(AddressUnusable, match=r"can't listen on unix:.*: a server that runs answers there; stop what"):
        await serve(listen={"address": f"unix:{path}"})
    assert (await first.call("ServerReady")).code is grpc.StatusCode.OK


async def test_the_socket_of_another(serve: Serve, path: Path) -> None:
    """A Guard that stops leaves the socket of the one that took its place."""
    first = await serve(listen={"address": f"unix:{path}"})
    os.unlink(path)  # noqa: PTH108 - one system call, which blocks nobody
    second = await serve(listen={"address": f"unix:{path}"})
    await first.server.stop(1.0)
    assert mode_of(path) is not None
    assert (await second.call("ServerReady")).code is grpc.StatusCode.OK


async def test_what_is_no_socket(serve: Serve, path: Path, file: None) -> None:
    """A file that is no socket is refused, and not touched."""
    with pytest.raises(AddressUnusable, match="there is a file of that name, and it is no socket"):
        await serve(listen={"address": f"unix:{path}"})


async def test_where_no_socket_can_be(serve: Serve, path: Path) -> None:
    """A name that is too long, and a folder that isn't there, are said so."""
    with pytest.raises(AddressUnusable, match="room for 107 bytes, and this one is longer"):
        await serve(listen={"address": f"unix:{path}{'x' * 107}"})
    with pytest.raises(AddressUnusable, match="its folder isn't there"):
        await serve(listen={"address": f"unix:{path.parent / 'gone' / 'guard.sock'}"})


async def test_with_certificates(serve: Serve, path: Path, tmp_path: Path, message: bytes) -> None:
    """With mutual TLS on the socket its clients are told apart by their certificates."""
    authority = Authority()
    files = Secret(tmp_path / "tls", **authority.issue("localhost").files, ca=authority.certificate)
    client = authority.issue(common="someone")
    guard = await serve(
        listen={
            "address": f"unix:{path}",
            "tls": {"certificate_file": files["crt"], "key_file": files["key"], "client_ca_file": files["ca"]},
        },
    )
    credentials = grpc.ssl_channel_credentials(authority.certificate, client.key, client.certificate)
    named = (("grpc.ssl_target_name_override", "localhost"),)
    async with grpc.aio.secure_channel(guard.address, credentials, named) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(message)
        assert await call.code() is grpc.StatusCode.OK
    assert guard.screener.clients == ["certificate:someone"]
