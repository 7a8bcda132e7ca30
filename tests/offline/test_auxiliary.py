"""The auxiliary model: of any input, small ones and large images, with attacks to learn from and without."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from guard.offline.auxiliary import train_auxiliary
from guard.offline.material import Attacked, Material
from guard.offline.progress import quiet
from guard.profile.spec import NetworkSpec
from guard.screen.backends import network_backend
from guard.values import Layout
from tests.offline.parts import Ruled


@pytest.mark.parametrize("attacked", [True, False])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [((5,), Layout.NONE), ((9, 7), Layout.HW), ((3, 70, 64), Layout.CHW), ((64, 100, 3), Layout.HWC)],
)
def test_of_any_input(shape: tuple[int, ...], layout: Layout, *, attacked: bool) -> None:
    """It is exported as a model of the guarded one's inputs and classes, whose file does not grow with images."""
    backend = Ruled(lambda x: x.flatten(1).mean(dim=1) > 127, shape, (0.0, 255.0))
    backend.info = replace(backend.info, layout=layout)
    rng = np.random.default_rng(0)
    benign = (rng.random((20, *shape)) * 255).astype(np.float32)
    attacks = {"iterated": [Attacked(benign[:8], np.arange(8) % 2)]} if attacked else {}
    made = Material(benign, 20, attacks, exact=True)
    content = train_auxiliary(made, backend, seed=0, reporter=quiet(), steps=2)
    assert len(content) < 4_000_000
    spec = NetworkSpec(on="auxiliary", sha256=hashlib.sha256(content).hexdigest())
    small = network_backend(spec, content, backend.info)
    for count in (1, 5):
        assert small.logits(torch.from_numpy(benign[:count])).shape == (count, backend.info.classes)
    small.close()
