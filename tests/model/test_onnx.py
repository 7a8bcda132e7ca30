"""The replica on ONNX Runtime, and the one on torch beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto

from guard.errors import BackendError, EnvironmentProblem
from guard.model.backend import device_of
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.model.torch import TorchBackend
from guard.offline.nets import SmallNet, to_onnx
from guard.profile.spec import NetworkSpec
from guard.screen.backends import network_backend
from guard.values import ModelInfo, OutputKind
from tests.model.parts import INFO, INPUTS, WEIGHTS, integers, linear_onnx
from tests.support.digits import DigitsData, trained_network

DIGITS = ModelInfo("digits", "input", "logits", "FP32", (1, 8, 8), 10, (0.0, 1.0), OutputKind.LOGITS, "ab")
X = torch.from_numpy(INPUTS)


def linear(tmp_path: Path, info: ModelInfo = INFO, form: str = "plain") -> OnnxBackend:
    """A replica of a linear model."""
    return OnnxBackend(linear_onnx(tmp_path / f"{form}.onnx", form).read_bytes(), info)


def test_torch_and_onnx_agree(digits_onnx: Path, digits_data: DigitsData) -> None:
    """The trained classifier answers the same by torch and by ONNX Runtime, to 1e-4, at any batch size."""
    images = torch.from_numpy(digits_data.test[0][:33])
    by_onnx = OnnxBackend(digits_onnx.read_bytes(), DIGITS)
    by_torch = TorchBackend(trained_network(), DIGITS)
    for batch in (images, images[:1]):
        torch.testing.assert_close(by_onnx.logits(batch), by_torch.logits(batch), atol=1e-4, rtol=0)
    labels = by_onnx.logits(images).argmax(dim=1).numpy()
    assert (labels == digits_data.test[1][:33]).mean() > 0.9
    by_onnx.close()
    by_torch.close()


@pytest.mark.parametrize("copies", [lambda x: x[:1].expand(3, 4), lambda x: x.flip(0)[::2], lambda x: x.t().t()])
def test_strided_batches(tmp_path: Path, copies: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """A batch that is a view of other memory is read as the values it shows."""
    x = copies(X)
    np.testing.assert_allclose(linear(tmp_path).logits(x).numpy(), x.numpy() @ WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize(
    ("datatype", "onnx_type", "dtype"),
    [
        ("FP16", TensorProto.FLOAT16, np.dtype("f2")),
        ("FP64", TensorProto.DOUBLE, np.dtype("f8")),
        ("UINT8", TensorProto.UINT8, np.dtype("u1")),
        ("INT8", TensorProto.INT8, np.dtype("i1")),
    ],
)
def test_other_input_types(tmp_path: Path, datatype: str, onnx_type: int, dtype: np.dtype) -> None:
    """Copies are float32; a model of another type gets them converted, integers rounded and clipped, not wrapped."""
    path = linear_onnx(tmp_path / "model.onnx", onnx_type=onnx_type)
    info = inspect_onnx(path, name="linear", bounds=(0.0, 255.0), dims=(4,))
    x = np.array([[-3.2, 0.6, 254.7, 300.0], [1.5, 2.5, 3.4999, 127.2]], np.float32)
    sent = integers(dtype, x) if dtype.kind in "ui" else x.astype(dtype).astype(np.float32)
    assert info.datatype == datatype
    np.testing.assert_allclose(OnnxBackend(path.read_bytes(), info).logits(torch.from_numpy(x)), sent @ WEIGHTS)


def test_probabilities_become_logits(tmp_path: Path) -> None:
    """A model that answers probabilities is read as logits whose softmax they are; a probability of 0 stays finite."""
    info = replace(INFO, output_name="probabilities", output_kind=OutputKind.PROBABILITIES)
    answers = linear(tmp_path, info, "softmax").logits(torch.cat([X, 1000 * X]))
    expected = torch.softmax(torch.cat([X, 1000 * X]) @ torch.from_numpy(WEIGHTS), dim=1)
    torch.testing.assert_close(answers.softmax(dim=1), expected, atol=1e-6, rtol=0)
    assert bool(torch.isfinite(answers).all())


@pytest.mark.parametrize(
    ("datatype", "onnx_type"),
    [
        ("FP32", TensorProto.FLOAT),
        ("FP16", TensorProto.FLOAT16),
        ("FP64", TensorProto.DOUBLE),
        ("UINT8", TensorProto.UINT8),
        ("INT8", TensorProto.INT8),
    ],
)
def test_bound_by_address(tmp_path: Path, datatype: str, onnx_type: int) -> None:
    """As on CUDA, where input and output are bound by address: the answers are those for a batch of any other kind."""
    content = linear_onnx(tmp_path / "model.onnx", onnx_type=onnx_type).read_bytes()
    backend = OnnxBackend(content, replace(INFO, datatype=datatype))
    x = torch.tensor([[-3.2, 0.6, 254.7, 300.0], [1.5, 2.5, 3.4999, 127.2], [0.0, -200.0, 1.0, 0.5]])
    for batch in (x, x[1:2], x.flip(0)[::2], x):
        torch.testing.assert_close(backend._run_in_place(batch), backend.logits(batch), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("datatype", "onnx_type"),
    [("FP32", TensorProto.FLOAT), ("FP16", TensorProto.FLOAT16), ("UINT8", TensorProto.UINT8)],
)
def test_bound_once(tmp_path: Path, datatype: str, onnx_type: int) -> None:
    """As on CUDA: batches that it lends are bound once for each bucket, and read whenever they are run."""
    content = linear_onnx(tmp_path / "model.onnx", onnx_type=onnx_type).read_bytes()
    backend = OnnxBackend(content, replace(INFO, datatype=datatype), bound=True)
    plain = OnnxBackend(content, replace(INFO, datatype=datatype))
    batches = backend.lend(6, 2)
    for number, copies in ((0, 6), (1, 3), (0, 1), (1, 5), (0, 4)):
        x = 10 * torch.rand(copies, 4, generator=torch.Generator().manual_seed(copies))
        batches[number][:copies] = x
        torch.testing.assert_close(backend.logits(batches[number][:copies]), plain.logits(x), rtol=0, atol=0)
    elsewhere = batches[0][1:3]
    torch.testing.assert_close(backend.logits(elsewhere), plain.logits(elsewhere.clone()), rtol=0, atol=0)
    backend.close()


def test_bound_to_another_shape(tmp_path: Path) -> None:
    """Where the model's answers would not fit the memory bound for them, nothing is written and the run fails."""
    for classes in (2, 10):
        with pytest.raises(Exception, match="invalid dimensions for output"):
            linear(tmp_path, replace(INFO, classes=classes))._run_in_place(X)


def test_devices(tmp_path: Path) -> None:
    """Replicas say where they like their batches; one that doesn't say likes them in the host's memory."""
    assert device_of(linear(tmp_path)) == device_of(TorchBackend(torch_linear(), INFO)) == torch.device("cpu")
    assert device_of(TorchBackend(torch_linear().to("meta"), INFO)) == torch.device("meta")


def torch_linear() -> torch.nn.Module:
    """The linear model in torch."""
    module = torch.nn.Linear(4, 3, bias=False)
    module.weight.data = torch.from_numpy(WEIGHTS.T.copy())
    return module


def test_torch_backend_is_deterministic() -> None:
    """A torch module is put in evaluation mode: dropout has no say in a replica's answers, and no gradient is kept."""
    backend = TorchBackend(torch.nn.Sequential(torch.nn.Dropout(0.5), torch_linear()).train(), INFO)
    answers = backend.logits(X)
    np.testing.assert_allclose(answers.numpy(), INPUTS @ WEIGHTS, rtol=1e-5)
    assert not answers.requires_grad


def test_torch_failure_is_translated() -> None:
    """What torch can't compute is a BackendError that names the model; other shapes of output are one too."""
    with pytest.raises(BackendError, match="torch failed on model 'linear'"):
        TorchBackend(torch_linear(), INFO).logits(X[:, :2])
    with pytest.raises(BackendError, match=r"answered shape \(5, 3\)"):
        TorchBackend(torch_linear(), replace(INFO, classes=2)).logits(X)


@pytest.mark.parametrize(
    ("changes", "form", "says"),
    [
        ({"classes": 10}, "plain", r"answered shape \(5, 3\) for output 'logits', expected \(5, 10\): is the profile"),
        ({"output_name": "total"}, "total", r"answered shape \(3,\) for output 'total'"),
        ({"input_name": "y"}, "plain", "ONNX Runtime failed on model 'linear'"),
        ({"output_name": "y"}, "plain", "ONNX Runtime failed on model 'linear'"),
        ({}, "static", "ONNX Runtime failed on model 'linear'"),
    ],
)
def test_another_model_is_an_error(tmp_path: Path, changes: dict, form: str, says: str) -> None:
    """A model that is not the one described fails with a BackendError, and never with an answer."""
    with pytest.raises(BackendError, match=says):
        linear(tmp_path, replace(INFO, **changes), form).logits(X)


def test_closed_replica(tmp_path: Path) -> None:
    """A replica that was closed fails like any other failure of a replica."""
    backend = linear(tmp_path)
    assert backend.logits(X).shape == (5, 3)
    backend.close()
    with pytest.raises(BackendError):
        backend.logits(X)


@pytest.mark.parametrize("content", [b"", b"not an onnx model", b"\x08\x0a"])
def test_broken_model(content: bytes) -> None:
    """Bytes that are no ONNX model are refused, saying what would be one."""
    with pytest.raises(BackendError, match=r"(?s)not a loadable ONNX model.*; export it again as one file"):
        OnnxBackend(content, INFO)


def test_missing_provider(tmp_path: Path) -> None:
    """A session that fell back to the CPU is refused, not used."""
    content = linear_onnx(tmp_path / "model.onnx").read_bytes()
    with pytest.raises(EnvironmentProblem, match="could not load CUDAExecutionProvider and fell back"):
        OnnxBackend(content, INFO, providers=("CUDAExecutionProvider",))


def test_detector_network() -> None:
    """A detector network takes the guarded model's inputs as float32, whatever that model's type, and knows two."""
    guarded = replace(INFO, datatype="UINT8", output_kind=OutputKind.PROBABILITIES, batched=False, max_batch=3)
    net = SmallNet((4,), 2, (0, 1)).eval()
    backend = network_backend(NetworkSpec(sha256=""), to_onnx(net, (4,)), guarded)
    torch.testing.assert_close(backend.logits(X), net(X).detach(), atol=1e-5, rtol=0)
    assert backend.info.fingerprint != guarded.fingerprint


def test_inspect_reads_the_model(digits_onnx: Path) -> None:
    """What the file says of itself: names, type, classes, and the hash of its bytes as the fingerprint."""
    info = inspect_onnx(digits_onnx, name="d", bounds=(-1.0, 1.0), dims=(1, 8, 8))
    fingerprint = hashlib.sha256(digits_onnx.read_bytes()).hexdigest()
    assert info == ModelInfo("d", "input", "logits", "FP32", (1, 8, 8), 10, (-1, 1), OutputKind.LOGITS, fingerprint)


def test_inspect_skips_what_is_no_score(tmp_path: Path) -> None:
    """Indices and lists of maps, which scikit-learn's converter puts first, are passed over for the scores."""
    info = inspect_onnx(linear_onnx(tmp_path / "m.onnx", "sklearn"), name="m", bounds=(0.0, 1.0), dims=(4,))
    assert (info.output_name, info.classes) == ("logits", 3)


@pytest.mark.parametrize(
    ("make", "dims", "says"),
    [
        (str, (4,), r"model.onnx can't be read \(No such file or directory\): check --model"),
        (lambda path: path.mkdir(), (4,), r"model.onnx can't be read \(Is a directory\): check --model"),
        (lambda path: path.write_bytes(b"no"), (4,), "not a loadable ONNX model"),
        (lambda path: linear_onnx(path, "two_inputs"), (4,), r"has inputs \['x', 'unused'\]: .* one input"),
        (lambda path: linear_onnx(path, "static"), (4,), r"shape \[2, 4\], .*needs a dynamic batch dimension"),
        (lambda path: linear_onnx(path, "unbatched"), (4,), r"shape \[4\], .*needs a dynamic batch dimension"),
        (linear_onnx, (1, 4), r"the samples have shape \[1, 4\]"),
        (linear_onnx, (5,), r"does not accept samples of shape \[5\]"),
        (
            lambda path: linear_onnx(path, onnx_type=TensorProto.INT64),
            (4,),
            r"takes tensor\(int64\): Guard screens",
        ),
        (lambda path: linear_onnx(path, "labels"), (4,), r"no output of shape \(batch, classes\): Guard screens"),
        (lambda path: linear_onnx(path, "total"), (4,), r"no output of shape \(batch, classes\)"),
    ],
)
def test_inspect_refuses(tmp_path: Path, make: Callable[[Path], object], dims: tuple[int, ...], says: str) -> None:
    """A file that Guard can't screen is refused before calibration, naming the file and the remedy."""
    make(tmp_path / "model.onnx")
    with pytest.raises(BackendError, match=says):
        inspect_onnx(tmp_path / "model.onnx", name="m", bounds=(0.0, 1.0), dims=dims)
