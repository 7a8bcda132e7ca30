"""The table of what was measured in threat-model.md, from the results: `make detection-table` writes it."""

# ruff: noqa: INP001 - a script beside what it makes, no part of a package

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "threat-model.md"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
BEGIN, END = "<!-- measured: made by `make detection-table` -->", "<!-- end of measured -->"
_COLUMNS = {"mnist": "MNIST, LeNet-5", "cifar10": "CIFAR-10, ResNet-20"}
_HIGH, _LOW = "0.05", "0.01"
_ATTACKS: Mapping[str, tuple[str, str]] = {
    "PGD, L-inf .3 / 8/255": ("PGD, L-inf 0.3", "PGD, L-inf 8/255"),
    "PGD, L-inf .1 / 2/255": ("PGD, L-inf 0.1", "PGD, L-inf 2/255"),
    "FGSM, L-inf .1 / 2/255": ("FGSM, L-inf 0.1", "FGSM, L-inf 2/255"),
    "PGD in L2 of .5": ("PGD L2, L2 0.5",) * 2,
    "PGD in L2 of 1": ("PGD L2, L2 1",) * 2,
    "C&W": ("C&W, L2",) * 2,
    "C&W with confidence 5": ("C&W, L2, confidence 5",) * 2,
    "C&W with confidence 20": ("C&W, L2, confidence 20",) * 2,
    "DeepFool": ("DeepFool, L2",) * 2,
    "turned and shifted, by 15 degrees at most": ("Spatial, 10 % and 15 degrees",) * 2,
    "stickers of 5 % of the area": ("Patch, 5 % of the area",) * 2,
    "searched by asking, twenty steps of HopSkipJump in L2": ("HopSkipJump, L2, 20 steps",) * 2,
}
_LAUNDERED = ("PGD, L-inf 0.1", "PGD, L-inf 8/255")
"""By title, in the order of the columns."""


def page(text: str) -> str:
    """A page with the table in it made anew.

    Raises:
        ValueError: its marks are not there.
    """
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"{PAGE.name} lacks the lines {BEGIN!r} and {END!r}, between which the table goes")
    found = {name: json.loads((RESULTS / f"detection-{name}.json").read_text()) for name in _COLUMNS}
    rows = [("", *_COLUMNS.values()), ("---",) * (1 + len(found)), *_rows(found)]
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return f"{before}{mark}\n\n{table}\n{end}{after}"


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "honest images flagged", *(_count(each["false_positives"][_HIGH]) for each in found.values())
    for label, titles in _ATTACKS.items():
        yield label, *(_count(row["caught"][_HIGH]) for row in _named(found, titles))
    washed = [row["laundered"] for row in _named(found, _LAUNDERED)]
    for cells in zip(*washed, strict=True):
        yield f"PGD, L-inf .1 / 8/255, {cells[0]['condition']}", *(_count(cell["caught"][_HIGH]) for cell in cells)
    everything = [each["worst_case"][0] for each in found.values()]
    yield "images lost to at least one attack", *(_lost(worst) for worst in everything)
    small = [next(w for w in each["worst_case"] if w["attacks"] == "L-inf 8/255 or less") for each in found.values()]
    yield "images lost to L-inf changes of 8/255 or less", *(_lost(worst) for worst in small)
    yield "PGD that knows Guard wins, L-inf .3 / 8/255", *(_known(each["knowing"]["rows"]) for each in found.values())


def _named(found: Mapping[str, Any], titles: Sequence[str]) -> Iterator[Any]:
    """Of each column the row with its title."""
    for each, title in zip(found.values(), titles, strict=True):
        yield next(row for row in each["attacks"] if f"{row['attack']}, {row['setting']}" == title)


def _count(count: Mapping[str, Any]) -> str:
    return f"{count['count']} of {count['of']}"


def _lost(worst: Mapping[str, Any]) -> str:
    guarded, alone = worst["guarded"], worst["undefended"]
    return f"{_count(guarded[_HIGH])} (at 1 % asked: {guarded[_LOW]['count']}), {alone['count']} without Guard"


def _known(rows: Sequence[Any]) -> str:
    """The one that wins most at the greatest strength, of those that attack the whole of Guard."""
    known = [row for row in rows if row["knows"] and row["against"] is None and row["linf"] is not None]
    strongest = max(row["linf"] for row in known)
    best = max((row for row in known if row["linf"] == strongest), key=lambda row: row["won"][_HIGH]["count"])
    who = f"{best['evaluations_an_image']:.0f} evaluations each"
    won = best["won"]
    return f"{_count(won[_HIGH])} (at 1 % asked: {won[_LOW]['count']}), {best['fooled']['count']} without Guard; {who}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
