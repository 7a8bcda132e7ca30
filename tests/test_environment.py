"""The start-up checks of the installation, against real distribution records and a real session."""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import pytest
from onnx import TensorProto, helper

from guard.environment import check_onnxruntime, check_otel, check_providers, check_redis
from guard.errors import EnvironmentProblem


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for packages, the only one that Python searches."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def install(site: Path, name: str) -> None:
    """Record a distribution as pip does."""
    record = site / f"{name.replace('-', '_')}-1.23.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.23.0\n")


def identity_session(providers: list[str]) -> onnxruntime.InferenceSession:
    """A session of the smallest model there is."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)


def test_this_environment_has_one_runtime() -> None:
    """The environment that the tests run in passes its own check."""
    assert check_onnxruntime() == "onnxruntime"


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_one_runtime_is_named(site: Path, name: str) -> None:
    """Either wheel alone is fine, and is named."""
    install(site, name)
    assert check_onnxruntime() == name


def test_no_runtime(site: Path) -> None:
    """Without ONNX Runtime the message says how to install it."""
    with pytest.raises(EnvironmentProblem, match=r"not installed") as caught:
        check_onnxruntime()
    assert "pip install '.[cpu]'" in str(caught.value)


def test_both_runtimes(site: Path) -> None:
    """With both wheels the message says to remove both, for removing one leaves the other's files missing."""
    install(site, "onnxruntime")
    install(site, "onnxruntime-gpu")
    with pytest.raises(EnvironmentProblem, match=r"both installed") as caught:
        check_onnxruntime()
    assert "pip uninstall --yes onnxruntime onnxruntime-gpu\n" in str(caught.value)
    assert "pip install '.[cpu]'" in str(caught.value)


def test_no_client_of_the_query_store(site: Path) -> None:
    """Without the client library the message says which extra brings it; with it there is none."""
    with pytest.raises(EnvironmentProblem, match=r"query_store needs .* not installed") as caught:
        check_redis()
    assert "pip install '.[redis]'" in str(caught.value)
    install(site, "redis")
    check_redis()


def test_no_exporter_of_traces(site: Path) -> None:
    """Without OpenTelemetry's SDK and exporter, both, the message says which extra brings them."""
    for package in ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"):
        with pytest.raises(EnvironmentProblem, match=r"tracing needs .* not both installed") as caught:
            check_otel()
        assert "pip install '.[otel]'" in str(caught.value)
        install(site, package)
    check_otel()


def test_another_runtime_is_not_counted(site: Path) -> None:
    """A distribution whose name only begins alike is not ONNX Runtime."""
    install(site, "onnxruntime")
    install(site, "onnxruntime-extensions")
    assert check_onnxruntime() == "onnxruntime"


def test_session_on_what_was_asked() -> None:
    """A session on the CPU that was asked for passes."""
    check_providers(["CPUExecutionProvider"], identity_session(["CPUExecutionProvider"]).get_providers())


def test_added_provider_is_fine() -> None:
    """ONNX Runtime adds the CPU to what was asked; that is no fallback."""
    check_providers(["CUDAExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_silent_fallback_is_reported() -> None:
    """A session that asked for CUDA first, and runs on the CPU alone, is an error that names both."""
    asked = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        session = identity_session(asked)
    with pytest.raises(EnvironmentProblem, match=r"could not load CUDAExecutionProvider .* to CPUExecutionProvider"):
        check_providers(asked, session.get_providers())
