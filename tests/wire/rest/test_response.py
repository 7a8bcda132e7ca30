"""Answers as JSON, with outputs in it or behind it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from guard.datatypes import WIRE_DTYPES
from guard.errors import MalformedRequest
from guard.pb.grpc_service_pb2 import ModelInferResponse
from guard.wire.rest.request import Forms
from guard.wire.rest.response import UnreadableAnswer, write

BINARY = Forms(others=True)


def answer(*outputs: tuple[str, str, list[int], bytes]) -> ModelInferResponse:
    """A response with raw contents."""
    response = ModelInferResponse(model_name="m", model_version="3", raw_output_contents=[raw for *_, raw in outputs])
    for name, datatype, shape, _ in outputs:
        response.outputs.add(name=name, datatype=datatype, shape=shape)
    return response


def written(response: ModelInferResponse, forms: Forms) -> tuple[Any, bytes, dict[bytes, bytes]]:
    """The JSON that a client gets, what is behind it, and the headers."""
    reply = write(response.SerializeToString(), forms)
    headers, body = dict(reply.headers), b"".join(reply.body)
    length = int(headers.get(b"inference-header-content-length", len(body)))
    return json.loads(body[:length]), body[length:], headers


def test_json() -> None:
    """Without a wish for binary all is JSON, flat, and the id is there if the request had one."""
    response = answer(
        ("a", "FP32", [1, 2], np.array([0.1, 2], "<f4").tobytes()), ("b", "BYTES", [1], b"\2\0\0\0\xc3\xa9")
    )
    document, behind, headers = written(response, Forms())
    assert document == {
        "model_name": "m",
        "model_version": "3",
        "outputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [float(np.float32(0.1)), 2.0]},
            {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["é"]},
        ],
    }
    assert (behind, headers) == (b"", {b"content-type": b"application/json"})
    response.outputs[0].parameters["content_type"].string_param = "np"
    response.outputs[1].parameters["binary_data_size"].int64_param = 6  # over gRPC KServe says that of its own
    first, second = written(response, Forms())[0]["outputs"]
    assert (first["parameters"], "parameters" in second) == ({"content_type": "np"}, False)
    assert written(response, BINARY)[0]["outputs"][0]["parameters"] == {"content_type": "np", "binary_data_size": 8}
    response.id = "7"
    response.parameters["guard_verdict"].string_param = "clean"
    response.parameters["final"].bool_param = True
    assert (
        written(response, Forms())[0].items()
        >= {
            "id": "7",
            "parameters": {"guard_verdict": "clean", "final": True},
        }.items()
    )


def test_binary() -> None:
    """Outputs that are wanted in binary stand behind the JSON, in order; their sizes are in it."""
    response = answer(("a", "FP32", [1], b"1234"), ("b", "UINT8", [2], b"\1\2"), ("c", "FP16", [1], b"56"))
    document, behind, headers = written(response, Forms(named={"b": False}, others=True))
    assert [(o.get("parameters"), o.get("data")) for o in document["outputs"]] == [
        ({"binary_data_size": 4}, None),
        (None, [1, 2]),
        ({"binary_data_size": 2}, None),
    ]
    assert (behind, headers[b"content-type"]) == (b"123456", b"application/octet-stream")


def test_binary_outputs_are_views() -> None:
    """A binary output is not copied out of the upstream's answer."""
    message = answer(("a", "FP32", [1], b"1234")).SerializeToString()
    assert write(message, BINARY).body[1].obj is message


def test_empty_outputs() -> None:
    """Where all binary outputs are empty, there is nothing behind the JSON, and no header that says so."""
    document, _, headers = written(answer(("a", "FP32", [0], b"")), BINARY)
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 0}
    assert headers == {b"content-type": b"application/json"}


@pytest.mark.parametrize("datatype", sorted(WIRE_DTYPES))
def test_data_types(datatype: str) -> None:
    """JSON holds each value of every type that it has a form for; the others are asked for in binary."""
    raw = np.array([0, 1], WIRE_DTYPES[datatype]).tobytes()
    response = answer(("a", datatype, [2], raw))
    assert written(response, BINARY)[1] == raw
    if datatype in {"FP16", "BF16"}:
        with pytest.raises(MalformedRequest, match="ask for it in binary"):
            written(response, Forms())
    else:
        assert written(response, Forms())[0]["outputs"][0]["data"] == [0, 1]


def test_typed_contents() -> None:
    """Servers that answer with numbers instead of bytes are understood as well."""
    response = ModelInferResponse(model_name="m")
    response.outputs.add(name="a", datatype="INT8", shape=[2]).contents.int_contents.extend([-1, 2])
    response.outputs.add(name="b", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"xy")
    assert [o["data"] for o in written(response, Forms())[0]["outputs"]] == [[-1, 2], ["xy"]]
    assert written(response, BINARY)[1] == b"\xff\2" + b"\2\0\0\0xy"


def test_what_json_has_no_form_for() -> None:
    """NaN and infinity, and bytes that are no text, go out as Triton writes them."""
    raw = np.array([np.nan, np.inf, -np.inf], "<f4").tobytes()
    reply = write(answer(("a", "FP32", [3], raw), ("b", "BYTES", [1], b"\1\0\0\0\xff")).SerializeToString(), Forms())
    assert b"[NaN,Infinity,-Infinity]" in reply.body[0]
    assert b'["\xff"]' in reply.body[0]


@pytest.mark.parametrize(
    "message",
    [
        b"\xff",
        b"\x2a\x01\xff",
        answer(("a", "FP32", [1], b"123")).SerializeToString(),
        answer(("a", "FP8", [1], b"1")).SerializeToString(),
        answer(("a", "BYTES", [2], b"\0\0\0\0")).SerializeToString(),
        ModelInferResponse(raw_output_contents=[b"1"]).SerializeToString(),
    ],
)
def test_broken_answers(message: bytes) -> None:
    """An answer that contradicts itself is the upstream's fault, not the client's."""
    with pytest.raises(UnreadableAnswer):
        write(message, Forms())
