"""Opens the model of a calibration: a file, or a server that has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import grpc
import structlog

from guard.config import Device
from guard.errors import BackendError, ConfigError, UpstreamUnavailable
from guard.layout import ambiguous, fits, of_model
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.model.upstream import UpstreamBackend, inspect_upstream
from guard.offline.data import layouts
from guard.offline.source import Source
from guard.values import Layout, ModelInfo

_log = structlog.get_logger(__name__)
_PROVIDERS = {
    Device.CPU: ("CPUExecutionProvider",),
    Device.CUDA: ("CUDAExecutionProvider", "CPUExecutionProvider"),
}


def open_model(source: Source, shape: tuple[int, ...]) -> Backend:
    """The model, which takes samples of a shape in one of their layouts.

    Raises:
        BackendError: it can't be loaded, is no classifier, or takes no such samples.
        ConfigError: inputs of its shape can't have the layout that was told.
    """
    if source.model is not None:
        path, name = source.model, source.model_name or source.model.stem
        info = _first_fit(shape, lambda dims: inspect_onnx(path, name=name, bounds=source.bounds, dims=dims))
        info = _laid_out(info, source.layout)
        return OnnxBackend(path.read_bytes(), info, providers=_PROVIDERS[source.device])
    server, name = source.server, source.model_name or ""
    assert server is not None  # noqa: S101 - a source without a file has one
    try:
        info = _first_fit(shape, lambda dims: inspect_upstream(server, name=name, bounds=source.bounds, dims=dims))
    except BackendError as exc:
        if _not_found(exc):
            raise BackendError(
                f"--model-name {name}: --upstream {server.address} has no model of that name ({exc})"
            ) from exc
        raise
    return UpstreamBackend(server, _laid_out(info, source.layout))


def _laid_out(info: ModelInfo, told: Layout | None) -> ModelInfo:
    """With the layout that a person told, that the server's configuration says, or that the shape tells.

    Raises:
        ConfigError: inputs of the model's shape can't have the layout that was told.
    """
    if told is not None and not fits(told, info.shape):
        raise ConfigError(
            f"--layout n{told}: model {info.name!r} takes shape {list(info.shape)}, without the batch dimension, which "
            "can't be laid out so; leave it out, or say --layout none for inputs that are no images"
        )
    if told is None and info.layout is None and ambiguous(info.shape):
        _log.warning(
            "channels may be first or last, and are taken to be first: say --layout nhwc if they are last",
            shape=list(info.shape),
        )
    return replace(info, layout=told or of_model(info))


def _not_found(error: BackendError) -> bool:
    cause = error.__cause__
    return isinstance(cause, grpc.RpcError) and cause.code() is grpc.StatusCode.NOT_FOUND


def _first_fit(shape: tuple[int, ...], inspect: Callable[[tuple[int, ...]], ModelInfo]) -> ModelInfo:
    """Inspect the model under each layout of the samples; the first that it accepts wins, else the first complaint."""
    complaint: BackendError | None = None
    for dims in layouts(shape):
        try:
            return inspect(dims)
        except UpstreamUnavailable:
            raise
        except BackendError as exc:
            complaint = complaint or exc
    raise complaint or BackendError("the samples have no layout")
