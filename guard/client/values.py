"""What calls take and give."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict

from guard.errors import ConfigError
from guard.values import Action, Verdict

_ADDRESS: Final = re.compile(r"(?:(grpcs?|https?)://)?((?:\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+):([0-9]{1,5}))/?")
_UNIX: Final = re.compile(r"unix:\S+")
_LARGEST_PORT: Final = 65535


class Options(TypedDict, total=False):
    """The options of tritonclient's `infer` that have the same name over gRPC and HTTP; they mean the same here."""

    model_version: str
    outputs: list[Any]
    request_id: str
    sequence_id: int | str
    sequence_start: bool
    sequence_end: bool
    priority: int
    timeout: int
    parameters: dict[str, str | bool | int | float]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a call is made at most, and how long to wait before the next: each time twice as long, at most so long.

    Waits are shortened at random by up to a half, so that clients don't come back together. Only failures that are
    safe to repeat are: Guard or the server was not there, or was overloaded, and the request is no part of a sequence.
    """

    attempts: int = 3
    first_wait_s: float = 0.1
    longest_wait_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: who signed the server's certificate, if not the usual, and the client's own with its key, for mTLS."""

    ca_file: Path | str | None = None
    certificate_file: Path | str | None = None
    key_file: Path | str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A result of tritonclient, and Guard's verdict on what was asked.

    `verdict` is None where none came with it: the server is not guarded, or its Guard only watches (shadow mode). `id`
    finds the decision in Guard's log. `approximate`: Guard decoded an image itself, and the server may see others.
    `items` are the positions in the batch that the verdict is about, none where it is clean or nobody looked.
    """

    result: Any
    verdict: Verdict | None
    id: str | None
    approximate: bool = False
    items: tuple[int, ...] = ()

    def as_numpy(self, name: str) -> Any:
        """An output as an array, as tritonclient gives it."""
        return self.result.as_numpy(name)

    def get_output(self, name: str) -> Any:
        """An output as the protocol has it, as tritonclient gives it."""
        return self.result.get_output(name)

    def get_response(self) -> Any:
        """The whole response, as tritonclient gives it."""
        return self.result.get_response()


@dataclass(frozen=True, slots=True)
class Screened:
    """A verdict without an inference. `action` is what the policy would do, `items` what the verdict is about.

    Where the server is not guarded, `verdict` and `action` are None, and `executed` says that it ran the model.
    """

    verdict: Verdict | None
    action: Action | None
    items: tuple[int, ...]
    id: str | None
    executed: bool


@dataclass(frozen=True, slots=True)
class Address:
    """Where to call: `target` is host:port or unix:path, as tritonclient takes it."""

    target: str
    http: bool
    tls: bool


def address_of(text: str) -> Address:
    """Read an address.

    Raises:
        ConfigError: it has another form, or its port is over 65535, of which gRPC would take the lower 16 bits.
    """
    if _UNIX.fullmatch(text):
        return Address(text, http=False, tls=False)
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"{text!r} is no address to call: write grpc://host:port, grpcs://host:port, http://host:port, "
            "https://host:port or unix:path"
        )
    if int(found[3]) > _LARGEST_PORT:
        raise ConfigError(f"{text!r} is no address to call: port {found[3]} is over {_LARGEST_PORT}; correct it")
    scheme = found[1] or "grpc"
    return Address(found[2], http=scheme.startswith("http"), tls=scheme.endswith("s"))
