"""A model for the real Triton that answers with its inputs, of any data type.

It is copied into Triton's model repository, as `triton_model.py` is.
"""

from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it


class TritonPythonModel:
    """What Triton's Python backend loads and calls."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with what it sent."""
        return [
            pb_utils.InferenceResponse(
                output_tensors=[pb_utils.Tensor(f"out_{one.name()}", one.as_numpy()) for one in request.inputs()]
            )
            for request in requests
        ]
