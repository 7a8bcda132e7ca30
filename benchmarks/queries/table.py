"""The figures as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.queries.measure import CONDITIONS
from guard import stats


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Write queries.json and queries.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "queries.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "queries.md").write_text(markdown(found))


def markdown(found: Mapping[str, Any]) -> str:
    """The tables for people."""
    lines = [
        "# Query attacks before the memory of queries",
        "",
        "Attack runs that were flagged no later than the query that would have been their first success, and the",
        "median number of queries until then; of all runs, the share with its 95 % interval. A run without a success",
        "within its budget has to be flagged within 120 queries. *Paced*: ten minutes and 32 queries of others between",
        "any two. *Rotated*: each query comes from another client. *Changed*: each query is shifted by up to a pixel,",
        "with another brightness and contrast, and noise. Exact repetitions that an attack's code makes are not sent.",
        "Blacklight has the parameters published for CIFAR-10.",
        "",
    ]
    for subject in found["subjects"]:
        lines += [f"## {subject['name']}", "", *_attacks(subject), "", *_benign(subject), ""]
        took = subject["microseconds"]
        lines.append(
            f"A fingerprint takes {took['fingerprint']:.0f} us, a whole look at the memory {took['look']:.0f}."
        )
        lines.append("")
    lines += [f"- distinct near-duplicates of one client that are taken for an attack: {found['limit']}"]
    lines += [*(f"- {name}: {value}" for name, value in found["about"].items()), ""]
    return "\n".join(lines)


def _attacks(subject: Mapping[str, Any]) -> list[str]:
    lines = ["| attack | watcher | " + " | ".join(CONDITIONS) + " |", "| --- | --- |" + " --- |" * len(CONDITIONS)]
    cells = {(row["attack"], row["watcher"], row["condition"]): row for row in subject["attacks"]}
    for attack, watcher in dict.fromkeys((attack, watcher) for attack, watcher, _ in cells):
        shown = [_cell(cells[attack, watcher, condition]) for condition in CONDITIONS]
        lines.append(f"| {attack} | {watcher} | {' | '.join(shown)} |")
    for watcher in dict.fromkeys(watcher for _, watcher, _ in cells):
        shown = []
        for condition in CONDITIONS:
            rows = [row for key, row in cells.items() if key[1:] == (watcher, condition)]
            shown.append(_share(sum(row["before"] for row in rows), sum(row["runs"] for row in rows)))
        lines.append(f"| *all* | {watcher} | {' | '.join(shown)} |")
    return lines


def _cell(row: Mapping[str, Any]) -> str:
    queries = "never" if row["median_queries"] is None else f"{row['median_queries']:g} queries"
    return f"{row['before']} of {row['runs']}, {queries}"


def _benign(subject: Mapping[str, Any]) -> list[str]:
    lines = ["| benign clients | watcher | flagged |", "| --- | --- | --- |"]
    lines += [
        f"| {row['kind']} | {row['watcher']} | {_share(row['flagged'], row['clients'])} |" for row in subject["benign"]
    ]
    return lines


def _share(count: int, total: int) -> str:
    low, high = stats.clopper_pearson_interval(count, total)
    return f"{count / total:.1%} ({count} of {total}, {low:.1%} to {high:.1%})"
