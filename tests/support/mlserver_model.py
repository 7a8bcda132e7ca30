"""The classifier of digits for a real MLServer: an ONNX file beside this one.

Runs in MLServer's own environment (`make servers`), copied beside its settings as `digits.py`.
"""

from pathlib import Path

import onnxruntime
from mlserver import MLModel  # type: ignore[import-not-found]  # it has an environment of its own
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class Digits(MLModel):  # type: ignore[misc]  # as above
    """What MLServer loads and calls."""

    async def load(self) -> bool:
        """Open the session."""
        model = Path(__file__).with_name("model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request by one run of the session."""
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        (logits,) = self.session.run(["logits"], {"input": images})
        outputs = [NumpyCodec.encode_output("logits", logits)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
