"""The memory of queries beside Blacklight, in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import data, models
from benchmarks.queries import __main__ as command
from benchmarks.queries import attacks

_CLIENTS, _CALIBRATION, _IMAGES = 1, 200, 1


def test_main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command shows an attack and honest clients to both memories, for both models, and writes the table."""
    for name, few in (("_CALIBRATION", _CALIBRATION), ("_OTHERS", 20), ("_TIMED", 5)):
        monkeypatch.setattr(command, name, few)
    monkeypatch.setattr(attacks, "ATTACKS", ("Square",))
    for name, net, side in (("load_mnist", models.lenet5(), (1, 7)), ("load_cifar10", models.resnet20(), (3, 8))):
        rng, (channels, coarse) = np.random.default_rng(0), side
        pixels = np.kron(rng.random((300, channels, coarse, coarse)), np.ones((1, 1, 4, 4))).astype(np.float32)
        with torch.no_grad():
            labels = net(torch.from_numpy(pixels[:110])).argmax(1).numpy()
        found = data.Images(pixels, np.resize(labels, len(pixels)))
        monkeypatch.setattr(data, name, lambda *_, found=found: found)
    command.main(tmp_path, tmp_path, images=_IMAGES, queries=8, clients=_CLIENTS)
    written = json.loads((tmp_path / "queries.json").read_text())
    assert [each["name"] for each in written["subjects"]] == ["MNIST, LeNet-5", "CIFAR-10, ResNet-20"]
    for each in written["subjects"]:
        assert {row["watcher"] for row in each["attacks"]} == {row["watcher"] for row in each["benign"]}
        assert {row["attack"] for row in each["attacks"]} == {"Square"}
    assert "ResNet-20" in (tmp_path / "queries.md").read_text()
