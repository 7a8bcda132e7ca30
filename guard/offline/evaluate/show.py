"""An evaluation in a terminal: one line an attack, and what a person must know of the rest."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from guard.offline.evaluate.results import Count, Evaluation


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print the table of attacks and the lines below it."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("attack", no_wrap=True)
    table.add_column("fooled", justify="right", no_wrap=True)
    for rate in evaluation.rates:
        table.add_column(f"caught at {rate:g}", justify="right", no_wrap=True)
    for row in evaluation.attacks:
        caught = [in_words(row.caught[rate]) for rate in evaluation.rates]
        fooled = f"{row.succeeded.count} / {row.succeeded.of}" if row.failed is None else "failed"
        table.add_row(row.attack.title, fooled, *(caught if row.succeeded.count else ("-" for _ in caught)))
    console.print(table)
    for line in _lines(evaluation):
        console.print(line, highlight=False, soft_wrap=True)


def in_words(count: Count) -> str:
    """A share with its interval."""
    if count.share is None:
        return "-"
    low, high = count.interval
    return f"{count.share:.1%} [{100 * low:.0f}, {100 * high:.0f}]"


def _lines(evaluation: Evaluation) -> list[str]:
    worst = evaluation.worst[0]
    return [
        f"At {rate:g}: {in_words(evaluation.benign[rate])} of {evaluation.benign[rate].of} honest images flagged; "
        f"some attack wins on {in_words(worst.guarded[rate])} of the images attacked, "
        f"{in_words(worst.undefended)} without Guard."
        for rate in evaluation.rates
    ]
