"""What clients ask MLServer and KServe's Python server over HTTP, in the forms of HTTP that those take."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.http as triton_client

from tests.e2e.cases import Case
from tests.e2e.http_peer import HttpPeer, plain, tensor
from tests.e2e.peer import Refused


def said(got: dict[str, Any]) -> dict[str, Any]:
    """What an answer of the stock client says of the digits. MLServer makes up an id where the request has none."""
    return {name: got.get(name) or "" for name in ("model_name", "model_version", "outputs", "values")}


def in_json(peer: HttpPeer, x: np.ndarray, **options: Any) -> dict[str, Any]:
    """Ask with the stock client, in JSON both ways."""
    wanted = [triton_client.InferRequestedOutput("logits", binary_data=False)]
    return peer.infer(tensor(x, binary=False), outputs=wanted, **options)


def in_binary(peer: HttpPeer, x: np.ndarray) -> dict[str, Any]:
    """Ask with the stock client as it does by itself: in binary both ways."""
    return said(peer.infer(tensor(x)))


def posted(peer: HttpPeer, x: np.ndarray) -> dict[str, Any]:
    """Post JSON by hand, by its content type: the outputs that come back."""
    given = {"name": "input", "datatype": "FP32", "shape": x.shape, "data": x.ravel().tolist()}
    text = json.dumps({"inputs": [given | {"parameters": {"content_type": "np"}}]}).encode()
    headers = {"Content_Type": "application/json"}
    outputs = plain(peer.raw("POST", "/v2/models/digits/infer", text, **headers))["json"]["outputs"]
    return {each["name"]: (each["datatype"], each["shape"], each["data"]) for each in outputs}


def metadata(peer: HttpPeer, _x: np.ndarray) -> dict[str, Any]:
    """What the model takes and gives. Beside that, these servers say nothing, and say it differently."""
    got = peer.client.get_model_metadata("digits")
    return {name: got[name] for name in ("name", "platform", "inputs", "outputs")}


def status(method: str, path: str, body: bytes = b"") -> Callable[[HttpPeer, np.ndarray], int]:
    """Ask by hand: the status."""
    return lambda peer, _: peer.raw(method, path, body)[0]


def logits(items: int) -> Callable[[Any], bool]:
    """Whether an answer holds the logits of so many items."""
    return lambda got: np.shape(got["values"][0]) == (items, 10)


COMMON = {
    "server live": Case(lambda p, _: p.client.is_server_live(), direct=True),
    "server ready": Case(lambda p, _: p.client.is_server_ready(), direct=True),
    "model ready": Case(lambda p, _: p.client.is_model_ready("digits"), direct=True),
    "unknown model ready": Case(lambda p, _: p.client.is_model_ready("nobody"), direct=False),
    "model metadata": Case(
        metadata, lambda got: got["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    ),
    "unknown model metadata": Case(
        lambda p, _: p.client.get_model_metadata("nobody"), Refused("404", "nobody"), Refused("404", "nobody")
    ),
    "by content type": Case(posted, lambda got: got["logits"][:2] == ("FP32", [8, 10])),
    "unknown model": Case(
        lambda p, x: p.infer(tensor(x, binary=False), model="nobody"),
        Refused("404", "nobody"),
        Refused("403", "model 'nobody' is not under guard"),
    ),
    "unknown path": Case(status("GET", "/v2/nothing"), 404),
    "wrong method": Case(status("GET", "/v2/models/digits/infer"), 405),
    "model config": Case(  # over gRPC they say that they don't have it, which is 501
        lambda p, _: p.client.get_model_config("digits"),
        Refused("404", "Not Found"),
        Refused("501", "Method not found!"),
    ),
}
MLSERVER = {
    **COMMON,
    "server metadata": Case(lambda p, _: p.client.get_server_metadata(), lambda got: got["name"] == "mlserver"),
    "JSON 1": Case(lambda p, x: said(in_json(p, x[:1])), logits(1)),
    "JSON 8": Case(lambda p, x: said(in_json(p, x)), logits(8)),
    "request id": Case(lambda p, x: in_json(p, x, request_id="a-7"), lambda got: got["id"] == "a-7"),
    "model version": Case(lambda p, x: said(in_json(p, x, model_version="1")), lambda got: got["model_version"] == "1"),
    "binary": Case(in_binary, Refused("422", ""), logits(8)),  # Guard takes it, though MLServer doesn't
    "no JSON": Case(status("POST", "/v2/models/digits/infer", b"nonsense"), 422, 400),
}
KSERVE = {
    **COMMON,
    "server metadata": Case(lambda p, _: p.client.get_server_metadata(), lambda got: got["name"] == "kserve"),
    "binary": Case(in_binary, logits(8)),
    "JSON": Case(  # the stock client names no content type, without which KServe takes no JSON
        lambda p, x: said(in_json(p, x)), Refused("400", ""), logits(8)
    ),
    "no JSON": Case(status("POST", "/v2/models/digits/infer", b"nonsense"), 400),
}
