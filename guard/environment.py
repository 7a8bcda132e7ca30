"""What the installation must be like before Guard starts, and what to do where it is not.

ONNX Runtime's CPU and GPU wheels install the same files under two names. Installed together, the later one breaks the
earlier one, no package manager notices, and sessions run on the CPU without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from guard.errors import EnvironmentProblem, ProviderMissing

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def check_onnxruntime() -> str:
    """Name the one ONNX Runtime distribution that is installed.

    Reads what the package manager recorded and imports nothing, so that it can run before an import that would crash.

    Raises:
        EnvironmentProblem: none is installed, or both are; the message holds the commands that mend it.
    """
    installed = [name for name in RUNTIMES if _is_installed(name)]
    if not installed:
        msg = (
            "ONNX Runtime is not installed. In a clone of Guard, install it for the CPU or, on a machine with an "
            "NVIDIA GPU, with CUDA:\n"
            "  pip install '.[cpu]'\n"
            "  pip install '.[gpu]'"
        )
        raise EnvironmentProblem(msg)
    if len(installed) > 1:
        msg = (
            f"{' and '.join(installed)} are both installed and overwrite each other's files. Remove both, then install "
            "one of them, in a clone of Guard:\n"
            f"  pip uninstall --yes {' '.join(installed)}\n"
            "  pip install '.[cpu]'    (on a machine with an NVIDIA GPU: '.[gpu]')"
        )
        raise EnvironmentProblem(msg)
    return installed[0]


def check_redis() -> None:
    """Check that the client library of Redis and Valkey is installed, which an extra brings.

    Raises:
        EnvironmentProblem: it is not; the message holds the command that mends it.
    """
    if not _is_installed("redis"):
        raise EnvironmentProblem(
            "query_store needs the Python package redis, which is not installed; install it, in a clone of Guard, or "
            "remove query_store from the policy:\n"
            "  pip install '.[redis]'"
        )


def check_otel() -> None:
    """Check that OpenTelemetry's exporter is installed, which an extra brings.

    Raises:
        EnvironmentProblem: it is not; the message holds the command that mends it.
    """
    if not _is_installed("opentelemetry-sdk") or not _is_installed("opentelemetry-exporter-otlp-proto-grpc"):
        raise EnvironmentProblem(
            "tracing needs the Python packages opentelemetry-sdk and opentelemetry-exporter-otlp-proto-grpc, which are "
            "not both installed; install them, in a clone of Guard, or remove tracing from the policy:\n"
            "  pip install '.[otel]'"
        )


def check_ray() -> None:
    """Check that Ray is installed, which an extra brings.

    Raises:
        EnvironmentProblem: it is not; the message holds the command that mends it.
    """
    if not _is_installed("ray"):
        raise EnvironmentProblem(
            "--ray needs the Python package ray, which is not installed; install it, in a clone of Guard, or leave "
            "--ray out:\n  pip install '.[ray]'"
        )


def check_providers(asked: Sequence[str], got: Sequence[str]) -> None:
    """Check that a session runs on the execution providers that were asked for.

    ONNX Runtime drops a provider that it can't load, and goes on with the CPU. `got` is the session's own
    `get_providers()`; it may name more than was asked, for ONNX Runtime always adds the CPU.

    Raises:
        ProviderMissing: a provider that was asked for is missing.
    """
    missing = [provider for provider in asked if provider not in got]
    if missing:
        msg = (
            f"ONNX Runtime could not load {', '.join(missing)} and fell back to {', '.join(got) or 'nothing'}; "
            "check that `nvidia-smi` lists a GPU and that its driver, CUDA and cuDNN are those that the installed "
            "onnxruntime-gpu was built for. If the CPU wheel is installed, change it for the other:\n"
            "  pip uninstall --yes onnxruntime\n"
            "  pip install '.[gpu]'"
        )
        raise ProviderMissing(msg)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
