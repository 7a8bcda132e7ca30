"""A model for the real Triton that takes as many seconds as it is told, and fails below 0.

It is copied into Triton's model repository, as `triton_model.py` is.
"""

import time
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it


class TritonPythonModel:
    """What Triton's Python backend loads and calls."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request in its time."""
        return [self._answer(pb_utils.get_input_tensor_by_name(request, "input").as_numpy()) for request in requests]

    def _answer(self, values: Any) -> Any:
        if values[0] < 0:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("can't go back in time"))
        time.sleep(float(values[0]))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("output", values)])
