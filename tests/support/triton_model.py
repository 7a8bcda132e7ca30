"""The model that the real Triton serves in the tests: an ONNX file beside this one, by Triton's Python backend.

Runs in Triton's own environment (tests/e2e/triton_env.sh), copied into its model repository as `model.py`.
"""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it


class TritonPythonModel:
    """What Triton's Python backend loads and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session; `args` say where this version of the model lies."""
        model = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        policy = json.loads(args["model_config"]).get("model_transaction_policy") or {}
        self.decoupled = bool(policy.get("decoupled"))

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Answer each request by one run of the session, where the model is decoupled through its sender."""
        answers = [self._answer(request) for request in requests]
        if not self.decoupled:
            return answers
        for request, answer in zip(requests, answers, strict=True):
            request.get_response_sender().send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def _answer(self, request: Any) -> Any:
        feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        outputs = request.requested_output_names()
        try:
            values = self.session.run(outputs, feed)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated classes
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        tensors = [pb_utils.Tensor(name, value) for name, value in zip(outputs, values, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)
