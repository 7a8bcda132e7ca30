"""A replica on ONNX Runtime: CPU, or CUDA by the same code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from jaxtyping import Float
from torch import Tensor

from guard import datatypes
from guard.environment import check_providers
from guard.errors import BackendError
from guard.model.backend import as_logits
from guard.model.buckets import Buckets, Run
from guard.values import Float32Array, ModelInfo, OutputKind

_DATATYPES = {
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": datatypes.BF16,
    "tensor(double)": "FP64",
    "tensor(uint8)": "UINT8",
    "tensor(int8)": "INT8",
}
_TORCH_DTYPES = {
    "FP32": torch.float32,
    "FP16": torch.float16,
    datatypes.BF16: torch.bfloat16,
    "FP64": torch.float64,
    "UINT8": torch.uint8,
    "INT8": torch.int8,
}
_REAL = frozenset({"tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"})
_BFLOAT16 = 16
"""In ONNX's numbering of types, by which ONNX Runtime takes what numpy has no type for."""
_CUDA = "CUDAExecutionProvider"
_PROVIDER_OPTIONS = {
    # The default tries every algorithm at each new batch size, for seconds; the engine's batches have any size.
    _CUDA: {"cudnn_conv_algo_search": "HEURISTIC"},
}


class OnnxBackend:
    """An ONNX model in an ONNX Runtime session with one intra-op thread, which suits a core shared with a server.

    On CUDA it takes batches that are there already, and answers there, if torch knows CUDA too; those that it lends are
    run in a few sizes, with input and output bound once for each. With `bound` they are anywhere: on the CPU, where a
    row more costs as much as the others, that gains nothing.
    """

    def __init__(
        self,
        model: bytes,
        info: ModelInfo,
        *,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
        batch: int = 32,
        bound: bool = False,
    ) -> None:
        self.info = info
        self.preferred_batch = batch
        self.content = model
        """The ONNX file."""
        self.device = torch.device("cuda" if _CUDA in providers and torch.cuda.is_available() else "cpu")
        """Where its batches are best made."""
        self._bind = bound or self.device.type == "cuda"
        self._buckets: list[Buckets] = []
        self._session = open_session(model, providers)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        declared = {output.name: output.type for output in self._session.get_outputs()}
        self._output_datatype = _DATATYPES.get(declared.get(info.output_name, ""), "FP32")
        self._by_address = datatypes.BF16 in {info.datatype, self._output_datatype}  # which numpy does not have

    def lend(self, rows: int, count: int) -> list[Tensor]:
        """Batches of zeros to make copies in, bound now where that pays; the latest ones only."""
        batches = [torch.zeros(rows, *self.info.shape, device=self.device) for _ in range(count)]
        self._buckets = [Buckets(self._run_in_place, batch, self._capture) for batch in batches] if self._bind else []
        return batches

    def logits(self, x: Float[Tensor, "batch *dims"]) -> Float[Tensor, "batch classes"]:
        """Classify a batch; integer inputs are rounded and clipped first."""
        try:
            output = self._answers(x.detach())
        except Exception as exc:  # ONNX Runtime raises a dozen unrelated classes
            raise BackendError(f"ONNX Runtime failed on model {self.info.name!r}: {exc}") from exc
        return as_logits(self.info, output, len(x))

    def _answers(self, x: Float[Tensor, "batch *dims"]) -> Tensor | Float32Array:
        buckets = next((each for each in self._buckets if each.holds(x)), None)
        if buckets is not None:
            return buckets.run(len(x))
        return self._run(x) if x.device.type == "cpu" and not self._by_address else self._run_in_place(x)

    def _run(self, x: Float[Tensor, "batch *dims"]) -> Float32Array:
        values = x.numpy()
        if self.info.datatype != "FP32":
            values = datatypes.to_array(self.info.datatype, values)
        (output,) = self._session.run([self.info.output_name], {self.info.input_name: values})
        return np.asarray(output, dtype=np.float32)

    def _run_in_place(self, x: Float[Tensor, "batch *dims"]) -> Tensor:
        """Run on the device that the batch is on."""
        return self._capture(self._run_in_place, x.contiguous())()

    def _capture(self, _run: Run, x: Tensor) -> Callable[[], Tensor]:
        """Bind input and output by address: what is called runs on what is in the batch then, into one output."""
        info = self.info
        typed = x if info.datatype == "FP32" else as_datatype(info.datatype, x)
        output = torch.empty(len(x), info.classes, dtype=_TORCH_DTYPES[self._output_datatype], device=x.device)
        place = x.device.type, x.device.index or 0
        binding = self._session.io_binding()
        binding.bind_input(info.input_name, *place, _element(info.datatype), tuple(x.shape), typed.data_ptr())
        binding.bind_output(
            info.output_name,
            *place,
            _element(self._output_datatype),
            tuple(output.shape),
            output.data_ptr(),
        )

        def run() -> Tensor:
            if typed is not x:
                typed.copy_(as_datatype(info.datatype, x))
            if x.is_cuda:  # ONNX Runtime has a stream of its own: it must not begin before torch's has made the batch
                torch.cuda.current_stream(x.device).synchronize()
            self._session.run_with_iobinding(binding)  # and waits for its own stream before it returns
            return output

        return run

    def close(self) -> None:
        """Drop the session, and what is bound to it."""
        self._buckets = []
        del self._session


def as_datatype(datatype: str, x: Tensor) -> Tensor:
    """As `datatypes.to_array`, on the tensor's device."""
    dtype = _TORCH_DTYPES[datatype]
    if dtype.is_floating_point:
        return x.to(dtype)
    limits = torch.iinfo(dtype)
    return x.round().clamp(limits.min, limits.max).to(dtype)


def _element(datatype: str) -> np.dtype[np.generic] | int:
    """How ONNX Runtime names a data type where memory is bound."""
    return _BFLOAT16 if datatype == datatypes.BF16 else np.dtype(datatypes.WIRE_DTYPES[datatype])


def open_session(model: bytes, providers: tuple[str, ...]) -> Any:
    """Open a session, sure to run where it was asked to: before ONNX Runtime warns in words of its own, and after.

    Raises:
        BackendError: the bytes are no ONNX model that this runtime can load.
        ProviderMissing: the runtime has not, or fell back from, a provider.
    """
    check_providers(providers, [each for each in providers if each in ort.get_available_providers()])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            model, options, providers=[(name, _PROVIDER_OPTIONS.get(name, {})) for name in providers]
        )
    except Exception as exc:  # as in logits
        raise BackendError(
            f"not a loadable ONNX model: {exc}; export it again as one file, its weights inside"
        ) from exc
    check_providers(providers, session.get_providers())
    return session


def inspect_onnx(path: Path, *, name: str, bounds: tuple[float, float], dims: tuple[int, ...]) -> ModelInfo:
    """Read what Guard needs to know of an ONNX classifier, by running it once on an input of shape `dims`.

    Raises:
        BackendError: the file is missing, is not an ONNX model, or is no classifier with one input.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise BackendError(f"{path} can't be read ({exc.strerror}): check --model") from exc
    try:
        session = open_session(content, ("CPUExecutionProvider",))
    except BackendError as exc:
        raise BackendError(f"{path}: {exc}") from exc
    if len(session.get_inputs()) != 1:
        names = [i.name for i in session.get_inputs()]
        raise BackendError(f"{path} has inputs {names}: Guard screens models with one input")
    declared = session.get_inputs()[0]
    if declared.type not in _DATATYPES:
        known = ", ".join(sorted(_DATATYPES.values()))
        raise BackendError(f"{path} takes {declared.type}: Guard screens {known} inputs")
    datatype = _DATATYPES[declared.type]
    batch = declared.shape[0] if declared.shape else None
    batched = len(declared.shape) == len(dims) + 1 and not isinstance(batch, int)
    if not batched:
        raise BackendError(
            f"{path} takes shape {declared.shape}, and the samples have shape {list(dims)}: Guard needs a dynamic "
            "batch dimension in front (export the model with one) and samples of the remaining shape"
        )
    zeros = np.zeros((2, *dims), dtype=datatypes.WIRE_DTYPES[datatype])
    try:
        outputs = session.run_with_ort_values(None, {declared.name: as_ort_value(datatype, zeros)})
    except Exception as exc:  # as in logits
        raise BackendError(
            f"{path} does not accept samples of shape {list(dims)}; it declares {list(declared.shape)}, batch first: "
            "resize the samples, or name the right model"
        ) from exc
    for output, values in zip(session.get_outputs(), outputs, strict=True):
        if _is_scores(values):
            return ModelInfo(
                name=name,
                input_name=declared.name,
                output_name=output.name,
                datatype=datatype,
                shape=dims,
                classes=int(values.shape()[1]),
                bounds=bounds,
                output_kind=OutputKind.LOGITS,
                fingerprint=hashlib.sha256(content).hexdigest(),
                free=tuple(axis for axis, dim in enumerate(declared.shape[1:]) if not isinstance(dim, int)),
            )
    raise BackendError(f"{path} has no output of shape (batch, classes): Guard screens classifiers")


def _is_scores(values: Any) -> bool:
    """Whether an output for two inputs is two rows of real numbers; it may be a list, or hold text or indices."""
    if not values.is_tensor() or values.data_type() not in _REAL:
        return False
    rows, *columns = values.shape() or [0]
    return rows == 2 and len(columns) == 1 and columns[0] > 1  # noqa: PLR2004 - two rows


def as_ort_value(datatype: str, stored: npt.NDArray[np.generic]) -> Any:
    """What ONNX Runtime takes an array for, BF16 being given as bits."""
    stored = np.ascontiguousarray(stored)
    if datatype == datatypes.BF16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(stored, _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(stored)
