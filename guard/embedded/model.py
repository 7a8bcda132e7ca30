"""One ONNX model as a v2 server describes and runs it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from guard.datatypes import BF16
from guard.embedded import tensors
from guard.embedded.counts import Counts, Timings
from guard.errors import BackendError, ConfigError, MalformedRequest
from guard.paths import unseen
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse

VERSION = "1"

# ONNX Runtime has no numpy type for bfloat16, so BF16 outputs can't be served.
_DATATYPES: Mapping[str, str] = MappingProxyType(
    {
        "tensor(bool)": "BOOL",
        "tensor(uint8)": "UINT8",
        "tensor(uint16)": "UINT16",
        "tensor(uint32)": "UINT32",
        "tensor(uint64)": "UINT64",
        "tensor(int8)": "INT8",
        "tensor(int16)": "INT16",
        "tensor(int32)": "INT32",
        "tensor(int64)": "INT64",
        "tensor(float16)": "FP16",
        "tensor(bfloat16)": BF16,
        "tensor(float)": "FP32",
        "tensor(double)": "FP64",
        "tensor(string)": "BYTES",
    }
)
_FATAL_ONLY = 4
_BFLOAT16 = 16
"""In ONNX's numbering of types."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output. Dynamic dimensions of `shape` are -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ServedModel:
    """An ONNX file in a session with one intra-op thread; requests may run at once, each on its own thread.

    Raises:
        ConfigError: the file has inputs or outputs that the v2 protocol can't carry.
        BackendError: the file can't be read, or ONNX Runtime can't load it.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.counts = Counts()
        self._session = _open(path)
        self.inputs = {v.name: _describe(v, path) for v in self._session.get_inputs()}
        self.outputs = {v.name: _describe(v, path) for v in self._session.get_outputs()}
        if any(output.datatype == BF16 for output in self.outputs.values()):
            raise ConfigError(f"{path} answers BF16, which this server can't carry; export the model with FP32 outputs")

    def infer(self, request: ModelInferRequest, queued_ns: int) -> tuple[ModelInferResponse, Timings]:
        """Answer a request that waited since `queued_ns`, on the clock of `time.perf_counter_ns`.

        Raises:
            MalformedRequest: the request doesn't fit the model.
            BackendError: ONNX Runtime failed on it.
        """
        times_ns = [queued_ns, time.perf_counter_ns()]
        feed = self._read(request)
        wanted = self._wanted(request)
        times_ns.append(time.perf_counter_ns())
        try:
            values = self._run([output.name for output in wanted], feed)
        except Exception as exc:  # ONNX Runtime raises a dozen unrelated classes
            raise BackendError(f"onnx runtime error: {exc}") from exc
        times_ns.append(time.perf_counter_ns())
        response = ModelInferResponse(model_name=self.name, model_version=VERSION, id=request.id)
        for output, value in zip(wanted, values, strict=True):
            array = np.asarray(value)
            response.outputs.add(name=output.name, datatype=output.datatype, shape=array.shape)
            response.raw_output_contents.append(tensors.to_raw(output.datatype, array))
        times_ns.append(time.perf_counter_ns())
        spent_ns = [after - before for before, after in pairwise(times_ns)]
        return response, Timings(self._items(feed), *spent_ns)

    def _run(self, names: list[str], feed: Mapping[str, npt.NDArray[np.generic]]) -> Sequence[Any]:
        if all(tensor.datatype != BF16 for tensor in self.inputs.values()):
            return self._session.run(names, feed)  # type: ignore[no-any-return] # onnxruntime has no types
        given = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
            if self.inputs[name].datatype == BF16
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feed.items()
        }
        return [value.numpy() for value in self._session.run_with_ort_values(names, given)]

    def _read(self, request: ModelInferRequest) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by input name, once they are known to be those that the model takes."""
        raw = request.raw_input_contents
        if raw and len(raw) != len(request.inputs):
            raise MalformedRequest(f"expected {len(request.inputs)} raw_input_contents, got {len(raw)}")
        feed: dict[str, npt.NDArray[np.generic]] = {}
        for index, tensor in enumerate(request.inputs):
            if tensor.name in feed:
                raise MalformedRequest(f"input {tensor.name!r} already exists in request")
            self._check(tensor)
            if raw and tensor.HasField("contents"):
                raise MalformedRequest(
                    f"contents field must not be specified when using raw_input_contents for {tensor.name!r} "
                    f"for model {self.name!r}"
                )
            feed[tensor.name] = tensors.from_raw(tensor, raw[index]) if raw else tensors.from_typed(tensor)
        missing = sorted(self.inputs.keys() - feed.keys())
        if missing:
            raise MalformedRequest(
                f"expected {len(self.inputs)} inputs but got {len(feed)} inputs for model {self.name!r}. "
                f"Got input(s) {sorted(feed)}, but missing required input(s) {missing}. "
                "Please provide all required input(s)."
            )
        return feed

    def _check(self, tensor: ModelInferRequest.InferInputTensor) -> None:
        expected = self.inputs.get(tensor.name)
        if expected is None:
            raise MalformedRequest(f"unexpected inference input {tensor.name!r} for model {self.name!r}")
        if tensor.datatype != expected.datatype:
            raise MalformedRequest(
                f"inference input {tensor.name!r} data-type is {tensor.datatype!r}, "
                f"but model {self.name!r} expects {expected.datatype!r}"
            )
        if not _fits(tensor.shape, expected.shape):
            raise MalformedRequest(
                f"unexpected shape for input {tensor.name!r} for model {self.name!r}. "
                f"Expected {_dims(expected.shape)}, got {_dims(tensor.shape)}"
            )

    def _wanted(self, request: ModelInferRequest) -> list[TensorInfo]:
        """The outputs that the request names, or all."""
        for output in request.outputs:
            if output.name not in self.outputs:
                raise MalformedRequest(f"unexpected inference output {output.name!r} for model {self.name!r}")
        return [self.outputs[output.name] for output in request.outputs] or list(self.outputs.values())

    def _items(self, feed: Mapping[str, npt.NDArray[np.generic]]) -> int:
        first = next(iter(self.inputs.values()), None)
        return len(feed[first.name]) if first is not None and first.shape[:1] == (-1,) else 1


def _open(path: Path) -> Any:
    if why := unseen(path):
        raise BackendError(f"{path} {why}; change permissions, or name another")
    if not path.is_file():
        raise BackendError(f"there is no model file {path}: name an ONNX file")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _FATAL_ONLY  # errors come as exceptions
    try:
        # By its path, because weights may lie in a file beside it.
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # as in infer
        raise BackendError(
            f"ONNX Runtime can't load {path}: {str(exc).rstrip('.')}. Check that it is an ONNX model, complete with "
            "its weights file if it has one, and export it again if it is."
        ) from exc


def _describe(value: Any, path: Path) -> TensorInfo:
    if value.type not in _DATATYPES:
        raise ConfigError(
            f"{path}: {value.name!r} is {value.type}, which this server can't carry; export the model with tensors of "
            f"{', '.join(_DATATYPES.values())}"
        )
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    return TensorInfo(value.name, _DATATYPES[value.type], shape)


def _fits(shape: Sequence[int], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(
        dim >= 0 and want in (-1, dim) for dim, want in zip(shape, declared, strict=True)
    )


def _dims(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
