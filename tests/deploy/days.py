"""Days that come, and which alerts they bring: a row each, with how soon after its cause an alert must fire.

What isn't named must be silent all day. `python -m tests.deploy.days` writes the table of docs/runbooks/index.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.deploy.alert_series import Series
from tests.deploy.day import MINUTES, SIX, Day, minutes, series, tide

SUSPECTED, SUSTAINED, CONCENTRATED = "GuardAttackSuspected", "GuardAttackSustained", "GuardClientConcentration"
UNSCREENED, BYPASS, DRIFT = "GuardUnscreenedTraffic", "GuardBypassSuspected", "GuardScoreDrift"


@dataclass(frozen=True)
class Told:
    """A day, the minute in which its cause begins, and the alerts with the minutes from there that each may take."""

    what: str
    series: Series
    tells: dict[str, int] = field(default_factory=dict)
    since: int = SIX


def _every_twenty(most: int, value: float) -> NDArray[np.float64]:
    """A value in the first minutes of each twenty, for two hours from six in the morning."""
    day = minutes(SIX, SIX + 120, value)
    day[(np.arange(MINUTES) - SIX) % 20 >= most] = 0
    return day


def _of(what: str, day: Day, since: int = SIX, **tells: int) -> Told:
    return Told(what, series(day), tells, since)


def _replaced() -> Series:
    """Three replicas, each replaced after the other by one whose image takes six minutes to come."""
    found: Series = {}
    for number in range(3):
        at = SIX + 10 * number
        old = Day(sent=tide(5, 100), ended=at, instance=f"old-{number}:9011")
        new = Day(sent=tide(5, 100), began=at - 8, loads=6, instance=f"new-{number}:9011")
        found |= series(old, seed=number) | series(new, seed=10 + number)
    return found


def _busy() -> Series:
    """Five pods with 6000 requests a minute each; four are replaced, and what Guard counted last is not read."""
    found = series(Day(sent=6000))
    for number in range(4):
        at = SIX + 4 * number
        found |= series(Day(sent=6000, ended=at, longer=1, instance=f"old-{number}:9011"), seed=number)
        found |= series(Day(sent=6000, began=at, instance=f"new-{number}:9011"), seed=10 + number)
    return found


def _scaled() -> Series:
    """Scaled to nought, as kube-state-metrics says."""
    labels = "job='kube-state-metrics',namespace='a',deployment='digits'"
    replicas = f"1x{SIX} 0x{MINUTES - SIX}"
    return series(Day(sent=tide(5, 300), ended=SIX)) | {f"kube_deployment_spec_replicas{{{labels}}}": replicas}


DAYS = [
    _of("an ordinary one, with 20 requests a minute at night and 600 by day", Day(sent=tide(20, 600))),
    _of("5 % may be flagged, and 4.5 % are", Day(sent=tide(20, 600), asked=0.05, flagged=0.045)),
    _of("0.1 % may be flagged, of 6000 a minute", Day(sent=6000, asked=0.001, flagged=0.0008)),
    _of("an unlucky calibration: 2 % are flagged where 1 % may be, all of one proxy", Day(flagged=0.02, share=1.0)),
    _of("inputs cleaner than the calibration's", Day(sent=tide(20, 600), flagged=0.002, tail=0.01)),
    _of(
        "a request a minute, two of which Guard can't screen",
        Day(sent=1, unscreened={"fault": minutes(SIX, SIX + 2, 1)}),
    ),
    Told("three replicas are replaced, whose image takes six minutes to come", _replaced()),
    Told("four pods of five are replaced within a quarter of an hour, with 6000 requests a minute each", _busy()),
    Told("scaled to nought", _scaled()),
    _of("Envoy carries the traffic", Day(sent=tide(20, 600), sender="carried")),
    _of("one adversarial input in ten minutes", Day(sent=tide(20, 600), attack=0.1)),
    _of(
        "half of the inputs for ten minutes, by one client",
        Day(attack=minutes(SIX, SIX + 10, 300), share=minutes(SIX, SIX + 15, 0.95, 0.2)),
        **{SUSPECTED: 5, CONCENTRATED: 9},
    ),
    _of(
        "half of the inputs for two hours, by many clients",
        Day(attack=minutes(SIX, SIX + 120, 300)),
        **{SUSPECTED: 5, SUSTAINED: 25},
    ),
    _of(
        "half of the inputs for eleven minutes of each twenty, for two hours",
        Day(attack=_every_twenty(11, 300)),
        **{SUSPECTED: 5, SUSTAINED: 30},
    ),
    _of(
        "12 % of the inputs, from three o'clock in the morning on",
        Day(attack=minutes(180, MINUTES, 41)),
        180,
        **{SUSPECTED: 8, SUSTAINED: 45, DRIFT: 240},
    ),
    _of(
        "20 % of the inputs, since Guard was installed", Day(attack=75), 0, **{SUSPECTED: 10, SUSTAINED: 25, DRIFT: 190}
    ),
    _of(
        "one client of many, two of whose inputs in a hundred of all are adversarial",
        Day(sent=1000, attack=minutes(SIX, SIX + 60, 22), share=minutes(SIX, SIX + 65, 0.75, 0.2)),
        **{CONCENTRATED: 30},
    ),
    _of("somebody probes", Day(probing=minutes(SIX, SIX + 60, 1)), GuardQueryAttack=4),
    _of("100 a minute go round Guard", Day(round=minutes(SIX, SIX + 60, 100)), **{BYPASS: 16}),
    _of(
        "as many, while as many that Triton refuses come through Guard",
        Day(round=minutes(SIX, SIX + 60, 100), refused=minutes(SIX, SIX + 60, 100)),
        **{BYPASS: 16},
    ),
    _of("5000 go round Guard within a minute, each twenty minutes", Day(round=_every_twenty(1, 5000)), **{BYPASS: 16}),
    _of("Triton's counts are no longer read", Day(triton=minutes(0, SIX, 1)), GuardBypassUnwatched=25),
    _of(
        "a camera changed: 20 % are flagged, 40 % of p-values are small",
        Day(flagged=minutes(SIX, MINUTES, 0.2, 0.008), tail=minutes(SIX, MINUTES, 0.4, 0.04)),
        **{SUSPECTED: 6, SUSTAINED: 40, DRIFT: 200},
    ),
    _of(
        "a camera changed a little: 2 % are flagged, 10 % of p-values are small",
        Day(flagged=minutes(SIX, MINUTES, 0.02, 0.008), tail=minutes(SIX, MINUTES, 0.1, 0.04)),
        **{DRIFT: 240},
    ),
    _of(
        "the engine broke: nothing is screened for twenty minutes",
        Day(sent=minutes(SIX, SIX + 20, 0, 300), unscreened={"fault": minutes(SIX, SIX + 20, 300)}),
        **{UNSCREENED: 9, "GuardErrorBudgetBurn": 6},
    ),
    _of(
        "one request in fifty has a deadline of a few milliseconds",
        Day(unscreened={"client_deadline": minutes(SIX, MINUTES, 6)}),
        **{UNSCREENED: 25},
    ),
    _of("somebody sets the mode to flag", Day(enforced=minutes(0, SIX, 1)), GuardNotEnforcing=8),
]


PAGE = Path(__file__).parents[2] / "docs" / "runbooks" / "index.md"
BEGIN, END = "<!-- days: made by `python -m tests.deploy.days` -->", "<!-- end of days -->"


def page(text: str) -> str:
    """The runbooks' first page with the days as they are here."""
    rows = ["| what happens | what tells, within minutes |", "| --- | --- |"]
    for day in DAYS:
        told = (f"[{alert}]({alert}.md) {most}" for alert, most in day.tells.items())
        rows.append(f"| {day.what} | {', '.join(told) or 'nothing'} |")
    before, _, rest = text.partition(BEGIN)
    return "\n".join([before + BEGIN, *rows, END + rest.partition(END)[2]])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
