"""A replica that is a torch module."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from guard.errors import BackendError
from guard.model.backend import as_logits
from guard.values import ModelInfo


class TorchBackend:
    """A torch classifier in evaluation mode, on the device its parameters are on."""

    def __init__(self, module: torch.nn.Module, info: ModelInfo, *, batch: int = 32) -> None:
        self.info = info
        self.preferred_batch = batch
        self._module = module.eval()
        parameter = next(module.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        """Where its batches are best made."""

    @torch.inference_mode()
    def logits(self, x: Float[Tensor, "batch *dims"]) -> Float[Tensor, "batch classes"]:
        """Classify a batch."""
        try:
            output = self._module(x.to(self.device)).to(x.device)
        except Exception as exc:  # a module may raise anything
            raise BackendError(f"torch failed on model {self.info.name!r}: {exc}") from exc
        return as_logits(self.info, output, len(x))

    def close(self) -> None:
        """Nothing to free: the module belongs to the caller."""
