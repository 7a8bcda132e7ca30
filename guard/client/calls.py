"""What both clients do before a call and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from guard.client import stock
from guard.client.attempts import Attempts
from guard.client.values import Options, Retry, Tls, address_of
from guard.errors import ConfigError
from guard.headers import BINARY, is_line, is_name

Headers: TypeAlias = Mapping[str, str]
SCREEN_ONLY: Final = {"guard-screen-only": "true"}
DEADLINE_S: Final = 30.0


class Caller:
    """What a client was told once, for all of its calls. See `Client`."""

    def __init__(
        self,
        address: str,
        tls: Tls | None,
        retry: Retry,
        deadline_s: float | None,
        headers: Callable[[], Headers] | None,
    ) -> None:
        self.address = address_of(address)
        if tls is not None and not self.address.tls:
            raise ConfigError(f"{address} is called without TLS: write grpcs:// or https://, or leave out tls")
        self.tls = tls or Tls() if self.address.tls else None
        if self.tls is not None:
            stock.context_of(self.tls)  # whatever the client makes of the files: a mistake in them is told here
        self.closed = False
        self._retry = retry
        self._deadline_s = deadline_s
        self._headers = headers

    def attempts(self, deadline_s: float | None, options: Options) -> Attempts:
        """The attempts at one call. A request of a sequence, made twice, could count twice.

        Raises:
            ConfigError: the client is closed.
        """
        if self.closed:
            raise ConfigError("the client is closed: make another, or close it later")
        return Attempts(
            self._retry,
            self._deadline_s if deadline_s is None else deadline_s,
            safe=not options.get("sequence_id"),
        )

    def headers(self, own: Headers | None) -> dict[str, str]:
        """The headers of one call, in lower case, as gRPC has them.

        Raises:
            ConfigError: one can't be sent.
        """
        common = {} if self._headers is None else self._headers()
        made = {name.lower(): value for name, value in {**common, **(own or {})}.items()}
        for name, value in made.items():
            if not is_name(name) or (name.endswith(BINARY) and not self.address.http):
                raise ConfigError(
                    f"{name!r} can't be the name of a header: write letters, digits, -, _ and ., and over gRPC no -bin "
                    "at its end, which is for bytes"
                )
            if not is_line(value):
                raise ConfigError(f"the header {name} can't have the value {value!r}: write a line of printable ASCII")
        return made

    def tensor(self, name: str, values: Any) -> Any:
        """An InferInput that holds an array."""
        return stock.tensor(self.address.http, name, values)
