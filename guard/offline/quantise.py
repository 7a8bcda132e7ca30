"""A faster replica: the model in fewer bits, if it is faster where it runs and says the same.

int8 is static quantisation with a scale for each channel (Jacob et al., 2018), fp16 half precision, both by ONNX
Runtime's tools. Either is another function than the model, so everything that is calibrated is calibrated with it, and
a certificate is one about it.
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

import onnx
import structlog
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from guard import datatypes
from guard.errors import BackendError, DataError
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend
from guard.model.sweep import best_batch
from guard.offline.options import Precision, Reduced
from guard.profile.spec import ReducedReplica
from guard.values import Float32Array, IntArray, ModelInfo

LEAST_AGREEMENT = 0.99
LEAST_SPEEDUP = 1.1
_FILE = "replica.onnx"
_SAMPLES = 256
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Variant:
    """A replica that earns its place: what the profile says of it, its file, and the replica, open."""

    spec: ReducedReplica
    content: bytes
    backend: OnnxBackend


def fastest_variant(
    original: Backend, samples: Float32Array, precision: Precision = "auto", *, least_speedup: float = LEAST_SPEEDUP
) -> Variant | None:
    """The fastest of a model's variants that earn their place on clean samples (n, *shape); None if none does.

    It has to be so many times as fast as the model where that runs, and to give 99 % of the samples the model's label.

    Raises:
        DataError: the model is no ONNX file.
    """
    if precision == "fp32":
        return None
    if not isinstance(original, OnnxBackend):
        raise DataError(
            f"--precision {precision} makes a replica from an ONNX file: name it with --model, or leave it out"
        )
    asked: tuple[Reduced, ...] = ("int8", "fp16") if precision == "auto" else (precision,)
    found = [_variant(original, samples, each, least_speedup) for each in asked]
    variants = sorted((each for each in found if each is not None), key=lambda variant: variant.spec.speedup)
    for slower in variants[:-1]:
        slower.backend.close()
    return variants[-1] if variants else None


def _variant(original: OnnxBackend, samples: Float32Array, precision: Reduced, least_speedup: float) -> Variant | None:
    try:
        content = _convert(original, samples[:_SAMPLES], precision)
        backend = OnnxBackend(content, original.info, providers=original.providers)
        found = _compare(original, backend, samples)
    except Exception as exc:  # noqa: BLE001 - converters raise whatever they like on graphs that they can't take
        _log.warning(f"no {precision} replica: the model can't be converted", error=str(exc))
        return None
    if found["speedup"] < least_speedup or found["agreement"] < LEAST_AGREEMENT:
        _log.warning(f"no {precision} replica: it is slower, or its labels differ", **found)
        backend.close()
        return None
    sha256 = hashlib.sha256(content).hexdigest()
    spec = ReducedReplica(precision=precision, file=_FILE, sha256=sha256, **found)
    return Variant(spec, content, backend)


def _compare(original: OnnxBackend, variant: OnnxBackend, samples: Float32Array) -> dict[str, float]:
    fast, slow = best_batch(variant), best_batch(original)
    variant.preferred_batch, original.preferred_batch = fast.batch, slow.batch
    same = _labels(original, samples) == _labels(variant, samples)
    return {"speedup": slow.evaluation_s / fast.evaluation_s, "agreement": float(same.mean())}


def _labels(backend: OnnxBackend, samples: Float32Array) -> IntArray:
    parts = torch.split(torch.from_numpy(samples), backend.preferred_batch)
    logits = torch.cat([backend.logits(part) for part in parts])
    if not bool(logits.isfinite().all()):
        raise BackendError("it answers clean samples with NaN or infinity: values leave the range of its precision")
    labels: IntArray = logits.argmax(dim=1).numpy()
    return labels


def _convert(original: OnnxBackend, samples: Float32Array, precision: Reduced) -> bytes:
    datatype = original.info.datatype
    if datatype != "FP32":
        raise BackendError(f"it takes {datatype}, and only FP32 is converted")
    return _quantise(original.content, original.info, samples) if precision == "int8" else halve(original.content)


def halve(model: bytes) -> bytes:
    """Half precision inside, while inputs and logits stay FP32: copies meet the model as they were drawn."""
    with _quiet():
        halved: bytes = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True).SerializeToString()
    return halved


def _quantise(model: bytes, info: ModelInfo, samples: Float32Array) -> bytes:
    with tempfile.TemporaryDirectory(prefix="guard-int8-") as folder, _quiet():
        files = [Path(folder) / name for name in ("model.onnx", "prepared.onnx", "quantised.onnx")]
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
    """Without the converters' advice to developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
