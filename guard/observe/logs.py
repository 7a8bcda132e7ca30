"""Structured logs: one event a line, with the id of the decision that it belongs to."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from guard.errors import ConfigError
from guard.values import (
    Decision,
    DriftChange,
    DriftDirection,
    DriftScope,
    Evidence,
    Fault,
    ItemDecision,
    Probing,
    SharedPerturbation,
    UnscreenedReason,
    Verdict,
)

LEVELS = ("debug", "info", "warning", "error", "critical")

_DIGITS = 3
"""Of shares."""

_LEVEL_OF = {
    Verdict.ADVERSARIAL: logging.WARNING,
    Verdict.UNSCREENED: logging.WARNING,
    Verdict.ABSTAIN: logging.INFO,
    Verdict.CLEAN: logging.DEBUG,
}

_WHAT_DRIFT_DOES = {
    DriftDirection.MORE_EXTREME: "more benign inputs are flagged than `false_positive_rate` allows",
    DriftDirection.LESS_EXTREME: "inputs pass as ordinary that would have been flagged before",
    DriftDirection.MORE_ALIKE: "inputs vary less than the calibration data, as those of one scene do",
}
_WHAT_TO_DO = {
    DriftScope.ONE_CLIENT: "of one client or one group of clients only: find out whether it attacks before calibrating "
    "with its inputs; where all clients come through one address, it may be all of them",
    DriftScope.SEVERAL_CLIENTS: "find out what changed, such as a camera or the preprocessing; if it is here to stay, "
    "calibrate again with clean inputs from after the change (`guard calibrate`), and take that profile",
}


def configure_logging(*, json: bool, level: str) -> None:
    """Send Guard's log and that of its libraries to standard error: JSON lines for machines, or text for people.

    Warnings of Python and errors that nobody caught, in any thread, are lines of the log too. Whatever is bound with
    `structlog.contextvars` is in each event of that context.

    Raises:
        ConfigError: no such level.
    """
    if level not in LEVELS:
        raise ConfigError(f"there is no log level {level!r}; choose one of {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(json=json)],
        )
    )
    logging.basicConfig(handlers=[handler], level=number, force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda failed: _log_uncaught(failed.exc_type, failed.exc_value, failed.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit):
        structlog.get_logger(__name__).critical("an error was not caught", exc_info=(kind, error, trace))


def decision_event(decision: Decision) -> dict[str, Any]:
    """What a log says of a decision: plain values, none of them from a tensor.

    `detector_p_values` and `faults` are those of the items that share the request's verdict; the smallest p-value of
    each detector. `queries` says of the item that most others came before how many those were: distinct near-duplicates
    of its client, and of all clients; None if no item is suspicious. `occlusion` is what covering windows of images
    showed, of the culprit for which it is the least ordinary, `item`: where a sticker is, if there is one.
    `detector_shares` is what decided: how much of the verdict on the culprit with the smallest p-value is each
    detector's, one together; `together` is how much of it is by what they say together, within these. `universal`
    is with how many flagged items of other content, of how many, a flagged item shares its perturbation, at most.
    `approximate`: Guard decoded images itself, and the server may see slightly other values.
    """
    culprits = [decision.items[index] for index in decision.culprits]
    return {
        "decision_id": decision.id,
        "model": decision.model,
        "mode": str(decision.mode),
        "verdict": str(decision.verdict),
        "intended": str(decision.intended),
        "action": str(decision.action),
        "p_value": decision.p_value,
        "items": len(decision.items),
        "culprits": list(decision.culprits),
        "detector_p_values": _smallest_p_values(culprits),
        **_shares(culprits),
        "faults": {f.detector: str(f.reason) for item in culprits for f in item.findings if isinstance(f, Fault)},
        "queries": _most_queries(decision.items),
        "occlusion": _strongest_occlusion(decision),
        "universal": _most_shared(decision.items),
        "spent": dict(decision.spent),
        "reason": None if decision.reason is None else str(decision.reason),
        "approximate": decision.approximate,
    }


def log_decision(logger: FilteringBoundLogger, decision: Decision, client: str = "") -> None:
    """Log one decision: a warning if it is adversarial or nobody looked, for debugging only if clean or not guarded.

    Suspicious queries are a warning whatever the verdict. `client` is who asked, as Guard tells clients apart.
    """
    level = _LEVEL_OF[decision.verdict]
    if _most_queries(decision.items) is not None:
        level = logging.WARNING
    if decision.reason is UnscreenedReason.UNLISTED_MODEL:
        level = logging.DEBUG  # the policy lets them pass: they are counted, and would flood the log
    if logger.is_enabled_for(level):
        logger.log(level, "decision", **decision_event(decision), **({"client": client} if client else {}))


def log_drift(logger: FilteringBoundLogger, model: str, change: DriftChange) -> None:
    """Log that drift is suspected, of whom, and what to do; or that it is over."""
    found = {"log_martingale": round(change.log_martingale, 1), "items": change.items}
    if change.scope is None:
        logger.info("drift is over: scores are like those of the calibration data again", model=model, **found)
        return
    logger.warning(
        "drift: scores are no longer like those of the calibration data",
        model=model,
        scope=str(change.scope),
        direction=str(change.direction),
        **found,
        effect=_WHAT_DRIFT_DOES[change.direction],
        advice=_WHAT_TO_DO[change.scope],
    )


def _smallest_p_values(items: Iterable[ItemDecision]) -> dict[str, float]:
    smallest: dict[str, float] = {}
    for item in items:
        for finding in item.findings:
            if isinstance(finding, Evidence) and finding.p_value is not None:
                smallest[finding.detector] = min(finding.p_value, smallest.get(finding.detector, 1.0))
    return smallest


def _shares(items: Iterable[ItemDecision]) -> dict[str, Any]:
    shared = [(item, shares) for item in items if (shares := _shares_of(item))]
    if not shared:
        return {"detector_shares": {}, "together": None}
    item, shares = min(shared, key=lambda each: each[0].p_value or 0.0)
    return {
        "detector_shares": shares,
        "together": None if item.together is None else round(item.together.share, _DIGITS),
    }


def _shares_of(item: ItemDecision) -> dict[str, float]:
    scored = (f for f in item.findings if isinstance(f, Evidence))
    return {f.detector: round(f.share, _DIGITS) for f in scored if f.share is not None}


def _most_queries(items: Iterable[ItemDecision]) -> dict[str, int] | None:
    probing = [f for item in items for f in item.findings if isinstance(f, Probing) and f.suspicious]
    if not probing:
        return None
    return {"of_client": max(f.of_client for f in probing), "of_everyone": max(f.of_everyone for f in probing)}


def _most_shared(items: Iterable[ItemDecision]) -> dict[str, int] | None:
    shared = [f for item in items for f in item.findings if isinstance(f, SharedPerturbation) and f.shared_with]
    if not shared:
        return None
    most = max(shared, key=lambda finding: finding.shared_with)
    return {"shared_with": most.shared_with, "compared_with": most.compared_with}


def _strongest_occlusion(decision: Decision) -> dict[str, Any] | None:
    found = [
        (finding.p_value, index, finding.occlusion)
        for index in decision.culprits
        for finding in decision.items[index].findings
        if isinstance(finding, Evidence) and finding.occlusion is not None and finding.p_value is not None
    ]
    if not found:
        return None
    _, index, occlusion = min(found, key=lambda each: each[0])
    return {"item": index} | asdict(occlusion)


def _rendering(*, json: bool) -> list[Processor]:
    """The last processors. Tracebacks are shown without local variables, which may be a client's tensors."""
    if json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, repr_native_str=True
        )
    ]
