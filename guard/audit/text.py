"""A record in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from guard.plural import counted

_ORDINARY: Final = 0.1
_MOST_SHARE: Final = 0.995
_LEAST_SHARE: Final = 0.005
_DECIDES: Final = 0.5


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
    if words := words_of_all(told):
        yield f"    together: {words}"


def words_of(said: Mapping[str, Any]) -> str:
    """What a detector said, in a few words, and how much of the verdict that is."""
    match said["finding"]:
        case "evidence" if said.get("p_value") is None:
            return "not calibrated" if said.get("score") is None else f"not calibrated, score {said['score']:.3g}"
        case "evidence":
            return "; ".join(filter(None, (rarity(said), words_of_share(said.get("share")))))
        case "certified":
            return f"certified within {said['radius']:.3g}"
        case "probing":
            return f"{said['of_client']} alike of this client, {said['of_everyone']} of all"
        case "sharedperturbation":
            return f"shared with {said['shared_with']} of {said['compared_with']}"
        case kind:
            return f"{kind}: {said['why']}" if "why" in said else str(kind)


def words_of_all(told: Mapping[str, Any]) -> str:
    """What detectors said of an item together, where that decided it; else nothing."""
    together = told.get("together")
    if together is None or together["share"] < _DECIDES:
        return ""
    return f"{rarity(together)}; {words_of_share(together['share'])}, which the shares of detectors include"


def rarity(said: Mapping[str, Any]) -> str:
    """How rare something is among benign inputs. What is beyond all that were measured nobody knows more of."""
    p_value, samples = said["p_value"], said.get("samples", 0)
    if not samples:
        return f"p {p_value:.3g}"
    if is_beyond(said):
        return f"rarer than one benign input in {samples:,}, all that were measured"
    if p_value >= _ORDINARY:
        return f"ordinary: {100 * p_value:.0f} % of benign inputs are as unusual (p {p_value:.2g})"
    return f"as rare as one benign input in {1 / p_value:,.0f} (p {p_value:.2g})"


def is_beyond(said: Mapping[str, Any]) -> bool:
    """Whether a p-value is smaller than as many benign samples as it rests on can tell."""
    samples = said.get("samples", 0)
    return bool(samples and said["p_value"] * (samples + 1) < 1)


def words_of_share(share: float | None) -> str:
    """How much of the verdict something is; nothing where there is no share."""
    if share is None:
        return ""
    if share < _LEAST_SHARE:
        return "less than 1 % of the verdict"
    return f"{'over 99' if share > _MOST_SHARE else f'{100 * share:.0f}'} % of the verdict"
