"""KServe's Python server with the classifier of digits, on loopback: python server.py HTTP-PORT GRPC-PORT MODEL.onnx.

Runs in an environment of its own (`make .venv-kserve`), or in the pod of inferenceservice.yaml.
"""

import sys
from pathlib import Path
from typing import Any

import grpc
import onnxruntime
import uvicorn  # type: ignore[import-not-found,unused-ignore]
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # type: ignore[import-not-found]
from kserve.utils.utils import generate_uuid  # type: ignore[import-not-found]

LOOPBACK = "127.0.0.1"


class Digits(Model):  # type: ignore[misc]  # KServe has an environment of its own
    """What KServe calls."""

    def __init__(self, name: str, model: Path) -> None:
        super().__init__(name)
        self._model = model

    def load(self) -> bool:
        """Open the session."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(self._model), options, providers=["CPUExecutionProvider"])
        self.ready = True
        return self.ready

    def get_input_types(self) -> list[dict[str, Any]]:
        """For the metadata."""
        return [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """For the metadata."""
        return [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]

    def predict(self, payload: InferRequest, *_args: Any, **_options: Any) -> InferResponse:
        """Answer a request by one run of the session."""
        (logits,) = self.session.run(["logits"], {"input": payload.inputs[0].as_numpy()})
        output = InferOutput("logits", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=payload.use_binary_outputs)
        return InferResponse(
            payload.id if payload.id is not None else generate_uuid(),  # HTTP without an id has to have one
            self.name,
            [output],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


def stay_on_loopback() -> None:
    """Have KServe listen on this machine only: it has no setting for that, and listens everywhere."""
    library: Any = grpc.aio
    server_class = library._server.Server  # noqa: SLF001 - KServe makes it by a function, which tells no class
    config_class: Any = uvicorn.Config
    bind, configure = server_class.add_insecure_port, config_class.__init__

    def bind_here(server: Any, address: str) -> Any:
        return bind(server, f"{LOOPBACK}:{address.rpartition(':')[2]}")

    def configure_here(config: Any, *args: Any, **options: Any) -> None:
        configure(config, *args, **(options | {"host": LOOPBACK}))

    server_class.add_insecure_port = bind_here
    config_class.__init__ = configure_here


if __name__ == "__main__":
    stay_on_loopback()
    http_port, grpc_port, model = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    digits = Digits("digits", model)
    digits.load()
    ModelServer(http_port=http_port, grpc_port=grpc_port, workers=1, grace_period=1).start([digits])
