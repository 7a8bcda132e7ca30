"""The Adversarial Robustness Toolbox's own randomised smoothing (PyTorchRandomizedSmoothing.certify), called as it is.

It is Cohen et al.'s algorithm (see cohen.py): `sample_size` copies choose the class, n others bound its probability.
As ART runs it, all copies of an input are made at once by NumPy in double precision and then classified in batches,
32 by default, through a data loader. Its noise comes from NumPy's global generator.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from torch import Tensor, nn

from benchmarks.references.cohen import ALPHA, N0, Certificate, lower_confidence_bound

BATCH: Final = 32


class ArtSmoothing:
    """A torch module smoothed by ART; `seed` sets NumPy's global generator, ART having no other."""

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, ...],
        classes: int,
        *,
        sigma: float,
        seed: int,
        n0: int = N0,
        alpha: float = ALPHA,
        batch: int = BATCH,
    ) -> None:
        parameter = next(module.parameters(), torch.zeros(()))
        self._n0 = n0
        self._batch = batch
        self._smoothed = _Smoothed(
            model=module,
            loss=nn.CrossEntropyLoss(),
            input_shape=shape,
            nb_classes=classes,
            device_type="gpu" if parameter.is_cuda else "cpu",
            sample_size=n0,
            scale=sigma,
            alpha=alpha,
        )
        np.random.seed(seed)  # noqa: NPY002 - ART draws from the global generator

    def certify(self, x: Tensor, *, n: int) -> Certificate:
        """Certify one input from n copies."""
        labels, radii = self._smoothed.certify(x[None].cpu().numpy(), n=n, batch_size=self._batch)
        label = int(labels[0])
        return Certificate(None if label < 0 else label, float(radii[0]), self._n0 + n)


class _Smoothed(PyTorchRandomizedSmoothing):  # type: ignore[misc] # ART has no types
    """For its one bound ART imports statsmodels, which it does not install: the same bound from SciPy."""

    def _lower_confidence_bound(self, n_class_samples: int, n_total_samples: int) -> float:
        return lower_confidence_bound(int(n_class_samples), n_total_samples, self.alpha)
