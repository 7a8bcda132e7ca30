"""Is the served model the one in the profile? Recognised by what it answers to the profile's canaries.

A profile of another model, or of an older version, would screen with confidence and mean nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import numpy as np
import structlog
import torch

from guard.errors import BackendTimeout, GuardError, UpstreamUnavailable
from guard.model.upstream import UpstreamBackend
from guard.profile.profile import Canaries
from guard.values import ModelInfo

_TOLERANCE = 0.02
"""Of the largest canary logit: room for another runtime or a GPU's rounding, not for another training run."""

_log = structlog.get_logger(__name__)


class Verifier:
    """Watches one served model in the background: whether it is ready, every second; whether it is the same, seldom.

    Start-up does not wait for it. A model that was recognised stays so while it can't be reached.
    """

    def __init__(
        self,
        address: str,
        info: ModelInfo,
        canaries: Canaries,
        *,
        poll_interval_s: float = 1.0,
        compare_interval_s: float = 60.0,
    ) -> None:
        self._address = address
        self._backend = UpstreamBackend(address, info)
        self._canaries = canaries
        self._poll_interval_s = poll_interval_s
        self._compare_interval_s = compare_interval_s
        self._compared_at = -float("inf")
        self._task: asyncio.Task[None] | None = None
        self._verified = False
        self._unverified = "the served model was not compared with its profile yet; retry in a moment"
        self.problem: str | None = "the served model was not compared with the profile yet"

    def unverified(self, version: str = "") -> str | None:
        """Why requests for a version ("" for the server's own) can't be judged, in words for their clients.

        None if the served model last answered like the profile's, and `version` is that one: another version is
        another model, which the profile says nothing of.
        """
        if not self._verified:
            return self._unverified
        if version in ("", self._backend.version):
            return None
        return (
            "the version that the request asks for was not verified against its profile; "
            f"ask for version {self._backend.version!r}, or for none"
        )

    def start(self) -> None:
        """Begin watching."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._backend.close()

    async def _run(self) -> None:
        while True:
            self._report(await asyncio.to_thread(self._check))
            await asyncio.sleep(self._poll_interval_s)

    def _check(self) -> str | None:
        try:
            self._backend.check_ready()
            due = time.monotonic() - self._compared_at >= self._compare_interval_s
            return self._compare() if due or not self._verified else None
        except GuardError as exc:
            self._compared_at = -float("inf")  # a server that comes back may have another model
            self._unverified = self._out_of_reach(exc)
            return str(exc)

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

    def _compare(self) -> str | None:
        answers = self._backend.logits(torch.from_numpy(self._canaries.inputs)).numpy()
        difference = float(np.abs(answers - self._canaries.logits).max())
        allowed = _TOLERANCE * max(1.0, float(np.abs(self._canaries.logits).max()))
        self._verified = difference <= allowed
        self._compared_at = time.monotonic()
        if self._verified:
            return None
        self._unverified = (
            "the served model is another than the one in its profile; the operator of guard has to calibrate again"
        )
        return (
            f"the served model differs from the one in the profile (logits by up to {difference:.3g}, {allowed:.3g} "
            "allowed): calibrate again for the model that is served"
        )

    def _report(self, problem: str | None) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        if problem is None:
            _log.info("the served model is ready, and is the one in the profile", model=self._backend.info.name)
        else:
            _log.error("not ready to screen", model=self._backend.info.name, problem=problem)
