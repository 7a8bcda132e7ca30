"""A model that takes encoded images, in the real Triton of the tests: decoded by Pillow, and put into an ONNX model.

Runs in Triton's own environment, as `triton_model.py`. The model `prepare` stops before the ONNX model: its answer is
the tensor. Pillow and the ONNX file lie beside it.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it

SIDE_PX = 8


class TritonPythonModel:
    """What Triton's Python backend loads and calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session; `args` say where this version of the model lies."""
        folder = Path(args["model_repository"]) / args["model_version"]
        sys.path.insert(0, str(folder))
        model = folder / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(model)) if model.exists() else None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        images = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1)
        try:
            tensor = np.stack([_decoded(image) for image in images])
        except Exception as error:  # noqa: BLE001 - Pillow raises a dozen unrelated classes
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        if self.session is not None:
            (tensor,) = self.session.run(["logits"], {"input": tensor})
        name = "logits" if self.session is not None else "TENSOR"
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, tensor)])


def _decoded(image: bytes) -> np.ndarray:
    from PIL import Image  # noqa: PLC0415 - it lies beside this model

    grey = Image.open(io.BytesIO(image)).convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    return (np.asarray(grey, np.float32) / np.float32(255))[None]
