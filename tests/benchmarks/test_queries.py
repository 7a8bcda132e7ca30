"""The memory of queries beside Blacklight, in small."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import data, models
from benchmarks.queries import __main__ as command
from benchmarks.queries import attacks, measure, table, verdicts
from guard.profile import store
from guard.values import Float32Array
from tests.support import digits
from tests.support.profiles import digits_profile

_CLIENTS, _CALIBRATION, _IMAGES = 1, 200, 1


def test_main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command shows an attack and honest clients to both memories, for both models, and writes the table."""
    for name, few in (("_CALIBRATION", _CALIBRATION), ("_OTHERS", 20), ("_TIMED", 5)):
        monkeypatch.setattr(command, name, few)
    monkeypatch.setattr(attacks, "ATTACKS", ("Square",))
    monkeypatch.setattr(command, "EVALUATION", slice(0, 110))
    monkeypatch.setattr(command, "_verdicts", lambda *_: nullcontext(lambda won: {0.05: [True] * len(won)}))
    nets = (("load_mnist", models.lenet5_clean(), (1, 7)), ("load_cifar10", models.resnet20_clean(), (3, 8)))
    for name, net, side in nets:
        rng, (channels, coarse) = np.random.default_rng(0), side
        pixels = np.kron(rng.random((300, channels, coarse, coarse)), np.ones((1, 1, 4, 4))).astype(np.float32)
        with torch.no_grad():
            labels = net(torch.from_numpy(pixels[:110])).argmax(1).numpy()
        found = data.Images(pixels, np.resize(labels, len(pixels)))
        monkeypatch.setattr(data, name, lambda *_, found=found: found)
    command.main(tmp_path, tmp_path, images=_IMAGES, queries=8, clients=_CLIENTS)
    written = json.loads((tmp_path / "queries.json").read_text())["subjects"]
    assert list(written) == ["MNIST, LeNet-5", "CIFAR-10, ResNet-20"]
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
    accused = {0.05: [True, True, False], 0.01: [False, True, False]}  # of the three that succeed
    row = {"attack": "Square", "watcher": "Patient"} | asdict(measure.catch(runs, "plain", Patient, sent, accused))
    part = {"about": {}, "queries": 20, "rows": [row | {"condition": each} for each in measure.CONDITIONS]}
    lines = table.markdown({"made up": {"attacks": part}}).splitlines()
    assert (
        "| Square | plain | 3 of 5, 4 queries | 2 of 3 (9.4% to 99.2%) | 3 of 3 (29.2% to 100.0%) "
        "| 2 of 3 (9.4% to 99.2%) | 3 of 5 (14.7% to 94.7%), 4 queries |" in lines
    )


def test_who_wins_is_shown_to_the_detectors(tmp_path: Path) -> None:
    """Of attacked digits most are flagged, at 5 % asked no fewer than at 1 %; of clean ones few; of none, none."""
    store.save(digits_profile(), tmp_path / "profile")
    images, labels = digits.load_data().test
    attacked = digits.attack(digits.trained_network(), images[:20], labels[:20])
    with verdicts.verdicts_of(tmp_path / "profile", digits.onnx_file()) as flagged:
        found, clean, none = flagged(list(attacked)), flagged(list(images[:20])), flagged([])
    assert sum(found[0.05]) >= max(15, sum(found[0.01]))
    assert sum(clean[0.05]) <= 6
    assert none == {0.05: [], 0.01: []}


def test_the_winner_is_kept() -> None:
    """It is the image that succeeds first: misclassified, and within the distance."""
    net, clean = digits.trained_network(), digits.load_data().test[0][:1]
    found = attacks.run("Square", net, clean, attacks.Budget(0.5, 4.0, 200), seed=0)
    assert found.success is not None
    assert found.winner is not None
    np.testing.assert_array_equal(found.winner, found.sent[found.success])
    assert np.abs(found.winner - clean[0]).max() <= 0.5 + 0.5 / 255 + 1e-5
    np.testing.assert_array_equal(found.winner, np.rint(found.winner * 255).astype(np.float32) / np.float32(255))
    with torch.no_grad():
        before, after = net(torch.from_numpy(np.stack([clean[0], found.winner]))).argmax(1)
    assert before != after
