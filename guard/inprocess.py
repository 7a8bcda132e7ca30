"""Guard as a library: screen batches in the process that runs the model, without a sidecar and without a network.

For model servers that are written in Python. What a sidecar does to requests is done to arrays: the same profile, the
same policy, the same decision.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from guard.app import swap
from guard.app.guarded import Builder
from guard.app.models import LoadedModel, load_models
from guard.app.sidecar import noise_secret
from guard.background import LoopThread
from guard.config import Settings, Unlisted
from guard.config_file import english
from guard.datatypes import WIRE_DTYPES
from guard.environment import check_onnxruntime
from guard.errors import ConfigError, MalformedRequest
from guard.gate import Gate
from guard.listed import Listed
from guard.model.backend import Backend
from guard.observe.metrics import Metrics
from guard.values import Decision, Float32Array, InferRequest, Mode, ModelInfo, WireTensor

_FP32 = "FP32"


class Guard:
    """Screens batches: `with Guard("profile/", "model.onnx") as guard: decision = guard.screen(batch)`.

    `model` is the ONNX file that the profile was calibrated with, or a replica, such as a `TorchBackend`, which stays
    the caller's to close. Further arguments are the settings of a model's policy, for example `false_positive_rate`.
    The decision's `action` is what its `mode` makes of a verdict; unlike a sidecar's, that is `enforce` by default.
    Any thread may call, and any event loop.

    Raises:
        GuardError: the profile, the model, a setting or the installation is wrong; the message says what to do.
    """

    def __init__(
        self,
        profile: Path | str,
        model: Path | str | Backend,
        *,
        name: str = "model",
        noise_secret_file: Path | None = None,
        **policy: Any,
    ) -> None:
        check_onnxruntime()
        file = Path(model) if isinstance(model, Path | str) else None
        given = {"profile": Path(profile), "model": file, "mode": Mode.ENFORCE, **policy}
        settings = _settings(name, given, noise_secret_file)
        replicas = {} if isinstance(model, Path | str) else {name: model}
        self._name = name
        self._metrics = Metrics()
        self._closing = ExitStack()
        try:
            self._start(settings, load_models(settings, replicas)[name])
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def registry(self) -> CollectorRegistry:
        """Guard's metrics, for the server's own /metrics."""
        return self._metrics.registry

    def screen(self, batch: npt.NDArray[Any], *, deadline_s: float | None = None, client: str = "") -> Decision:
        """Decide about a batch, (items, *shape of one input), in the units that the model takes.

        It takes `deadline_s` or the policy's `screening_budget_s` at most. `client` says on whose behalf: clients take
        turns, and what each sent before is remembered.

        Raises:
            MalformedRequest: the batch is not what the model takes.
            NonFiniteInput: it holds NaN or infinity.
        """
        return self._submit(self._screen(batch, deadline_s, client)).result()

    async def screen_async(
        self, batch: npt.NDArray[Any], *, deadline_s: float | None = None, client: str = ""
    ) -> Decision:
        """As `screen`, for asyncio: cancelled with the caller."""
        return await asyncio.wrap_future(self._submit(self._screen(batch, deadline_s, client)))

    def close(self) -> None:
        """Stop screening, and close what was opened."""
        self._closing.close()

    def _start(self, settings: Settings, loaded: LoadedModel) -> None:
        secret = noise_secret(settings.noise_secret_file)
        guarded = Builder(settings, secret, None, self._metrics).build(loaded)
        self._loop = self._closing.enter_context(LoopThread())
        self._closing.callback(lambda: self._loop.run(guarded.verifier.stop()))
        self._closing.callback(swap.close, guarded.parts.values())
        self._info = loaded.info
        # The file is the model that runs, so there is no other to verify; and images come decoded.
        taken = replace(loaded.info, datatype=_FP32)
        model = replace(guarded.model, info=taken, unverified=lambda _version: None, images=None)
        limit = settings.limits.max_batch_items
        self._gate = Gate(Listed({self._name: model}, Unlisted.DENY), max_batch_items=limit, metrics=self._metrics)
        swap.start(guarded.parts.values())
        guarded.show()

    async def _screen(self, batch: npt.NDArray[Any], deadline_s: float | None, client: str) -> Decision:
        values = _float32(batch, self._info)
        tensor = WireTensor(self._info.input_name, _FP32, values.shape, raw=values.data.cast("B"))
        request = InferRequest(self._name, "", "", (tensor,))
        return await self._gate.screen(request, decision_id=uuid.uuid4().hex, deadline_s=deadline_s, client=client)

    def _submit(self, steps: Coroutine[Any, Any, Decision]) -> Future[Decision]:
        return self._loop.submit(steps)


def _settings(name: str, policy: dict[str, Any], noise_secret_file: Path | None) -> Settings:
    try:
        return Settings.model_validate({"models": {name: policy}, "noise_secret_file": noise_secret_file})
    except ValidationError as exc:
        mistakes = [
            f"{error['loc'][-1]} is no setting of a model's policy; leave it out"
            if error["type"] == "extra_forbidden"
            else english.of_option(error, str(error["loc"][-1]))
            for error in exc.errors()
        ]
        raise ConfigError("\n".join(mistakes)) from exc


def _float32(batch: npt.NDArray[Any], info: ModelInfo) -> Float32Array:
    """The batch in the units of the model: whole numbers are taken only where the model takes them."""
    if batch.dtype.kind != "f" and batch.dtype != WIRE_DTYPES.get(info.datatype):
        raise MalformedRequest(
            f"the model takes {info.datatype} and the batch holds {batch.dtype}: convert it as the model's input is "
            f"(values from {info.bounds[0]:g} to {info.bounds[1]:g})"
        )
    values: Float32Array = np.ascontiguousarray(batch, np.float32)
    return values
