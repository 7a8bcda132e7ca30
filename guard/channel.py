"""Opens the channels to the guarded server, for all who call it, so that no hop forgets its TLS or its secret."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import grpc

from guard.config import Upstream
from guard.credentials import Credentials, Watched, WatchedTls, watch_credentials, watch_secret
from guard.transport import Compression

_RESTRICTED_PREFIX = "triton-grpc-protocol-"
_KEEPALIVE_TIMEOUT_S = 10
_MS = 1000
_UNLIMITED = _TO_THE_CALLER = -1
_AS_IT_CAME = 0
_COMPRESSION = {
    Compression.NONE: None,
    Compression.GZIP: grpc.Compression.Gzip,
    Compression.DEFLATE: grpc.Compression.Deflate,
}

Pairs: TypeAlias = tuple[tuple[str, str | bytes], ...]
_Channel = TypeVar("_Channel")
_AioLine: TypeAlias = "_Line[grpc.aio.Channel]"


class Link:
    """How the guarded server is reached. A `quiet` one leaves it to another to log what is wrong with its files.

    Raises:
        FileUnusable: a certificate, a key or the secret can't be used.
    """

    def __init__(self, settings: Upstream, *, quiet: bool = True) -> None:
        self.address = settings.address
        self.compression = _COMPRESSION[settings.compression]
        self.tls: WatchedTls | None = None
        self.secret: Watched[str] | None = None
        self._key = ""
        self._options = _options(settings)
        if settings.tls is not None:
            self.tls = watch_credentials("upstream.tls", settings.tls, quiet=quiet)
        if settings.restricted_protocol is not None:
            setting, restricted = "upstream.restricted_protocol.value_file", settings.restricted_protocol
            self.secret = watch_secret(setting, restricted.value_file, quiet=quiet)
            self._key = _RESTRICTED_PREFIX + restricted.key

    def credentials(self) -> Credentials | None:
        """What channels are opened with: the same object until the files change."""
        return None if self.tls is None else self.tls.current()

    def metadata(self) -> Pairs:
        """What each call carries beside its own."""
        return () if self.secret is None else ((self._key, self.secret.current()),)

    def open(self, credentials: Credentials | None) -> grpc.Channel:
        """A channel for threads, whose messages have no limit: they are as large as the model's outputs."""
        options = (*self._options, ("grpc.max_receive_message_length", _UNLIMITED))
        if credentials is None:
            return grpc.insecure_channel(self.address, options)
        return grpc.secure_channel(self.address, _for_grpc(credentials), options)

    def open_aio(self, credentials: Credentials | None, max_receive_bytes: int) -> grpc.aio.Channel:
        """A channel for the event loop. Compressed answers stay as they came, for gRPC inflates without a bound."""
        options = (
            *self._options,
            ("grpc.max_receive_message_length", max_receive_bytes),
            ("grpc.per_message_decompression", _AS_IT_CAME),
        )
        if credentials is None:
            return grpc.aio.insecure_channel(self.address, options)
        return grpc.aio.secure_channel(self.address, _for_grpc(credentials), options)


class Channel:
    """A connection for threads. When the certificates change, calls go through a new one, and running ones end."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._line = self._open()

    def call(self, method: str, message: bytes, deserialize: Callable[[bytes], Any], timeout_s: float) -> Any:
        """Make a unary call. What gRPC raises is the caller's to translate."""
        with self._called() as channel:
            return channel.unary_unary(method, None, deserialize)(message, **self._options(timeout_s))

    def stream(self, method: str, message: bytes, deserialize: Callable[[bytes], Any], timeout_s: float) -> list[Any]:
        """Send one message on a stream, and hear the server to the end: cancelled streams are more than some can bear.

        What gRPC raises is the caller's to translate.
        """
        with self._called() as channel:
            return list(channel.stream_stream(method, None, deserialize)(iter([message]), **self._options(timeout_s)))

    @contextmanager
    def _called(self) -> Iterator[grpc.Channel]:
        with self._lock:
            if self._link.credentials() is not self._line.credentials:
                self._line, old = self._open(), self._line
                old.retire()
            line = self._line
            line.began()
        try:
            yield line.channel
        finally:
            with self._lock:
                line.ended()

    def _options(self, timeout_s: float) -> dict[str, Any]:
        return {
            "timeout": timeout_s,
            "metadata": self._link.metadata(),
            "compression": self._link.compression,
        }

    def close(self) -> None:
        """Close the connection."""
        self._line.channel.close()

    def _open(self) -> _Line[grpc.Channel]:
        credentials = self._link.credentials()
        channel = self._link.open(credentials)
        return _Line(credentials, channel, channel.close)


class AioChannel:
    """A connection for an event loop: as much of `grpc.aio.Channel` as Guard needs.

    When the certificates change, calls go through a new channel, and those that run end on the one that they began on.
    """

    def __init__(self, link: Link, max_receive_bytes: int) -> None:
        self._link = link
        self._max_receive_bytes = max_receive_bytes
        self._closing: set[asyncio.Task[None]] = set()
        self._line = self._open()

    def unary_unary(self, method: str) -> Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]]:
        """Make a call: bytes in and out, with `timeout` and `metadata` as for gRPC's own."""
        line = self._current()
        begin = line.methods.get(method)
        if begin is None:
            begin = line.methods[method] = line.channel.unary_unary(method, None, None)
        return partial(self._call, line, begin)

    def stream_stream(self, method: str) -> Callable[..., grpc.aio.StreamStreamCall[bytes, bytes]]:
        """Begin a stream: bytes in and out, with `timeout` and `metadata` as for gRPC's own."""
        line = self._current()
        return partial(self._call, line, line.channel.stream_stream(method, None, None))

    def get_state(self) -> grpc.ChannelConnectivity:
        """Whether there is a connection."""
        state: grpc.ChannelConnectivity = self._current().channel.get_state()
        return state

    async def close(self) -> None:
        """Cut the connection."""
        await self._line.channel.close(None)

    def _call(
        self, line: _AioLine, begin: Callable[..., Any], *request: Any, metadata: Pairs = (), **options: Any
    ) -> Any:
        metadata = (*metadata, *self._link.metadata())
        call = begin(*request, metadata=metadata, compression=self._link.compression, **options)
        line.began()
        call.add_done_callback(lambda _: line.ended())
        return call

    def _current(self) -> _AioLine:
        if self._link.credentials() is not self._line.credentials:
            self._line, old = self._open(), self._line
            old.retire()
        return self._line

    def _open(self) -> _AioLine:
        credentials = self._link.credentials()
        channel = self._link.open_aio(credentials, self._max_receive_bytes)
        return _Line(credentials, channel, partial(self._close_later, channel))

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.get_running_loop().create_task(channel.close(None))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Line(Generic[_Channel]):
    """A channel that is closed once it is retired and the last call on it has ended."""

    def __init__(self, credentials: Credentials | None, channel: _Channel, close: Callable[[], object]) -> None:
        self.credentials = credentials
        self.channel = channel
        self._close = close
        self.methods: dict[str, Callable[..., Any]] = {}
        """What makes a call to a method, once it was called."""
        self._calls = 0
        self._retired = False

    def began(self) -> None:
        """A call began."""
        self._calls += 1

    def ended(self) -> None:
        """A call has ended."""
        self._calls -= 1
        self._close_if_done()

    def retire(self) -> None:
        """No call will begin any more."""
        self._retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retired and not self._calls:
            self._close()


def _options(settings: Upstream) -> list[tuple[str, Any]]:
    """Only what is received may be bounded: all that Guard sends it has received, or made itself."""
    answer_ms = round(min(settings.keepalive_s, _KEEPALIVE_TIMEOUT_S) * _MS)
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", _UNLIMITED),
        ("grpc.enable_http_proxy", 0),  # a sidecar's upstream is beside it, whatever the environment says
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's two minutes would outlast a restarted upstream by far
        ("grpc.keepalive_time_ms", round(settings.keepalive_s * _MS)),
        ("grpc.keepalive_timeout_ms", answer_ms),
        ("grpc.http2.ping_timeout_ms", answer_ms),  # gRPC 1.81 goes by this one
    ]
    if settings.tls is not None and settings.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", settings.tls.server_name))
    return options


def _for_grpc(credentials: Credentials) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(credentials.authorities, credentials.key, credentials.certificate)
