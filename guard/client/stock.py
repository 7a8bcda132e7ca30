"""tritonclient, imported where it is needed, and what its four clients have in common."""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

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
            f"guard.client needs tritonclient ({exc}): pip install '.[client]' in a clone of Guard"
        ) from exc


def tensor(http: bool, name: str, values: Any) -> Any:  # noqa: FBT001 - which of two modules
    """An InferInput that holds an array.

    Raises:
        ConfigError: it is none, or of a type that the protocol doesn't have.
    """
    kind = module("http" if http else "grpc")
    if not isinstance(values, np.ndarray):
        raise ConfigError(f"{name!r} holds a {type(values).__name__}: give a numpy array")
    datatype = kind.np_to_triton_dtype(values.dtype)
    if datatype is None:
        raise ConfigError(f"{name!r} holds {values.dtype}, which the protocol doesn't have: convert it with astype")
    made = kind.InferInput(name, list(values.shape), datatype)
    return made.set_data_from_numpy(values)


def context_of(tls: Tls) -> ssl.SSLContext:
    """What the files of a Tls mean to Python. That it can be made shows that they are what they should be.

    gRPC ends the process for a certificate without a key, and tells no sooner than a call what else is wrong.

    Raises:
        ConfigError: one of them can't be used.
    """
    if (tls.certificate_file is None) != (tls.key_file is None):
        raise ConfigError("Tls has one of certificate_file and key_file: name both, or none")
    for path in (tls.ca_file, tls.certificate_file, tls.key_file):
        _read(path)
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as exc:
        raise ConfigError(f"{tls.ca_file} holds no certificates in PEM ({exc}); correct ca_file in Tls") from exc
    if tls.certificate_file is not None:
        try:
            context.load_cert_chain(tls.certificate_file, tls.key_file, password=_no_password)
        except OSError as exc:
            raise ConfigError(
                f"{tls.certificate_file} and {tls.key_file} are no certificate and its key in PEM ({exc}); correct "
                "certificate_file and key_file in Tls"
            ) from exc
    return context


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


def _no_password() -> str:
    """Nobody is there to type one."""
    raise ConfigError("the key_file of Tls is locked by a password; write the key without one")


def _read(path: Path | str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} can't be read ({exc.strerror}); correct it in Tls") from exc
