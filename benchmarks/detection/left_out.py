"""Attacks of a family that no detector network was shown, and nothing was tuned on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from benchmarks.detection import targets
from benchmarks.detection.subjects import SUBJECTS, Name
from benchmarks.detection.workshop import Workshop
from guard.offline.options import Options

FAMILIES: Final = {
    ("single_step", "iterated", "iterated_l2"): (
        "FGSM",
        "BIM",
        "PGD",
        "AutoAttack",
        "Universal",
        "Transfer",
        "PGD L2",
    ),
    ("confident", "to_boundary"): ("C&W", "DeepFool", "Elastic net", "ZOO", "Boundary", "HopSkipJump"),
    ("sparse", "squares"): ("JSMA", "SimBA", "Square"),
    ("patch",): ("Patch",),
    ("spatial",): ("Spatial",),
}
"""Families to learn from, near kin, which are left out together; and the attacks of the suite that are theirs."""


def measure(workshop: Workshop, options: Options) -> Iterator[dict[str, Any]]:
    """Leave each family out in turn, and attack with it."""
    for families, attacks in FAMILIES.items():
        name = "-".join(families)
        profile = f"profile-without-{name}"
        workshop.calibrate(profile, Options(seed=options.seed, left_out=families))
        found = workshop.evaluate(profile, f"report-without-{name}", attacks)
        for row in found["attacks"]:
            yield {"left_out": list(families)} | row


def markdown(name: Name, rows: Sequence[dict[str, Any]], whole: dict[str, Any]) -> str:
    """Each attack, caught by a profile that learnt nothing of its family, beside the profile that did."""
    known = {(row["attack"], row["setting"]): row["caught"] for row in whole["attacks"]}
    rates = list(rows[0]["caught"])
    lines = [
        f"# Left-one-out: {SUBJECTS[name].title}",
        "",
        f"{SUBJECTS[name].said} Detector networks were trained, and everything was calibrated, without the families",
        "that an attack belongs to, near kin among them: so without any step along gradients. In brackets: with all.",
        "",
        *_asked(name, rows, rates[0]),
        "| left out | attack | " + " | ".join(f"caught at {float(rate):.0%}" for rate in rates) + " |",
        "| --- | --- |" + " --- |" * len(rates),
    ]
    for row in rows:
        with_it = known.get((row["attack"], row["setting"]))
        cells = [
            f"{_share(row['caught'][rate])} ({'not run' if with_it is None else _share(with_it[rate], interval=False)})"
            for rate in rates
        ]
        lines.append(
            f"| {', '.join(row['left_out'])} | {row['attack']}, {row['setting']} | " + " | ".join(cells) + " |"
        )
    versions = whole["facts"]["versions"]
    return "\n".join([*lines, "", f"Seed {whole['facts']['seed']}; {whole['facts']['samples']}; {versions}.", ""])


def _asked(name: Name, rows: Sequence[dict[str, Any]], rate: str) -> Sequence[str]:
    if name not in targets.ASKED:
        return ()
    least = targets.ASKED[name].left_out
    reached, met = targets.below(rows, rate, least)
    return f"Asked at {float(rate):.0%}: {least:.0%} of each. Reached: {reached}. Met: {met}.", ""


def _share(count: dict[str, Any], *, interval: bool = True) -> str:
    if count["share"] is None:
        return "never won"
    low, high = count["interval_95"]
    between = f", {low:.0%} to {high:.0%}" if interval else ""
    return f"{count['share']:.0%} of {count['of']}{between}"
