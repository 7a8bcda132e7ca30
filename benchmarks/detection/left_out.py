"""Attacks of a family that no detector network was shown, and nothing was tuned on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from benchmarks.detection.workshop import Workshop
from guard.offline.options import Options

FAMILIES: Final = {
    ("single_step",): ("FGSM",),
    ("iterated",): ("BIM", "PGD", "AutoAttack", "Universal", "Transfer"),
    ("iterated_l2",): ("PGD L2",),
    ("confident", "to_boundary"): ("C&W", "DeepFool", "Elastic net", "Boundary", "HopSkipJump"),
    ("sparse",): ("JSMA", "SimBA"),
    ("squares",): ("Square",),
    ("patch",): ("Patch",),
    ("spatial",): ("Spatial",),
}
"""Families to learn from, left out together, and the attacks of the suite that are theirs."""


def measure(workshop: Workshop, options: Options) -> Iterator[dict[str, Any]]:
    """Leave each family out in turn, and attack with it."""
    for families, attacks in FAMILIES.items():
        name = "-".join(families)
        profile = f"profile-without-{name}"
        workshop.calibrate(profile, Options(seed=options.seed, left_out=families))
        found = workshop.evaluate(profile, f"report-without-{name}", attacks)
        for row in found["attacks"]:
            yield {"left_out": list(families)} | row


def markdown(title: str, rows: Sequence[dict[str, Any]], whole: dict[str, Any]) -> str:
    """Each attack, caught by a profile that learnt nothing of its family, beside the profile that did."""
    known = {(row["attack"], row["setting"]): row["caught"] for row in whole["attacks"]}
    rates = list(rows[0]["caught"]) if rows else []
    lines = [
        f"# Left-one-out: {title}",
        "",
        "Detector networks were trained again without the family that an attack belongs to. In brackets: with it.",
        "",
        "| left out | attack | " + " | ".join(f"caught at {float(rate):.0%}" for rate in rates) + " |",
        "| --- | --- |" + " --- |" * len(rates),
    ]
    for row in rows:
        with_it = known.get((row["attack"], row["setting"]), {})
        cells = [f"{_share(row['caught'][rate])} ({_share(with_it.get(rate))})" for rate in rates]
        lines.append(
            f"| {', '.join(row['left_out'])} | {row['attack']}, {row['setting']} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + "\n"


def _share(count: dict[str, Any] | None) -> str:
    if count is None or count["share"] is None:
        return "none"
    return f"{count['share']:.0%} of {count['of']}"
