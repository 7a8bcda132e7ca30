"""What must be so before a figure measured on a device means anything; the same checks run on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks import models
from guard.model.backend import Backend
from guard.model.buckets import Capture, plain
from guard.model.onnx import OnnxBackend
from guard.model.torch import TorchBackend
from guard.offline.quantise import LEAST_AGREEMENT
from guard.profile import spec
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.trial import MODEL
from guard.values import Evidence, Finding, Float32Array, ModelInfo, OutputKind, Screening

_SIGMA = 0.25
_VALUES = 20_000
_LEAST_P = 1e-4
_INFO = ModelInfo("copies", "x", "y", "FP32", (_VALUES,), 2, (-1.0, 1.0), OutputKind.LOGITS, "copies")
_LENET = ModelInfo("LeNet-5", "input", "logits", "FP32", (1, 28, 28), 10, (0.0, 1.0), OutputKind.LOGITS, "lenet")
_GAUSSIAN = spec.SensitivitySpec(mutation=spec.Gaussian(sigma=_SIGMA), p0=0.02, p1=0.2)
_RESNET = replace(_LENET, name="ResNet-20", shape=(3, 32, 32), fingerprint="resnet")
_SCORED = (spec.ConfidenceSpec(), spec.SqueezingSpec(squeezers=(spec.BitDepth(bits=4),)))
_TWO_SAMPLE_5_PERCENT = 1.36
"""Of Kolmogorov and Smirnov's statistic for two samples of n, over sqrt(2 / n)."""
_UNIFORM = spec.SensitivitySpec(mutation=spec.Uniform(width=_SIGMA), p0=0.02, p1=0.2)


class _Keeper:
    """A replica that never changes its mind, and keeps the copies that it is shown."""

    def __init__(self, device: torch.device) -> None:
        self.info = _INFO
        self.preferred_batch = 16
        self.device = device
        self.kept: list[Tensor] = []

    def logits(self, x: Tensor) -> Tensor:
        self.kept.append(x.cpu().clone())
        return torch.tensor([1.0, 0.0], device=x.device).expand(len(x), 2)

    def close(self) -> None:
        """Nothing to free."""


class _Echo(nn.Module):
    """Answers with its input: what a graph has read."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one


class _Replayed(TorchBackend):
    """An echo, run as graphs where there are any; it keeps what it was given and what the graphs have read."""

    def __init__(self, device: torch.device) -> None:
        info = replace(_INFO, classes=_VALUES)
        super().__init__(_Echo().to(device), info, batch=16, capture=_capture(device))
        self.given: list[Tensor] = []
        self.read: list[Tensor] = []

    def logits(self, x: Tensor) -> Tensor:
        _sure(self.bucketed, "a model that graphs can take was not recorded")
        answers = super().logits(x)
        self.given.append(x.cpu().clone())
        self.read.append(answers.cpu().clone())
        return answers


def run(device: torch.device, images: Sequence[Float32Array]) -> Iterator[str]:
    """Check, one line a check. `images` are of LeNet-5 and of ResNet-20.

    Without a GPU LeNet-5 must do for the precisions: few CPUs compute in fp16.

    Raises:
        SystemExit: something is not as it must be.
    """
    zero, half = np.zeros(_VALUES, np.float32), np.full(_VALUES, 0.5, np.float32)
    noise, other = _noise(device, zero, _GAUSSIAN), _noise(device, half, _GAUSSIAN)
    _sure(_all_differ([*noise, *other]), "two copies, or copies of two inputs, have the same noise")
    yield f"{len(noise) + len(other)} copies of two inputs all differ"
    _sure(np.array_equal(noise, _noise(device, zero, _GAUSSIAN)), "a replayed input met other noise")
    yield "a replayed input meets the same noise"
    for design, law in ((_GAUSSIAN, stats.norm(0, _SIGMA)), (_UNIFORM, stats.uniform(-_SIGMA, 2 * _SIGMA))):
        here, host = _noise(device, zero, design).ravel(), _noise(None, zero, design).ravel()
        found = f"mean {here.mean():.2g} and {host.mean():.2g}, deviation {here.std():.4f} and {host.std():.4f}"
        tolerance = 5 * law.std() / len(here) ** 0.5
        close = abs(here.mean() - host.mean()) < 2 * tolerance and abs(here.std() - host.std()) < 2 * tolerance
        _sure(close, f"noise on the device is not that of the host: {found}")
        p_values = [stats.ks_2samp(here, host).pvalue, stats.kstest(here, law.cdf).pvalue]
        _sure(min(p_values) > _LEAST_P, f"noise on the device is distributed otherwise: p = {min(p_values):.2g}")
        yield f"{design.mutation.kind} noise, device and host: {found}, KS p {p_values[0]:.2g}"
    yield from check_replays(device)
    yield from _check_answers(device)
    yield from check_half(models.lenet5().to(device), _LENET, images[0])
    if device.type == "cuda":
        yield from check_half(models.resnet20().to(device), _RESNET, images[1])


def check_replays(device: torch.device) -> Iterator[str]:
    """Whether graphs read the copies that were made for them, with new noise for each input."""
    noise = []
    for value in (0.0, 0.5):
        backend, x = _Replayed(device), np.full(_VALUES, value, np.float32)
        for _ in range(2):
            _screen(backend, x, (_GAUSSIAN,), on_device=True)
            read = torch.cat(backend.read).numpy()
            _sure(np.array_equal(read, torch.cat(backend.given).numpy()), "a graph read other copies than were made")
            noise.append(read[(read != x).any(axis=1)] - x)
            backend.read.clear()
            backend.given.clear()
    first, again, other, _ = noise
    _sure(np.array_equal(first, again), "an input that was screened again met other noise in the graphs")
    _sure(_all_differ([*first, *other]), "two replays of graphs have the same noise")
    yield f"{len(first) + len(other)} copies that graphs have read for two inputs all differ"


def check_half(module: nn.Module, info: ModelInfo, images: Float32Array) -> Iterator[str]:
    """Whether a model in fp16 agrees with itself in fp32 as well as calibration asks.

    Its labels do as often as calibration wants them to, and its benign scores lie no further from the model's own than
    those of another calibration on as many inputs would.
    """
    halved = copy.deepcopy(module).half()
    single, half = (_screenings(each, info, images) for each in (module, halved))
    agreement = float(np.mean([one.label == other.label for one, other in zip(single, half, strict=True)]))
    _sure(agreement >= LEAST_AGREEMENT, f"fp16 gives {agreement:.1%} of {info.name}'s inputs the label of fp32")
    distances = []
    for theirs, ours in zip(_scores(single), _scores(half), strict=True):
        distances.append(float(stats.ks_2samp(theirs, ours, method="asymp").statistic))
        allowed = _TWO_SAMPLE_5_PERCENT * (1 / len(theirs) + 1 / len(ours)) ** 0.5
        _sure(distances[-1] <= allowed, f"{info.name}'s scores in fp16 are {distances[-1]:.3f} from those in fp32")
    yield (
        f"{info.name} in fp16: {agreement:.1%} of {len(images)} labels as in fp32, scores at most "
        f"{max(distances):.3f} apart in distribution"
    )


def _screenings(module: nn.Module, info: ModelInfo, images: Float32Array) -> list[Screening]:
    device = next(module.parameters()).device
    backend = TorchBackend(module, info, batch=64, capture=_capture(device))
    return _screen_all(backend, images, (*_SCORED, _GAUSSIAN), on_device=True)


def _scores(screened: Sequence[Screening]) -> list[list[float]]:
    """The scores of each detector."""
    columns = zip(*(screening.findings for screening in screened), strict=True)
    return [[finding.score for finding in column if isinstance(finding, Evidence)] for column in columns]


def _capture(device: torch.device) -> Capture | None:
    """Graphs on a GPU; calls in the same buckets elsewhere."""
    return None if device.type == "cuda" else plain


def _check_answers(device: torch.device) -> Iterator[str]:
    image = np.random.default_rng(0).random(_LENET.shape, np.float32)
    backend = TorchBackend(models.lenet5().to(device), _LENET)
    once, again = _findings(backend, image), _findings(backend, image)
    _sure(once == again, f"a replay of the same request was answered otherwise: {once}, then {again}")
    yield "a replayed request gets the same answers"
    if device.type == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers():
        yield "ONNX Runtime has no CUDA provider here: not checked (install onnxruntime-gpu in place of onnxruntime)"
        return
    providers = ("CUDAExecutionProvider",) if device.type == "cuda" else ("CPUExecutionProvider",)
    onnx = OnnxBackend(models.to_onnx(models.lenet5(), _LENET.shape), _LENET, providers=providers, bound=True)
    (lent,) = onnx.lend(32, 1)
    for copies in (1, 7, 32):
        x = lent[:copies].copy_(torch.rand(copies, *_LENET.shape, device=device))
        ours, theirs = onnx.logits(x), backend.logits(x)
        _sure(ours.device == x.device, f"ONNX Runtime answered on {ours.device}")
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        _sure(difference < 0.02, f"ONNX Runtime and torch differ by {difference:.2%} of the largest logit")  # noqa: PLR2004 - as guard.verify allows
    yield "ONNX Runtime, bound once to batches where they are, agrees with torch"


def _noise(device: torch.device | None, x: Float32Array, design: spec.DetectorSpec) -> Float32Array:
    """The noise of an input's copies, (copies, values); on the host if there is no device."""
    keeper = _Keeper(device or torch.device("cpu"))
    _screen(keeper, x, (design,), on_device=device is not None)
    rows = torch.cat(keeper.kept).numpy()
    noise: Float32Array = rows[(rows != x).any(axis=1)] - x
    return noise


def _findings(backend: TorchBackend, x: Float32Array) -> list[Finding]:
    return [replace(finding, duration_s=0.0) for finding in _screen(backend, x, (_GAUSSIAN,), on_device=True)]


def _screen(
    backend: Backend, x: Float32Array, designs: Sequence[spec.DetectorSpec], *, on_device: bool
) -> tuple[Finding, ...]:
    return _screen_all(backend, x[None], designs, on_device=on_device)[0].findings


def _screen_all(
    backend: Backend, inputs: Float32Array, designs: Sequence[spec.DetectorSpec], *, on_device: bool
) -> list[Screening]:
    engine = Engine(
        detectors=build_detectors(designs),
        backends={MODEL: backend},
        secret=b"check",
        max_queued_items=len(inputs),
        on_device=on_device,
    )
    engine.start()
    try:
        return [future.result() for future in [engine.submit(x) for x in inputs]]
    finally:
        engine.stop()


def _all_differ(noise: list[Float32Array]) -> bool:
    """Whether no two rows share more than a thousandth of their values, which float32 makes equal now and then."""
    return all(
        float(np.isclose(one, other, rtol=0, atol=1e-7).mean()) < 1e-3  # noqa: PLR2004 - as said
        for i, one in enumerate(noise)
        for other in noise[:i]
    )


def _sure(holds: bool, problem: str) -> None:  # noqa: FBT001 - as assert
    if not holds:
        raise SystemExit(f"benchmarks.engine.gpu: {problem}")
