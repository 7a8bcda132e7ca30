"""Feature squeezing and a detector network, from ART's parts, one request at a time.

Feature squeezing: Xu, Evans and Qi (NDSS 2018). ART has its squeezers (bit depth, median) as preprocessors, and not the
detector; the score is the paper's, the largest L1 distance between the softmax of the input and of a squeezed copy. As
in the authors' code, the model is asked once for the input and once for each squeezed copy. ART has no non-local means.

Detector network: Gong, Wang and Ku (2017), as ART's BinaryInputDetector around a given two-class network.

As ART runs them, each question builds a data set and a data loader around a batch of one.
"""

from __future__ import annotations

import numpy as np
import torch
from art.defences.detector.evasion import BinaryInputDetector
from art.defences.preprocessor import FeatureSqueezing, SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from scipy import special
from torch import Tensor, nn

_BOUNDS = (0.0, 1.0)


class ArtSqueezing:
    """Feature squeezing of images (channels, height, width) in [0, 1].

    The paper's squeezers are one bit and a median of 2x2 on MNIST, five bits and a median of 2x2 on CIFAR-10.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...], classes: int, *, bits: int, median_px: int) -> None:
        self._classifier = _classifier(module, shape, classes)
        self._squeezers = (
            FeatureSqueezing(clip_values=_BOUNDS, bit_depth=bits),
            SpatialSmoothing(window_size=median_px, channels_first=True, clip_values=_BOUNDS),
        )

    def score(self, x: Tensor) -> float:
        """The largest L1 distance, in [0, 2], for one input."""
        image = x[None].cpu().numpy()
        plain = special.softmax(self._classifier.predict(image, batch_size=1), axis=1)
        distances = []
        for squeeze in self._squeezers:
            squeezed = squeeze(image)[0].astype(np.float32)  # under NumPy 2 some come back in double precision
            softmax = special.softmax(self._classifier.predict(squeezed, batch_size=1), axis=1)
            distances.append(float(np.abs(softmax - plain).sum()))
        return max(distances)


class ArtNetwork:
    """A detector network with outputs (benign, adversarial)."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        self._detector = BinaryInputDetector(_classifier(network, shape, 2))

    def score(self, x: Tensor) -> float:
        """The network's log-odds that one input is adversarial."""
        report, _ = self._detector.detect(x[None].cpu().numpy(), batch_size=1)
        benign, adversarial = report["predictions"][0]
        return float(adversarial - benign)


def _classifier(module: nn.Module, shape: tuple[int, ...], classes: int) -> PyTorchClassifier:
    parameter = next(module.parameters(), torch.zeros(()))
    return PyTorchClassifier(
        model=module,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=classes,
        clip_values=_BOUNDS,
        device_type="gpu" if parameter.is_cuda else "cpu",
    )
