"""A sighting as an OCSF Detection Finding (class 2004) with the Security Control profile.

Source: https://schema.ocsf.io/1.5.0/classes/detection_finding. What OCSF has no place for is in `evidences`, an entry
for each item, and in `unmapped`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from guard import __version__
from guard.audit.item import item_data, number
from guard.audit.sampling import is_notable
from guard.audit.sighting import Sighting
from guard.audit.techniques import attacks_of
from guard.values import (
    Action,
    Decision,
    Probing,
    Verdict,
    WireTensor,
)

OCSF_VERSION: Final = "1.5.0"
MOST_ITEMS: Final = 16
"""Items of a batch that a record tells of, those with the request's verdict first."""

MOST_TENSORS: Final = 16
MOST_CHARACTERS: Final = 256
"""Longest text that a client gave: it is cut there."""

_MS = 1000
_ALLOWED, _DENIED, _OBSERVED = (1, "Allowed"), (2, "Denied"), (3, "Observed")
_DISPOSITIONS = {_ALLOWED: (1, "Allowed"), _DENIED: (2, "Blocked"), _OBSERVED: (15, "Detected")}
_INFORMATIONAL, _LOW, _MEDIUM, _HIGH = (1, "Informational"), (2, "Low"), (3, "Medium"), (4, "High")
_TITLES = {
    Verdict.CLEAN: "a clean input",
    Verdict.ADVERSARIAL: "an adversarial input",
    Verdict.ABSTAIN: "an input that detectors can't tell",
    Verdict.UNSCREENED: "an input that was not screened",
}


def finding_of(sighting: Sighting, *, pseudonym: Mapping[str, str], peer: bool, trace: str = "") -> dict[str, Any]:
    """A record's data. `pseudonym` is the client's, and by which key; `trace` is a valid traceparent, or ""."""
    decision = sighting.decision
    action, severity, attacks = _action(decision), _severity(decision), attacks_of(decision)
    title = f"{decision.model}: {_TITLES[decision.verdict]}"
    endpoint = {"src_endpoint": _endpoint(sighting.peer)} if peer and sighting.peer else {}
    record = {
        **_classified(),
        "time": round(sighting.seen_s * _MS),
        "severity_id": severity[0],
        "severity": severity[1],
        "status_id": 1,
        "status": "New",
        "action_id": action[0],
        "action": action[1],
        "disposition_id": _DISPOSITIONS[action][0],
        "disposition": _DISPOSITIONS[action][1],
        "is_alert": bool(attacks),
        "message": title,
        "metadata": _metadata(sighting, trace),
        "finding_info": {"uid": decision.id, "title": title, "types": [str(decision.verdict)], "attacks": attacks},
        "attacks": attacks,
        "policy": {"uid": sighting.provenance.policy, "name": decision.model},
        "resources": [{"type": "model", "name": decision.model, "version": _cut(sighting.provenance.version)}],
        "evidences": [
            {"name": f"item {index}", **endpoint, "data": item_data(decision.items[index], sighting.provenance)}
            for index in _told(decision)
        ],
        "unmapped": {"guard": _rest(sighting, pseudonym) | ({"peer": endpoint["src_endpoint"]} if endpoint else {})},
    }
    return record if attacks else {name: value for name, value in record.items() if name != "attacks"}


def _classified() -> dict[str, Any]:
    return {
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "activity_id": 1,
        "activity_name": "Create",
        "type_uid": 200401,
        "type_name": "Detection Finding: Create",
    }


def _metadata(sighting: Sighting, traceparent: str) -> dict[str, Any]:
    trace = {"correlation_uid": traceparent.split("-")[1]} if traceparent else {}
    return {
        "version": OCSF_VERSION,
        "profiles": ["security_control"],
        "product": {"name": "Guard", "vendor_name": "Guard", "version": __version__},
        "uid": sighting.decision.id,
        "log_name": "guard-audit",
        **trace,
    }


def _rest(sighting: Sighting, pseudonym: Mapping[str, str]) -> dict[str, Any]:
    decision, request, provenance = sighting.decision, sighting.request, sighting.provenance
    return {
        "request_id": _cut(request.request_id),
        "decision_id": decision.id,
        **({"client_traceparent": sighting.client_traceparent} if sighting.client_traceparent else {}),
        "client": dict(pseudonym),
        "protocol": sighting.protocol,
        "model": decision.model,
        "model_version": _cut(provenance.version),
        "mode": str(decision.mode),
        "verdict": str(decision.verdict),
        "intended": str(decision.intended),
        "decision": str(decision.action),
        "p_value": number(decision.p_value),
        "reason": None if decision.reason is None else str(decision.reason),
        "items": len(decision.items),
        "culprits": list(decision.culprits[:MOST_ITEMS]),
        "approximate": decision.approximate,
        "duration_s": number(round(sighting.duration_s, 6)),
        "spent": dict(decision.spent),
        "policy": provenance.policy,
        "profile": provenance.profile,
        "fingerprint": provenance.fingerprint,
        "input": {
            "name": provenance.input_name,
            "shape": list(provenance.shape),
            "layout": provenance.layout,
            "bounds": list(provenance.bounds),
        },
        "groups": sorted({f.group for i in decision.items for f in i.findings if isinstance(f, Probing) and f.group}),
        "tensors": [_tensor(each) for each in request.inputs[:MOST_TENSORS]],
    }


def _action(decision: Decision) -> tuple[int, str]:
    if decision.action is Action.REJECT:
        return _DENIED
    return _OBSERVED if is_notable(decision) else _ALLOWED


def _severity(decision: Decision) -> tuple[int, str]:
    match decision.verdict:
        case Verdict.ADVERSARIAL:
            return (
                _MEDIUM if decision.action is Action.REJECT else _HIGH
            )  # an attack that was stopped is the lesser one
        case Verdict.UNSCREENED:
            return _MEDIUM
        case _:
            return _LOW if is_notable(decision) else _INFORMATIONAL


def _endpoint(peer: str) -> dict[str, Any]:
    """An address as gRPC writes it: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`."""
    family, _, rest = peer.partition(":")
    host, _, port = rest.rpartition(":")
    if family not in {"ipv4", "ipv6"} or not host or not port.isdecimal():
        return {"name": _cut(peer)}
    return {"ip": host.replace("%5B", "").replace("%5D", "").strip("[]"), "port": int(port)}


def _told(decision: Decision) -> list[int]:
    """The items that a record has room for, in their order."""
    culprits = decision.culprits[:MOST_ITEMS]
    others = (index for index in range(len(decision.items)) if index not in set(decision.culprits))
    return sorted([*culprits, *(index for index, _ in zip(others, range(MOST_ITEMS - len(culprits)), strict=False))])


def _tensor(tensor: WireTensor) -> dict[str, Any]:
    hashed = hashlib.sha256()
    for piece in pieces(tensor):
        hashed.update(piece)
    return {
        "name": _cut(tensor.name),
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "sha256": hashed.hexdigest(),
    }


def pieces(tensor: WireTensor) -> Iterable[bytes | memoryview]:
    """A tensor's bytes as they are on the wire: values that came typed as little-endian, each text with its length."""
    if tensor.raw is not None:
        yield tensor.raw
    elif tensor.typed is not None and tensor.typed.dtype == object:
        for each in tensor.typed.tolist():
            yield len(each).to_bytes(4, "little") + each
    elif tensor.typed is not None:
        yield tensor.typed.astype(tensor.typed.dtype.newbyteorder("<"), copy=False).tobytes()


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
