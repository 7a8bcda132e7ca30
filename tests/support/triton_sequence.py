"""A model of sequences for the real Triton: it answers with the sum of what the sequence sent so far.

It is copied into Triton's model repository, as `triton_model.py` is.
"""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it


class TritonPythonModel:
    """What Triton's Python backend loads and calls."""

    def initialize(self, _args: dict[str, str]) -> None:
        """Begin without sequences."""
        self.sums: dict[int, float] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Add each request to its sequence."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        value, start, sequence = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel()[0]
            for name in ("input", "START", "SEQUENCE")
        )
        total = value if start else self.sums[sequence] + value
        self.sums[sequence] = total
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("output", np.array([[total]], np.float32))])
