"""Training detector networks: on the input, and on what the model computes inside.

The first sees what an attack leaves in an input, whatever the model makes of it. The second sees what the model made of
it, so it is not misled by textures; it stays when an attack was laundered and still fools the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from guard.layout import is_image
from guard.model import inner
from guard.model.backend import Backend
from guard.offline.conditions import drawn
from guard.offline.material import Material
from guard.offline.nets import Average, SmallNet, fit, one_thread, to_onnx
from guard.offline.progress import Reporter
from guard.offline.residual import ResidualNet, mirrored
from guard.offline.view import View
from guard.profile.spec import Condition
from guard.values import Float32Array, ModelInfo

_BATCH = 128
_SURROGATE_COPIES = 6
_NETS, _SMALL_INPUT = 3, 400
_HEADS = 3
_WIDTHS = (128, 32)
_FARTHEST = 8.0
_FLAT = 1e-3


def train_network(material: Material, info: ModelInfo, *, seed: int, reporter: Reporter, steps: int) -> bytes:
    """Train a detector network on inputs, and return it as ONNX bytes.

    Its output is (batch, 2): logits of benign and adversarial. For small inputs it is the mean of a few plain networks
    that differ in their draws, since one alone varies a good deal from seed to seed. Larger images have a residual.
    """
    small = math.prod(info.shape) <= _SMALL_INPUT
    count = _NETS if small else 1
    rng = torch.Generator().manual_seed(seed)
    benign = torch.from_numpy(material.benign)
    positives = [torch.from_numpy(each) for each in material.positives]
    nets = []
    with (
        one_thread(),
        torch.random.fork_rng(devices=[]),
        reporter.stage("training the detector network", count * steps) as advance,
    ):
        torch.manual_seed(seed)
        for _ in range(count):
            batches = _balanced(benign, material.clean, positives, rng)
            if is_image(info.shape, info.layout) and not small:
                net: nn.Module = ResidualNet(info.shape, 2, info.bounds, info.layout)
                batches = mirrored(batches, info.shape, info.layout, rng)
            else:
                net = SmallNet(info.shape, 2, info.bounds, info.layout)
            fit(net, batches, steps=steps, advance=advance)
            nets.append(net)
    return to_onnx(Average(nets).eval(), info.shape)


def train_on_activations(
    material: Material, model: bytes, info: ModelInfo, *, seed: int, reporter: Reporter, steps: int
) -> bytes:
    """Train a detector network on a model's inner activations, and return the model, continued by it, as ONNX bytes.

    The output is as `train_network`'s.

    Raises:
        BackendError: the model can't be looked into.
    """
    opened = inner.looked_into(model, info, material.benign[:2])
    sets = [material.benign, *material.positives]
    with reporter.stage("looking into the model", sum(map(len, sets))) as advance:
        features = []
        for each in sets:
            features.append(inner.features_of(opened, info, each))
            advance(len(each))
    mean, deviation = features[0].mean(axis=0), features[0].std(axis=0) + _FLAT
    benign, *positives = (torch.from_numpy((each - mean) / deviation).clamp(-_FARTHEST, _FARTHEST) for each in features)
    rng = torch.Generator().manual_seed(seed)
    heads = []
    with (
        one_thread(),
        torch.random.fork_rng(devices=[]),
        reporter.stage("training on the model's activations", _HEADS * steps) as advance,
    ):
        torch.manual_seed(seed)
        for _ in range(_HEADS):
            head = _head(benign.shape[1])
            fit(head, _balanced(benign, material.clean, positives, rng), steps=steps, advance=advance)
            heads.append(head)
    return inner.with_heads(opened, [_layers(head) for head in heads], mean, deviation, _FARTHEST)


def train_surrogate(
    backend: Backend,
    samples: Float32Array,
    *,
    seed: int,
    reporter: Reporter,
    steps: int,
    conditions: Sequence[Condition] = (),
) -> nn.Module:
    """Distil a model into a small network from its answers on samples (n, *shape) and on copies of them."""
    view, rng = View(backend.info), np.random.default_rng(seed)
    images = view.view(samples)
    copies = [view.own(drawn(conditions, images, rng).images) for _ in range(_SURROGATE_COPIES)]
    inputs = torch.from_numpy(np.concatenate([samples, *copies]))
    answers = []
    with reporter.stage("asking the model for a surrogate to imitate", len(inputs)) as advance:
        for part in torch.split(inputs, backend.preferred_batch):
            answers.append(backend.logits(part).softmax(dim=1))
            advance(len(part))
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        info = backend.info
        surrogate = SmallNet(info.shape, info.classes, info.bounds, info.layout)
        with reporter.stage("training the surrogate", steps) as advance:
            batches = _shuffled(inputs, torch.cat(answers), torch.Generator().manual_seed(seed))
            fit(surrogate, batches, steps=steps, advance=advance)
    for parameter in surrogate.parameters():
        parameter.requires_grad = False
    return surrogate


def _head(features: int) -> nn.Sequential:
    first, second = _WIDTHS
    return nn.Sequential(
        nn.Dropout(0.1),
        nn.Linear(features, first),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, 2),
    )


def _layers(head: nn.Sequential) -> list[tuple[Float32Array, Float32Array]]:
    return [(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in head if isinstance(each, nn.Linear)]


def _shuffled(x: Tensor, targets: Tensor, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        rows = torch.randint(len(x), (_BATCH,), generator=rng)
        yield x[rows], targets[rows]


def _balanced(
    benign: Tensor, clean: int, positives: Sequence[Tensor], rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Half of each batch benign (an eighth as it was given), half attacks: equal shares of all sets.

    Attacks were laundered by the changes that benign inputs undergo, so these have to be seen without attacks as often.
    """
    half, clean_share = _BATCH // 2, _BATCH // 8
    labels = torch.cat([torch.zeros(half, dtype=torch.long), torch.ones(half, dtype=torch.long)])
    while True:
        sets = torch.randint(len(positives), (half,), generator=rng).tolist()
        attacks = [positives[at][int(torch.randint(len(positives[at]), (1,), generator=rng))] for at in sets]
        picks = [
            benign[torch.randint(clean, (clean_share,), generator=rng)],
            benign[torch.randint(len(benign), (half - clean_share,), generator=rng)],
            torch.stack(attacks),
        ]
        yield torch.cat(picks), labels
