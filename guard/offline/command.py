"""What `guard calibrate` does around the calibration: find the model, read the samples, write the profile."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import structlog
from rich.console import Console

from guard.channel import Link
from guard.config import Device, Upstream
from guard.errors import BackendError, ConfigError, UpstreamUnavailable
from guard.layout import ambiguous, fits, of_model
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.model.upstream import UpstreamBackend, inspect_upstream
from guard.offline.calibrate import Options, calibrate
from guard.offline.data import layouts, load_samples, to_layout
from guard.offline.images import inputs_of, load_images, with_images
from guard.offline.picture import draw
from guard.offline.progress import Reporter
from guard.offline.show import print_profile
from guard.profile import store
from guard.profile.profile import Profile
from guard.profile.spec import Preprocessing, ServerPreprocessing
from guard.values import Layout, ModelInfo

_log = structlog.get_logger(__name__)
_PROVIDERS = {
    Device.CPU: ("CPUExecutionProvider",),
    Device.CUDA: ("CUDAExecutionProvider", "CPUExecutionProvider"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the model is: a file, or a server that has it under a name. `device` is where a file runs.

    `layout` is where channels are in its inputs; without it the server's configuration tells, or the shape. With a
    `preprocessing` the model that is served takes encoded images, and the file is what comes behind it.
    `reached_by` are the settings of a policy for its server, but for the address: TLS and the secret.

    Raises:
        ConfigError: neither or both, bounds that are none, or a device for a server.
    """

    model: Path | None
    upstream: str | None
    model_name: str | None
    bounds: tuple[float, float]
    device: Device = Device.CPU
    layout: Layout | None = None
    preprocessing: Preprocessing | None = None
    reached_by: Upstream = field(default_factory=Upstream)

    def __post_init__(self) -> None:
        if self.preprocessing is not None:
            self._check_preprocessed()
        elif (self.model is None) == (self.upstream is None):
            raise ConfigError("say either --model model.onnx, or --upstream host:port --model-name NAME")
        if self.preprocessing is None and self.upstream is not None and not self.model_name:
            raise ConfigError("--upstream needs --model-name, the model's name on that server")
        if self.model is None and self.device is not Device.CPU:
            raise ConfigError(f"--device {self.device} is for a --model file: leave it out beside --upstream")
        low, high = self.bounds
        if not -math.inf < low < high < math.inf:
            raise ConfigError(f"--bounds {low:g} {high:g}: give two finite numbers, the smaller one first")

    @property
    def server(self) -> Link | None:
        """The server that has the model.

        Raises:
            ConfigError: a certificate, a key or a secret can't be used.
        """
        return None if self.upstream is None else Link(self.reached_by.model_copy(update={"address": self.upstream}))

    def _check_preprocessed(self) -> None:
        if self.model is None:
            raise ConfigError("--preprocessing needs --model, the ONNX file that takes what it makes")
        if isinstance(self.preprocessing, ServerPreprocessing) != (self.upstream is not None):
            raise ConfigError(
                "--upstream goes with a --preprocessing that names an upstream_model, which is asked there, and with "
                "no other"
            )


def calibrate_to(source: Source, data: Path, out: Path, options: Options, console: Console) -> Profile:
    """Calibrate and write the profile to `out`, with a picture.

    Raises:
        GuardError: the model, the samples or the options can't be used.
    """
    reporter, preprocessing = Reporter(console), source.preprocessing
    if preprocessing is None:
        images: tuple[bytes, ...] = ()
        samples = load_samples(data, source.bounds)
    else:
        images = load_images(data)
        samples, bounds = inputs_of(preprocessing, images, data, source.bounds, source.server, reporter)
        source = replace(source, bounds=bounds)
    backend = _open(source, samples.shape[1:])
    try:
        _check_bounds(backend.info)
        make_folder(out, "--out")  # now, not after minutes of work
        profile = calibrate(backend, to_layout(samples, backend.info.shape), options, reporter)
        if preprocessing is not None:
            profile = with_images(profile, preprocessing, images, backend, source.server)
    finally:
        backend.close()
    store.save(profile, out)
    picture = draw(profile, out)
    print_profile(console, profile)
    console.print(f"The profile is in {out}; benign scores as a picture: {picture}", soft_wrap=True)
    return profile


def _check_bounds(info: ModelInfo) -> None:
    """Bounds that hold two integers or fewer are not those of an integer input, but the default of a real one."""
    low, high = info.bounds
    if "INT" in info.datatype and high - low <= 1:
        raise ConfigError(
            f"model {info.name!r} takes {info.datatype}, of which --bounds {low:g} {high:g} leave next to nothing: "
            "give the model's own, for example --bounds 0 255"
        )


def make_folder(folder: Path, option: str) -> None:
    """Make a folder, and those around it, unless it is there.

    Raises:
        ConfigError: it can't be made or written to; the message names the command line's `option`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{option} {folder} can't be made a folder ({exc.strerror}); name another") from exc
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {folder} can't be written to; change its permissions, or name another")


def _open(source: Source, shape: tuple[int, ...]) -> Backend:
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
