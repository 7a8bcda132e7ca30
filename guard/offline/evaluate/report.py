"""The report: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from guard.offline.evaluate import plots
from guard.offline.evaluate.example import Example
from guard.offline.evaluate.pictures import pictures
from guard.offline.evaluate.results import AttackRow, Count, DriftCell, Evaluation
from guard.offline.evaluate.summary import findings, headline, percent

TEMPLATE = "report.html.jinja"
_EXAMPLES = 24


def write(evaluation: Evaluation, file: Path) -> None:
    """Write the report."""
    source = (resources.files(__package__ or "") / TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "interval": interval, "decimal": decimal}
    file.write_text(environment.from_string(source).render(_page(evaluation)), encoding="utf-8")


def _page(evaluation: Evaluation) -> Mapping[str, Any]:
    strength = plots.strength(evaluation)
    chosen = _chosen(evaluation.examples)
    succeeded = any(row.succeeded.count for row in evaluation.attacks)
    return {
        "e": evaluation,
        "rate": evaluation.rates[0],
        "headline": headline(evaluation),
        "findings": findings(evaluation),
        "rows": [(row, top_accuser(row)) for row in evaluation.attacks],
        "conditions": [each.condition for row in evaluation.attacks[:1] for each in row.laundered],
        "drift": _by_kind(evaluation.drift),
        "caught_plot": Markup(plots.caught(evaluation)) if succeeded else "",  # noqa: S704 - our own picture
        "strength_plot": Markup(strength or ""),  # noqa: S704 - as above
        "drift_plot": Markup(plots.drift(evaluation)),  # noqa: S704 - as above
        "examples": [(each, pictures(each)) for each in chosen],
        "heated": any(each.heat is not None for each in chosen),
    }


def interval(count: Count) -> str:
    """Its interval."""
    low, high = count.interval
    return f"{100 * low:.0f} to {100 * high:.0f}"


def decimal(value: float | None, digits: int = 2) -> str:
    """A number, if there is one."""
    return "-" if value is None else f"{value:.{digits}f}"


def top_accuser(row: AttackRow) -> str:
    """Which detector accused most, and how often, of those caught."""
    total = sum(row.accusers.values())
    if not total:
        return "-"
    name, count = max(row.accusers.items(), key=lambda pair: pair[1])
    return f"{name} {100 * count / total:.0f} %"


def _by_kind(cells: Sequence[DriftCell]) -> dict[str, list[DriftCell]]:
    return {kind: [each for each in cells if each.kind == kind] for kind in dict.fromkeys(each.kind for each in cells)}


def _chosen(examples: Sequence[Example]) -> list[Example]:
    """The last of each attack, which is about its strongest; those that were missed first."""
    last = {example.attack.partition(",")[0]: example for example in examples}
    return sorted(last.values(), key=lambda example: example.flagged)[:_EXAMPLES]
