"""What a gRPC server listens on, a port or a Unix socket with its file, and how it takes what comes."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
from pathlib import Path

import grpc

from guard.config import Listen, Settings
from guard.errors import AddressUnusable
from guard.transport import SocketAccess

_MODES = {SocketAccess.OWNER: 0o600, SocketAccess.GROUP: 0o660, SocketAccess.EVERYONE: 0o666}
_TRY_S = 1.0
_LONGEST_PATH = 107
"""Bytes that Linux has room for in a socket's address."""

_AS_IT_CAME = 0
"""Compressed messages stay so, and `receive` inflates them: gRPC would check their size once it had done it."""

_MS = 1000
_HANDSHAKE_S = 20
_KEEPALIVE_TIMEOUT_S = 20
_PING_INTERVAL_S = 10
"""Clients that ask more often whether Guard is there are cut off: three times too soon is a flood (gRPC's setting)."""


class Listener:
    """Where the server listens. `port` is 0 for a Unix socket, whose file `close` removes.

    `setting` is the one that `listen.address` was taken from.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        listen: Listen,
        credentials: grpc.ServerCredentials | None,
        *,
        setting: str = "listen.address",
    ) -> None:
        self._address = listen.address
        self._setting = setting
        self._path = socket_path(listen.address)
        self._inode = 0
        if self._path is None:
            self.port = self._bind(server, listen.address, credentials)
            return
        self.port = 0
        self._check_free(self._path)
        # Under a name of its own until its rights are right. gRPC will remove that name, so never another's socket.
        made = self._path.with_name(f".{secrets.token_hex(4)}")
        self._bind(server, f"unix:{made}", credentials)
        made.chmod(_MODES[listen.socket_access])
        self._inode = made.stat().st_ino
        made.replace(self._path)

    def close(self) -> None:
        """Remove the file of a Unix socket, unless it is another's by now."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.lstat().st_ino == self._inode:
                    self._path.unlink()

    def _bind(self, server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials)
        except RuntimeError as error:
            why = "the address is in use or not one of this machine"
            raise self._unusable(
                why if self._path is None else "its folder isn't there, or may not be written"
            ) from error

    def _check_free(self, path: Path) -> None:
        """Look whether the path is free, but for the socket of a server that is gone, which will be replaced.

        Raises:
            AddressUnusable: somebody answers there, it is no socket, or its name is too long.
        """
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise self._unusable(f"a socket's path has room for {_LONGEST_PATH} bytes, and this one is longer")
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise self._unusable("there is a file of that name, and it is no socket")
            with socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(_TRY_S)
                caller.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError as error:
            raise self._unusable(f"the socket that is there can't be tried ({error.strerror or error})") from error
        raise self._unusable("a server that runs answers there")

    def _unusable(self, why: str) -> AddressUnusable:
        return AddressUnusable(self._address, self._setting, why)


def server_options(settings: Settings, largest_bytes: int) -> list[tuple[str, int]]:
    """How each of Guard's gRPC servers takes messages, of so many bytes at most, and connections."""
    answer_ms = round(min(settings.listen.keepalive_s, _KEEPALIVE_TIMEOUT_S) * _MS)
    return [
        ("grpc.max_receive_message_length", largest_bytes),
        ("grpc.per_message_decompression", _AS_IT_CAME),
        ("grpc.so_reuseport", 0),  # or a second server on a busy port would silently take half of its calls
        ("grpc.max_concurrent_streams", settings.limits.max_concurrent_streams),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_S * _MS),
        ("grpc.keepalive_time_ms", round(settings.listen.keepalive_s * _MS)),
        ("grpc.keepalive_timeout_ms", answer_ms),
        ("grpc.http2.ping_timeout_ms", answer_ms),  # gRPC 1.81 goes by this one
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_S * _MS),
    ]


def socket_path(address: str) -> Path | None:
    """The path of `unix:path`, or of `unix:///path`; None of other addresses."""
    kind, colon, path = address.partition(":")
    if kind != "unix" or not colon:
        return None
    return Path(path.removeprefix("//")) if path.startswith("///") else Path(path)
