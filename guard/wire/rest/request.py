"""The body of an inference request: JSON, with its tensors in it or in binary after it.

Source: Open Inference Protocol, "Inference Request JSON Object"; Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from guard.datatypes import BYTES, byte_size, is_known
from guard.errors import MalformedRequest
from guard.pb.grpc_service_pb2 import InferParameter, ModelInferRequest, ModelMetadataResponse
from guard.plural import counted
from guard.wire.contents import MAX_RANK
from guard.wire.message import MAX_PARAMETERS, Parts, of_pieces
from guard.wire.rest.document import load
from guard.wire.rest.pieces import Pieces, Reader, joined
from guard.wire.rest.values import prefixed, to_raw
from guard.wire.scan import MAX_TOP_LEVEL_FIELDS

_INT64, _UINT64 = 1 << 63, 1 << 64
_SHARED_MEMORY = "shared_memory_region"


@dataclass(frozen=True, slots=True)
class Forms:
    """Which outputs are wanted in binary: by name, and `others`, those that the request does not name."""

    named: Mapping[str, bool] = field(default_factory=dict)
    others: bool = False

    def binary(self, output: str) -> bool:
        """Whether an output goes behind the JSON, and not into it."""
        return self.named.get(output, self.others)


def read(body: Pieces, json_bytes: int, model: str, version: str) -> tuple[Parts, Forms]:
    """Read a request whose first `json_bytes` bytes are JSON. Binary tensors are copied once at most (see `of_pieces`).

    Raises:
        RequestError: it is no inference request, or could be read in more than one way.
    """
    reader = Reader(body)
    size = reader.left
    document = load(b"".join(reader.take(json_bytes)))
    header = ModelInferRequest(model_name=model, model_version=version, id=_text(document.get("id", ""), "id"))
    parameters = _object(document.get("parameters", {}), "parameters")
    others = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    _set(header.parameters, parameters)
    contents = [_input(header, tensor, reader) for tensor in _objects(document.get("inputs"), "inputs")]
    if reader.left:
        raise MalformedRequest(
            f"the body has {counted(reader.left, 'byte')} more than its JSON and binary_data_size say"
        )
    named: dict[str, bool] = {}
    for output in _objects(document.get("outputs", []), "outputs"):
        name, binary = _output(header, output)
        named.setdefault(name, binary)
    return of_pieces(header, [each for each in contents if each is not None], size), Forms(named, others)


def read_bare(body: Pieces, model: str, version: str, metadata: ModelMetadataResponse) -> tuple[Parts, Forms]:
    """Read a request that is nothing but the one tensor of a model with one input: the rest is in its metadata.

    Raises:
        MalformedRequest: the model has several inputs, or one whose shape does not follow from the number of bytes.
    """
    if len(metadata.inputs) != 1:
        raise MalformedRequest(
            f"a body without JSON is for models with one input, and model {model!r} has {len(metadata.inputs)}"
        )
    (tensor,) = metadata.inputs
    if not is_known(tensor.datatype):
        raise MalformedRequest(f"model {model!r} has an input of the unknown data type {tensor.datatype!r}; send JSON")
    header = ModelInferRequest(model_name=model, model_version=version)
    reader = Reader((prefixed([bytes(joined(body))]),) if tensor.datatype == BYTES else body)
    size = sum(map(len, body))
    header.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=_deduced(model, tensor, size))
    return of_pieces(header, [reader.take(reader.left)], size), Forms(others=True)


def _deduced(model: str, tensor: ModelMetadataResponse.TensorMetadata, size: int) -> list[int]:
    """The shape of so many bytes: of two dynamic dimensions the first is the batch, which then has one item."""
    shape = list(tensor.shape)
    free = [axis for axis, dim in enumerate(shape) if dim < 0]
    batch_and_another = free[:1] == [0] and len(free) == 2  # noqa: PLR2004 - as it says
    if batch_and_another or (free == [0] and tensor.datatype == BYTES):
        shape[free.pop(0)] = 1
    known = math.prod(dim for dim in shape if dim >= 0)
    if len(free) > 1 or (tensor.datatype == BYTES and (free or known != 1)):
        raise MalformedRequest(
            f"the shape of input {tensor.name!r} of model {model!r} does not follow from the number of bytes; send JSON"
        )
    if free:
        shape[free[0]] = max(1, size // max(1, byte_size(tensor.datatype, [known])))
    return shape


def _input(header: ModelInferRequest, tensor: dict[str, Any], reader: Reader) -> tuple[memoryview, ...] | None:
    """Add an input to the header. Returns its contents; None where it says that they are in shared memory."""
    name = _text(tensor.get("name"), "the name of an input")
    datatype = _text(tensor.get("datatype"), f"the datatype of input {name!r}")
    parameters = _object(tensor.get("parameters", {}), f"the parameters of input {name!r}")
    binary = parameters.pop("binary_data_size", None)
    shape = _shape(name, tensor.get("shape"))
    added = header.inputs.add(name=name, datatype=datatype, shape=shape)
    _set(added.parameters, parameters)
    if ("data" in tensor) + (binary is not None) + (_SHARED_MEMORY in parameters) != 1:
        raise MalformedRequest(f"input {name!r} must have either data or the parameter binary_data_size")
    if _SHARED_MEMORY in parameters:
        return None
    if binary is not None:
        if type(binary) is not int or binary < 0:
            raise MalformedRequest(f"the binary_data_size of input {name!r} must be a whole number, 0 or more")
        if binary > reader.left:
            raise MalformedRequest(
                f"input {name!r} has a binary_data_size of {binary}, and "
                f"{counted(reader.left, 'byte is', 'bytes are')} left of the body; the header "
                "Inference-Header-Content-Length says where its JSON ends"
            )
        return reader.take(binary)
    if not is_known(datatype):
        return (memoryview(b""),)  # refused with all others of an unknown data type
    return (memoryview(to_raw(name, datatype, shape, tensor["data"])),)


def _output(header: ModelInferRequest, output: dict[str, Any]) -> tuple[str, bool]:
    """Add a requested output to the header. Returns its name, and whether it is wanted in binary."""
    name = _text(output.get("name"), "the name of an output")
    parameters = _object(output.get("parameters", {}), f"the parameters of output {name!r}")
    binary = _flag(parameters.pop("binary_data", False), f"binary_data of output {name!r}")
    _set(header.outputs.add(name=name).parameters, parameters)
    return name, binary


def _shape(name: str, shape: object) -> list[int]:
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise MalformedRequest(f"the shape of input {name!r} must be an array of at most {MAX_RANK} dimensions")
    if not all(type(dim) is int and 0 <= dim < _INT64 for dim in shape):
        raise MalformedRequest(f"the dimensions of input {name!r} must be whole numbers, 0 or more")
    return shape


def _set(target: Any, parameters: Mapping[str, object]) -> None:
    """Fill a protobuf map of parameters."""
    if len(parameters) > MAX_PARAMETERS:
        raise MalformedRequest(f"the request has {len(parameters)} parameters in one place, more than {MAX_PARAMETERS}")
    for name, value in parameters.items():
        target[_text(name, "the name of a parameter")].CopyFrom(_parameter(name, value))


def _parameter(name: str, value: object) -> InferParameter:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return InferParameter(int64_param=value)
    if isinstance(value, int) and 0 <= value < _UINT64:
        return InferParameter(uint64_param=value)
    if isinstance(value, float) and math.isfinite(value):
        return InferParameter(double_param=value)
    if isinstance(value, str):
        return InferParameter(string_param=_text(value, f"parameter {name!r}"))
    raise MalformedRequest(f"parameter {name!r} must be a string, a boolean, or a number of 64 bits")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedRequest(f"{what} must be a JSON object")
    return dict(value)


def _objects(value: object, what: str) -> Iterable[dict[str, Any]]:
    if not isinstance(value, list) or len(value) > MAX_TOP_LEVEL_FIELDS:
        raise MalformedRequest(f"{what} must be an array of at most {MAX_TOP_LEVEL_FIELDS} objects")
    return (_object(one, f"each of {what}") for one in value)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise MalformedRequest(f"{what} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MalformedRequest(f"{what} is no valid Unicode") from error
    return value


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise MalformedRequest(f"{what} must be true or false")
    return value
