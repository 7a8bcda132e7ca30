"""Screening of large sets on this machine, or on the machines of a Ray cluster.

Both run the same engine. Its noise comes from the secret and the input alone, so what is found of an input does not
depend on where it is screened, nor beside which others. What it is charged for does: a batch with room takes more
copies than are needed in the end.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import onnxruntime
import torch

import guard
from guard.environment import check_ray
from guard.errors import BackendError, ConfigError
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend
from guard.offline.scoring import Screens, running_engine, screen_all
from guard.profile import spec
from guard.values import Float32Array, ModelInfo, Screening

LOCAL: Final = "local"
"""In place of a cluster's address: one is started on this machine, with all of its cores, for as long as it takes."""

_CHUNK = 32
_KNOCK_S = 5.0
_VERSIONS = (guard.__version__, onnxruntime.__version__, str(torch.__version__))


@contextmanager
def screening(
    replica: Backend,
    detectors: Sequence[spec.DetectorSpec],
    files: Mapping[str, bytes],
    *,
    secret: bytes,
    ray: str | None = None,
) -> Iterator[Screens]:
    """What screens: an engine over the replica, which stays the caller's, or as many as the cluster `ray` has cores.

    Raises:
        ConfigError: the cluster can't be reached, its machines have other versions, or the replica can't go there.
        EnvironmentProblem: Ray is not installed.
    """
    with reached(replica, ray) as cores:
        if cores is None or not isinstance(replica, OnnxBackend):
            with running_engine(replica, detectors, files, secret=secret) as engine:
                yield partial(screen_all, engine)
            return
        model, batch = replica.content, replica.preferred_batch
        kit = Kit(model, replica.info, batch, replica.providers, tuple(detectors), dict(files), secret)
        yield partial(_spread, _workers(cores, kit))


@contextmanager
def reached(replica: Backend, ray: str | None) -> Iterator[int | None]:
    """The cores of the cluster `ray`, reached once for all that is within; None for this machine's own engine.

    Raises:
        ConfigError: the cluster can't be reached, or the replica can't go there.
        EnvironmentProblem: Ray is not installed.
    """
    if ray is None:
        yield None
        return
    if not isinstance(replica, OnnxBackend):
        raise ConfigError("--ray needs --model, a file that can be sent to the cluster; leave it out beside --upstream")
    check_ray()
    _knock(ray)
    with _cluster(ray) as cores:
        yield cores


@dataclass(frozen=True, slots=True)
class Kit:
    """What an engine is made of elsewhere, and the `versions` that it is made with here."""

    model: bytes
    info: ModelInfo
    batch: int
    providers: tuple[str, ...]
    detectors: tuple[spec.DetectorSpec, ...]
    files: Mapping[str, bytes]
    secret: bytes
    versions: tuple[str, ...] = _VERSIONS


class Worker:
    """An engine in a process of the cluster."""

    def __init__(self, kit: Kit) -> None:
        if kit.versions != _VERSIONS:
            raise ConfigError(
                f"--ray: a machine of the cluster has Guard, ONNX Runtime and torch {', '.join(_VERSIONS)}, and yours "
                f"{', '.join(kit.versions)}: install the same there, or results differ"
            )
        torch.set_num_threads(1)
        backend = OnnxBackend(kit.model, kit.info, providers=kit.providers)
        backend.preferred_batch = kit.batch
        self._stack = ExitStack()  # ends with the process
        engine = running_engine(backend, kit.detectors, kit.files, secret=kit.secret)
        self._engine = self._stack.enter_context(engine)

    def screen(self, samples: Float32Array) -> list[Screening]:
        """Screen samples, in their order."""
        return list(screen_all(self._engine, samples))


def _knock(address: str) -> None:
    """See whether anybody is there, if the address has a port: Ray itself tries for many minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):([0-9]+)", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), _KNOCK_S).close()
    except (OSError, OverflowError) as exc:
        raise _nobody(address, exc) from exc


def _nobody(address: str, why: Exception) -> ConfigError:
    return ConfigError(
        f"--ray {address}: there is no cluster that answers ({why}); give the address that `ray start --head` shows, "
        f"or {LOCAL}"
    )


@contextmanager
def _cluster(address: str) -> Iterator[int]:
    """A connection to a cluster: how many cores it has. One that is there already is left as it is."""
    import ray  # noqa: PLC0415 - an extra brings it

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or a cluster that is started here calls home
    joined = not ray.is_initialized()
    if joined:
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                **({"include_dashboard": False} if address == LOCAL else {}),
            )
        except (ConnectionError, ValueError, RuntimeError) as exc:
            raise _nobody(address, exc) from exc
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if joined:
            ray.shutdown()


def _workers(cores: int, kit: Kit) -> list[Any]:
    import ray  # noqa: PLC0415 - an extra brings it

    made, sent = ray.remote(num_cpus=1)(Worker), ray.put(kit)
    return [made.remote(sent) for _ in range(cores)]


def _spread(workers: Sequence[Any], samples: Float32Array) -> Iterator[Screening]:
    from ray.exceptions import RayActorError  # noqa: PLC0415 - an extra brings it
    from ray.util import ActorPool  # noqa: PLC0415 - an extra brings it

    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    try:
        for found in ActorPool(workers).map(lambda worker, chunk: worker.screen.remote(chunk), chunks):
            yield from found
    except RayActorError as exc:
        if isinstance(cause := getattr(exc, "cause", None) or exc.__cause__, ConfigError):
            raise cause from exc
        raise BackendError(f"--ray: a process of the cluster died ({exc}); look at its log, and begin again") from exc
