"""What a person should know after a minute: a few numbers, and sentences made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from guard.offline.evaluate.results import AttackRow, Count, DriftCell, Evaluation

STOPPED, PASSED = 0.95, 0.5
ENOUGH = 10
_FEW = 5


@dataclass(frozen=True, slots=True)
class Number:
    """One of the numbers at the top."""

    value: str
    what: str
    more: str
    good: bool | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """Sentences: what Guard stops, what only sometimes, what it doesn't, what can't be told, and what it costs."""

    stops: tuple[str, ...]
    partly: tuple[str, ...]
    passes: tuple[str, ...]
    unknown: tuple[str, ...]
    costs: tuple[str, ...]


def headline(evaluation: Evaluation) -> tuple[Number, ...]:
    """The numbers at the top, at the highest rate."""
    rate = evaluation.rates[0]
    benign = evaluation.benign[rate]
    numbers = [
        Number(
            percent(benign),
            "of honest images are flagged",
            f"asked: {_share(rate)}; {benign.count} of {benign.of}, {_interval(benign)}",
            good=benign.interval[0] <= rate,
        )
    ]
    rows = _succeeded(evaluation)
    if rows:
        shares = [row.caught[rate].share or 0.0 for row in rows]
        least = min(rows, key=lambda row: row.caught[rate].share or 0.0)
        numbers.append(
            Number(
                _share(sum(shares) / len(shares)),
                "of successful attack images are caught",
                f"mean over {len(rows)} attacks; least: {percent(least.caught[rate])} of {least.attack.title}",
            )
        )
        washed = [count for row in rows for count in _laundered(row, rate)]
        if washed:
            mean = sum(count.share or 0.0 for count in washed) / len(washed)
            numbers.append(
                Number(_share(mean), "of them are caught after laundering", f"mean over {len(washed)} cells")
            )
    knowing = () if evaluation.knowing is None else evaluation.knowing.worst[-1:]
    for worst, winner in (
        *((each, "some attack") for each in evaluation.worst[:1]),
        *((each, "an attacker who knows Guard") for each in knowing),
    ):
        numbers.append(
            Number(
                percent(worst.guarded[rate]),
                f"of images are lost to {winner}",
                f"{percent(worst.undefended)} without Guard; of {worst.guarded[rate].of} images",
            )
        )
    numbers.append(_drift(evaluation, rate))
    numbers.append(
        Number(
            f"{evaluation.benign_evaluations:.0f}",
            "model evaluations for an honest image",
            "with all detectors, without a certificate",
        )
    )
    return tuple(numbers)


def _drift(evaluation: Evaluation, rate: float) -> Number:
    """The worst of the conditions that the profile declares; without any, the worst of all."""

    def flagged(cell: DriftCell) -> float:
        return cell.flagged[rate].share or 0.0

    expected = [cell for cell in evaluation.drift if cell.expected]
    worst, worst_of_all = max(expected or evaluation.drift, key=flagged), max(evaluation.drift, key=flagged)
    beyond = f"; beyond what is expected up to {percent(worst_of_all.flagged[rate])}, {_condition(worst_of_all)}"
    return Number(
        percent(worst.flagged[rate]),
        f"of honest images are flagged in the worst {'expected ' if expected else ''}drift",
        _condition(worst) + (beyond if expected and not worst_of_all.expected else ""),
        good=flagged(worst) <= 2 * rate,
    )


def _condition(cell: DriftCell) -> str:
    return f"{cell.kind} {cell.setting}"


def findings(evaluation: Evaluation) -> Findings:
    """Sentences. An attack with several settings is judged by the worst one that fooled the model often enough."""
    rate = evaluation.rates[0]
    succeeded = _succeeded(evaluation)
    groups: dict[str, list[AttackRow]] = {}
    for row in succeeded:
        if row.succeeded.count >= ENOUGH:
            groups.setdefault(row.attack.name, []).append(row)
    worst = {name: min(rows, key=lambda row: row.caught[rate].share or 0.0) for name, rows in groups.items()}
    shares = {name: row.caught[rate].share or 0.0 for name, row in worst.items()}
    rest = [row for row in succeeded if row.attack.name not in groups]

    def say(names: Iterable[str]) -> tuple[str, ...]:
        ordered = sorted(names, key=lambda name: shares[name])
        return tuple(_sentence(worst[name], rate, several=len(groups[name]) > 1) for name in ordered)

    return Findings(
        stops=say(name for name, share in shares.items() if share >= STOPPED),
        partly=say(name for name, share in shares.items() if PASSED <= share < STOPPED),
        passes=say(name for name, share in shares.items() if share < PASSED),
        unknown=tuple(_sentence(row, rate, several=False) for row in rest),
        costs=_costs(evaluation, rate),
    )


def _sentence(row: AttackRow, rate: float, *, several: bool) -> str:
    count = row.caught[rate]
    where = f" at its hardest setting ({row.attack.setting})" if several else f" ({row.attack.setting})"
    return f"{row.attack.name}: {count.count} of {count.of} caught{where}, {_interval(count)}"


def _costs(evaluation: Evaluation, rate: float) -> tuple[str, ...]:
    benign = evaluation.benign[rate]
    said = [f"{percent(benign)} of honest images flagged, where {_share(rate)} was asked for ({_interval(benign)})"]
    drifts = [cell for cell in evaluation.drift if cell.flagged[rate].interval[0] > rate]
    if drifts:
        said.append(f"more than that under {_some(drifts, rate)}")
    said.append(f"{evaluation.benign_evaluations:.0f} evaluations of the model for an honest image")
    return tuple(said)


def _some(cells: Sequence[DriftCell], rate: float) -> str:
    ordered = sorted(cells, key=lambda cell: -(cell.flagged[rate].share or 0.0))
    named = [f"{_condition(cell)} ({percent(cell.flagged[rate])})" for cell in ordered[:_FEW]]
    more = f" and {len(cells) - _FEW} more of {len(cells)}" if len(cells) > _FEW else ""
    return ", ".join(named) + more


def _succeeded(evaluation: Evaluation) -> list[AttackRow]:
    return [row for row in evaluation.attacks if row.succeeded.count]


def _laundered(row: AttackRow, rate: float) -> list[Count]:
    return [each.caught[rate] for each in row.laundered if each.still.count]


def percent(count: Count) -> str:
    """A share, for people."""
    return "-" if count.share is None else _share(count.share)


def _share(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _interval(count: Count) -> str:
    low, high = count.interval
    return f"{100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%"
