"""The classifier of digits for the real Triton, keeping each item that it is given in a file beside the repository.

Runs in Triton's own environment, as `triton_model.py`.
"""

from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it


class TritonPythonModel:
    """What Triton's Python backend loads and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session; `args` say where this model lies."""
        folder = Path(args["model_repository"])
        model = folder / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self.file = folder.parents[1] / "executed"

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, once its items are in the file."""
        answers = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "input").as_numpy()
            with self.file.open("a") as file:
                file.writelines(item.tobytes().hex() + "\n" for item in values)
            logits = self.session.run(["logits"], {"input": values})[0]
            answers.append(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("logits", logits)]))
        return answers
