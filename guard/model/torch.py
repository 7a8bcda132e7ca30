"""A replica that is a torch module."""

from __future__ import annotations

import structlog
import torch
from jaxtyping import Float
from torch import Tensor

from guard.errors import BackendError
from guard.model.backend import as_logits
from guard.model.buckets import Buckets, Capture, graphs
from guard.model.onnx import as_datatype
from guard.values import ModelInfo

_log = structlog.get_logger(__name__)


class TorchBackend:
    """A torch classifier in evaluation mode, on the device and in the precision that its parameters are in.

    On a GPU, copies made in the batches that it lends are run in a few sizes, as CUDA graphs; with `capture` they are
    anywhere, as what that makes of them. Any other batch is a plain call. Parameters may change in place, but not move.
    """

    def __init__(
        self, module: torch.nn.Module, info: ModelInfo, *, batch: int = 32, capture: Capture | None = None
    ) -> None:
        self.info = info
        self.preferred_batch = batch
        self._module = module.eval()
        parameter = next(module.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        """Where its batches are best made."""
        self._dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
        self._capture = capture
        self._buckets: list[Buckets] = []

    def lend(self, rows: int, count: int) -> list[Tensor]:
        """Batches of zeros to make copies in. Graphs are recorded now, and are there for the latest batches only.

        A module that can't be recorded, because it looks at values on its way, is called instead.
        """
        self._buckets = []  # and with them the memory of earlier graphs
        batches = [torch.zeros(rows, *self.info.shape, device=self.device) for _ in range(count)]
        if self._capture is not None or self.device.type == "cuda":
            try:
                with torch.inference_mode():
                    capture = self._capture or graphs(self.device)
                    self._buckets = [Buckets(self._run, batch, capture) for batch in batches]
            except Exception as exc:  # noqa: BLE001 - a module may raise anything
                _log.warning("no CUDA graphs: the model can't be recorded", model=self.info.name, error=str(exc))
        return batches

    @property
    def bucketed(self) -> bool:
        """Whether copies made in the latest batches are run in buckets."""
        return bool(self._buckets)

    @torch.inference_mode()
    def logits(self, x: Float[Tensor, "batch *dims"]) -> Float[Tensor, "batch classes"]:
        """Classify a batch."""
        try:
            buckets = next((each for each in self._buckets if each.holds(x)), None)
            output = self._run(x).to(x.device) if buckets is None else buckets.run(len(x))
        except Exception as exc:  # a module may raise anything
            raise BackendError(f"torch failed on model {self.info.name!r}: {exc}") from exc
        return as_logits(self.info, output, len(x))

    def close(self) -> None:
        """Drop the graphs; the module belongs to the caller."""
        self._buckets = []

    def _run(self, x: Tensor) -> Tensor:
        x = as_datatype(self.info.datatype, x) if "INT" in self.info.datatype else x  # as the served model gets them
        output: Tensor = self._module(x.to(self.device, self._dtype))
        return output
