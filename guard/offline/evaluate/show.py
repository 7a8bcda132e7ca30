"""An evaluation in a terminal: one line an attack, and what a person must know of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from guard.offline.evaluate.results import Count, Evaluation, Knowing


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print the table of attacks, that of attackers who know Guard, and the lines below them."""
    if evaluation.attacks:
        console.print(_attacks(evaluation))
    if evaluation.knowing is not None:
        console.print(_knowing(evaluation.knowing, evaluation.rates))
    for line in _lines(evaluation):
        console.print(line, highlight=False, soft_wrap=True)


def _attacks(evaluation: Evaluation) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("attack", no_wrap=True)
    table.add_column("fooled", justify="right", no_wrap=True)
    for rate in evaluation.rates:
        table.add_column(f"caught at {rate:g}", justify="right", no_wrap=True)
    for row in evaluation.attacks:
        caught = [in_words(row.caught[rate]) for rate in evaluation.rates]
        fooled = f"{row.succeeded.count} / {row.succeeded.of}" if row.failed is None else "failed"
        table.add_row(row.attack.title, fooled, *(caught if row.succeeded.count else ("-" for _ in caught)))
    return table


def _knowing(knowing: Knowing, rates: Sequence[float]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("who knows Guard", no_wrap=True)
    table.add_column("fooled", justify="right", no_wrap=True)
    for rate in rates:
        table.add_column(f"and passed at {rate:g}", justify="right", no_wrap=True)
    for row in knowing.rows:
        aim = "" if row.against is None else f" (against {row.against} alone)"
        name = f"{row.attack}, {row.setting}{aim if row.knows else ' (does not know)'}"
        fooled = f"{row.fooled.count} / {row.fooled.of}"
        table.add_row(name, fooled, *(in_words(row.won[rate]) for rate in rates))
    return table


def in_words(count: Count) -> str:
    """A share with its interval."""
    if count.share is None:
        return "-"
    low, high = count.interval
    return f"{count.share:.1%} [{100 * low:.0f}, {100 * high:.0f}]"


def _lines(evaluation: Evaluation) -> list[str]:
    return [
        f"At {rate:g}: {in_words(evaluation.benign[rate])} of {evaluation.benign[rate].of} honest images flagged"
        f"{''.join(_lost(evaluation, rate))}."
        for rate in evaluation.rates
    ]


def _lost(evaluation: Evaluation, rate: float) -> Iterator[str]:
    for worst in evaluation.worst[:1]:
        yield (
            f"; some attack wins on {in_words(worst.guarded[rate])} of the images attacked, "
            f"{in_words(worst.undefended)} without Guard"
        )
    for worst in () if evaluation.knowing is None else evaluation.knowing.worst[-1:]:
        yield f"; one who knows Guard on {in_words(worst.guarded[rate])} of {worst.undefended.of}"
