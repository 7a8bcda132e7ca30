"""Is the served model the one in the profile? Recognised by what it answers to the profile's canaries.

A profile of another model, or of an older version, would screen with confidence and mean nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import structlog
import torch

from guard.channel import Link
from guard.config import model_and_version
from guard.errors import BackendError, BackendTimeout, GuardError, UpstreamUnavailable
from guard.model.backend import as_logits
from guard.model.client import Client
from guard.model.encoded import EncodedClient
from guard.model.upstream import UpstreamBackend
from guard.pb import grpc_service_pb2 as v2
from guard.profile.profile import Canaries
from guard.profile.spec import ImagePreprocessing, Preprocessing
from guard.values import Float32Array, InferenceOutcome, ModelInfo

_TOLERANCE = 0.02
"""Of the largest canary logit: room for another runtime or a GPU's rounding, not for another training run."""
_APPROXIMATELY = 0.1
"""The same where Guard decodes and resizes images itself: no two decoders agree to the last digit."""

_TIMEOUT_S = 5.0
_log = structlog.get_logger(__name__)


class Watch(ABC):
    """Looks at the guarded server in the background, again and again. `problem` is what it found last, None for none.

    Start-up does not wait for it. `subject` is what logs call that which it looks at, and `ready` what they say when
    nothing is wrong with it.
    """

    def __init__(self, subject: str, *, ready: str, problem: str, poll_interval_s: float) -> None:
        self.problem: str | None = problem
        self._subject, self._ready = subject, ready
        self._poll_interval_s = poll_interval_s
        self._task: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()

    def start(self) -> None:
        """Begin watching."""
        self._task = asyncio.create_task(self._run())

    async def looked(self, timeout_s: float) -> None:
        """Wait until it has looked for the first time, for so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._looked.wait()

    async def stop(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._close()

    @abstractmethod
    def _check(self) -> str | None:
        """Look: what is wrong. Called on a thread."""

    @abstractmethod
    def _close(self) -> None:
        """Close the connection."""

    async def _run(self) -> None:
        while True:
            self._report(await asyncio.to_thread(self._check))
            self._looked.set()
            await asyncio.sleep(self._poll_interval_s)

    def _report(self, problem: str | None) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        if problem is None:
            _log.info(self._ready, model=self._subject)
        else:
            _log.error("not ready to screen", model=self._subject, problem=problem)


class ServerWatch(Watch):
    """Watches whether the guarded server is ready, where no model is under guard."""

    def __init__(self, server: Link, *, poll_interval_s: float = 1.0) -> None:
        super().__init__(
            "any",
            ready="the upstream is ready",
            problem="the upstream was not asked yet whether it is ready",
            poll_interval_s=poll_interval_s,
        )
        self._client = Client(server)

    def _check(self) -> str | None:
        try:
            answer = self._client.call("ServerReady", v2.ServerReadyRequest(), v2.ServerReadyResponse, _TIMEOUT_S)
        except GuardError as exc:
            return str(exc)
        return None if answer.ready else "the upstream says that it is not ready"

    def _close(self) -> None:
        self._client.close()


class Verifier(Watch):
    """Watches one served model: whether it is ready, every second; whether it is the profile's, seldom.

    A model that was recognised stays so while it can't be reached. `asked` is told of each inference this takes.
    """

    def __init__(
        self,
        server: Link,
        info: ModelInfo,
        canaries: Canaries,
        *,
        preprocessing: Preprocessing | None = None,
        poll_interval_s: float = 1.0,
        compare_interval_s: float = 60.0,
        asked: Callable[[InferenceOutcome], None] = lambda _: None,
    ) -> None:
        super().__init__(
            info.name,
            ready="the served model is ready, and is the one in the profile",
            problem="the served model was not compared with the profile yet",
            poll_interval_s=poll_interval_s,
        )
        model, version = model_and_version(info.name)
        self._address = server.address
        self._backend = UpstreamBackend(server, replace(info, name=model), asked_version=version)
        self._canaries = canaries
        self._preprocessing = preprocessing
        self._images = None if preprocessing is None else EncodedClient(server)
        for client in (self._backend, self._images):
            if client is not None:
                client.count(asked)
        self._tolerance = _APPROXIMATELY if isinstance(preprocessing, ImagePreprocessing) else _TOLERANCE
        self._compare_interval_s = compare_interval_s
        self._compared_at = -float("inf")
        self._versions: tuple[str, ...] = ()
        self._recognised: str | None = None
        """The version that answered like the profile's model."""
        self._unverified = "the served model was not compared with its profile yet; retry in a moment"

    @property
    def recognised(self) -> str:
        """The version that answered like the profile's model; "" where none did, or the server tells no version."""
        return self._recognised or ""

    def unverified(self, version: str = "") -> str | None:
        """Why requests for a version ("" for the server's own) can't be judged, in words for their clients.

        None if the served model last answered like the profile's, and `version` is that one: another version is
        another model, which the profile says nothing of.
        """
        recognised = self._recognised
        if recognised is None:
            return self._unverified
        if version in ("", recognised):
            return None
        known = f"ask for version {recognised!r}, or for none" if recognised else "ask for none"
        return f"the version that the request asks for was not verified against its profile; {known}"

    def _check(self) -> str | None:
        try:
            self._backend.check_ready()
            due = self._other_versions() or time.monotonic() - self._compared_at >= self._compare_interval_s
            return self._compare() if due or self._recognised is None else None
        except GuardError as exc:
            self._compared_at = -float("inf")  # a server that comes back may have another model
            self._unverified = self._out_of_reach(exc)
            return str(exc)

    def _other_versions(self) -> bool:
        """Whether the server has other versions than a moment ago, one of which it may have chosen for its own."""
        try:
            versions = self._backend.versions()
        except BackendError:  # not every server says
            versions = ()
        before, self._versions = self._versions, versions
        return versions != before

    def _out_of_reach(self, error: GuardError) -> str:
        """What clients are told of it, in Guard's own words: no library's text is in any answer."""
        if isinstance(error, UpstreamUnavailable | BackendTimeout):
            return (
                f"the inference server at {self._address} does not answer, so its model can't be verified against its "
                "profile; check that it is running"
            )
        return (
            f"the inference server at {self._address} did not answer as the profile's model does, so it can't be "
            "verified; check that the model is loaded and ready there, and that the profile is of this one"
        )

    def _close(self) -> None:
        self._backend.close()
        if self._images is not None:
            self._images.close()

    def _answers(self) -> Float32Array:
        """What the served model says of the canaries."""
        info = self._backend.info
        if self._preprocessing is None or self._images is None:
            return self._backend.logits(torch.from_numpy(self._canaries.inputs)).numpy()
        rows = self._images.ask(
            self._canaries.encoded,
            model=info.name,
            version=self._backend.asked_version,
            input_name=self._preprocessing.input,
            output_name=self._preprocessing.output or info.output_name,
        )
        self._backend.version = self._images.version
        answers: Float32Array = as_logits(info, rows, len(self._canaries.encoded)).numpy()
        return answers

    def _compare(self) -> str | None:
        answers = self._answers()
        asked, answered = self._backend.asked_version, self._backend.version
        if asked not in ("", answered):
            self._recognised = None
            raise BackendError(f"the upstream was asked for version {asked!r}, and answered with {answered!r}")
        difference = float(np.abs(answers - self._canaries.logits).max())
        allowed = self._tolerance * max(1.0, float(np.abs(self._canaries.logits).max()))
        self._recognised = answered if difference <= allowed else None
        self._compared_at = time.monotonic()
        if self._recognised is not None:
            return None
        self._unverified = (
            "the served model is another than the one in its profile; the operator of guard has to calibrate again"
        )
        return (
            f"the served model differs from the one in the profile (logits by up to {difference:.3g}, {allowed:.3g} "
            "allowed): calibrate again for the model that is served"
            + ("" if self._preprocessing is None else ", and check that preprocessing is as the server's")
        )
