"""Shares what memories of queries hold with other replicas, through streams of a Redis or Valkey server.

One thread, one connection: fifty times a second it sends what is new here and asks for what is new elsewhere, in one
exchange. No request waits for it. Without the server each replica remembers alone, and sharing goes on when it is back.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from typing import Any

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from guard.queries.channel import BATCH, Channel, Counts
from guard.queries.record import ORIGIN_BYTES, Seal
from guard.queries.watch import QueryWatch
from guard.sharing import StoreAddress, StoreFailure

_FIELD = b"q"
_BEGINNING = b"0-0"
_PAUSE_S = 0.02
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_STOP_S = 1.0
_MS = 1000
_LONGEST_KEPT_MS = 100 * 365 * 86_400 * _MS
"""The store adds it to the date, in 64 bits."""

_log = structlog.get_logger(__name__)


class QueryStore:
    """The connection to the store. Watches may be shared, and leave, while it runs; close it before them."""

    def __init__(
        self, address: StoreAddress, counts: Counts, *, password: str | None, ca_file: str | None, timeout_s: float
    ) -> None:
        self._address, self._counts, self._timeout_s = address, counts, timeout_s
        self._client = redis.Redis(
            host=address.host,
            port=address.port,
            db=address.database,
            username=address.user,
            password=password,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # the newer one adds nothing here, and servers that change it on the way
            ssl=address.tls,
            ssl_ca_certs=ca_file,
        )
        self._origin = secrets.token_bytes(ORIGIN_BYTES)
        self._streams: dict[bytes, _Stream] = {}
        self._exchanging = threading.Lock()
        self._started = False
        self._store_ms = 0
        self._answers: bool | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard-query-store", daemon=True)

    @property
    def answers(self) -> bool:
        """Whether the last exchange with the store succeeded."""
        return bool(self._answers) and self._thread.is_alive()

    def share(self, watch: QueryWatch, seal: Seal, *, model: str, capacity: int, keep_s: float) -> None:
        """Tell others of this model's new queries, and this one of theirs; the store keeps as many, for as long.

        It takes the place of another watch of the same model.
        """
        channel = Channel(model, seal, watch.learn, self._counts, origin=self._origin)
        stream = _Stream(watch, channel, capacity, min(round(keep_s * _MS), _LONGEST_KEPT_MS))
        with self._exchanging:
            self._streams[seal.stream.encode()] = stream
        watch.tell(channel.put)
        if self._started:
            self.start()

    def leave(self, watch: QueryWatch) -> None:
        """Share no more with a watch; an exchange that is under way is waited for."""
        with self._exchanging:
            self._streams = {name: stream for name, stream in self._streams.items() if stream.watch is not watch}

    def start(self) -> None:
        """Begin sharing, as soon as there is a watch to share with. It does not wait for the store."""
        self._started = True
        if self._streams and not self._thread.is_alive() and not self._stopping.is_set():
            self._thread.start()

    def close(self) -> None:
        """Stop sharing; an exchange that is under way is waited for."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(self._timeout_s + _STOP_S)

    def _run(self) -> None:
        back_off_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            if not self._streams:  # all have left
                self._stopping.wait(_PAUSE_S)
                continue
            try:
                with self._exchanging:
                    pause_s = 0.0 if self._exchange() else _PAUSE_S
            except Exception as exc:  # noqa: BLE001 - whatever is wrong with a server, it is tried again
                self._failed(exc)
                pause_s, back_off_s = back_off_s, min(2 * back_off_s, _LONGEST_PAUSE_S)
            else:
                self._succeeded()
                back_off_s = _FIRST_PAUSE_S
            self._stopping.wait(pause_s)
        self._client.close()

    def _exchange(self) -> bool:
        """Send what waits and learn what is new; whether there is more of either."""
        if not self._streams:
            return False
        pipeline: Any = self._client.pipeline(transaction=False)
        for stream in self._streams.values():
            stream.write(pipeline, self._store_ms)
        pipeline.xread({name: stream.position for name, stream in self._streams.items()}, count=BATCH)
        pipeline.time()
        *_, found, (seconds, microseconds) = pipeline.execute()
        self._store_ms = seconds * _MS + microseconds // _MS
        news = dict(found)
        more = [
            stream.written() + stream.read(news.get(name, ()), self._store_ms) for name, stream in self._streams.items()
        ]
        if self._answers is False:
            for stream in self._streams.values():
                stream.rewind(self._store_ms)
        return max(more) >= BATCH

    def _failed(self, error: Exception) -> None:
        if self._stopping.is_set():
            return
        self._counts.query_store_failed(_why(error))
        if self._answers is not False:
            _log.warning(
                "the query store can't be used: each replica remembers queries alone until it can",
                store=str(self._address),
                problem=str(error),
            )
        self._answers = False

    def _succeeded(self) -> None:
        if not self._answers:
            _log.info("queries are shared through the query store", store=str(self._address))
        self._answers = True


class _Stream:
    """The store's stream of one model. `position` is the last entry that was read; at first there is none."""

    def __init__(self, watch: QueryWatch, channel: Channel, capacity: int, keep_ms: int) -> None:
        self.watch = watch
        self.position = _BEGINNING
        self._channel, self._capacity, self._keep_ms = channel, capacity, keep_ms

    def write(self, pipeline: Any, store_ms: int) -> None:
        """Add what waits; let go of what is too old, and of all of it once nobody has written for so long."""
        batch = self._channel.batch()
        for content in batch:
            pipeline.xadd(self._channel.stream, {_FIELD: content}, maxlen=self._capacity)
        if batch:
            pipeline.xtrim(self._channel.stream, minid=max(0, store_ms - self._keep_ms))
            pipeline.pexpire(self._channel.stream, self._keep_ms)

    def written(self) -> int:
        """The store has what was added: how many."""
        return self._channel.sent()

    def read(self, entries: Sequence[tuple[bytes, dict[bytes, bytes]]], store_ms: int) -> int:
        """Learn from entries: how many there were."""
        self._channel.receive(
            (fields.get(_FIELD, b""), max(0, store_ms - _written_ms(name)) / _MS) for name, fields in entries
        )
        if entries:
            self.position = entries[-1][0]
        return len(entries)

    def rewind(self, store_ms: int) -> None:
        """After a failure another store may be in its place, whose clock is behind: then read it from the beginning."""
        if _written_ms(self.position) > store_ms:
            self.position = _BEGINNING


def _written_ms(name: bytes) -> int:
    """The store's time at which an entry was written, with which its name begins."""
    return int(name.partition(b"-")[0])


def _why(error: Exception) -> StoreFailure:
    """The kind of a failure. That a user or password is wrong is a kind of connection error to the library."""
    if isinstance(error, redis.TimeoutError):
        return StoreFailure.TIMEOUT
    if isinstance(error, redis.ConnectionError | OSError) and not isinstance(error, redis.AuthenticationError):
        return StoreFailure.UNREACHABLE
    return StoreFailure.REFUSED
