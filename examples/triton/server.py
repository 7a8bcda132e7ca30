"""A Triton as a child process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.children import ports, running, wait
from examples.prepare import MODEL, Files

_CONFIG = f"""name: "{MODEL}"
backend: "python"
max_batch_size: 64
input [{{ name: "input" data_type: TYPE_FP32 dims: [1, 8, 8] }}]
output [{{ name: "logits" data_type: TYPE_FP32 dims: [10] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
"""


@contextmanager
def triton(command: Path, folder: Path, files: Files) -> Iterator[str]:
    """A Triton that serves the model: its gRPC address."""
    version = folder / "models" / MODEL / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copy(files.model, version / "model.onnx")
    shutil.copy(Path(__file__).with_name("model.py"), version / "model.py")
    (version.parent / "config.pbtxt").write_text(_CONFIG)
    grpc_port, http_port, metrics_port = ports(3)
    options = {"model-repository": folder / "models", "grpc-port": grpc_port, "http-port": http_port}
    options |= dict.fromkeys(("grpc-address", "http-address", "metrics-address"), "127.0.0.1")
    options["metrics-port"] = metrics_port
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with running([str(command), "--disable-auto-complete-config", *arguments], folder / "triton.log") as process:
        wait(f"http://127.0.0.1:{http_port}/v2/health/ready", process, folder / "triton.log")
        yield f"127.0.0.1:{grpc_port}"
