"""The figures as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.queries.measure import CONDITIONS
from guard import stats

_PARTS: Final = {"attacks": "Attacks", "guard": "Clients before Guard", "blacklight": "Clients before Blacklight"}
_INTRODUCTION: Final = """\
# Query attacks before the memory of queries

Attacks that see the model's scores and search by asking, in 8-bit images, each until its first success: misclassified,
and within the attack's distance. *Caught* is a run of which a query was flagged no later than the one that would have
been its first success. The runs that succeeded are what counts. Of all runs, those that never succeeded within their
queries have to be flagged too, by the 120th query; a later first flag counts for none. In brackets are 95 % intervals
(Clopper and Pearson); queries are medians, those to the first success and to the first flag.

*Paced*: ten minutes and 32 queries of others between any two. *Rotated*: each query comes from another client.
*Changed*: each query is shifted by up to a pixel, with another brightness and contrast, and noise; such attacks have
500 queries at most, and hardly win with more, for they are told of another image than theirs. Exact repetitions that an
attack's code makes are not sent. Boundary and HopSkipJump begin at a random image that ART draws without a seed.
Square plans for 300 queries.
Blacklight has the parameters published for CIFAR-10, and knows neither clients nor time, so it was shown nothing paced
or rotated. *Limit 2* is Guard with `query_limit: 2`; the default is 3. *Whole Guard* is the memory, with the limit of
3, and the detectors: the run was flagged so, or the query that would have been its first success has an adversarial
verdict, at a false-positive rate of which so much was asked; that rate is of honest images, and in the tables of
detection, from whose profiles and evaluation images these are. *Changed* attackers succeed with an image of their own,
which is what the verdict is of.
"""
_WINS: Final = """\
Why many do not succeed: Boundary and HopSkipJump need hundreds to thousands of queries to come so near, and ZOO and
SimBA run out of steps before. Where nothing succeeds, nothing is shown to be caught in time, only that the search is
noticed."""
_CLIENTS: Final = """\
Honest clients, of whom any query was flagged. The first rows are of images that are all different: the more one client
sends, the fewer such clients there are to measure, and the wider the interval. They are what the rate of honest clients
is about. Clients who send variations of one image follow: who sends more of them than the limit is flagged always."""


def put(folder: Path, title: str, part: str, found: Mapping[str, Any]) -> None:
    """Write one subject's part into queries.json, beside the others that are there, and queries.md anew."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "queries.json"
    subjects = json.loads(file.read_text())["subjects"] if file.exists() else {}
    subjects.setdefault(title, {})[part] = found
    file.write_text(json.dumps({"subjects": subjects}, indent=1) + "\n")
    (folder / "queries.md").write_text(markdown(subjects))


def markdown(subjects: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables for people."""
    lines = [_INTRODUCTION]
    for title, parts in subjects.items():
        lines += [f"## {title}", ""]
        if "attacks" in parts:
            lines += [*_attacks(parts["attacks"]), ""]
        if rows := [row for part in ("guard", "blacklight") for row in parts.get(part, {"rows": []})["rows"]]:
            lines += [_CLIENTS, "", *_benign(rows), ""]
        if "guard" in parts:
            took = parts["guard"]["microseconds"]
            lines += [
                f"A fingerprint takes {took['fingerprint']:.0f} us, a whole look at the memory {took['look']:.0f}.",
                "",
            ]
        lines += [*(_measured(name, parts[part]["about"]) for part, name in _PARTS.items() if part in parts), ""]
    return "\n".join(lines)


def _attacks(part: Mapping[str, Any]) -> list[str]:
    watchers = list(dict.fromkeys(row["watcher"] for row in part["rows"]))
    names = list(dict.fromkeys(row["attack"] for row in part["rows"]))
    cells = {(row["attack"], row["condition"], row["watcher"]): row for row in part["rows"]}
    rates = list(part["rows"][0]["past"])
    head = [
        "attack",
        "how",
        "succeeded",
        *(f"{each}: of these" for each in watchers),
        *(f"whole Guard, {float(rate):.0%} asked: of these" for rate in rates),
        *(f"{each}: of all" for each in watchers),
    ]
    lines = [
        f"Each attack has {part['queries']} queries for an image. {_WINS} {part.get('note', '')}".rstrip(),
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for chosen in [*([name] for name in names), names]:
        for condition in CONDITIONS:
            what = chosen[0] if len(chosen) == 1 else "*all*"
            shown = [_together([cells.get((name, condition, watcher)) for name in chosen]) for watcher in watchers]
            if not shown[0]["runs"]:
                continue
            counts = [_share(each["caught"], each["succeeded"]) for each in shown]
            counts += [_share(shown[0]["succeeded"] - shown[0]["past"][rate], shown[0]["succeeded"]) for rate in rates]
            counts += [_share(each["flagged"], each["runs"]) + _queries(each["median_flag"]) for each in shown]
            wins = f"{shown[0]['succeeded']} of {shown[0]['runs']}" + _queries(shown[0]["median_success"])
            lines.append(_line([what, condition, wins, *counts]))
    return lines


def _together(rows: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any]:
    """One row, or the sum of several, which has no medians; nothing where a watcher was not shown a condition."""
    there = [row for row in rows if row is not None]
    if len(there) == 1:
        return there[0]
    counts = {key: sum(row[key] for row in there) for key in ("runs", "succeeded", "caught", "flagged")}
    past = {rate: sum(row["past"][rate] for row in there) for rate in (there[0]["past"] if there else ())}
    return counts | {"past": past, "median_success": None, "median_flag": None}


def _queries(median: float | None) -> str:
    return "" if median is None else f", {median:g} queries"


def _benign(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    watchers = list(dict.fromkeys(row["watcher"] for row in rows))
    cells = {(row["kind"], row["watcher"]): row for row in rows}
    lines = [_line(["honest clients", *watchers]), _line(["---"] * (1 + len(watchers)))]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        found = [cells.get((kind, watcher)) for watcher in watchers]
        lines.append(_line([kind, *("" if row is None else _share(row["flagged"], row["clients"]) for row in found)]))
    return lines


def _measured(name: str, about: Mapping[str, str]) -> str:
    return f"- {name}: " + ", ".join(f"{key} {value}" for key, value in about.items())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(count: int, total: int) -> str:
    if not total:
        return ""
    low, high = stats.clopper_pearson_interval(count, total)
    return f"{count} of {total} ({low:.1%} to {high:.1%})"
