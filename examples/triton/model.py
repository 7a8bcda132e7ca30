"""The model that Triton serves: the ONNX file beside this one, by Triton's Python backend.

Runs in Triton's own environment. A Triton with the `onnxruntime` backend needs no such file.
"""

from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton's Python backend loads and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session; `args` say where this version of the model lies."""
        model = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by one run of the session."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        outputs = request.requested_output_names()
        try:
            values = self.session.run(outputs, feed)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated classes
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        tensors = [pb_utils.Tensor(name, value) for name, value in zip(outputs, values, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)
