"""The console's pages: what is known, put into templates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from prometheus_client import CollectorRegistry

from guard.audit.text import words_of_all
from guard.console import charts
from guard.console.charts import Rates, Spread
from guard.console.evidence import heat_of, said_of, why_no_heat
from guard.console.flagged import Flagged
from guard.console.readings import LOOK_S, WINDOW_S, History, Stretch, per_second, verdicts
from guard.console.state import EngineLoad, Engines, ModelState, state_of
from guard.observe.families import SCREEN_ONLY, UNDECIDED
from guard.observe.metrics import COMBINED
from guard.values import Action, Verdict

SHOWN: Final = 6
"""Flagged requests on the first page; another page has all that are kept."""

REFRESH_S: Final = 2
_NOW_S = 10.0
_PLACES = round(WINDOW_S / LOOK_S)
_SERIES = (Action.FORWARD, Action.FLAG, Action.REJECT)
_SMALL = 0.0995
"""Shares below it need a decimal."""

_NAMES = {Action.FORWARD: "forwarded", Action.FLAG: "flagged", Action.REJECT: "rejected"}


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests a second were dealt with in a way, now and over the window, and how many since the start."""

    name: str
    now: float
    over_window: float
    since_start: int


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as the first page shows it. Rates are over the last seconds, counts and spreads over the window."""

    state: ModelState
    load: EngineLoad | None
    busy: float
    evaluations_per_s: float
    evaluations_per_item: float
    verdicts: dict[Verdict, float]
    combined: Spread
    spreads: dict[str, Spread]

    @property
    def items(self) -> int:
        """Items of the window."""
        return int(sum(self.verdicts.values()))


class Pages:
    """Makes pages, as HTML. `unready` says why Guard can't do its job, `refused` why a changed policy was not taken."""

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        history: History,
        flagged: Flagged,
        engines: Engines,
        unready: Callable[[], list[str]],
        refused: Callable[[], str],
        signs_out: bool,
    ) -> None:
        self._registry, self._history, self._flagged, self._engines = registry, history, flagged, engines
        self._unready, self._refused = unready, refused
        self._templates = Environment(
            loader=PackageLoader("guard.console"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"moment": _moment, "share": _share, "rate": _rate, "p": _p, "breakable": _breakable}
        self._templates.globals |= {
            "said_of": said_of,
            "words_of_all": words_of_all,
            "heat_of": heat_of,
            "why_no_heat": why_no_heat,
            "signs_out": signs_out,
            "refresh_s": REFRESH_S,
            "charts": charts,
            "window_min": round(WINDOW_S / 60),
        }

    def overview(self, *, live: bool) -> str:
        """The first page; `live` has it keep itself new."""
        return self._templates.get_template("overview.html").render(live=live, **self._now())

    def fragment(self) -> str:
        """What of the first page changes."""
        return self._templates.get_template("live.html").render(**self._now())

    def all_flagged(self) -> str:
        """A page of all flagged requests that are kept."""
        return self._templates.get_template("flagged.html").render(seen=self._flagged.latest(), flagged=self._flagged)

    def one_flagged(self, decision_id: str) -> str | None:
        """A page of one flagged request; None if it is not kept."""
        seen = self._flagged.find(decision_id)
        return None if seen is None else self._templates.get_template("one.html").render(each=seen)

    def sign_in(self, *, wrong: bool) -> str:
        """The page that asks for the token; `wrong`: again."""
        return self._templates.get_template("sign_in.html").render(wrong=wrong)

    def problem(self, title: str, words: str) -> str:
        """A page that says why there is no other."""
        return self._templates.get_template("problem.html").render(title=title, words=words)

    def signed_out(self) -> str:
        """What takes the place of what changes, once nobody is signed in any more."""
        return self._templates.get_template("signed_out.html").render()

    def _now(self) -> dict[str, object]:
        stretches, window, moment = self._history.stretches(), self._history.last(), self._history.last(_NOW_S)
        loads = self._engines()
        state = state_of(self._registry, loads)
        shown = [_model(each, loads.get(each.name), window, moment) for each in state.models.values()]
        latest = self._flagged.latest()
        return {
            "state": state,
            "reasons": self._unready(),
            "refused": self._refused(),
            "chart": _chart(stretches),
            "rates": _rates(window, moment),
            "models": shown,
            "latest": latest[:SHOWN],
            "kept": len(latest),
            "left_out": self._flagged.left_out,
            "at_s": time.time(),
        }


def _chart(stretches: Sequence[Stretch]) -> Rates:
    return charts.rates({str(action): per_second(stretches, action) for action in _SERIES}, _PLACES)


def _rates(window: Stretch, moment: Stretch) -> list[Rate]:
    named: list[tuple[str, tuple[str, ...]]] = [(_NAMES[action], (str(action),)) for action in _SERIES]
    named.append(("neither", (SCREEN_ONLY, UNDECIDED)))
    return [
        Rate(
            name,
            sum(moment.requests(each) for each in decisions) / moment.seconds,
            sum(window.requests(each) for each in decisions) / window.seconds,
            int(sum(window.after.requests[each] for each in decisions)),
        )
        for name, decisions in named
    ]


def _model(state: ModelState, load: EngineLoad | None, window: Stretch, moment: Stretch) -> ModelView:
    name, found = state.name, verdicts(window, state.name)
    spreads = {each: charts.spread(counts, 0) for each in state.detectors if sum(counts := window.p_values(name, each))}
    return ModelView(
        state,
        load,
        moment.busy(name),
        moment.evaluations(name) / moment.seconds,
        window.evaluations(name) / max(sum(found.values()), 1.0),
        found,
        charts.spread(window.p_values(name, COMBINED), state.samples),
        spreads,
    )


def _moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def _share(value: float) -> str:
    return f"{value:.1%}" if value < _SMALL else f"{value:.0%}"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"  # noqa: PLR2004 - large ones need none


def _breakable(name: str) -> Markup:
    """A name that may be broken behind each underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _p(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
