"""What the engine asks of a replica."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from guard.errors import BackendError
from guard.values import Float32Array, ModelInfo, OutputKind

SMALLEST_PROBABILITY = 1e-12


@runtime_checkable
class Backend(Protocol):
    """A replica of the guarded model, or a detector network. Synchronous, and owned by one thread.

    One that likes its batches somewhere else than in the host's memory is `Placed` too, and one that likes them in
    memory of its own is `Lending`.
    """

    info: ModelInfo
    preferred_batch: int

    def logits(self, x: Float[Tensor, "batch *dims"]) -> Float[Tensor, "batch classes"]:
        """Classify a batch in the input's own units. The answer is where the batch is: on the host, or on the device.

        Raises:
            BackendError: the replica failed or answered something else than (batch, classes).
        """
        ...

    def close(self) -> None:
        """Free what the replica holds."""
        ...


@runtime_checkable
class Placed(Protocol):
    """What is on a device."""

    device: torch.device


def device_of(backend: Backend) -> torch.device:
    """Where a replica likes its batches; in the host's memory if it doesn't say."""
    return backend.device if isinstance(backend, Placed) else torch.device("cpu")


@runtime_checkable
class Lending(Protocol):
    """What has memory for batches where they cost it least: copies are made there, and nothing is copied again."""

    def lend(self, rows: int, count: int) -> list[Tensor]:
        """So many batches of zeros; the first rows of one may be classified, any number of them. The latest count."""
        ...


def batches_for(backend: Backend, rows: int, count: int = 1) -> list[Tensor]:
    """Batches of zeros, (rows, *dims) each, where a replica likes them best."""
    if isinstance(backend, Lending):
        return backend.lend(rows, count)
    return [torch.zeros(rows, *backend.info.shape, device=device_of(backend)) for _ in range(count)]


def as_logits(
    info: ModelInfo, output: Float[Tensor, "batch classes"] | Float32Array, batch: int
) -> Float[Tensor, "batch classes"]:
    """Check a replica's output and turn probabilities into logits (their logarithms, whose softmax they are)."""
    tensor = torch.from_numpy(output) if isinstance(output, np.ndarray) else output
    if tuple(tensor.shape) != (batch, info.classes):
        raise BackendError(
            f"model {info.name!r} answered shape {tuple(tensor.shape)} for output {info.output_name!r}, "
            f"expected {(batch, info.classes)}: is the profile of this model?"
        )
    tensor = tensor.to(torch.float32)
    return tensor.clamp_min(SMALLEST_PROBABILITY).log() if info.output_kind is OutputKind.PROBABILITIES else tensor
