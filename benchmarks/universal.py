"""Whether crafted universal perturbations are recognised in what was flagged: `python -m benchmarks.universal`.

One perturbation is crafted for all images, as `guard evaluate` does it, and in another turn one by FGSM for each. The
detector is shown all of them, in 8 bits, as if each had been flagged; sixty of the first, for it remembers 64.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from benchmarks import data, models
from benchmarks.engine.table import machine
from guard.decide.universal import UniversalWatch
from guard.offline.evaluate import rows
from guard.offline.evaluate.attack import Attack
from guard.offline.evaluate.craft import generate
from guard.offline.evaluate.target import with_gradients
from guard.offline.view import from_bytes, to_bytes
from guard.values import Float32Array

RESULT: Final = Path(__file__).parent / "results" / "universal.json"
SHARED: Final = 60
_BENIGN: Final = 8
"""As many as a profile keeps to recognise its model by."""

_READ: Final = 700
_SEPARATE: Final = 500


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and images that it is right about, (n, *shape) in [0, 1]."""

    name: str
    net: nn.Module
    images: Float32Array


def subject(name: str, net: nn.Module, images: data.Images) -> Subject:
    """A model with those of the images that it is right about."""
    estimator = with_gradients(net.eval(), images.pixels.shape[1:], models.CLASSES)
    return Subject(name, net, images.pixels[estimator.predict(images.pixels).argmax(axis=1) == images.labels])


def measure(of: Subject, strengths: tuple[float, ...], *, separate: int = _SEPARATE) -> Iterator[dict[str, Any]]:
    """A row for one perturbation of all images, and one for a perturbation of each, at each strength."""
    for eps in strengths:
        for attack, number in ((rows.universal(eps), SHARED), (rows.fgsm(eps), separate)):
            yield {"model": of.name, "attack": attack.title, **_told(of, attack, number)}


def _told(of: Subject, attack: Attack, number: int) -> dict[str, Any]:
    """What is said of attacked images but the first, of which there is nothing to say."""
    shape = of.images.shape[1:]
    benign, clean = of.images[:_BENIGN], of.images[_BENIGN : _BENIGN + number]
    estimator = with_gradients(of.net.eval(), shape, models.CLASSES)
    attacked = from_bytes(to_bytes(generate(attack, lambda _: estimator, clean, seed=0)))
    with closing(UniversalWatch(shape, 1.0, benign)) as watch:
        found = watch.look(attacked).result()[1:]
    before, after = (estimator.predict(images).argmax(axis=1) for images in (clean, attacked))
    return {
        "images": len(found),
        "said_to_share": sum(each.shared_with > 0 for each in found),
        "pairs": sum(each.compared_with for each in found),
        "pairs_said_to_share": sum(each.shared_with for each in found),
        "model_fooled": int(np.count_nonzero(before != after)),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure both models, print and keep the figures."""
    parser = ArgumentParser(prog="python -m benchmarks.universal", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of images, see benchmarks/data.py")
    folder = parser.parse_args(arguments).data
    digits = subject("LeNet-5, MNIST", models.lenet5_clean(), data.load_mnist(folder, "test", _READ))
    photographs = subject("ResNet-20, CIFAR-10", models.resnet20_clean(), data.load_cifar10(folder, "test", _READ))
    found = [
        *measure(digits, (0.1, 0.2, 0.3)),
        *measure(photographs, (4 / 255, 8 / 255)),
    ]
    figures = json.dumps({"machine": machine("benchmarks.universal"), "rows": found}, indent=2)
    RESULT.write_text(figures + "\n")
    print(figures)  # noqa: T201 - what the command is for


if __name__ == "__main__":
    main()
