"""Perturbations that were really crafted, on photographs: one for all of them is recognised, one for each is not."""

from __future__ import annotations

import json

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from benchmarks import data, universal
from benchmarks.universal import SHARED, measure, subject

_SIDE_PX = 32
_BANDS = 5
_EPOCHS = 40
_EPS = 8 / 255


def photographs() -> data.Images:
    """Squares of two photographs (n, 3, 32, 32), and of which of the two each is; mixed."""
    cut, truth = [], []
    for label, photograph in enumerate(load_sample_images().images):
        height, width = (length // _SIDE_PX * _SIDE_PX for length in photograph.shape[:2])
        grid = photograph[:height, :width].reshape(height // _SIDE_PX, _SIDE_PX, width // _SIDE_PX, _SIDE_PX, 3)
        squares = grid.transpose(0, 2, 4, 1, 3).reshape(-1, 3, _SIDE_PX, _SIDE_PX)
        cut.append(squares)
        truth += (label * _BANDS + np.arange(len(squares)) * _BANDS // len(squares)).tolist()
    order = np.random.default_rng(0).permutation(len(truth))
    return data.Images(np.concatenate(cut)[order].astype(np.float32) / 255, np.array(truth, np.int64)[order])


def trained(images: data.Images) -> nn.Module:
    """A small network that tells the photographs apart by a square of them, with as many classes as the benchmark's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, 64),
            nn.ReLU(),
            nn.Linear(64, universal.models.CLASSES),
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        pixels, truth = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(pixels)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(pixels[rows]), truth[rows]).backward()
                optimizer.step()
    return net


def test_crafted_perturbations() -> None:
    """A universal perturbation is seen in nearly all images that have it, and none is seen where each has its own."""
    images = photographs()
    of = subject("photographs", trained(images), images)
    assert len(of.images) > 300
    shared, separate = measure(of, (_EPS,), separate=200)
    assert shared["images"] == SHARED - 1
    assert shared["said_to_share"] >= 0.95 * shared["images"]
    assert shared["pairs_said_to_share"] >= 0.9 * shared["pairs"]
    assert separate["said_to_share"] == 0
    assert separate["model_fooled"] > 100


def test_committed_figures() -> None:
    """What the documents say of it is what was measured: nothing is seen where there is nothing to see."""
    found = json.loads(universal.RESULT.read_text())["rows"]
    separate = [row for row in found if row["attack"].startswith("FGSM")]
    assert len(found) == 2 * len(separate) == 10
    assert {row["said_to_share"] for row in separate} == {0}
    photographs = [row for row in found if row["model"].endswith("CIFAR-10") and row not in separate]
    assert [row["said_to_share"] for row in photographs] == [SHARED - 1] * 2
