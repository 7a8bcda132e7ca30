"""A faster replica: the model in 8-bit integers, if it is faster on this machine and says the same.

Static quantisation with a scale for each channel (Jacob et al., 2018), by ONNX Runtime. It is another function than the
model, so everything that is calibrated is calibrated with it, and a certificate is one about it.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from guard import datatypes
from guard.errors import BackendError
from guard.model.onnx import OnnxBackend
from guard.model.sweep import best_batch
from guard.profile.spec import Int8Replica
from guard.values import Float32Array, IntArray, ModelInfo

FILE = "replica.onnx"
_SAMPLES = 256
_LEAST_AGREEMENT = 0.99
LEAST_SPEEDUP = 1.1
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Variant:
    """An int8 replica that earns its place: what the profile says of it, its file, and the replica, open."""

    spec: Int8Replica
    content: bytes
    backend: OnnxBackend


def int8_variant(
    original: OnnxBackend, samples: Float32Array, *, least_speedup: float = LEAST_SPEEDUP
) -> Variant | None:
    """Quantise an ONNX model on clean samples (n, *shape); None where that is slower, disagrees, or can't be done.

    It has to be so many times as fast, and to give 99 % of the samples the label that the model gives them.
    """
    try:
        content = _quantise(original.content, original.info, samples[:_SAMPLES])
        backend = OnnxBackend(content, original.info)
        found = _compare(original, backend, samples)
    except Exception as exc:  # noqa: BLE001 - the quantiser raises whatever it likes on graphs that it can't take
        _log.warning("no int8 replica: the model can't be quantised", error=str(exc))
        return None
    if found["speedup"] < least_speedup or found["agreement"] < _LEAST_AGREEMENT:
        _log.warning("no int8 replica: it is slower, or its labels differ", **found)
        backend.close()
        return None
    return Variant(Int8Replica(file=FILE, sha256=hashlib.sha256(content).hexdigest(), **found), content, backend)


def _compare(original: OnnxBackend, variant: OnnxBackend, samples: Float32Array) -> dict[str, float]:
    fast, slow = best_batch(variant), best_batch(original)
    variant.preferred_batch, original.preferred_batch = fast.batch, slow.batch
    same = _labels(original, samples) == _labels(variant, samples)
    return {"speedup": slow.evaluation_s / fast.evaluation_s, "agreement": float(same.mean())}


def _labels(backend: OnnxBackend, samples: Float32Array) -> IntArray:
    parts = torch.split(torch.from_numpy(samples), backend.preferred_batch)
    labels: IntArray = torch.cat([backend.logits(part).argmax(dim=1) for part in parts]).numpy()
    return labels


def _quantise(model: bytes, info: ModelInfo, samples: Float32Array) -> bytes:
    if info.datatype != "FP32":
        raise BackendError(f"it takes {info.datatype}, and only FP32 is quantised")
    with tempfile.TemporaryDirectory(prefix="guard-int8-") as folder, _quiet():
        files = [Path(folder) / name for name in ("model.onnx", "prepared.onnx", FILE)]
        files[0].write_bytes(model)
        quant_pre_process(files[0], files[1], skip_symbolic_shape=True)
        quantize_static(
            files[1],
            files[2],
            _Reader(info, samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return files[2].read_bytes()


class _Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    """Clean samples, batch by batch."""

    def __init__(self, info: ModelInfo, samples: Float32Array, batch: int = 32) -> None:
        self._batches: Iterator[Mapping[str, Float32Array]] = (
            {info.input_name: samples[start : start + batch].astype(datatypes.WIRE_DTYPES[info.datatype])}
            for start in range(0, len(samples), batch)
        )

    def get_next(self) -> Mapping[str, Float32Array] | None:
        """The next batch; None at the end."""
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice to developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
