"""A replica on a device such as a GPU: copies are made and compared there, and one transfer a batch comes back.

A copy's noise is that of a counter-based generator, seeded by 64 bits of Guard's keystream for each copy. So it depends
on the secret, the model, the input and the copy's number only, as on the host, but it is other noise than there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from guard.model.backend import Backend, batches_for
from guard.profile.spec import Gaussian, Identity, Uniform
from guard.screen.batch import BATCHES, Compared, Replica, fault_non_finite, inputs_in, known_labels
from guard.screen.flight import Flight
from guard.screen.keystream import Draw
from guard.screen.live import LiveItem, Share
from guard.screen.mutations import Bounds, make
from guard.screen.trial import Source

_SEED_BYTES = 8
_BLOCK_BYTES = 16  # of the cipher, which makes two seeds
_SLACK_BYTES = 16  # as Keystream.write asks for


class DeviceReplica(Replica):
    """Inputs are uploaded once and kept with their items; noise and comparisons never leave the device."""

    def __init__(self, name: str, backend: Backend, key: bytes) -> None:
        batches = batches_for(backend, backend.preferred_batch, BATCHES)
        self._device = batches[0].device
        super().__init__(name, backend, key, batches)
        for mutation in (
            Gaussian(sigma=1.0),
            Uniform(width=1.0),
        ):  # kernels are compiled now, not for the first request
            add_noise(mutation, [batches[0][0].clone()], np.zeros(1, np.int64), batches[0][:1], backend.info.bounds)

    def _make(self, source: Source, members: Sequence[Share], rows: Tensor) -> None:
        inputs = [self._uploaded(item) for item, _, copies in members for _ in range(copies)]
        match source.mutation:
            case Identity():
                torch.stack(inputs, out=rows)
            case Gaussian() | Uniform():
                draws = [wanted.noise for wanted in self._wanted(source, members) if wanted.noise is not None]
                add_noise(source.mutation, inputs, seeds(draws), rows, self._backend.info.bounds)
            case mutation:
                made = np.empty(rows.shape, dtype=np.float32)
                info = self._backend.info
                make(mutation, self._wanted(source, members), made, info.bounds, info.layout)
                rows.copy_(torch.from_numpy(made))

    def _compare(self, flight: Flight, logits: Tensor) -> Compared:
        shares = flight.shares
        inputs = dict(inputs_in(shares))
        rows = np.repeat([inputs.get(share.item, -1) for share in shares], [share.copies for share in shares])
        shown = np.flatnonzero(np.repeat([s.stream.shown for s in shares], [s.copies for s in shares]))
        facts, shown_logits = _compared(logits, rows, known_labels(shares), shown)
        changed, finite, labels, margins = facts
        fault_non_finite(shares, finite > 0)
        for item, row in inputs_in(shares):
            item.label = int(labels[row])
        values = np.full(tuple(logits.shape), np.nan, dtype=np.float32)
        values[shown] = shown_logits
        return Compared(values, changed > 0, margins)

    def _uploaded(self, item: LiveItem) -> Tensor:
        if item.on_device is None or item.on_device.device != self._device:
            item.on_device = torch.tensor(item.x, dtype=torch.float32, device=self._device)
        return item.on_device


def _compared(
    logits: Tensor, rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], shown: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """`trial.compare` on the device: (changed, finite, label, margin) of each copy, and the logits of `shown` copies.

    A copy's input is in the batch at `rows`, or has the label in `labels` where that is -1. One tensor goes up and one
    comes back: each transfer waits for the device.
    """
    copies, classes = logits.shape
    sent = torch.from_numpy(np.concatenate([rows, labels, shown])).to(logits.device)
    row, label, chosen = torch.split(sent, [copies, copies, len(shown)])
    found = logits.argmax(dim=1)
    own = torch.where(row < 0, label, found[row.clamp_min(0)])[:, None]
    others = logits.scatter(1, own, -torch.inf).amax(dim=1)
    margins = logits.gather(1, own)[:, 0] - others
    facts = torch.stack([found != own[:, 0], logits.isfinite().all(dim=1), found, margins])
    returned = torch.cat([facts.flatten(), logits[chosen].flatten()]).cpu().numpy()
    return returned[: 4 * copies].reshape(4, copies), returned[4 * copies :].reshape(-1, classes)


def seeds(draws: Sequence[Draw]) -> npt.NDArray[np.int64]:
    """64 bits of the keystream for each copy, (copies,)."""
    return np.concatenate([_seeds(draw) for draw in draws])


def _seeds(draw: Draw) -> npt.NDArray[np.int64]:
    block, skipped = divmod(draw.start * _SEED_BYTES, _BLOCK_BYTES)
    size = skipped + draw.copies * _SEED_BYTES
    made = bytearray(size + _SLACK_BYTES)
    draw.stream.write(draw.nonce, block, size, memoryview(made))
    return np.frombuffer(made, dtype="<i8", count=draw.copies, offset=skipped)


def add_noise(
    mutation: Gaussian | Uniform, inputs: Sequence[Tensor], seeds: npt.NDArray[np.int64], out: Tensor, bounds: Bounds
) -> None:
    """Fill the rows of `out` with `inputs` and noise on top, one seed a row."""
    if out.device.type == "cuda":
        from guard.screen import noise_kernel  # noqa: PLC0415 - Triton's language is there with torch's CUDA wheels only

        noise_kernel.add_noise(mutation, inputs, seeds, out, bounds)
        return
    generator = torch.Generator(device=out.device)
    for x, seed, row in zip(inputs, seeds.tolist(), out, strict=True):
        generator.manual_seed(seed)
        if isinstance(mutation, Gaussian):
            row.normal_(0, mutation.sigma, generator=generator).add_(x)
        else:
            row.uniform_(-mutation.width, mutation.width, generator=generator).add_(x).clamp_(*bounds)
