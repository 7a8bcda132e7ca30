"""What is in a record."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.audit.finding import MOST_CHARACTERS, MOST_ITEMS, finding_of
from guard.audit.keys import key_id, pseudonym
from guard.audit.records import records
from guard.values import (
    Abstention,
    Action,
    Decision,
    Evidence,
    Fault,
    FaultReason,
    InferRequest,
    ItemDecision,
    Mode,
    Spared,
    Verdict,
    WireTensor,
)
from tests.audit.parts import BY, IMAGE, TRACE, decision, probing, rejected, settings, sighting, writing
from tests.support.waiting import wait_for

# Source: https://schema.ocsf.io/1.5.0/classes/detection_finding: what is required, and in which types.
OCSF = {"activity_id": int, "category_uid": int, "class_uid": int, "finding_info": dict, "metadata": dict}
OCSF |= {"severity_id": int, "time": int, "type_uid": int}
# Source: CloudEvents 1.0.2, "Required Attributes".
CLOUD_EVENT = ("id", "source", "specversion", "type")


def data_of(what: Decision, **more: Any) -> dict[str, Any]:
    """The data of a record."""
    return finding_of(sighting(what, **more), pseudonym={"pseudonym": "p", "key": "k"}, peer=True)


def recorded(folder: Path, **more: Any) -> dict[str, Any]:
    """The one record of a log."""
    with writing(settings(folder, **more)) as (log, _):
        log.record(sighting())
    (event,) = records(folder)
    return dict(event)


def test_the_envelope(tmp_path: Path) -> None:
    """A record is a CloudEvent with the decision's id, the client's trace, and how many requests it stands for."""
    event = recorded(tmp_path / "log")
    assert all(event[name] for name in CLOUD_EVENT)
    assert (event["id"], event["subject"], event["sampledrate"]) == ("d1", "digits", 1)
    assert (event["traceparent"], event["tracestate"]) == (TRACE, "a=b")
    assert event["data"]["metadata"]["correlation_uid"] == TRACE.split("-")[1]
    assert all(name.isalnum() and name == name.lower() for name in event)  # as CloudEvents names attributes


def test_a_forged_trace(tmp_path: Path) -> None:
    """What is no traceparent is left out, and so is the state that comes with it."""
    with writing(settings(tmp_path / "log")) as (log, _):
        log.record(sighting(traceparent="00-" + "0" * 32 + "-00f067aa0ba902b7-01"))
        log.record(sighting(traceparent='00-x","hash":"'))
    for event in records(tmp_path / "log"):
        assert not {"traceparent", "tracestate"} & event.keys()
        assert "correlation_uid" not in event["data"]["metadata"]


def test_the_finding() -> None:
    """Its data is a Detection Finding: what OCSF requires is there, and names the technique of MITRE ATLAS."""
    data = data_of(rejected())
    assert {name: type(data[name]) for name in OCSF} == OCSF
    assert (data["class_uid"], data["type_uid"], data["category_uid"]) == (2004, 200401, 2)
    assert {"uid", "title"} <= data["finding_info"].keys()
    assert {"product", "version"} <= data["metadata"].keys()
    assert data["is_alert"]
    assert [each["technique"]["uid"] for each in data["attacks"]] == ["AML.T0043", "AML.T0015"]
    assert data["finding_info"]["attacks"] == data["attacks"]
    assert data["policy"]["uid"] == "abc123"


@pytest.mark.parametrize(
    ("what", "action"),
    [
        (decision(), 1),
        (rejected(), 2),
        (decision(Verdict.ADVERSARIAL, Action.FLAG, mode=Mode.FLAG), 3),
        (decision(Verdict.ADVERSARIAL, mode=Mode.SHADOW, intended=Action.REJECT), 3),
    ],
    ids=["forward", "reject", "flag", "shadow"],
)
def test_actions(what: Decision, action: int) -> None:
    """Let through is allowed, rejected denied, and what is only marked or watched is observed."""
    assert data_of(what)["action_id"] == action


def test_techniques() -> None:
    """Queries, patches and perturbations are told apart; a clean request shows no technique."""

    def shown(what: Decision) -> list[str]:
        found = data_of(what).get("attacks", [])
        return [each.get("sub_technique", each["technique"])["uid"] for each in found]

    patch = Evidence("occlusion", 3.0, 9, p_value=0.0001)
    assert shown(decision()) == []
    assert shown(decision(Verdict.CLEAN, Action.FORWARD, probing(suspicious=True))) == ["AML.T0043.001"]
    assert shown(decision(Verdict.ADVERSARIAL, Action.REJECT, probing(suspicious=True, condemns=True))) == [
        "AML.T0043.001",
        "AML.T0015",
    ]
    assert shown(decision(Verdict.ADVERSARIAL, Action.REJECT, patch)) == ["AML.T0043.004", "AML.T0015"]


def test_everything_asked_for() -> None:
    """Ids, client, mode, detectors with version, score and p-value, profile, policy and tensors are in it."""
    data = data_of(rejected())
    rest = data["unmapped"]["guard"]
    assert (rest["request_id"], rest["decision_id"]) == ("r1", "d1")
    assert (rest["mode"], rest["decision"], rest["verdict"]) == ("enforce", "reject", "adversarial")
    assert (rest["policy"], rest["profile"], rest["fingerprint"]) == ("abc123", "def456", BY.fingerprint)
    assert rest["tensors"] == [
        {
            "name": "input",
            "datatype": "FP32",
            "shape": [1, 1, 8, 8],
            "sha256": hashlib.sha256(IMAGE.tobytes()).hexdigest(),
        }
    ]
    (item,) = data["evidences"]
    assert item["src_endpoint"] == rest["peer"] == {"ip": "10.0.0.7", "port": 5000}
    assert data["resources"] == [{"type": "model", "name": "digits", "version": rest["model_version"]}]
    assert rest["model_version"] == "3"
    (sensitivity, occlusion) = item["data"]["detectors"]
    assert (sensitivity["score"], sensitivity["p_value"], sensitivity["version"]) == (0.5, 0.002, "1+a")
    assert (sensitivity["samples"], sensitivity["share"], occlusion["share"]) == (5000, 0.61, 0.39)
    assert item["data"]["together"] == {"p_value": 0.0002, "samples": 200, "share": 0.72}
    assert occlusion["occlusion"]["hottest"] == [0, 4, 4, 4]


def test_pseudonyms(tmp_path: Path) -> None:
    """A client's name is in no record, its pseudonym changes with the key, and a record names the key."""
    folder = tmp_path / "log"
    with writing(settings(folder, peers=False)) as (log, _):
        log.record(sighting())
    (event,) = records(folder)
    told = event["data"]["unmapped"]["guard"]["client"]
    key = bytes(range(32))
    assert told == {"pseudonym": pseudonym(key, "ipv4:10.0.0.7"), "key": key_id(key)}
    assert pseudonym(b"another key of Guard's", "ipv4:10.0.0.7") != told["pseudonym"]
    assert "10.0.0.7" not in json.dumps(event)


def test_a_key_is_changed_while_guard_runs(tmp_path: Path) -> None:
    """Records after a change of the key's file name the new key."""
    folder = tmp_path / "log"
    given = settings(folder)
    new = b"x" * 32
    with writing(given) as (log, counted):
        log.record(sighting())
        wait_for(lambda: counted.of.total() == 1)
        given.pseudonym_key_file.write_bytes(new)
        wait_for(lambda: log._names.current() == new)
        log.record(sighting())
    keys = [event["data"]["unmapped"]["guard"]["client"]["key"] for event in records(folder)]
    assert keys == [key_id(bytes(range(32))), key_id(new)]


def test_typed_tensors() -> None:
    """The hash of values that came typed is that of their bytes as they would be raw; texts have their lengths."""
    values = np.arange(4, dtype=np.float32)
    typed = WireTensor("a", "FP32", (4,), typed=values)
    texts = WireTensor("b", "BYTES", (2,), typed=np.fromiter([b"xy", b""], np.object_, 2))
    request = InferRequest("digits", "", "", (typed, texts))
    data = finding_of(_with(request), pseudonym={}, peer=False)
    found = [each["sha256"] for each in data["unmapped"]["guard"]["tensors"]]
    raw = (values.tobytes(), b"\2\0\0\0xy\0\0\0\0")
    assert found == [hashlib.sha256(each).hexdigest() for each in raw]


def test_what_a_client_gives_is_bounded() -> None:
    """Long ids are cut, and of a large batch the items with the request's verdict are told first."""
    clean, bad = (ItemDecision(verdict, 0.5, ()) for verdict in (Verdict.CLEAN, Verdict.ADVERSARIAL))
    what = rejected(items=(*[clean] * 40, bad))
    request = InferRequest("digits", "", "i" * 100_000, ())
    data = finding_of(_with(request, what), pseudonym={}, peer=False)
    told = [each["name"] for each in data["evidences"]]
    assert len(told) == MOST_ITEMS
    assert told[-1] == "item 40"
    assert data["unmapped"]["guard"]["items"] == 41
    assert len(data["unmapped"]["guard"]["request_id"]) == MOST_CHARACTERS


def test_every_kind_of_finding_can_be_written() -> None:
    """What has no score says why, and numbers that JSON has not are null."""
    findings = (
        Abstention("smoothing", 64, "not proved"),
        Fault("network", FaultReason.BACKEND),
        Spared("squeezing"),
        Evidence("confidence", float("inf"), 1, p_value=float("nan")),
        probing(),
    )
    said = data_of(decision(Verdict.ABSTAIN, Action.FLAG, *findings))["evidences"][0]["data"]["detectors"]
    json.dumps(said, allow_nan=False)
    assert [each["finding"] for each in said[1:]] == ["abstention", "fault", "spared", "evidence", "probing"]
    assert (said[1]["why"], said[2]["why"]) == ("not proved", "backend")
    assert said[4]["score"] is None
    assert said[5]["group"] == "00000000000000ab"


def _with(request: InferRequest, what: Decision | None = None) -> Any:
    made = sighting(what)
    return type(made)(
        *(request if name == "request" else getattr(made, name) for name in type(made).__dataclass_fields__)
    )
