"""The results as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.detection import published, targets
from benchmarks.detection.subjects import SUBJECTS, Name, Subject


def markdown(name: Name, found: dict[str, Any]) -> str:
    """Every attack, laundered and not, and every drift, with counts; what was asked for beside what was reached."""
    rates = [f"{rate:g}" for rate in found["rates"]]
    parts = (
        targets.markdown(name, found),
        _attacks(found, rates),
        _knowing(found, rates),
        _drift(found, rates),
        published.markdown(name, found),
        _facts(found),
    )
    return "\n".join([*_head(SUBJECTS[name], found, rates), *(line for part in parts for line in part), ""])


def _head(subject: Subject, found: dict[str, Any], rates: Sequence[str]) -> Iterable[str]:
    yield f"# Detection: {subject.title}"
    yield ""
    yield f"{subject.said} It is right for {_count(found['accuracy'])} of the images of the evaluation."
    yield ""
    yield "Caught are those of an attack's successes, 8-bit images that the model gets wrong, that Guard flags."
    yield "*Laundered* is the mean over five ways of laundering, of those that are still misclassified, and the worst."
    yield "Slow attacks were made of fewer images than quick ones, so what is lost to all is at least what is told."
    yield "AutoAttack is its chain without FAB and on smaller budgets, Square has 300 queries and ZOO 200 steps."
    yield "Transferred attacks are of a small model, distilled from this one's answers to a thousand of these images."
    yield "A knowing attacker with more time wins more."
    yield ""
    yield "| | " + " | ".join(f"at {float(rate):.0%} asked" for rate in rates) + " |"
    yield "| --- |" + " --- |" * len(rates)
    yield "| honest images flagged | " + " | ".join(_count(found["false_positives"][rate]) for rate in rates) + " |"
    for worst in found["worst_case"]:
        cells = (f"{_count(worst['guarded'][rate])}" for rate in rates)
        yield (
            f"| lost to {worst['attacks']} ({_count(worst['undefended'])} without Guard) | " + " | ".join(cells) + " |"
        )
    yield ""


def _attacks(found: dict[str, Any], rates: Sequence[str]) -> Iterable[str]:
    yield "## Attacks"
    yield ""
    heads = [head for rate in rates for head in (f"caught at {float(rate):.0%}", "laundered, mean", "worst")]
    yield "| attack | succeeded | " + " | ".join(heads) + " |"
    yield "| --- | --- |" + " --- |" * len(heads)
    for row in found["attacks"]:
        cells = []
        for rate in rates:
            washed = [w["caught"][rate]["share"] for w in row["laundered"] if w["caught"][rate]["share"] is not None]
            cells += [_count(row["caught"][rate]), _mean(washed), _share(min(washed, default=None))]
        done = "failed" if row["failed"] else _count(row["succeeded"], interval=False)
        yield f"| {row['attack']}, {row['setting']} | {done} | " + " | ".join(cells) + " |"
    yield ""
    yield from _washing(found, rates)


def _washing(found: dict[str, Any], rates: Sequence[str]) -> Iterable[str]:
    """Each way of laundering, over all attacks."""
    cells = [cell for row in found["attacks"] for cell in row["laundered"]]
    if not cells:
        return
    yield (
        "| laundered | still misclassified | "
        + " | ".join(f"caught at {float(rate):.0%}, of these" for rate in rates)
        + " |"
    )
    yield "| --- | --- |" + " --- |" * len(rates)
    for condition in dict.fromkeys(cell["condition"] for cell in cells):
        of_it = [cell for cell in cells if cell["condition"] == condition]
        sums = [_sum([cell["caught"][rate] for cell in of_it]) for rate in rates]
        yield f"| {condition} | {_sum([cell['still'] for cell in of_it])} | " + " | ".join(sums) + " |"
    yield ""


def _sum(counts: Sequence[dict[str, Any]]) -> str:
    """Of images of all rows together: no interval, for the same images come again and again."""
    count, of = sum(each["count"] for each in counts), sum(each["of"] for each in counts)
    return f"{_share(count / of if of else None)} ({count} of {of})"


def _knowing(found: dict[str, Any], rates: Sequence[str]) -> Iterable[str]:
    rows = (found.get("knowing") or {}).get("rows")
    if not rows:
        return
    yield "## Attackers that know Guard"
    yield ""
    yield "Won are 8-bit images that the model gets wrong and Guard does not flag, *undefended* all that it does."
    yield "Then what each detector alone would let pass at the highest rate, and the attacker's evaluations an image."
    yield ""
    detectors = list(rows[0]["alone"])
    heads = ["undefended", *(f"won at {float(rate):.0%}" for rate in rates), *detectors, "evaluations", "median L2"]
    yield "| attack | knows | " + " | ".join(heads) + " |"
    yield "| --- | --- |" + " --- |" * len(heads)
    for row in (row for row in rows if row["against"] is None):
        won = [_count(row["won"][rate]) for rate in rates]
        alone = [_share(row["alone"][each]["share"]) for each in detectors]
        cost = [f"{row['evaluations_an_image']:.0f}", _number(row["median_l2"])]
        undefended = "none" if row["undefended"] is None else _count(row["undefended"], interval=False)
        cells = [undefended, *won, *alone, *cost]
        yield f"| {row['attack']}, {row['setting']} | {'yes' if row['knows'] else 'no'} | " + " | ".join(cells) + " |"
    yield ""
    yield from _unfinished([row for row in rows if row["knows"] and row["against"] is None], rates[0])
    yield from _each_alone([row for row in rows if row["against"] is not None], rates)


def _unfinished(rows: Sequence[dict[str, Any]], rate: str) -> Iterable[str]:
    """Who may change as much as they like can win whatever a bounded attacker wins."""
    free = [row for row in rows if row["linf"] is None]
    most = max((row["won"][rate]["count"] for row in rows), default=0)
    for row in free:
        if row["won"][rate]["count"] < most:
            yield f"{row['attack']} is unbounded and wins less than some that are bounded: it did not get to"
            yield "its end, and says nothing of robustness."
            yield ""


def _each_alone(rows: Sequence[dict[str, Any]], rates: Sequence[str]) -> Iterable[str]:
    if not rows:
        return
    attack = f"{rows[0]['attack']}, {rows[0]['setting']}"
    yield f"Each detector by itself, attacked by somebody who knows it ({attack}): what"
    yield f"passes it at {float(rates[0]):.0%}, and what the whole of Guard then makes of these images."
    yield ""
    heads = ["won against it alone", *(f"and against Guard at {float(rate):.0%}" for rate in rates), "evaluations"]
    yield "| detector | " + " | ".join([*heads, "median L2"]) + " |"
    yield "| --- |" + " --- |" * (len(heads) + 1)
    for row in rows:
        won = [_count(row["alone"][row["against"]]), *(_count(row["won"][rate]) for rate in rates)]
        cells = [*won, f"{row['evaluations_an_image']:.0f}", _number(row["median_l2"])]
        yield f"| {row['against']} | " + " | ".join(cells) + " |"
    yield ""


def _drift(found: dict[str, Any], rates: Sequence[str]) -> Iterable[str]:
    yield "## Honest images under drift"
    yield ""
    yield "*Expected* is what the profile declares, and is calibrated under. *Right* is how often the model still is."
    yield ""
    yield "| condition | right | " + " | ".join(f"flagged at {float(rate):.0%}" for rate in rates) + " |"
    yield "| --- | --- |" + " --- |" * len(rates)
    for cell in found["drift"]:
        cells = [_count(cell["flagged"][rate]) for rate in rates]
        name = f"{cell['kind']} {cell['setting']}{', expected' if cell['expected'] else ''}"
        yield " | ".join([f"| {name}", _count(cell["right"], interval=False), *cells]) + " |"
    yield ""


def _facts(found: dict[str, Any]) -> Iterable[str]:
    yield "## Measured with"
    yield ""
    yield from (f"- {name}: {value}" for name, value in found["facts"].items())


def _count(count: dict[str, Any], *, interval: bool = True) -> str:
    if count["share"] is None:
        return "none"
    low, high = count["interval_95"]
    between = f", {low:.1%} to {high:.1%}" if interval else ""
    return f"{count['share']:.1%} ({count['count']} of {count['of']}{between})"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _mean(shares: Sequence[float]) -> str:
    return _share(sum(shares) / len(shares) if shares else None)


def _share(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"
