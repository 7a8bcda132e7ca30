"""Training an auxiliary model: a small one that answers as the guarded one does, and is not fooled along with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from guard.layout import is_image, to_channels_first
from guard.model.backend import Backend
from guard.offline.material import Material
from guard.offline.nets import SmallNet, fit, one_thread, to_onnx
from guard.offline.progress import Reporter
from guard.values import Layout, ModelInfo

_BATCH = 128
_ATTACKED = _BATCH // 4
_SIDE = 32


def train_auxiliary(material: Material, backend: Backend, *, seed: int, reporter: Reporter, steps: int) -> bytes:
    """Train a small model to answer as the guarded one does for benign inputs, and return it as ONNX bytes.

    Of attacks it learns the label of what they were made of: where it disagrees with the guarded model, one of the two
    was fooled. Output: (batch, classes) logits.
    """
    benign = torch.from_numpy(material.benign)
    attacks = [(torch.from_numpy(x), torch.from_numpy(labels)) for x, labels in material.attacked]
    answers = []
    with reporter.stage("asking the model what a small one is to learn", len(benign)) as advance:
        for part in torch.split(benign, backend.preferred_batch):
            answers.append(backend.logits(part).softmax(dim=1))
            advance(len(part))
    with (
        one_thread(),
        torch.random.fork_rng(devices=[]),
        reporter.stage("training the auxiliary model", steps) as advance,
    ):
        torch.manual_seed(seed)
        net = _small(backend.info)
        batches = _labelled(benign, torch.cat(answers), attacks, torch.Generator().manual_seed(seed))
        fit(net, batches, steps=steps, advance=advance)
    return to_onnx(net, backend.info.shape)


class _Shrunk(nn.Module):
    """Large images made small, by the mean of each square of pixels: what they show can still be seen."""

    def __init__(self, info: ModelInfo, times: int) -> None:
        super().__init__()
        self._layout = info.layout
        self._pool = nn.AvgPool2d(times)
        shape = self._pool(to_channels_first(torch.zeros(1, *info.shape), info.layout)).shape[1:]
        self._net = SmallNet(tuple(shape), info.classes, info.bounds, Layout.CHW)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *shape) in the input's own units to (batch, classes) logits."""
        output: Tensor = self._net(self._pool(to_channels_first(x, self._layout)))
        return output


def _small(info: ModelInfo) -> nn.Module:
    if is_image(info.shape, info.layout):
        side = min(to_channels_first(torch.zeros(1, *info.shape), info.layout).shape[2:])
        if side >= 2 * _SIDE:
            return _Shrunk(info, side // _SIDE)
    return SmallNet(info.shape, info.classes, info.bounds, info.layout)


def _labelled(
    benign: Tensor, answers: Tensor, attacks: Sequence[tuple[Tensor, Tensor]], rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Benign inputs with the model's answers, and, where there are any, attacks with the labels of what they were."""
    attacked = _ATTACKED if attacks else 0
    while True:
        rows = torch.randint(len(benign), (_BATCH - attacked,), generator=rng)
        picks, targets = [benign[rows]], [answers[rows]]
        for at in torch.randint(max(len(attacks), 1), (attacked,), generator=rng).tolist():
            x, labels = attacks[at]
            row = int(torch.randint(len(x), (1,), generator=rng))
            picks.append(x[row : row + 1])
            targets.append(nn.functional.one_hot(labels[row : row + 1], answers.shape[1]).float())
        yield torch.cat(picks), torch.cat(targets)
