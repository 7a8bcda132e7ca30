"""What a capture has to keep to: CUDA graphs where there is a GPU, and calls in their place on the CPU, by one test."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guard.model.buckets import Buckets, Capture, graphs, plain, sizes
from guard.model.torch import TorchBackend
from tests.model.parts import INFO, INPUTS, WEIGHTS

ROWS = 6


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where batches are."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("graphs are recorded on a GPU, and there is none that torch can use here")
    return torch.device(request.param)


def capture(device: torch.device) -> Capture:
    """What a replica on the device records with."""
    return plain if device.type == "cpu" else graphs(device)


def linear(device: torch.device) -> nn.Linear:
    """The linear model."""
    module = nn.Linear(4, 3, bias=False)
    module.weight.data = torch.from_numpy(WEIGHTS.T.copy())
    return module.to(device)


def inputs(device: torch.device, number: int) -> Tensor:
    """Six inputs, others for each number."""
    return torch.from_numpy(INPUTS[[(number + row) % len(INPUTS) for row in range(ROWS)]]).to(device) + number


@torch.inference_mode()
def test_each_bucket_answers_for_what_is_there(device: torch.device) -> None:
    """Of any number of copies, again and again in any order, the answers are the model's to what is there just then.

    Answers that were given stay as they were, whatever is replayed into the memory that the graphs share.
    """
    module, batch = linear(device), torch.zeros(ROWS, 4, device=device)
    buckets = Buckets(module, batch, capture(device))
    given = []
    for number, copies in enumerate([*range(1, ROWS + 1), *sizes(ROWS), 1, ROWS, 3]):
        x = inputs(device, number)[:copies]
        batch[:copies] = x
        given.append((x, buckets.run(copies)))
    for x, answers in given:
        torch.testing.assert_close(answers, module(x))


@torch.inference_mode()
def test_two_batches_share_no_answers(device: torch.device) -> None:
    """Of two batches with one pool, each answers for its own copies, though the other ran in between."""
    module, shared = linear(device), capture(device)
    batches = [torch.zeros(ROWS, 4, device=device) for _ in range(2)]
    both = [Buckets(module, batch, shared) for batch in batches]
    for number in range(4):
        for which, batch in enumerate(batches):
            batch.copy_(inputs(device, 10 * number + which))
        answers = [buckets.run(5) for buckets in both]
        for batch, found in zip(batches, answers, strict=True):
            torch.testing.assert_close(found, module(batch[:5]))


def test_a_replica_in_buckets(device: torch.device) -> None:
    """A replica that was recorded answers on its device what it answers when it is called with other memory."""
    backend = TorchBackend(linear(device), INFO, batch=ROWS, capture=capture(device))
    (batch,) = backend.lend(ROWS, 1)
    assert backend.bucketed
    x = inputs(device, 1)
    batch.copy_(x)
    for copies in range(1, ROWS + 1):
        found = backend.logits(batch[:copies])
        assert found.device.type == device.type
        torch.testing.assert_close(found, backend.logits(x[:copies]))


class Looking(nn.Linear):
    """A model that looks at values on its way, which no graph can record."""

    def forward(self, x: Tensor) -> Tensor:
        """Classify, after a look."""
        return super().forward(x if bool((x > 0).any()) else -x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a recording fails on a GPU only, and there is none here")
def test_a_failed_recording_leaves_no_trace() -> None:
    """A model that can't be recorded is called, on the stream of before, and another can be recorded afterwards."""
    device = torch.device("cuda")
    stream = torch.cuda.current_stream(device)
    backend = TorchBackend(Looking(4, 3).to(device), INFO, batch=ROWS)
    (batch,) = backend.lend(ROWS, 1)
    assert not backend.bucketed
    assert torch.cuda.current_stream(device) == stream
    assert backend.logits(batch).shape == (ROWS, 3)
    after = TorchBackend(linear(device), INFO, batch=ROWS)
    after.lend(ROWS, 1)
    assert after.bucketed
