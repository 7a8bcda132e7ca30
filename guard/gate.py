"""One request through the stages, within its deadline. Only this module knows their order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from guard.config import Queries
from guard.decide import universal
from guard.decide.decide import decide, pass_unlisted, unscreened_item
from guard.decide.probing import with_probing
from guard.decide.universal import UniversalWatch
from guard.decode.encoded import encoded_images
from guard.decode.tensors import decode
from guard.errors import (
    BackendTimeout,
    DeadlineExceeded,
    GuardError,
    MalformedRequest,
    OtherShape,
    Overloaded,
    RequestError,
)
from guard.listed import GuardedModel, Listed
from guard.observe.logs import log_decision, log_drift
from guard.observe.metrics import Metrics
from guard.queries import watch
from guard.queries.watch import QueryWatch
from guard.screen.engine import Engine
from guard.values import (
    ARRAYS,
    Course,
    Decision,
    Fault,
    FaultReason,
    Float32Array,
    InferRequest,
    ItemDecision,
    Mode,
    Probing,
    Provenance,
    Screening,
    SharedPerturbation,
    UnscreenedReason,
    Verdict,
)

_GRACE_S = 0.05
"""How long past its deadline an item is waited for: the engine retires it then with what it found."""

_Found = TypeVar("_Found", Probing, SharedPerturbation)
_log = structlog.get_logger(__name__)


class Gate:
    """Screens requests and decides about them.

    What it guards can be swapped in one step. A request keeps to what it began with if it goes by a gate of `now`.
    """

    def __init__(self, listed: Listed, *, max_batch_items: int, metrics: Metrics) -> None:
        self._listed = listed
        self._max_batch_items = max_batch_items
        self._metrics = metrics

    def swap(self, listed: Listed) -> Listed:
        """Guard other models from now on: what was listed before."""
        before, self._listed = self._listed, listed
        return before

    def now(self) -> Gate:
        """A gate that keeps to what is listed now."""
        return Gate(self._listed, max_batch_items=self._max_batch_items, metrics=self._metrics)

    def listed_as(self, model: str, version: str) -> str:
        """The name that the policy has for a version of a model; where it has none, the model's."""
        guarded = self._listed.get(model, version)
        return model if guarded is None else guarded.info.name

    def version(self, model: str, version: str) -> str:
        """The version that the guarded server is to be asked for, where a request asks for this one ("" for none)."""
        return self._listed.version(model, version)

    def course(self, model: str, version: str = "") -> Course:
        """When a request for a model may reach the guarded server.

        Raises:
            MalformedRequest: it names no model.
            ModelNotListed: the policy denies models, or versions, that it does not name.
        """
        guarded = self._listed.find(model, version)
        if guarded is None:
            return Course.BEFORE
        policy = guarded.policy
        if policy.mode is Mode.SHADOW:
            return Course.BEHIND
        return Course.BESIDE if policy.mode is Mode.FLAG or policy.speculative else Course.BEFORE

    async def screen(
        self, request: InferRequest, *, decision_id: str, deadline_s: float | None, client: str = ""
    ) -> Decision:
        """Decide about a request within `deadline_s` seconds from now, or the policy's budget if that is shorter.

        `decision_id` is the decision's, and is in every line that is logged on the way. Clients take turns.

        Raises:
            ModelNotListed: the policy denies models, or versions, that it does not name.
            RequestError: its inputs can't be screened; in shadow mode such a request passes.
        """
        listed = self._listed
        guarded = listed.find(request.model_name, request.model_version)
        listed.screening += 1
        try:
            if guarded is None:
                decision = pass_unlisted(decision_id, request.model_name)
            else:
                decision = await self._decide(request, guarded, decision_id, deadline_s, client)
                if guarded.approximate:
                    decision = replace(decision, approximate=True)
        finally:
            listed.screening -= 1
        self._metrics.decided(decision, client)
        log_decision(_log, decision, client)
        return decision

    def unverified(self, request: InferRequest) -> str:
        """Why the model of a request is not verified, for the client; "" if it is, or is not under guard."""
        guarded = self._listed.get(request.model_name, request.model_version)
        return (guarded and guarded.unverified(request.model_version)) or ""

    def provenance(self, request: InferRequest) -> Provenance:
        """By what a request is judged."""
        return self._listed.provenance(request.model_name, request.model_version)

    async def _decide(
        self, request: InferRequest, guarded: GuardedModel, decision_id: str, deadline_s: float | None, client: str
    ) -> Decision:
        name, policy = guarded.info.name, guarded.policy
        allowed_s = policy.screening_budget_s
        budget_s = allowed_s if deadline_s is None else min(allowed_s, deadline_s)
        late = UnscreenedReason.CLIENT_DEADLINE if budget_s < allowed_s else UnscreenedReason.DEADLINE
        began_s = time.monotonic()
        try:
            inputs = await self._inputs(request, guarded, budget_s, client)
        except OtherShape as error:
            self._check_batch(error.items)
            items = tuple(unscreened_item(UnscreenedReason.OTHER_SHAPE) for _ in range(error.items))
            return decide(decision_id, name, policy, items)
        except GuardError as error:
            if isinstance(error, RequestError) and policy.mode is not Mode.SHADOW:
                raise
            return decide(decision_id, name, policy, (unscreened_item(_why_unread(error, decision_id, late)),))
        if guarded.unverified(request.model_version) is not None:
            items = tuple(unscreened_item(UnscreenedReason.UNVERIFIED) for _ in inputs)
            return decide(decision_id, name, policy, items)
        spent_s = time.monotonic() - began_s
        budget_s, allowed_s = budget_s - spent_s, allowed_s - spent_s
        looking = None
        if guarded.watch is not None:
            looking = asyncio.create_task(_look_back(guarded.watch, inputs, budget_s, client))
        try:
            screened = await _screen_all(guarded.engine, inputs, budget_s, decision_id, client, allowed_s=allowed_s)
            findings = () if looking is None else await looking
        finally:
            if looking is not None:
                looking.cancel()
        items = tuple(guarded.judge.judge(s) if isinstance(s, Screening) else s for s in screened)
        if guarded.drift is not None and (change := guarded.drift.observe(items, client)) is not None:
            log_drift(_log, name, change)
        if findings:
            reject = policy.queries is Queries.REJECT
            items = tuple(with_probing(i, f, reject=reject) for i, f in zip(items, findings, strict=True))
        items = await _compare_flagged(guarded.universal, inputs, items)
        items = tuple(replace(i, reason=late) if i.reason is UnscreenedReason.DEADLINE else i for i in items)
        return decide(decision_id, name, policy, items, [s.spent for s in screened if isinstance(s, Screening)])

    async def _inputs(self, request: InferRequest, guarded: GuardedModel, budget_s: float, client: str) -> Float32Array:
        _check_content_type(request, guarded)
        if guarded.images is None:
            inputs = decode(request, guarded.info)
            self._check_batch(len(inputs))
            return inputs
        images = encoded_images(request, guarded.images.preprocessing.input)
        self._check_batch(len(images))
        try:
            async with asyncio.timeout(budget_s):
                return await asyncio.wrap_future(guarded.images.submit(images, budget_s, client))
        except TimeoutError:
            raise DeadlineExceeded("images could not be decoded in the time allowed") from None

    def _check_batch(self, items: int) -> None:
        if items > self._max_batch_items:
            raise MalformedRequest(
                f"the request holds {items} items, and Guard screens {self._max_batch_items} at most: "
                "send smaller batches, or raise `limits.max_batch_items`"
            )


def _check_content_type(request: InferRequest, guarded: GuardedModel) -> None:
    """A server that decodes the inputs in another way executes something else than was screened."""
    if request.content_type is not None and (request.content_type != ARRAYS or guarded.images is not None):
        raise MalformedRequest(
            f"the request asks for content_type {request.content_type!r}; leave that out: guard screens the inputs of "
            f"model {guarded.info.name!r} as they are"
        )


def _why_unread(error: GuardError, decision_id: str, late: UnscreenedReason) -> UnscreenedReason:
    """Why there is nothing to screen: `late` where the time ran out."""
    match error:
        case RequestError():
            return UnscreenedReason.INVALID_INPUT
        case DeadlineExceeded() | BackendTimeout():
            return late
        case _:
            _log.warning("images could not be preprocessed", decision_id=decision_id, error=str(error))
            return UnscreenedReason.FAULT


async def _look_back(
    query_watch: QueryWatch, inputs: Float32Array, budget_s: float, client: str
) -> tuple[Probing | Fault, ...]:
    """What was sent before that resembles each item. Cancelled with the caller."""
    look = partial(query_watch.look, inputs, client)
    return await _found(watch.NAME, look, max(budget_s, 0.0) + _GRACE_S, len(inputs))


async def _compare_flagged(
    universal_watch: UniversalWatch | None, inputs: Float32Array, items: tuple[ItemDecision, ...]
) -> tuple[ItemDecision, ...]:
    """Note with how many flagged before a flagged item shares its perturbation. Its verdict stays."""
    flagged = [index for index, item in enumerate(items) if item.verdict is Verdict.ADVERSARIAL]
    if universal_watch is None or not flagged:
        return items
    look = partial(universal_watch.look, inputs[flagged])
    found = dict(zip(flagged, await _found(universal.NAME, look, _GRACE_S, len(flagged)), strict=True))
    return tuple(replace(i, findings=(*i.findings, found[n])) if n in found else i for n, i in enumerate(items))


async def _found(
    name: str, look: Callable[[], Future[tuple[_Found, ...]]], timeout_s: float, number: int
) -> tuple[_Found | Fault, ...]:
    """What a thread finds about so many items within the time, or so many faults."""
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(look())
    except TimeoutError:
        reason = FaultReason.DEADLINE
    except Exception:  # noqa: BLE001 - whatever failed is a finding: what can't be compared is not called clean
        _log.exception("items could not be compared with earlier ones", detector=name)
        reason = FaultReason.DETECTOR
    return (Fault(name, reason),) * number


async def _screen_all(
    engine: Engine, inputs: Float32Array, budget_s: float, decision_id: str, client: str, *, allowed_s: float
) -> list[Screening | ItemDecision]:
    """Screen each item, or none; where that was not possible, why. Cancelled with the caller.

    `budget_s` is the time that is left, `allowed_s` what the policy alone would leave.
    """
    if budget_s <= 0:
        return [unscreened_item(UnscreenedReason.DEADLINE)] * len(inputs)
    idle = engine.idle
    waiting: list[asyncio.Future[Screening]] = []
    try:
        for item in inputs:
            try:
                future = engine.submit(item, deadline_s=budget_s, decision_id=decision_id, client=client)
            except GuardError as error:
                _log.warning("an item was not screened", decision_id=decision_id, error=str(error))
                return [unscreened_item(_why_refused(error, allowed_s, idle=idle))] * len(inputs)
            waiting.append(asyncio.wrap_future(future))
            waiting[-1].add_done_callback(_read)
        if waiting:
            await asyncio.wait(waiting, timeout=budget_s + _GRACE_S)
        return [_result(future) for future in waiting]
    finally:
        for each in waiting:
            each.cancel()  # and with it the engine's; one that failed late has nobody else to read its exception


def _why_refused(error: GuardError, allowed_s: float, *, idle: bool) -> UnscreenedReason:
    """Why an item was not let in.

    It is no overload where nothing else waited, and its own batch is too large for the time, nor where the time that
    the policy leaves would have done.
    """
    if not isinstance(error, Overloaded):
        return UnscreenedReason.FAULT
    return UnscreenedReason.DEADLINE if idle or error.takes_s <= allowed_s else UnscreenedReason.OVERLOAD


def _read(future: asyncio.Future[Screening]) -> None:
    """Look at the outcome, or asyncio logs an error for each one that fails after its caller went away."""
    if not future.cancelled():
        future.exception()


def _result(future: asyncio.Future[Screening]) -> Screening | ItemDecision:
    if not future.done() or future.cancelled():
        future.cancel()
        return unscreened_item(UnscreenedReason.DEADLINE)
    match future.exception():
        case None:
            return future.result()
        case DeadlineExceeded():
            return unscreened_item(UnscreenedReason.DEADLINE)
        case Overloaded():
            return unscreened_item(UnscreenedReason.OVERLOAD)
        case _:
            return unscreened_item(UnscreenedReason.FAULT)
