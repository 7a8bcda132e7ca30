"""The guarded server itself as the replica: copies go to it as one batched ModelInfer.

For the user who has no model file. Every evaluation then costs the server a row of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from guard import datatypes
from guard.channel import Link
from guard.errors import BackendError
from guard.model.backend import as_logits
from guard.model.client import Client
from guard.pb import grpc_service_pb2 as v2
from guard.pb import model_config_pb2
from guard.values import Float32Array, InferenceOutcome, Layout, ModelInfo, OutputKind

_FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
_LAYOUTS = {
    model_config_pb2.ModelInput.FORMAT_NHWC: Layout.HWC,
    model_config_pb2.ModelInput.FORMAT_NCHW: Layout.CHW,
}
_SCREENED = frozenset(datatypes.WIRE_DTYPES) - {"BOOL"}


class UpstreamBackend:
    """A v2 server asked over gRPC, in batches of at most `batch` copies. Without a version it chooses one itself."""

    def __init__(
        self, server: Link, info: ModelInfo, *, asked_version: str = "", timeout_s: float = 5.0, batch: int = 32
    ) -> None:
        self.info = info
        self.asked_version = asked_version
        self.version = ""
        """The version that answered last."""
        self.device = torch.device("cpu")
        self.preferred_batch = min(batch, info.max_batch or batch) if info.batched else 1
        self._timeout_s = timeout_s
        self._client = Client(server)

    def count(self, asked: Callable[[InferenceOutcome], None]) -> None:
        """Call `asked` for each inference that the server is asked for, once it is over, on the thread that asks."""
        self._client.asked = asked

    def logits(self, x: Float[Tensor, "batch *dims"]) -> Float[Tensor, "batch classes"]:
        """Classify a batch on the guarded server.

        Raises:
            BackendTimeout: no answer within the time-out.
            UpstreamUnavailable: no connection.
            BackendError: any other failure.
        """
        return torch.cat([self._infer_some(part) for part in torch.split(x, self.preferred_batch)])

    def check_ready(self) -> None:
        """Ask the server whether the model is ready; costs no evaluation.

        Raises:
            UpstreamUnavailable, BackendTimeout: no answer.
            BackendError: the model is not there, or not ready.
        """
        request = v2.ModelReadyRequest(name=self.info.name, version=self.asked_version)
        answer = self._client.call("ModelReady", request, v2.ModelReadyResponse, self._timeout_s)
        if not answer.ready:
            raise BackendError(f"the upstream says that model {self.info.name!r} is not ready")

    def versions(self) -> tuple[str, ...]:
        """The versions that the server has of the model.

        Raises:
            UpstreamUnavailable, BackendTimeout: no answer.
            BackendError: the server does not say.
        """
        request = v2.ModelMetadataRequest(name=self.info.name)
        return tuple(self._client.call("ModelMetadata", request, v2.ModelMetadataResponse, self._timeout_s).versions)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _infer_some(self, x: Float[Tensor, "batch *dims"]) -> Float[Tensor, "batch classes"]:
        """One request, or where the model turns out to take sequences one for each."""
        try:
            if not self._client.one_by_one(self.info.name):
                return self._infer(x)
        except BackendError:
            if len(x) == 1 or not self._client.one_by_one(self.info.name):
                raise
        return torch.cat([self._infer(row) for row in torch.split(x, 1)])

    def _infer(self, x: Float[Tensor, "batch *dims"]) -> Float[Tensor, "batch classes"]:
        info = self.info
        request = v2.ModelInferRequest(model_name=info.name, model_version=self.asked_version)
        request.inputs.add(
            name=info.input_name, datatype=info.datatype, shape=list(x.shape) if info.batched else list(info.shape)
        )
        request.outputs.add(name=info.output_name)
        request.raw_input_contents.append(datatypes.to_wire(info.datatype, x.detach().cpu().numpy()))
        response = self._client.infer(request, self._timeout_s)
        self.version = str(response.model_version)
        try:
            rows = read_output(response, info.output_name).reshape(len(x), -1)
        except (KeyError, ValueError) as exc:  # a data type without numbers, or values that make no whole rows
            raise BackendError(
                f"the upstream's output {info.output_name!r} does not hold {info.classes} numbers for each of "
                f"{len(x)} inputs: is the profile of this model?"
            ) from exc
        return as_logits(info, rows, len(x))


def inspect_upstream(
    server: Link, *, name: str, bounds: tuple[float, float], dims: tuple[int, ...], timeout_s: float = 5.0
) -> ModelInfo:
    """Read what Guard needs to know of a served classifier from its metadata and one trial inference.

    Raises:
        UpstreamUnavailable: no connection.
        BackendError: the server does not have the model, or it is no classifier with one numeric input.
    """
    client = Client(server)
    try:
        metadata = client.call("ModelMetadata", v2.ModelMetadataRequest(name=name), v2.ModelMetadataResponse, timeout_s)
        if len(metadata.inputs) != 1:
            names = [i.name for i in metadata.inputs]
            raise BackendError(f"model {name!r} has inputs {names}: Guard screens models with one input")
        declared = metadata.inputs[0]
        if declared.datatype not in _SCREENED:
            raise BackendError(f"model {name!r} takes {declared.datatype}: Guard screens numeric inputs")
        batched = _is_batched(name, tuple(declared.shape), dims)
        max_batch, layout = _configured(client, name, timeout_s)
        info = ModelInfo(
            name=name,
            input_name=declared.name,
            output_name="",
            datatype=declared.datatype,
            shape=dims,
            classes=0,
            bounds=bounds,
            output_kind=OutputKind.LOGITS,
            fingerprint=hashlib.sha256(metadata.SerializeToString(deterministic=True)).hexdigest(),
            batched=batched,
            max_batch=max_batch if batched else None,
            layout=layout,
            free=tuple(axis for axis, dim in enumerate(declared.shape[1 if batched else 0 :]) if dim == -1),
        )
        return _with_output(client, info, timeout_s)
    finally:
        client.close()


def _is_batched(name: str, declared: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    def fits(shape: tuple[int, ...]) -> bool:
        return len(shape) == len(dims) and all(want in (-1, have) for want, have in zip(shape, dims, strict=True))

    if fits(declared):
        return False
    if len(declared) == len(dims) + 1 and declared[0] == -1 and fits(declared[1:]):
        return True
    raise BackendError(f"model {name!r} takes shape {list(declared)}, and the samples have shape {list(dims)}")


def _configured(client: Client, name: str, timeout_s: float) -> tuple[int | None, Layout | None]:
    """Triton's own extension says how large a batch may be, and where channels are; other servers take any batch."""
    try:
        answer = client.call("ModelConfig", v2.ModelConfigRequest(name=name), v2.ModelConfigResponse, timeout_s)
    except BackendError:
        return None, None
    formats = [_LAYOUTS.get(each.format) for each in answer.config.input]
    return int(answer.config.max_batch_size) or None, formats[0] if formats else None


def _with_output(client: Client, info: ModelInfo, timeout_s: float) -> ModelInfo:
    """Fill in the output: the first one whose trial answer is one row of two or more numbers."""
    request = v2.ModelInferRequest(model_name=info.name)
    shape = [1, *info.shape] if info.batched else list(info.shape)
    request.inputs.add(name=info.input_name, datatype=info.datatype, shape=shape)
    zeros = np.full(info.shape, max(info.bounds[0], 0.0), dtype=np.float32)
    request.raw_input_contents.append(datatypes.to_wire(info.datatype, zeros))
    response = client.infer(request, timeout_s)
    for tensor in response.outputs:
        classes = int(np.prod(tensor.shape))
        if tensor.datatype in _FLOATS and classes > 1 and max(tensor.shape) == classes:
            return replace(info, output_name=tensor.name, classes=classes)
    raise BackendError(f"model {info.name!r} has no output of shape (batch, classes): Guard screens classifiers")


def read_output(response: v2.ModelInferResponse, name: str) -> Float32Array:
    """The values of an output, flat.

    Raises:
        BackendError: the answer lacks it.
        KeyError, ValueError: they are no numbers.
    """
    for index, tensor in enumerate(response.outputs):
        if tensor.name != name:
            continue
        if index < len(response.raw_output_contents):
            values = np.frombuffer(response.raw_output_contents[index], datatypes.WIRE_DTYPES[tensor.datatype])
            if tensor.datatype == datatypes.BF16:
                return datatypes.bf16_to_float32(values.astype(np.uint16))
        else:
            contents = tensor.contents
            typed: Sequence[float] = contents.fp64_contents if tensor.datatype == "FP64" else contents.fp32_contents
            values = np.asarray(typed)
        return values.astype(np.float32)
    raise BackendError(f"the upstream's answer lacks output {name!r}: is the profile of this model?")
