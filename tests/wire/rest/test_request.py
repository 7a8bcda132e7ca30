"""Bodies of inference requests, in JSON and in binary."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.datatypes import WIRE_DTYPES
from guard.errors import MalformedRequest, MethodDenied, RequestError
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelMetadataResponse
from guard.wire.message import ParsedRequest, parse, take_apart
from guard.wire.rest.request import Forms, read, read_bare

X = {"name": "x", "datatype": "UINT8", "shape": [2]}


def parsed(document: dict[str, Any], behind: bytes = b"") -> tuple[ParsedRequest, Forms]:
    """Read a body of JSON with bytes behind it, for version 3 of the model `m`."""
    text = json.dumps(document).encode()
    parts, forms = read((text + behind,), len(text), "m", "3")
    return parse(parts), forms


def sent(document: dict[str, Any], behind: bytes = b"") -> ModelInferRequest:
    """The message that the upstream gets for such a body."""
    return ModelInferRequest.FromString(parsed(document, behind)[0].canonical())


@given(st.sampled_from(sorted(WIRE_DTYPES)), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2**32 - 1))
def test_json_and_binary_say_the_same(datatype: str, shape: list[int], seed: int) -> None:
    """A tensor in JSON and the same in binary become the same request, and the contents are those of the tensor."""
    dtype = WIRE_DTYPES[datatype]
    raw = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype).tobytes()
    head = {"name": "x", "datatype": datatype, "shape": shape}
    binary = sent({"inputs": [head | {"parameters": {"binary_data_size": len(raw)}}]}, raw)
    assert binary.raw_input_contents == [raw]
    if datatype not in {"FP16", "BF16"}:
        data = np.frombuffer(raw, dtype).reshape(shape).tolist()
        flat = data if shape else [data]
        assert sent({"inputs": [head | {"data": flat}]}) == binary


def test_everything() -> None:
    """Names, versions, ids and parameters go into the message; what is about the body itself does not."""
    message = sent(
        {
            "id": "7",
            "parameters": {
                "sequence_id": 5,
                "priority": 2**63,
                "timeout": 1000,
                "sequence_start": True,
                "text": "é",
                "share": 0.5,
                "binary_data_output": True,
                "guard_verdict": "clean",
            },
            "inputs": [
                X | {"data": [1, 2], "parameters": {"content_type": "np"}},
                {"name": "y", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
            ],
            "outputs": [{"name": "a", "parameters": {"classification": 3, "binary_data": True}}, {"name": "b"}],
            "unknown": {"ignored": []},
        },
        b"\1\0\0\0!",
    )
    expected = ModelInferRequest(model_name="m", model_version="3", id="7", raw_input_contents=[b"\1\2", b"\1\0\0\0!"])
    expected.parameters["sequence_id"].int64_param = 5
    expected.parameters["priority"].uint64_param = 2**63
    expected.parameters["timeout"].int64_param = 1000
    expected.parameters["sequence_start"].bool_param = True
    expected.parameters["text"].string_param = "é"
    expected.parameters["share"].double_param = 0.5
    expected.inputs.add(name="x", datatype="UINT8", shape=[2]).parameters["content_type"].string_param = "np"
    expected.inputs.add(name="y", datatype="BYTES", shape=[1])
    expected.outputs.add(name="a").parameters["classification"].int64_param = 3
    expected.outputs.add(name="b")
    assert message == expected


def test_binary_tensors_are_views() -> None:
    """A binary tensor is not copied out of a body in one piece, and nobody can write to it."""
    text = json.dumps({"inputs": [X | {"parameters": {"binary_data_size": 2}}]}).encode()
    body = bytearray(text + b"\1\2")
    (view,) = read((body,), len(text), "m", "")[0].raw
    assert view.obj is body
    assert view.readonly


def test_tensors_in_pieces_are_copied_once() -> None:
    """Tensors of a body in pieces are views on what is sent on, which no other copy is made for."""
    other = {"name": "y", "datatype": "UINT8", "shape": [1], "data": [3]}
    text = json.dumps({"inputs": [X | {"parameters": {"binary_data_size": 2}}, other], "id": "7"}).encode()
    request = parse(read((text[:5], text[5:] + b"\1", b"\2"), len(text), "m", "")[0])
    assert [bytes(view) for view in request.raw] == [b"\1\2", b"\3"]
    assert {id(view.obj) for view in request.raw} == {id(request.canonical())}


def test_a_version_for_tensors_in_pieces() -> None:
    """What changes a request after it was read, as a version that policy names, changes what is sent on."""
    text = json.dumps({"inputs": [X | {"parameters": {"binary_data_size": 2}}]}).encode()
    parts, _ = read((text + b"\1", b"\2"), len(text), "m", "")
    parts.header.model_version = "3"
    message = ModelInferRequest.FromString(parse(parts).canonical())
    assert (message.model_version, message.raw_input_contents) == ("3", [b"\1\2"])


@pytest.mark.parametrize(
    ("document", "named", "unnamed"),
    [
        ({}, {}, False),
        ({"parameters": {"binary_data_output": True}}, {}, True),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": True}}],
            },
            {"a": False, "b": True},
            True,
        ),
        ({"outputs": [{"name": "a", "parameters": {"binary_data": True}}, {"name": "a"}]}, {"a": True}, False),
    ],
)
def test_forms_of_outputs(document: dict[str, Any], named: dict[str, bool], *, unnamed: bool) -> None:
    """As in Triton, an output that is named is JSON unless it says otherwise, and the request speaks for the others."""
    _, forms = parsed({"inputs": [X | {"data": [1, 2]}]} | document)
    assert {name: forms.binary(name) for name in named} == named
    assert forms.binary("another") is unnamed


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({}, "inputs must be an array"),
    "inputs that are no array": ({"inputs": {}}, "inputs must be an array"),
    "an input that is no object": ({"inputs": [1]}, "each of inputs must be a JSON object"),
    "too many inputs": ({"inputs": [{}] * 4097}, "at most 4096"),
    "two inputs of one name": (
        {"inputs": [X | {"shape": [1], "parameters": {"binary_data_size": 1}}] * 2},
        "more than one input named 'x'",
    ),
    "no name": ({"inputs": [{"datatype": "UINT8", "shape": [1], "data": [1]}]}, "the name of an input"),
    "no data type": ({"inputs": [{"name": "x", "shape": [1], "data": [1]}]}, "the datatype of input 'x'"),
    "an unknown data type": (
        {"inputs": [X | {"datatype": "FP8", "parameters": {"binary_data_size": 2}}]},
        "unknown data type 'FP8'",
    ),
    "no shape": ({"inputs": [{"name": "x", "datatype": "UINT8", "data": [1]}]}, "the shape of input 'x'"),
    "too many dimensions": ({"inputs": [X | {"shape": [1] * 33, "data": [1]}]}, "at most 32 dimensions"),
    "a negative dimension": ({"inputs": [X | {"shape": [-1], "data": [1]}]}, "whole numbers, 0 or more"),
    "a huge dimension": ({"inputs": [X | {"shape": [2**63], "data": [1]}]}, "whole numbers, 0 or more"),
    "a dimension that is true": ({"inputs": [X | {"shape": [True], "data": [1]}]}, "whole numbers, 0 or more"),
    "a fraction of a dimension": ({"inputs": [X | {"shape": [2.0], "data": [1]}]}, "whole numbers, 0 or more"),
    "a shape beyond memory": ({"inputs": [X | {"shape": [2**62, 2**62], "data": [1]}]}, "its data has 1"),
    "neither form": ({"inputs": [X]}, "either data or the parameter binary_data_size"),
    "both forms": (
        {"inputs": [X | {"data": [1, 2], "parameters": {"binary_data_size": 2}}]},
        "either data or the parameter",
    ),
    "a negative size": ({"inputs": [X | {"parameters": {"binary_data_size": -1}}]}, "0 or more"),
    "a size that is true": ({"inputs": [X | {"parameters": {"binary_data_size": True}}]}, "0 or more"),
    "more than there is": ({"inputs": [X | {"parameters": {"binary_data_size": 3}}]}, "2 bytes are left of the body"),
    "less than there is": ({"inputs": [X | {"parameters": {"binary_data_size": 1}}]}, "1 byte more than its JSON"),
    "bytes that nobody claims": ({"inputs": [X | {"data": [1, 2]}]}, "2 bytes more than its JSON"),
    "a size that isn't the shape's": (
        {"inputs": [X | {"shape": [3], "parameters": {"binary_data_size": 2}}]},
        "takes 3 bytes",
    ),
    "an id that is no string": ({"id": 7, "inputs": []}, "id must be a string"),
    "half a character": ({"id": "\ud800", "inputs": []}, "id is no valid Unicode"),
    "parameters that are no object": ({"parameters": [], "inputs": []}, "parameters must be a JSON object"),
    "a parameter that is an object": ({"parameters": {"a": {}}, "inputs": []}, "parameter 'a' must be a string"),
    "a parameter that is null": ({"parameters": {"a": None}, "inputs": []}, "parameter 'a' must be a string"),
    "a parameter beyond 64 bits": ({"parameters": {"a": 2**64}, "inputs": []}, "a number of 64 bits"),
    "too many parameters": ({"parameters": {str(n): n for n in range(1025)}, "inputs": []}, "more than 1024"),
    "a flag that is a number": ({"parameters": {"binary_data_output": 1}, "inputs": []}, "must be true or false"),
    "an output's flag": (
        {
            "inputs": [X | {"parameters": {"binary_data_size": 2}}],
            "outputs": [{"name": "a", "parameters": {"binary_data": "no"}}],
        },
        "binary_data of output 'a' must be true or false",
    ),
}  # fmt: skip - one row a line


@pytest.mark.parametrize(("document", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(document: dict[str, Any], says: str) -> None:
    """A request that is no such thing, or could be taken for two, is refused before anybody reads its tensors."""
    with pytest.raises(MalformedRequest, match=says):
        parsed(document, b"\1\2")


@pytest.mark.parametrize("of", ["inputs", "outputs"])
def test_shared_memory(of: str) -> None:
    """Tensors in shared memory are denied, as over gRPC."""
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 2}
    document: dict[str, Any] = {"inputs": [X | {"data": [1, 2]}], "outputs": [{"name": "a"}]}
    document[of] = [document[of][0] | {"parameters": region}]
    if of == "inputs":
        del document[of][0]["data"]
    with pytest.raises(MethodDenied, match="shared memory"):
        parsed(document)


@pytest.mark.parametrize(
    ("datatype", "shape", "size", "deduced"),
    [
        ("FP32", [-1, 3], 12, [1, 3]),
        ("FP32", [-1, 3], 24, [2, 3]),
        ("FP32", [2, 3], 24, [2, 3]),
        ("FP32", [-1, -1, 3], 24, [1, 2, 3]),
        ("FP32", [3, -1], 24, [3, 2]),
        ("BYTES", [-1, 1], 5, [1, 1]),
        ("BYTES", [1], 5, [1]),
        ("BYTES", [], 5, []),
    ],
)
def test_a_bare_tensor(datatype: str, shape: list[int], size: int, deduced: list[int]) -> None:
    """A body that is nothing but a tensor gets its name, data type and shape from the model, as in Triton."""
    metadata = ModelMetadataResponse()
    metadata.inputs.add(name="x", datatype=datatype, shape=shape)
    parts, forms = read_bare((bytes(size),), "m", "", metadata)
    (input_,) = parse(parts).infer.inputs
    assert (input_.name, input_.datatype, list(input_.shape)) == ("x", datatype, deduced)
    assert input_.raw == (size.to_bytes(4, "little") if datatype == "BYTES" else b"") + bytes(size)
    assert forms.binary("any")


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "model 'm' has 0"),
        ([("FP32", [1]), ("FP32", [1])], "model 'm' has 2"),
        ([("FP32", [2, -1, -1])], "does not follow"),
        ([("FP32", [-1, -1, -1])], "does not follow"),
        ([("BYTES", [-1, 2])], "does not follow"),
        ([("BYTES", [-1, -1])], "does not follow"),
        ([("FP8", [1])], "unknown data type 'FP8'"),
        ([("FP32", [-1, 3])], "takes 12 bytes"),
    ],
)
def test_a_bare_tensor_that_is_refused(inputs: list[tuple[str, list[int]]], says: str) -> None:
    """... and is refused where that doesn't say it all."""
    metadata = ModelMetadataResponse()
    for datatype, shape in inputs:
        metadata.inputs.add(name="x", datatype=datatype, shape=shape)
    with pytest.raises(MalformedRequest, match=says):
        parse(read_bare((b"12345",), "m", "", metadata)[0])


VALID = json.dumps(
    {
        "id": "7",
        "parameters": {"a": 1, "binary_data_output": True, "guard_x": 0.5},
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [[0.5], [-1e3]]},
            {"name": "y", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
        ],
        "outputs": [{"name": "out", "parameters": {"classification": 2}}],
    }
).encode()
PIECES = [
    b"",
    b"0",
    b"-",
    b"1e999",
    b"true",
    b"null",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"\\ud800",
    b"\xff",
    b"9" * 30,
]


@given(
    st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), st.sampled_from(PIECES)), max_size=3),
    st.integers(-3, 3),
    st.binary(max_size=6),
    st.integers(0, 300),
)
def test_mutated_bodies(edits: list[tuple[int, int, bytes]], shift: int, behind: bytes, cut: int) -> None:
    """Whatever becomes of a body, in however many pieces, it is read or refused, and what is read all read alike."""
    text = VALID
    for at, length, piece in edits:
        text = text[:at] + piece + text[at + length :]
    body = text + behind
    json_bytes = max(0, min(len(body), len(text) + shift))
    pieces = (body[:cut], body[cut : len(text) + 1], body[max(cut, len(text) + 1) :])
    try:
        request = parse(read((body,), json_bytes, "m", "")[0])
    except RequestError as refused:
        with pytest.raises(type(refused)):
            parse(read(pieces, json_bytes, "m", "")[0])
        return
    assert parse(read(pieces, json_bytes, "m", "")[0]).canonical() == request.canonical()
    assert parse(take_apart(request.canonical())).infer == request.infer
