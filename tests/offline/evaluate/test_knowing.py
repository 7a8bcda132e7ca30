"""Attackers who know Guard: they see what the engine sees, stay in their bounds, and win where others are caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from guard.decide.judge import Judge
from guard.errors import ConfigError
from guard.offline.evaluate import evasion
from guard.offline.evaluate.command import Request, evaluate_to
from guard.offline.evaluate.directions import METHODS
from guard.offline.evaluate.knowing import Knower
from guard.offline.evaluate.kept import Kept
from guard.offline.evaluate.pursuits import OBLIVIOUS, SMALLEST, Pursuit, most, pursuits
from guard.offline.evaluate.rebuilt import margins, mutated
from guard.offline.evaluate.screening import Screen, screen
from guard.offline.evaluate.suite import SUITE, choose, knowing_named
from guard.offline.evaluate.target import Answers
from guard.offline.evaluate.craft import Victim
from guard.offline.evaluate.twin import Twin
from guard.offline.progress import quiet
from guard.offline.scoring import running_engine, screen_all
from guard.offline.view import Bytes, View, from_bytes
from guard.profile import spec
from guard.profile.profile import Profile
from guard.screen.mutations import copies
from guard.values import Evidence, IntArray, ModelInfo, OutputKind
from tests.support import digits
from tests.support.profiles import digits_backend, digits_profile

RATES = (0.05, 0.01)
MANY = 300
NOISES: tuple[spec.RandomMutation, ...] = (
    spec.Gaussian(sigma=0.1),
    spec.Uniform(width=0.2),
    spec.ShiftRotate(),
    spec.ContrastBrightness(),
)


@cache
def every_detector() -> Profile:
    """The digits' profile with a detector of each kind; what is new has the benign scores of another."""
    profile = digits_profile()
    never = {"p0": 0.49, "p1": 0.51, "cap": MANY, "first_chunk": MANY}
    added: list[spec.DetectorSpec] = [spec.SensitivitySpec.model_validate({"mutation": each, **never}) for each in NOISES]
    squeezers = (spec.BitDepth(bits=2), spec.Median(), spec.NonLocalMeans())
    added.append(spec.SqueezingSpec(squeezers=squeezers))
    added.append(spec.OcclusionSpec(image_px=(8, 8), patch_px=3, grid=3, fill=(0.5,)))
    names = {each.name for each in added}
    kept = [each for each in profile.detectors if each.name not in names]
    parts = [
        replace(part, scores=dict(part.scores) | dict.fromkeys(names, part.scores["confidence"]))
        for part in (profile.reference, profile.calibration)
    ]
    return replace(profile, detectors=(*kept, *added), reference=parts[0], calibration=parts[1])


@cache
def seen() -> tuple[Bytes, IntArray]:
    """Digits that the model gets right, in 8 bits, and their labels."""
    images, labels = digits.load_data().test
    answers = Answers(digits_backend())
    shown = answers.view.view(images)
    right = answers.labels(shown) == labels
    return shown[right], labels[right]


def test_it_scores_as_the_engine_does() -> None:
    """Of clean and attacked inputs, each detector's score is the engine's, those under noise but for the noise."""
    profile, backend = every_detector(), digits_backend()
    images, labels = digits.load_data().test
    attacked = digits.attack(digits.trained_network(), images[20:40], labels[20:40])
    shown = View(profile.model).view(np.concatenate([images[:20], attacked]))
    twin = Twin(profile, digits.trained_network())
    assert twin.ignored == {}
    assert twin.detectors == profile.scoring
    with torch.no_grad():
        look = twin(torch.from_numpy(from_bytes(shown)), copies=MANY, rng=torch.Generator().manual_seed(0))
    with running_engine(backend, profile.detectors, profile.files, secret=b"secret") as engine:
        found = list(screen_all(engine, twin.view.own(shown)))
    assert look.logits.argmax(dim=1).tolist() == [each.label for each in found]
    for place, name in enumerate(twin.detectors):
        theirs = [f.score for each in found for f in each.findings if isinstance(f, Evidence) and f.detector == name]
        mine = look.scores[:, place].numpy()
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=0.7 if name.startswith("sensitivity") else 1e-3)
        assert np.corrcoef(mine, theirs)[0, 1] > 0.995
