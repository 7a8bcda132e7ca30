"""The figures of attacks on a running service, as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guard import stats


def write(found: Mapping[str, Any], file: Path) -> None:
    """Write the figures as `file`.json and `file`.md."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    file.with_suffix(".md").write_text(markdown(found))


def markdown(found: Mapping[str, Any]) -> str:
    """The table for people."""
    budget = found["budget"]
    lines = [
        "# Query attacks through a running sidecar",
        "",
        f"The subject: {found['subject']}.",
        "",
        "The embedded server has the model, and Guard stands before it in enforce mode with the detectors at a",
        f"false-positive rate of {found['rate']:g}. Each query is an HTTP request over a connection from its client's",
        "address. An attack succeeds with the first answer that it gets which is wrong, within the attack's distance",
        f"(L-inf {budget['linf']:g} for Square, L2 {budget['l2']:g} for HopSkipJump) of an image that the model gets",
        f"right, in {budget['queries']} queries. A rejected query tells the attacker no scores, and they go on.",
        "HopSkipJump begins at a real image of another class. *Unnoticed*: of the successes, those before which no",
        "query was rejected.",
        "",
        f"*Paced*: time runs {found['faster']} times faster, for the attack and for the memory, as if it were ten",
        f"minutes between two queries and a memory of a day; the memory holds {found['smaller']} times fewer queries",
        "than by default, and so many fewer than 32 of others come between. *Rotated*: each query has another address.",
        "*Outwaited*: by the next query the memory has forgotten the last, as that of a day has after a day. Without a",
        "memory nothing depends on who asks or when.",
        "",
        "| attack | defence | how | succeeded | unnoticed | queries to success | first rejection | queries rejected |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(row) for row in found["rows"]),
        "",
        _others(found),
        "",
        f"- seed: {found['seed']}",
        *(f"- {name}: {value}" for name, value in found["about"].items()),
        "",
    ]
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    first = "never" if row["median_rejection"] is None else f"{row['median_rejection']:g}"
    if 0 < row["runs_rejected"] < row["runs"]:
        first += f" (in {row['runs_rejected']} runs)"
    success = "" if row["median_success"] is None else f"{row['median_success']:g}"
    return (
        f"| {row['attack']} | {row['defence']} | {row['condition']} | {_share(row['successes'], row['runs'])} | "
        f"{_unnoticed(row)} | {success} | {first} | {row['rejected']} of {row['queries']} |"
    )


def _unnoticed(row: Mapping[str, Any]) -> int:
    """Runs that succeeded before any query of theirs was rejected."""
    won = [fate for fate in row["fates"] if fate["success"] is not None]
    return sum(fate["first_rejection"] is None for fate in won)  # rejections after a success are not counted at all


def _others(found: Mapping[str, Any]) -> str:
    rows = [row for row in found["rows"] if row["others"]]
    if not rows:
        return "Queries are medians."
    rejected, asked = sum(row["others_rejected"] for row in rows), sum(row["others"] for row in rows)
    gaps = [row["median_gap_s"] * found["faster"] / 60 for row in rows]
    return (
        f"Queries are medians. Of honest ones between those of paced attacks, {rejected} of {asked} were rejected.\n"
        f"Paced ones came {min(gaps):.0f} to {max(gaps):.0f} minutes apart in that faster time, by the cells' medians."
    )


def _share(count: int, total: int) -> str:
    low, high = stats.clopper_pearson_interval(count, total)
    return f"{count} of {total} ({low:.0%} to {high:.0%})"
