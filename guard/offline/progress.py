"""Progress on long work: a bar on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """Says what is being done. On a terminal each stage is a bar; in a log it is one line when it ends."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def stage(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Report a stage of `total` steps; the value is called with the number of steps just done."""
        started = time.monotonic()
        if not self.console.is_terminal:
            yield lambda _: None
            self.console.print(f"{description}: {total} in {time.monotonic() - started:.1f} s", highlight=False)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(description, total=total)
            yield lambda steps: bar.advance(task, steps)


def quiet() -> Reporter:
    """A reporter that says nothing."""
    return Reporter(Console(quiet=True))
