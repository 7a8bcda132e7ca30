"""The self-test: inputs that are known to be adversarial are screened now and then, so that a silent failure shows.

They go to the engine and the judge that requests go to, and nowhere else: no decision is made of them, and they are
counted, remembered and logged as no request.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final

import structlog

from guard.decide.judge import Judge
from guard.errors import GuardError
from guard.screen.engine import Engine
from guard.values import Float32Array, Screening, Verdict

NEEDED_SHARE: Final = 0.5
"""Noise is drawn anew for each secret, so one of the inputs may be missed; where most are, something is broken."""

RETRY_S: Final = 60.0
"""How soon it is made again where it failed, for which an alert waits."""

_CLIENT = "guard itself"
_GRACE_S = 1.0
_JOIN_S = 5.0
_log = structlog.get_logger(__name__)


class SelfTest:
    """Screens a model's known adversarial inputs (n, *shape) every `interval_s` seconds, on a thread of its own.

    After one that failed the next comes in a minute, if not sooner.

    `engine` and `judge` are those of the model's requests; `budget_s` is how long the policy lets screening take.
    """

    def __init__(
        self,
        model: str,
        inputs: Float32Array,
        *,
        engine: Engine,
        judge: Judge,
        budget_s: float,
        interval_s: float,
    ) -> None:
        self.succeeded_s = 0.0
        """When it succeeded last, in Unix time; 0 if it did not yet."""
        self.interval_s = interval_s
        self._model, self._inputs = model, inputs
        self._engine, self._judge = engine, judge
        self._budget_s = budget_s
        self._failed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard-selftest", daemon=True)

    def start(self) -> None:
        """Begin, at once."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def look(self) -> Counter[str]:
        """Screen the inputs: how many got which verdict, or why they got none."""
        found: Counter[str] = Counter()
        waiting: list[Future[Screening]] = []
        for each in self._inputs:
            try:
                waiting.append(self._engine.submit(each, deadline_s=self._budget_s, client=_CLIENT))
            except GuardError as exc:
                found[exc.code] += 1
        ends_s = time.monotonic() + self._budget_s + _GRACE_S
        for future in waiting:
            found[self._verdict(future, ends_s)] += 1
        return found

    def _verdict(self, future: Future[Screening], ends_s: float) -> str:
        try:
            return str(self._judge.judge(future.result(max(ends_s - time.monotonic(), 0.0))).verdict)
        except GuardError as exc:
            return exc.code
        except FutureTimeoutError:
            future.cancel()
            return "no answer"

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                found = self.look()
            except Exception:  # noqa: BLE001 - whatever fails is what a self-test is there to show
                _log.exception("the self-test broke", model=self._model)
                found = Counter()
            if not self._stopping.is_set():
                self._report(found)
            self._stopping.wait(min(self.interval_s, RETRY_S) if self._failed else self.interval_s)

    def _report(self, found: Counter[str]) -> None:
        if found[Verdict.ADVERSARIAL] >= NEEDED_SHARE * len(self._inputs):
            self.succeeded_s = time.time()
            if self._failed:
                _log.info("the self-test succeeds again", model=self._model)
            self._failed = False
            return
        self._failed = True
        _log.error(
            "the self-test failed: known adversarial inputs were not found adversarial",
            model=self._model,
            inputs=len(self._inputs),
            verdicts=dict(found),
            advice="until it succeeds trust no clean verdict: look for overload, faults and a broken replica",
        )
