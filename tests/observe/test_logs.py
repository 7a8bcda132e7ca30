"""Logs as they come out on standard error."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog

from guard.errors import ConfigError
from guard.observe.logs import configure_logging, decision_event, log_decision, log_drift
from guard.values import (
    Decision,
    DriftChange,
    DriftDirection,
    DriftScope,
    Evidence,
    Occlusion,
    Probing,
    SharedPerturbation,
    Together,
    UnscreenedReason,
    Verdict,
)

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Give logging back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()  # configure_logging closes what it finds
    hooks = sys.excepthook, threading.excepthook
    yield
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(captured: Captured) -> list[dict[str, Any]]:
    """The JSON lines on standard error; nothing is on standard output."""
    out, err = captured.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def fail(tensor: str) -> None:
    """Raise, with a secret in a local variable."""
    raise ValueError(f"{len(tensor)} values are wrong")


def test_a_decision_as_an_event(decision: Decision) -> None:
    """An event tells belief, wish and deed, who accused, and what was spent.

    p-values and faults are those of the items that share the verdict.
    """
    assert decision_event(decision) == {
        "decision_id": "d-1",
        "model": "digits",
        "mode": "flag",
        "verdict": "adversarial",
        "intended": "reject",
        "action": "flag",
        "p_value": 0.002,
        "items": 2,
        "culprits": [0],
        "detector_p_values": {"squeezing": 0.03, "network": 0.004},
        "detector_shares": {},
        "together": None,
        "faults": {"sensitivity_gaussian": "backend"},
        "queries": None,
        "occlusion": None,
        "universal": None,
        "spent": {"label": 2, "squeezing": 8, "smoothing": 80},
        "reason": None,
        "approximate": False,
    }


def test_an_event_shows_the_smallest_p_value_of_each_detector(decision: Decision) -> None:
    """Where several items share the verdict, each detector's strongest evidence is told."""
    item = decision.items[0]
    both = replace(decision, items=(decision.items[1], item), verdict=Verdict.ADVERSARIAL)
    both = replace(both, items=(replace(both.items[0], verdict=Verdict.ADVERSARIAL), item))
    assert decision_event(both)["culprits"] == [0, 1]
    assert decision_event(both)["detector_p_values"] == {
        "squeezing": 0.03,
        "network": 0.004,
        "sensitivity_gaussian": 0.4,
    }


def test_an_event_shows_what_decided(decision: Decision) -> None:
    """The shares of detectors, and of what they said together, are those of the culprit with the smallest p-value."""
    item = decision.items[0]
    shared = [replace(f, share=each) for f, each in zip(item.findings[:2], (0.12345, 0.87655), strict=True)]  # type: ignore[type-var]
    strongest = replace(item, p_value=0.001, findings=tuple(shared), together=Together(0.01, 400, 0.75))
    event = decision_event(replace(decision, items=(item, strongest)))
    assert event["detector_shares"] == {"squeezing": 0.123, "network": 0.877}
    assert event["together"] == 0.75


@pytest.mark.parametrize(
    ("verdict", "level"),
    [
        (Verdict.ADVERSARIAL, "warning"),
        (Verdict.UNSCREENED, "warning"),
        (Verdict.ABSTAIN, "info"),
        (Verdict.CLEAN, "debug"),
    ],
)
def test_a_decision_is_one_json_line(capsys: Captured, decision: Decision, verdict: Verdict, level: str) -> None:
    """One line a decision, with its id, at the level that its verdict deserves."""
    configure_logging(json=True, level="debug")
    judged = replace(decision, verdict=verdict, reason=UnscreenedReason.FAULT)
    log_decision(structlog.get_logger("guard.gate"), judged, "ipv4:10.0.0.7")
    (line,) = lines(capsys)
    assert line["client"] == "ipv4:10.0.0.7"
    assert (line["event"], line["level"], line["logger"]) == ("decision", level, "guard.gate")
    assert (line["decision_id"], line["verdict"], line["reason"]) == ("d-1", verdict, "fault")
    assert line["timestamp"].endswith("Z")


def test_an_event_shows_where_a_sticker_may_be(decision: Decision) -> None:
    """The heat map of the culprit for which it is the least ordinary is told, as plain values that JSON can hold."""
    ordinary, striking = (
        Evidence(
            "occlusion",
            1.0,
            16,
            p_value,
            occlusion=Occlusion(((0.1, hot), (0.2, 0.0)), (0, 2, 6, 6), (0, 2), (0, 2), label),
        )
        for p_value, hot, label in ((0.4, 0.3, 1), (0.01, 9.5, 7))
    )
    items = tuple(replace(decision.items[0], findings=(finding,)) for finding in (ordinary, striking, ordinary))
    event = decision_event(replace(decision, items=items))
    assert json.loads(json.dumps(event["occlusion"])) == {
        "item": 1,
        "heat": [[0.1, 9.5], [0.2, 0.0]],
        "hottest": [0, 2, 6, 6],
        "tops": [0, 2],
        "lefts": [0, 2],
        "recovered": 7,
        "certified_px": None,
    }


def test_an_event_tells_of_a_common_perturbation(decision: Decision) -> None:
    """Of the items that share a perturbation the one that shares it with most is told."""
    shared = [SharedPerturbation("universal", others, 30) for others in (0, 4, 2)]
    items = tuple(replace(decision.items[0], findings=(finding,)) for finding in shared)
    assert decision_event(replace(decision, items=items))["universal"] == {"shared_with": 4, "compared_with": 30}
    assert decision_event(replace(decision, items=items[:1]))["universal"] is None


@pytest.mark.parametrize("direction", DriftDirection)
@pytest.mark.parametrize("scope", DriftScope)
def test_drift_is_a_warning(capsys: Captured, scope: DriftScope, direction: DriftDirection) -> None:
    """That drift is suspected is a warning that says whose, what it does, and what to do."""
    configure_logging(json=True, level="warning")
    log_drift(structlog.get_logger(), "digits", DriftChange(scope, direction, 9.26, 120))
    (line,) = lines(capsys)
    assert (line["level"], line["model"], line["scope"], line["direction"]) == ("warning", "digits", scope, direction)
    assert (line["log_martingale"], line["items"]) == (9.3, 120)
    assert line["effect"]
    assert "calibrat" in line["advice"]


def test_the_end_of_drift(capsys: Captured) -> None:
    """That drift is over is one line, and no warning."""
    configure_logging(json=True, level="info")
    log_drift(structlog.get_logger(), "digits", DriftChange(None, DriftDirection.MORE_EXTREME, -0.7, 1000))
    (line,) = lines(capsys)
    assert (line["level"], line["event"].startswith("drift is over")) == ("info", True)


def test_clean_decisions_are_quiet_by_default(capsys: Captured, decision: Decision) -> None:
    """At level info a clean decision writes nothing, and an adversarial one is seen."""
    configure_logging(json=True, level="info")
    logger = structlog.get_logger()
    log_decision(logger, replace(decision, verdict=Verdict.CLEAN))
    assert lines(capsys) == []
    log_decision(logger, decision)
    assert len(lines(capsys)) == 1


def test_suspicious_queries_are_a_warning(capsys: Captured, decision: Decision) -> None:
    """A clean decision about a suspicious query is a warning, with how many came before it."""
    configure_logging(json=True, level="warning")
    probing = Probing("queries", of_client=4, of_everyone=7, suspicious=True)
    item = replace(decision.items[1], findings=(probing,))
    log_decision(structlog.get_logger(), replace(decision, verdict=Verdict.CLEAN, items=(item,)))
    (line,) = lines(capsys)
    assert (line["level"], line["queries"]) == ("warning", {"of_client": 4, "of_everyone": 7})


def test_libraries_log_in_the_same_form(capsys: Captured) -> None:
    """What a library sends to the standard logging module is a JSON line too, filtered by the same level."""
    configure_logging(json=True, level="warning")
    logging.getLogger("some.library").warning("disk %s is full", "sda", extra={"free_bytes": 0})
    logging.getLogger("some.library").info("unseen")
    (line,) = lines(capsys)
    assert (line["event"], line["logger"], line["level"]) == ("disk sda is full", "some.library", "warning")
    assert line["free_bytes"] == 0


def test_warnings_are_lines(capsys: Captured) -> None:
    """A warning of Python is one line of the log, not text beside it."""
    configure_logging(json=True, level="warning")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this is going to change", DeprecationWarning, stacklevel=1)
    (line,) = lines(capsys)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "DeprecationWarning: this is going to change" in line["event"]


def test_errors_that_nobody_caught_are_lines(capsys: Captured) -> None:
    """An error that ends a thread or the process is one line of the log, with its traceback in it."""
    configure_logging(json=True, level="warning")
    thread = threading.Thread(target=fail, args=("abc",))
    thread.start()
    thread.join()
    try:
        fail("ab")
    except ValueError:
        sys.excepthook(*sys.exc_info())
    found = lines(capsys)
    assert [(line["event"], line["level"]) for line in found] == [("an error was not caught", "critical")] * 2
    assert [line["exception"].splitlines()[-1] for line in found] == [
        "ValueError: 3 values are wrong",
        "ValueError: 2 values are wrong",
    ]


def test_an_exit_is_no_error(capsys: Captured) -> None:
    """A thread that ends by `sys.exit` leaves no line."""
    configure_logging(json=True, level="warning")
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    assert lines(capsys) == []


def test_context_is_in_every_event(capsys: Captured) -> None:
    """A decision id that was bound to the context is in each event until it is unbound, libraries' included."""
    configure_logging(json=True, level="info")
    with structlog.contextvars.bound_contextvars(decision_id="d-7"):
        structlog.get_logger().info("inside")
        logging.getLogger("library").info("inside too")
    structlog.get_logger().info("outside")
    assert [line.get("decision_id") for line in lines(capsys)] == ["d-7", "d-7", None]


@pytest.mark.parametrize("as_json", [True, False])
def test_tracebacks_hold_no_local_variables(capsys: Captured, *, as_json: bool) -> None:
    """An exception is logged with its traceback and without the values it was raised among, which may be tensors."""
    configure_logging(json=as_json, level="info")
    secret = "s3cret-" + "tensor"
    try:
        fail(secret)
    except ValueError:
        structlog.get_logger().exception("it failed")
    out, err = capsys.readouterr()
    assert out == ""
    assert "it failed" in err
    assert "ValueError: 13 values are wrong" in err
    assert "in fail" in err
    assert secret not in err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_clients_words_make_no_lines(capsys: Captured, decision: Decision, *, as_json: bool) -> None:
    """A model's name that holds a line break or an escape sequence can't forge a line or steer a terminal."""
    configure_logging(json=as_json, level="info")
    log_decision(structlog.get_logger(), replace(decision, model="x\n2030 [error] forged\x1b[2J"))
    _, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert "\x1b[2J" not in err


def test_text_for_people(capsys: Captured, decision: Decision) -> None:
    """The console form names the event, the level and the decision, without colours where there is no terminal."""
    configure_logging(json=False, level="info")
    log_decision(structlog.get_logger(), decision)
    _, err = capsys.readouterr()
    assert "warning" in err
    assert "decision_id='d-1'" in err
    assert "\x1b" not in err


def test_configuring_again_replaces(capsys: Captured) -> None:
    """A second call replaces the first: nothing is written twice."""
    configure_logging(json=False, level="info")
    configure_logging(json=True, level="info")
    structlog.get_logger().info("once")
    assert [line["event"] for line in lines(capsys)] == ["once"]


def test_an_unknown_level_is_a_config_error() -> None:
    """A level that does not exist is refused with a list of those that do."""
    with pytest.raises(ConfigError, match="'loud'; choose one of debug, info, warning, error, critical"):
        configure_logging(json=True, level="loud")
