"""A model for the real Triton that notes what it is asked, byte for byte, in a file beside the model repository.

Runs in Triton's own environment, as `triton_model.py`. All its inputs are optional.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it


class TritonPythonModel:
    """What Triton's Python backend loads and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Begin the file; `args` say where this model lies."""
        self.model = args["model_name"], args["model_version"]
        self.file = Path(args["model_repository"]).parents[1] / "reports.jsonl"
        self.file.touch()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Note each request."""
        return [self._noted(request) for request in requests]

    def _noted(self, request: Any) -> Any:
        inputs = sorted([one.name(), *_contents(one.as_numpy())] for one in request.inputs())
        report = {"model": self.model, "id": request.request_id(), "inputs": inputs}
        report["parameters"] = json.loads(request.parameters() or "{}")
        text = json.dumps(report, sort_keys=True)
        with self.file.open("a") as file:
            file.write(text + "\n")
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor("report", np.array([text.encode()], np.object_))]
        )


def _contents(values: Any) -> tuple[str, list[int], Any]:
    """Data type, shape and contents."""
    strings = values.dtype == np.object_
    contents = [bytes(one).hex() for one in values.ravel()] if strings else values.tobytes().hex()
    return str(values.dtype), list(values.shape), contents
