"""A record in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guard.plural import counted


def lines_of(event: Mapping[str, Any], item: int, told: Mapping[str, Any]) -> Iterator[str]:
    """What a record says of its request, and of one item."""
    data, rest = event["data"], event["data"]["unmapped"]["guard"]
    reason = f" ({rest['reason']})" if rest["reason"] else ""
    yield f"{event['time']} decision {event['id']}, one of {event['sampledrate']}"
    yield f"  request   {rest['request_id'] or 'without an id'}, trace {event.get('traceparent', 'none')}"
    items = counted(rest["items"], "item")
    yield f"  model     {rest['model']} {rest['model_version']}, {items} over {rest['protocol']}"
    yield f"  decision  {rest['verdict']}{reason}: {rest['decision']} in {rest['mode']} mode, {data['action'].lower()}"
    client = rest["client"]
    address = rest.get("peer")
    peer = "" if address is None else f", from {address.get('ip', address.get('name'))}"
    yield f"  client    {client['pseudonym']} (key {client['key']}){peer}"
    yield f"  judged by policy {rest['policy']}, profile {rest['profile'][:12] or 'none'}"
    for attack in data.get("attacks", ()):
        technique = attack.get("sub_technique", attack["technique"])
        yield f"  attack    {technique['uid']} {technique['name']} (MITRE ATLAS {attack['version']})"
    for group in rest["groups"]:
        yield f"  alike     group {group}"
    for tensor in rest["tensors"]:
        yield f"  tensor    {tensor['name']} {tensor['datatype']} {tensor['shape']} sha256 {tensor['sha256']}"
    if "dataref" in event:
        yield f"  input     {event['dataref']}, until {event['expirytime']}"
    yield f"  item {item}    {told['verdict']}" + ("" if told["p_value"] is None else f", p {told['p_value']:.3g}")
    for said in told["detectors"]:
        yield f"    {said['detector']} {said['version']}: {words_of(said)}"


def words_of(said: Mapping[str, Any]) -> str:
    """What a detector said, in a few words."""
    match said["finding"]:
        case "evidence":
            p_value, score = said.get("p_value"), said.get("score")
            scored = "" if score is None else f", score {score:.3g}"
            return f"not calibrated{scored}" if p_value is None else f"p {p_value:.3g}{scored}"
        case "certified":
            return f"certified within {said['radius']:.3g}"
        case "probing":
            return f"{said['of_client']} alike of this client, {said['of_everyone']} of all"
        case "sharedperturbation":
            return f"shared with {said['shared_with']} of {said['compared_with']}"
        case kind:
            return f"{kind}: {said['why']}" if "why" in said else str(kind)
