"""The memory of queries beside Blacklight, in small."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import data, models
from benchmarks.queries import __main__ as command
from benchmarks.queries import attacks, measure, table
from guard.values import Float32Array

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
    written = json.loads((tmp_path / "queries.json").read_text())["subjects"]
    assert list(written) == ["MNIST, LeNet-5 trained with noise", "CIFAR-10, ResNet-20 trained with noise"]
    for each in written.values():
        watched = {row["watcher"] for part in ("guard", "blacklight") for row in each[part]["rows"]}
        assert {row["watcher"] for row in each["attacks"]["rows"]} == watched
        assert {row["attack"] for row in each["attacks"]["rows"]} == {"Square"}
    before = (tmp_path / "queries.md").read_text()
    command.main(tmp_path, tmp_path, clients=_CLIENTS, only=[command.Subject.MNIST], part=[command.Part.BLACKLIGHT])
    after = (tmp_path / "queries.md").read_text()
    assert before.splitlines()[-3:] == after.splitlines()[-3:] != []  # of the other images nothing was measured anew


class Patient:
    """Flags its fourth query and all after it."""

    def __init__(self) -> None:
        self._seen = 0

    def flags(self, x: Float32Array, client: str, now_s: float) -> bool:  # noqa: ARG002 - it looks at none of them
        """Whether it is the fourth."""
        self._seen += 1
        return self._seen >= 4


def test_what_is_caught() -> None:
    """Who succeeds is caught if that query is flagged, or one before it. Of all, those count too that never succeed."""
    sent = np.zeros((measure.LOOK_AT_MOST, 1), np.float32)
    ends = ((sent, 2), (sent, 3), (sent, 7), (sent, None), (sent[:3], None))
    runs = [attacks.Run("Square", *end) for end in ends]
    row = {"attack": "Square", "watcher": "Patient"} | asdict(measure.catch(runs, "plain", Patient, sent))
    part = {"about": {}, "queries": 20, "rows": [row | {"condition": each} for each in measure.CONDITIONS]}
    lines = table.markdown({"made up": {"attacks": part}}).splitlines()
    assert (
        "| Square | plain | 3 of 5, 4 queries | 2 of 3 (9.4% to 99.2%) | 3 of 5 (14.7% to 94.7%), 4 queries |" in lines
    )
