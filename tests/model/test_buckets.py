"""Batches in memory of a replica's own, run in a few sizes; what stands in for graphs uses memory as they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor, nn

from guard.errors import BackendError
from guard.model.backend import Lending, batches_for
from guard.model.buckets import Buckets, Capture, Run, plain, sizes
from guard.model.onnx import OnnxBackend
from guard.model.sweep import best_batch
from guard.model.torch import TorchBackend
from guard.model.upstream import UpstreamBackend
from tests.model.parts import INFO, INPUTS, WEIGHTS, linear_onnx
from tests.support.links import link

X = torch.from_numpy(INPUTS)
Y = X @ torch.from_numpy(WEIGHTS)


class Linear(nn.Linear):
    """The linear model, which keeps the sizes of the batches that it is called with."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(4, 3, bias=False, dtype=dtype)
        self.weight.data = torch.from_numpy(WEIGHTS.T.copy()).to(dtype)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """Keep the size, and classify."""
        self.sizes.append(len(x))
        return super().forward(x)


def pooled(memory: Tensor) -> Capture:
    """As graphs with one pool: each reads where it was recorded, and all of them write to the same memory."""

    def capture(run: Run, x: Tensor) -> Callable[[], Tensor]:
        answers = memory[: len(x)]

        def replay() -> Tensor:
            answers.copy_(run(x))
            return answers

        return replay

    return capture


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (24, (1, 2, 4, 8, 16, 24)), (3, (1, 2, 3))]
)
def test_sizes(rows: int, expected: tuple[int, ...]) -> None:
    """Buckets are the powers of two, and the whole batch."""
    assert sizes(rows) == expected


@pytest.mark.parametrize(("copies", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 6), (6, 6)])
def test_least_bucket(copies: int, bucket: int) -> None:
    """Copies are run in the least bucket that holds them, in place, and only they are answered for."""
    module = Linear()
    backend = TorchBackend(module, INFO, capture=plain)
    (batch,) = backend.lend(6, 1)
    batch.copy_(torch.cat([X, X[:1]]))
    batch[copies:] = float("nan")  # whatever is left there
    answers = backend.logits(batch[:copies])
    assert module.sizes == [bucket]
    torch.testing.assert_close(answers, torch.cat([Y, Y[:1]])[:copies])


def test_batches_are_read_when_they_run() -> None:
    """Each run answers for what is in the batch then, and what was answered before stays as it was."""
    batch = torch.zeros(4, 4)
    buckets = Buckets(Linear(), batch, pooled(torch.zeros(4, 3)))
    kept = []
    with torch.inference_mode():
        for x, copies in ((X[:4], 4), (X[1:5], 4), (X[:4].flip(0), 3), (X[4:5], 1)):
            batch[:copies] = x[:copies]
            kept.append((buckets.run(copies), x[:copies]))
    for answers, x in kept:
        torch.testing.assert_close(answers, x @ torch.from_numpy(WEIGHTS))


def test_several_batches() -> None:
    """One batch may be filled while another is run: each has buckets of its own."""
    backend = TorchBackend(Linear(), INFO, capture=plain)
    batches = backend.lend(4, 2)
    for number, batch in enumerate(batches):
        batch[:3] = X[number : number + 3]
    for number, batch in enumerate(batches):
        torch.testing.assert_close(backend.logits(batch[:3]), Y[number : number + 3])


def test_other_batches_are_called() -> None:
    """What is not the first rows of a batch of its own is called as it is: other memory, other rows, every second."""
    module = Linear()
    backend = TorchBackend(module, INFO, capture=plain)
    (old,) = backend.lend(5, 1)
    (batch,) = backend.lend(5, 1)
    for each in (old, batch):
        each.copy_(X)
    for x, expected in ((X[:3], Y[:3]), (batch[2:5], Y[2:5]), (batch[::2], Y[::2]), (old[:3], Y[:3])):
        torch.testing.assert_close(backend.logits(x), expected)
    assert module.sizes == [3, 3, 3, 3]
    backend.logits(batch[:3])
    assert module.sizes[-1] == 4


def test_host_replicas_have_no_buckets() -> None:
    """On the CPU, where a row more costs as much as the others, a batch has the size that it has."""
    module = Linear()
    backend = TorchBackend(module, INFO)
    (batch,) = batches_for(backend, 5)
    assert (batch.shape, backend.bucketed) == ((5, 4), False)
    backend.logits(batch[:3])
    assert module.sizes == [3]


def test_who_lends(tmp_path: Path) -> None:
    """Local replicas have memory of their own; one without gets batches of zeros where it likes them."""
    onnx = OnnxBackend(linear_onnx(tmp_path / "m.onnx").read_bytes(), INFO)
    other = UpstreamBackend(link("127.0.0.1:1"), INFO)
    assert [isinstance(each, Lending) for each in (onnx, TorchBackend(Linear(), INFO), other)] == [True, True, False]
    first, second = batches_for(other, 5, 2)
    other.close()
    assert first.shape == second.shape == (5, 4)
    assert first.data_ptr() != second.data_ptr()
    assert not first.any()


class Looking(nn.Linear):
    """A model that looks at values on its way, which no graph can record: here it can't bear zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """Classify, unless there is nothing but zeros."""
        if not bool(x.any()):
            raise RuntimeError("operation not permitted when stream is capturing")
        return super().forward(x)


def test_what_cannot_be_recorded_is_called() -> None:
    """A model that can't be recorded is called instead, and the log says so."""
    backend = TorchBackend(Looking(4, 3), INFO, capture=recording)
    with capture_logs() as logs:
        (batch,) = backend.lend(4, 1)
    assert not backend.bucketed
    assert "not permitted" in logs[0]["error"]
    batch[:] = X[:4]
    assert backend.logits(batch[:3]).shape == (3, 3)


def recording(run: Run, x: Tensor) -> Callable[[], Tensor]:
    """As a graph, which is recorded by running it."""
    run(x)
    return plain(run, x)


@pytest.mark.parametrize("answer", [lambda x: x.new_zeros(len(x) + 1, 3), lambda x: x.new_zeros(1, 3)])
def test_a_wrong_number_of_answers(answer: Callable[[Tensor], Tensor]) -> None:
    """A model that answers for more or fewer rows than it is given fails, though the first rows would look right."""

    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return answer(x)

    backend = TorchBackend(Wrong(), INFO, capture=plain)
    (batch,) = backend.lend(4, 1)
    with pytest.raises(BackendError, match="4 copies got"):
        backend.logits(batch[:3])


def test_closed() -> None:
    """After it is closed nothing is left of its batches, and the caller's module still answers."""
    backend = TorchBackend(Linear(), INFO, capture=plain)
    (batch,) = backend.lend(4, 1)
    assert backend.bucketed
    backend.close()
    assert not backend.bucketed
    assert backend.logits(batch).shape == (4, 3)


@pytest.mark.parametrize("capture", [None, plain])
def test_half_precision(capture: Capture | None) -> None:
    """A module in half precision gets its copies in it, and answers in float32 what half precision allows."""
    backend = TorchBackend(Linear(torch.float16), INFO, capture=capture)
    (batch,) = backend.lend(4, 1)
    batch[:] = X[:4]
    answers = backend.logits(batch[:3])
    assert (batch.dtype, answers.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(answers, Y[:3], atol=1e-2, rtol=1e-2)
    assert not torch.equal(answers, Y[:3])


def test_sweep_runs_what_will_be_run() -> None:
    """The batch that a replica likes is found with batches of its own, in the buckets that copies will be run in."""
    module = Linear()
    best_batch(TorchBackend(module, INFO, capture=plain), budget_s=0.2)
    assert set(module.sizes) <= set(sizes(256))
    assert len(set(module.sizes)) > 2
