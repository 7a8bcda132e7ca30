"""tritonclient, imported where it is needed, and what its four clients have in common."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from guard.client.values import Tls
from guard.errors import ConfigError, EnvironmentProblem

_LARGEST_BYTES: Final = 2**31 - 1
_RECONNECT_MS: Final = 100
_RECONNECT_AT_MOST_MS: Final = 2000
# As tritonclient's own, and fast to find a server that is back: by itself gRPC waits for a second before it looks.
_CHANNEL: Final = (
    ("grpc.max_send_message_length", _LARGEST_BYTES),
    ("grpc.max_receive_message_length", _LARGEST_BYTES),
    ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
    ("grpc.min_reconnect_backoff_ms", _RECONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", _RECONNECT_AT_MOST_MS),
)


def module(name: str) -> Any:
    """A module of tritonclient.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    try:
        return importlib.import_module(f"tritonclient.{name}")
    except (ImportError, RuntimeError) as exc:  # it raises the latter for what comes with its extras
        raise EnvironmentProblem(
            f"guard.client needs tritonclient ({exc}): pip install 'guard-sidecar[client]', or in a clone of Guard "
            "pip install '.[client]'"
        ) from exc


def tensor(http: bool, name: str, values: Any) -> Any:  # noqa: FBT001 - which of two modules
    """An InferInput that holds an array."""
    kind = module("http" if http else "grpc")
    made = kind.InferInput(name, list(values.shape), kind.np_to_triton_dtype(values.dtype))
    return made.set_data_from_numpy(values)


def of_grpc(tls: Tls | None) -> dict[str, Any]:
    """Options of tritonclient's gRPC clients."""
    options: dict[str, Any] = {"channel_args": list(_CHANNEL)}
    if tls is not None:
        import grpc  # noqa: PLC0415 - with tritonclient only

        options["creds"] = grpc.ssl_channel_credentials(
            _read(tls.ca_file), _read(tls.key_file), _read(tls.certificate_file)
        )
    return options


def parameters_of(response: Any) -> dict[str, Any]:
    """The parameters of a response: of the protobuf message, or of the JSON."""
    if isinstance(response, Mapping):
        return dict(response.get("parameters", {}))
    held = response.parameters
    return {name: getattr(held[name], held[name].WhichOneof("parameter_choice") or "string_param") for name in held}


def _read(path: Path | str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} can't be read ({exc.strerror}); correct it in Tls") from exc
