"""The backend of a profile's detector network: it takes what the guarded model takes.

It answers two logits; an auxiliary model one for each class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from guard.errors import BackendError
from guard.model.backend import Backend
from guard.model.inner import ANSWER
from guard.model.onnx import OnnxBackend
from guard.profile.spec import DetectorSpec, NetworkSpec
from guard.values import ModelInfo, OutputKind


def network_backend(
    spec: NetworkSpec, network: bytes, guarded: ModelInfo, *, providers: tuple[str, ...] = ("CPUExecutionProvider",)
) -> OnnxBackend:
    """A network on the input and an auxiliary model take float32; the others are the guarded model itself, continued.

    Raises:
        BackendError: the bytes are no ONNX model that this runtime can load.
    """
    on_input = spec.on in {"input", "auxiliary"}
    info = replace(
        guarded,
        name=f"detector {spec.name}",
        input_name="input" if on_input else guarded.input_name,
        output_name="logits" if on_input else ANSWER,
        datatype="FP32" if on_input else guarded.datatype,
        classes=guarded.classes if spec.on == "auxiliary" else 2,
        output_kind=OutputKind.LOGITS,
        fingerprint=hashlib.sha256(network).hexdigest(),
        batched=True,
        max_batch=None,
    )
    return OnnxBackend(network, info, providers=providers)


def networks_of(
    detectors: Iterable[DetectorSpec], files: Mapping[str, bytes], guarded: ModelInfo, providers: tuple[str, ...]
) -> dict[str, Backend]:
    """The backend of each detector network, by its name. The caller closes them.

    Raises:
        BackendError: one can't be loaded; none stays open.
    """
    opened: dict[str, Backend] = {}
    try:
        for spec in detectors:
            if isinstance(spec, NetworkSpec):
                opened[spec.name] = network_backend(spec, files[spec.file], guarded, providers=providers)
    except BackendError:
        for each in opened.values():
            each.close()
        raise
    return opened
