"""What the examples share: a classifier of handwritten digits, its profile, and samples to send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from guard.demo.digits import BOUNDS, SHAPE, Split, load_digits, train_classifier
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.offline.calibrate import calibrate
from guard.offline.evaluate.craft import generate
from guard.offline.evaluate.suite import find
from guard.offline.evaluate.target import with_gradients
from guard.offline.nets import one_thread, to_onnx
from guard.offline.options import Options
from guard.offline.progress import Reporter
from guard.profile import store

FOLDER = Path("guard-example")
MODEL = "digits"
OPTIONS = Options(occlusion=False, conditions=())
_ATTACK = "PGD, L-inf 0.2"
_SAMPLES = 40


@dataclass(frozen=True, slots=True)
class Files:
    """What is in the folder. `samples` has digits, `clean`, and the same under attack, `attacked`."""

    model: Path
    profile: Path
    samples: Path


def prepare(folder: Path, console: Console, options: Options = OPTIONS) -> Files:
    """Train, calibrate and attack, unless the folder has it all from before."""
    files = Files(folder / f"{MODEL}.onnx", folder / "profile", folder / "samples.npz")
    if files.samples.exists():  # it is written last
        return files
    folder.mkdir(parents=True, exist_ok=True)
    reporter = Reporter(console)
    digits = load_digits(seed=0)
    with one_thread():
        net = train_classifier(digits.training, seed=0, reporter=reporter)
        files.model.write_bytes(to_onnx(net, SHAPE))
        info = inspect_onnx(files.model, name=MODEL, bounds=BOUNDS, dims=SHAPE)
        backend = OnnxBackend(files.model.read_bytes(), info)
        store.save(calibrate(backend, digits.calibration.images, options, reporter), files.profile)
        clean, attacked = _attacked(net, digits.held_out)
    np.savez(files.samples, clean=clean, attacked=attacked)
    return files


def _attacked(net: nn.Module, digits: Split) -> tuple[np.ndarray, np.ndarray]:
    """Digits that the model gets right, and what becomes of them under an attack that makes it wrong."""
    with torch.no_grad():
        right = net(torch.from_numpy(digits.images)).argmax(1).numpy() == digits.labels
    images, labels = digits.images[right][: 2 * _SAMPLES], digits.labels[right][: 2 * _SAMPLES]
    model = with_gradients(net, SHAPE, int(digits.labels.max()) + 1)
    made = generate(find(_ATTACK), lambda _: model, images, seed=0)
    with torch.no_grad():
        fooled = net(torch.from_numpy(made)).argmax(1).numpy() != labels
    return images[:_SAMPLES], made[fooled][:_SAMPLES]
