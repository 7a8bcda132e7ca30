"""A decoupled model for the real Triton: it counts up to its input, one answer for each number, and then is done.

Below 0 it fails. It is copied into Triton's model repository, as `triton_model.py` is.
"""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it


class TritonPythonModel:
    """What Triton's Python backend loads and calls."""

    def execute(self, requests: list[Any]) -> None:
        """Answer each request as often as it asks for."""
        for request in requests:
            sender = request.get_response_sender()
            number = int(pb_utils.get_input_tensor_by_name(request, "input").as_numpy().ravel()[0])
            if number < 0:
                # Triton 2.51 dies where an error that ends the stream is not its request's last answer.
                error = pb_utils.InferenceResponse(error=pb_utils.TritonError("can't count down"))
                sender.send(error, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            for each in range(number):
                output = pb_utils.Tensor("output", np.array([each], np.float32))
                sender.send(pb_utils.InferenceResponse(output_tensors=[output]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
