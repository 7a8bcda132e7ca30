"""Shared memory under the policy `copy`: regions are Guard's, read once, bounded, and for clients of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.errors import GuardError, MalformedRequest, MessageTooLarge, MethodDenied
from guard.pb import grpc_service_pb2 as v2
from guard.wire.message import Parts, parse, take_apart
from guard.wire.shared_memory import MAX_REGIONS, Regions

HERE, ELSEWHERE = "ipv4:127.0.0.1:4242", "ipv4:10.0.0.7:4242"
VALUES = np.arange(6, dtype="<f4")
REGISTER, UNREGISTER, STATUS = (f"SystemSharedMemory{name}" for name in ("Register", "Unregister", "Status"))


@pytest.fixture
def regions(tmp_path: Path) -> Regions:
    """Regions of objects in a folder: `object` has six values from byte 8 on, and `other` is empty."""
    (tmp_path / "object").write_bytes(bytes(8) + VALUES.tobytes() + bytes(32))
    (tmp_path / "other").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("object")
    os.mkfifo(tmp_path / "pipe")
    return Regions(1024, tmp_path)


def register(regions: Regions, caller: str = HERE, **values: Any) -> None:
    """Register the whole object, or what the values say."""
    whole = {"name": "r", "key": "/object", "offset": 8, "byte_size": 56}
    asked = v2.SystemSharedMemoryRegisterRequest(**{**whole, **values})
    regions.methods[REGISTER](asked.SerializeToString(), caller)


def registered(regions: Regions, name: str = "") -> dict[str, tuple[str, int, int]]:
    """What is registered: key, offset and size by name."""
    asked = v2.SystemSharedMemoryStatusRequest(name=name).SerializeToString()
    answer = v2.SystemSharedMemoryStatusResponse.FromString(regions.methods[STATUS](asked, HERE))
    return {name: (each.key, each.offset, each.byte_size) for name, each in answer.regions.items()}


def message(*, size: int = 24, offset: int = 0, region: str = "r", output: int = 0) -> v2.ModelInferRequest:
    """A request whose input is in shared memory, and its output too if that has room."""
    request = v2.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[6])
    places = [(tensor, size, offset)]
    if output:
        places.append((request.outputs.add(name="y"), output, 24))
    for each, byte_size, at in places:
        each.parameters["shared_memory_region"].string_param = region
        each.parameters["shared_memory_byte_size"].int64_param = byte_size
        if at:
            each.parameters["shared_memory_offset"].int64_param = at
    return request


def apart(request: v2.ModelInferRequest) -> Parts:
    """The request as it arrives."""
    return take_apart(request.SerializeToString())


def test_a_copy_is_what_is_screened_and_sent_on(regions: Regions, tmp_path: Path) -> None:
    """The tensor is in the request from then on, and what changes in shared memory afterwards changes nothing."""
    register(regions)
    parts, outputs = regions.copied(apart(message()), HERE)
    (tmp_path / "object").write_bytes(bytes(64))
    parsed = parse(parts)
    np.testing.assert_array_equal(np.frombuffer(parsed.infer.inputs[0].raw, "<f4"), VALUES)
    sent = v2.ModelInferRequest.FromString(parsed.canonical())
    assert sent.raw_input_contents == [VALUES.tobytes()]
    assert not sent.inputs[0].parameters
    assert not outputs
    assert parts.size > 24


def test_beside_raw_contents(regions: Regions) -> None:
    """Inputs in shared memory and in the message keep their order; typed ones beside are refused."""
    register(regions)
    request = message()
    request.inputs.add(name="z", datatype="FP32", shape=[1])
    request.raw_input_contents.append(np.float32(7).tobytes())
    parts, _ = regions.copied(apart(request), HERE)
    assert [bytes(each) for each in parts.raw] == [VALUES.tobytes(), np.float32(7).tobytes()]
    del request.raw_input_contents[:]
    request.inputs[1].contents.fp32_contents.append(7)
    with pytest.raises(MalformedRequest, match="all others must be in raw_input_contents"):
        regions.copied(apart(request), HERE)


def test_outputs(regions: Regions, tmp_path: Path) -> None:
    """An output is written to its region, and the answer says how much of it; one that is too large is refused."""
    register(regions)
    _, outputs = regions.copied(apart(message(output=8)), HERE)
    response = v2.ModelInferResponse(model_name="m", raw_output_contents=[b"whatever", b"8 bytes!"])
    response.outputs.add(name="other", datatype="BYTES", shape=[1])
    response.outputs.add(name="y", datatype="FP32", shape=[2])
    answer = v2.ModelInferResponse.FromString(regions.returned(response.SerializeToString(), outputs))
    assert list(answer.raw_output_contents) == [b"whatever", b""]
    assert answer.outputs[1].parameters["shared_memory_byte_size"].int64_param == 8
    assert (tmp_path / "object").read_bytes()[32:40] == b"8 bytes!"
    response.raw_output_contents[1] = b"nine byte"
    with pytest.raises(MalformedRequest, match="output 'y' takes 9 bytes, and the request has room for 8"):
        regions.returned(response.SerializeToString(), outputs)
    os.truncate(tmp_path / "object", 36)
    response.raw_output_contents[1] = b"8 bytes!"
    with pytest.raises(MalformedRequest, match="too short"):
        regions.returned(response.SerializeToString(), outputs)
    assert (tmp_path / "object").stat().st_size == 36, "it does not grow"


def test_registered_and_unregistered(regions: Regions) -> None:
    """Regions are listed, taken off one by one or all at once; one that isn't there is no error to take off."""
    register(regions)
    register(regions, name="s", offset=0, byte_size=8)
    assert registered(regions) == {"r": ("object", 8, 56), "s": ("object", 0, 8)}
    assert registered(regions, "s") == {"s": ("object", 0, 8)}
    with pytest.raises(MalformedRequest, match="no shared memory region is registered as 't'"):
        registered(regions, "t")
    for name, left in (("t", {"r", "s"}), ("r", {"s"}), ("", set())):
        asked = v2.SystemSharedMemoryUnregisterRequest(name=name)
        assert regions.methods[UNREGISTER](asked.SerializeToString(), HERE) == b""
        assert registered(regions).keys() == left
    assert "CudaSharedMemoryRegister" not in regions.methods


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": ""}, "a name of 1 to 256 characters"),
        ({"name": "a" * 257}, "a name of 1 to 256 characters"),
        ({"key": ""}, "names no shared memory object"),
        ({"key": "/"}, "names no shared memory object"),
        ({"key": "/.."}, "names no shared memory object"),
        ({"key": "../object"}, "names no shared memory object"),
        ({"key": "/etc/passwd"}, "names no shared memory object"),
        ({"key": "triton_python_backend_shm_region_1"}, "names no shared memory object"),
        ({"key": "/pipe"}, "names no shared memory object"),
        ({"key": "/folder"}, "names no shared memory object"),
        ({"key": "/link"}, "can't be opened by guard"),
        ({"key": "/nothing"}, "can't be opened by guard"),
        ({"byte_size": 0}, "impossible offset or size"),
        ({"offset": 2**63}, "impossible offset or size"),
        ({"offset": 2**63 - 1, "byte_size": 2**64 - 1}, "impossible offset or size"),
        ({"byte_size": 57}, "ends at 65, and its object has 64 bytes"),
        ({"key": "/other"}, "has 0 bytes"),
    ],
)
def test_no_region(regions: Regions, values: dict[str, Any], says: str) -> None:
    """Only names, keys, offsets and sizes that mean a part of a shared memory object are registered."""
    with pytest.raises(MalformedRequest, match=says):
        register(regions, **values)
    assert not registered(regions)


def test_no_more_regions(regions: Regions) -> None:
    """A name is registered once, and there is an end to regions."""
    for number in range(MAX_REGIONS):
        register(regions, name=str(number))
    with pytest.raises(MalformedRequest, match="'7' is registered already"):
        register(regions, name="7")
    with pytest.raises(MalformedRequest, match="256 shared memory regions are registered already"):
        register(regions)


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"region": "s"}, MalformedRequest, "region 's', not registered"),
        ({"size": 0}, MalformedRequest, "takes 0 bytes"),
        ({"size": -1}, MalformedRequest, "takes -1 bytes"),
        ({"offset": -8}, MalformedRequest, "from -8 on"),
        ({"size": 56, "offset": 1}, MalformedRequest, "which has 56"),
        ({"size": 2**63 - 1, "offset": 2**63 - 1}, MalformedRequest, "which has 56"),
    ],
)
def test_outside(regions: Regions, asked: dict[str, Any], error: type[GuardError], says: str) -> None:
    """A tensor outside of its region is refused before anything is read."""
    register(regions)
    with pytest.raises(error, match=says):
        regions.copied(apart(message(**asked)), HERE)


def test_shortened_and_gone(regions: Regions, tmp_path: Path) -> None:
    """An object that its owner shortens or removes is refused, where a mapping would end the process."""
    register(regions)
    os.truncate(tmp_path / "object", 20)
    with pytest.raises(MalformedRequest, match="has become too short"):
        regions.copied(apart(message()), HERE)
    (tmp_path / "object").unlink()
    with pytest.raises(MalformedRequest, match="can't be opened"):
        regions.copied(apart(message()), HERE)


def test_wrong_parameters(regions: Regions) -> None:
    """Parameters of another type, and any other about shared memory, are refused."""
    register(regions)
    request = message()
    request.inputs[0].parameters["shared_memory_byte_size"].string_param = "24"
    with pytest.raises(MalformedRequest, match="'shared_memory_byte_size' has the wrong type"):
        regions.copied(apart(request), HERE)
    request = message()
    request.inputs[0].parameters["shared_memory_more"].int64_param = 1
    with pytest.raises(MethodDenied, match="in shared memory"):
        parse(regions.copied(apart(request), HERE)[0])


def test_too_much(tmp_path: Path) -> None:
    """No more is copied than a message may hold."""
    (tmp_path / "object").write_bytes(bytes(64))
    small = Regions(23, tmp_path)
    register(small)
    with pytest.raises(MessageTooLarge, match=r"take 24 bytes of shared memory, more than upstream\.max"):
        small.copied(apart(message()), HERE)


@pytest.mark.parametrize(
    ("caller", "allowed"), [(HERE, True), ("unix:", True), ("ipv6:%5B::1%5D:1", True), (ELSEWHERE, False)]
)
def test_callers(regions: Regions, caller: str, allowed: bool) -> None:  # noqa: FBT001 - a table's column
    """Nobody from another machine registers, lists or names regions; their other requests pass."""
    if allowed:
        register(regions, caller)
        assert regions.copied(apart(message()), caller)[0].raw
        return
    with pytest.raises(MethodDenied, match="for clients on guard's machine"):
        register(regions, caller)
    register(regions)
    for name in (UNREGISTER, STATUS):
        with pytest.raises(MethodDenied):
            regions.methods[name](b"", caller)
    with pytest.raises(MethodDenied):
        regions.copied(apart(message()), caller)
    plain = v2.ModelInferRequest(model_name="m", raw_input_contents=[VALUES.tobytes()])
    plain.inputs.add(name="x", datatype="FP32", shape=[6])
    assert regions.copied(apart(plain), caller)[0].raw == apart(plain).raw
