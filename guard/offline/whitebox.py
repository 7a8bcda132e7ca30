"""A torch module of an ONNX file, for attacks that need gradients; or else a surrogate that imitates it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import onnx
import structlog
import torch
from torch import nn

from guard.errors import BackendError, EnvironmentProblem
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend
from guard.offline.nets import one_thread
from guard.offline.network import train_surrogate
from guard.offline.progress import Reporter
from guard.values import Float32Array, ModelInfo

SURROGATE_STEPS = 600
_TOLERANCE = 1e-3
_PROBES = 64
_OPERATORS = ("nms", "qnms")
_OTHER_REALS = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE})
_LIBRARIES: list[Any] = []  # what they define ends with them
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WhiteBox:
    """A module with gradients, logits out, and how well it stands for the model.

    `agreement` is the share of samples to which both give the same label. `exact` where it is the model itself.
    """

    module: nn.Module
    exact: bool
    agreement: float


def white_box(model: bytes, info: ModelInfo) -> nn.Module:
    """The model as a torch module in evaluation mode: (batch, *shape) in its own units to logits.

    A softmax at the end is left out, because its gradients vanish where the model is sure.

    Raises:
        BackendError: the graph holds something that has no counterpart in torch.
        EnvironmentProblem: the converter isn't installed.
    """
    converter = _converter()
    try:
        graph = _without_softmax(onnx.load_from_string(model), info.output_name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are read-only views, which nothing writes to
            module = converter.ConvertModel(_in_single_precision(graph)).eval().float()  # as all attacks compute
    except Exception as exc:  # the converter raises whatever it likes on graphs that it can't take
        raise BackendError(f"model {info.name!r} can't be made a torch module: {exc}") from exc
    for parameter in module.parameters():
        parameter.requires_grad = False
    converted: nn.Module = module
    return converted


def best_white_box(
    backend: OnnxBackend, samples: Float32Array, *, seed: int, reporter: Reporter, steps: int = SURROGATE_STEPS
) -> WhiteBox:
    """The model itself with gradients where it can be had; else a surrogate, distilled from its answers on samples.

    Raises:
        EnvironmentProblem: the converter isn't installed.
    """
    try:
        module = white_box(backend.content, backend.info)
        _check(module, backend, samples)
    except BackendError as exc:
        _log.warning("white-box attacks run on a surrogate that imitates the model", reason=str(exc))
        surrogate = imitate(backend, samples, seed=seed, reporter=reporter, steps=steps)
        return WhiteBox(surrogate, exact=False, agreement=_agreement(surrogate, backend, samples))
    return WhiteBox(module, exact=True, agreement=_agreement(module, backend, samples))


def imitate(
    backend: Backend, samples: Float32Array, *, seed: int, reporter: Reporter, steps: int = SURROGATE_STEPS
) -> nn.Module:
    """Another model: a small network trained on this one's answers."""
    surrogate = train_surrogate(backend, samples, seed=seed, reporter=reporter, steps=steps)
    if not isinstance(surrogate, nn.Module):
        raise TypeError("a surrogate is a torch module")
    return surrogate


def _converter() -> Any:
    try:
        import torchvision  # noqa: F401, PLC0415 - of the extra `evaluate`, which serving does without
    except RuntimeError:
        # The converter imports torchvision for operators that no classifier has. torchvision's wheel on PyPI is built
        # for CUDA, and beside a torch for the CPU it misses the two operators that it describes to torch's compiler.
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call] # torch's own
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
    except ImportError:
        pass  # said below
    try:
        import onnx2pytorch  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise EnvironmentProblem(
            "white-box attacks need onnx2pytorch: pip install '.[cpu,evaluate]' in a clone of Guard"
        ) from exc
    # Of its modules' indexing, which torch is to understand otherwise one day; `_check` would find that.
    warnings.filterwarnings("ignore", message="Using a non-tuple sequence for multidimensional indexing")
    return onnx2pytorch


def _without_softmax(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The same graph with one output, the named one or, where a softmax makes that, what goes into it."""
    makers = {name: node for node in model.graph.node for name in node.output}
    maker = makers.get(output)
    wanted = maker.input[0] if maker is not None and maker.op_type == "Softmax" else output
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(wanted, onnx.TensorProto.FLOAT, None))
    return model


def _in_single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without casts to other real numbers; the converter makes the weights follow."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _OTHER_REALS:
                attribute.i = onnx.TensorProto.FLOAT
    return model


def _check(module: nn.Module, backend: Backend, samples: Float32Array) -> None:
    """Raises BackendError unless a module answers like the replica, for these samples, and has gradients."""
    x = torch.from_numpy(samples[:_PROBES]).requires_grad_(True)
    try:
        with one_thread():
            mine = module(x)
            (gradient,) = torch.autograd.grad(mine.max(dim=1).values.sum(), x)
    except Exception as exc:  # a module may raise anything
        raise BackendError(f"as a torch module it fails: {exc}") from exc
    theirs = backend.logits(x.detach())
    mine, theirs = mine.detach().log_softmax(dim=1), theirs.log_softmax(dim=1)
    difference = float((mine.exp() - theirs.exp()).abs().max())
    if difference > _TOLERANCE or not bool(gradient.isfinite().all()) or not bool(gradient.any()):
        raise BackendError(f"as a torch module it answers otherwise (by {difference:.2g}), or has no gradients")


@torch.no_grad()
def _agreement(module: nn.Module, backend: Backend, samples: Float32Array) -> float:
    x = torch.from_numpy(samples)
    same = [
        module(part).argmax(dim=1) == backend.logits(part).argmax(dim=1)
        for part in torch.split(x, backend.preferred_batch)
    ]
    return float(torch.cat(same).double().mean())
