"""Batches of a few sizes only, in memory of their own: what a CUDA graph needs.

A graph replays kernels on the addresses that they were recorded with, at a fraction of the cost of launching them one
by one. Copies are made outside of it, in the batch that it reads, so noise is new whenever it is replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from guard.errors import BackendError

Run: TypeAlias = Callable[[Tensor], Tensor]
Capture: TypeAlias = Callable[[Run, Tensor], Callable[[], Tensor]]
"""Fixes what runs on a batch, which stays where it is: calling the result runs it on what is in the batch then."""

_WARM_UPS = 3
"""Runs before a recording: libraries choose their algorithms and allocate their workspaces, which no graph may do."""


class Buckets:
    """A batch, and for each bucket what runs on its first rows. Made on any thread, used by one at a time."""

    def __init__(self, run: Run, batch: Tensor, capture: Capture) -> None:
        self._batch = batch
        self._sizes = sizes(len(batch))
        # The largest first: what it takes of the pool is enough for the others.
        self._runs = {size: capture(run, batch[:size]) for size in reversed(self._sizes)}

    def holds(self, x: Tensor) -> bool:
        """Whether `x` is the first rows of this batch, and no other tensor."""
        mine = self._batch
        alike = x.dtype == mine.dtype and x.shape[1:] == mine.shape[1:] and x.stride() == mine.stride()
        return alike and 0 < len(x) <= len(mine) and x.device == mine.device and x.data_ptr() == mine.data_ptr()

    def run(self, copies: int) -> Tensor:
        """The answers to the first `copies` rows, from the least bucket that holds them.

        Rows beyond them hold old copies, which does no harm: a row's answer rests on that row only, and theirs are cut
        off. Answers are copied out, for graphs share memory: the next replay may be of another bucket, and write there.
        """
        size = next(size for size in self._sizes if size >= copies)
        answers = self._runs[size]()
        if len(answers) != size:
            raise BackendError(f"{size} copies got {len(answers)} answers")
        return answers[:copies].clone()


def sizes(rows: int) -> tuple[int, ...]:
    """The buckets of a batch: powers of two, and all of it."""
    return (*(2**power for power in range((rows - 1).bit_length())), rows)


def plain(run: Run, x: Tensor) -> Callable[[], Tensor]:
    """No graph: each run is a call."""
    return partial(run, x)


def graphs(device: torch.device) -> Capture:
    """CUDA graphs, one a bucket, which share a pool of memory."""
    with torch.cuda.device(device):
        pool = torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call] # torch has no type for it

    def capture(run: Run, x: Tensor) -> Callable[[], Tensor]:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
        side.wait_stream(current)  # the batch is there
        # The stream is changed back here, for torch leaves it where a recording fails.
        with torch.cuda.device(device), torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run(x)
            # Other threads may go on with work of their own: only what this one does has to be fit for a graph.
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                answers = run(x)
        current.wait_stream(side)

        def replay() -> Tensor:
            graph.replay()
            return answers

        return replay

    return capture
