"""What is sent: images of three sizes to classifiers that cost next to nothing, and their profiles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

import guard
from benchmarks import models
from guard.layout import of_model
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.offline.progress import quiet
from guard.offline.scoring import score
from guard.offline.spread import screening
from guard.pb.grpc_service_pb2 import ModelInferRequest
from guard.profile import spec, store
from guard.profile.profile import Canaries, Profile, Provenance
from guard.values import Float32Array

FIRST_STAGE: Final = (
    spec.ConfidenceSpec(),
    spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=5), spec.Median(size=3))),
)
"""What looks at every input before anything that buys more: three evaluations, the input's and two squeezed copies'."""

FALSE_POSITIVE_RATE: Final = 0.02
_REFERENCE, _CALIBRATION = 60, 100
_CANARIES = 4
_CELLS, _CLASSES = 4, 10
_SPREAD = 6.0
_SEED = 0


@dataclass(frozen=True, slots=True)
class Payload:
    """A request: its images, and how many such requests make a cell."""

    name: str
    model: str
    shape: tuple[int, int, int]
    items: int
    requests: int


PAYLOADS: Final = (
    Payload("3 KB", "grey28", (1, 28, 28), 1, 400),
    Payload("150 KB", "colour112", (3, 112, 112), 1, 240),
    Payload("600 KB", "colour224", (3, 224, 224), 1, 96),
    Payload("9.6 MB", "colour224", (3, 224, 224), 16, 16),
)


def images(shape: tuple[int, int, int], count: int, seed: int) -> Float32Array:
    """Coarse random images with a little noise, (count, *shape) in 0..1."""
    rng = np.random.default_rng(seed)
    channels, side, _ = shape
    coarse = rng.random((count, channels, 7, 7), np.float32)
    fine = np.repeat(np.repeat(coarse, side // 7, axis=2), side // 7, axis=3)
    return np.clip(fine + 0.02 * rng.standard_normal(fine.shape, np.float32), 0, 1)


def write_model(payload: Payload, folder: Path) -> Path:
    """Write a classifier of a payload's images: a linear one of their means over a grid."""
    channels, side, _ = payload.shape
    torch.manual_seed(_SEED)
    linear = nn.Linear(channels * _CELLS**2, _CLASSES)
    nn.init.normal_(linear.weight, std=_SPREAD / linear.in_features**0.5)
    net = nn.Sequential(nn.AvgPool2d(side // _CELLS), nn.Flatten(), linear)
    path = folder / f"{payload.model}.onnx"
    path.write_bytes(models.to_onnx(net, payload.shape))
    return path


def write_profile(
    payload: Payload,
    onnx: Path,
    folder: Path,
    detectors: tuple[spec.DetectorSpec, ...] = FIRST_STAGE,
    samples: Float32Array | None = None,
) -> Path:
    """Write a profile, with the detectors of the first stage only and of coarse images unless told otherwise."""
    info = inspect_onnx(onnx, name=payload.model, bounds=(0.0, 1.0), dims=payload.shape)
    backend = OnnxBackend(onnx.read_bytes(), replace(info, layout=of_model(info)))
    samples = images(payload.shape, _REFERENCE + _CALIBRATION, _SEED + 1) if samples is None else samples
    first = round(len(samples) * _REFERENCE / (_REFERENCE + _CALIBRATION))
    try:
        with screening(backend, detectors, {}, secret=b"benchmark") as screens:
            reference, calibration = (
                score(screens, part, detectors, quiet(), "benign") for part in (samples[:first], samples[first:])
            )
        canaries = Canaries(samples[:_CANARIES], backend.logits(torch.from_numpy(samples[:_CANARIES])).numpy())
    finally:
        backend.close()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    counts = {"reference": len(reference), "calibration": len(calibration)}
    provenance = Provenance(now, guard.__version__, _SEED, counts, {})
    store.save(Profile(backend.info, detectors, reference, calibration, canaries, provenance), folder / payload.model)
    return folder / payload.model


def over_grpc(payload: Payload, inputs: Float32Array) -> bytes:
    """A serialised request."""
    request = ModelInferRequest(model_name=payload.model, raw_input_contents=[inputs.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=inputs.shape)
    request.outputs.add(name="logits")
    return request.SerializeToString()


def over_http(payload: Payload, inputs: Float32Array) -> bytes:
    """The same as one HTTP request, its tensors in binary in both directions."""
    size, shape = {"binary_data_size": inputs.nbytes}, list(inputs.shape)
    head = {
        "inputs": [{"name": "input", "datatype": "FP32", "shape": shape, "parameters": size}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(head).encode()
    lines = (
        f"POST /v2/models/{payload.model}/infer HTTP/1.1",
        "Host: guard",
        f"Inference-Header-Content-Length: {len(text)}",
        f"Content-Length: {len(text) + inputs.nbytes}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + text + inputs.tobytes()


def by_model(payloads: Sequence[Payload]) -> dict[str, Payload]:
    """One payload for each model."""
    return {payload.model: payload for payload in payloads}
