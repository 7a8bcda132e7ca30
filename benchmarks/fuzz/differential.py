"""Look for requests that Triton understands otherwise than Guard screened them: `make fuzz-differential MINUTES=60`.

Each mutated request goes directly to a real Triton, and through Guard, now and then by an odd path, with odd headers or
oddly compressed (`frames.py`). A finding is one that Guard lets through and

- `executed`: Triton executed something else than was screened, or without that it was;
- `understood`: Triton, asked directly, executed something else than Guard screened;
- `died`: Triton died of it behind Guard.

What Guard refuses is safe, whatever Triton makes of it, and is counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import structlog

from benchmarks.engine.table import machine
from benchmarks.fuzz.frames import GRPC, REST, STREAM, Case, framed
from benchmarks.fuzz.mutate import mutated_bytes, mutated_json, mutated_message
from benchmarks.fuzz.seeds import documents, requests
from benchmarks.fuzz.sides import Report, Sides, both

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MAX_POOL = 2000
"""Requests that Triton executed, from which others are made."""

MAX_EXAMPLES = 3
_ODDLY_SENT = 0.35
_WAYS = (GRPC, GRPC, GRPC, STREAM, REST, REST, REST)
_SCREENED = ("model", "id", "inputs")


class Differential:
    """Sends cases both ways, and compares."""

    def __init__(self, sides: Sides, seed: int) -> None:
        self._sides = sides
        self._rng = Random(seed)  # noqa: S311 - a fuzzer can be repeated
        self._pools: dict[str, list[tuple[bytes, bytes]]] = {
            GRPC: [(request.SerializeToString(), b"") for request in requests()],
            REST: documents(),
        }
        self.outcomes: Counter[str] = Counter()
        self.findings: dict[str, list[dict[str, Any]]] = {}

    def seeds(self) -> None:
        """Send what everything is made from, which both sides have to take.

        Raises:
            RuntimeError: nothing of it is executed, so that the rest would mean nothing.
        """
        for way in (GRPC, STREAM, REST):
            for message, behind in list(self._pools[_pool(way)]):
                self.one(Case(way, message, behind))
        if not self.outcomes["same"]:
            raise RuntimeError(f"no seed is executed both ways: {dict(self.outcomes)}")

    def step(self) -> None:
        """Make a case, and send it."""
        way = self._rng.choice(_WAYS)
        pool = self._pools[_pool(way)]
        message, behind = self._rng.choice(pool)
        oddly_sent = self._rng.random() < _ODDLY_SENT
        for _ in range(self._rng.choice((0, 0, 1, 2) if oddly_sent else (1, 1, 1, 2, 3, 5))):
            if way != REST:
                message = mutated_message(message, self._rng)
            elif behind and self._rng.random() < 0.2:  # noqa: PLR2004 - a share
                behind = mutated_bytes(behind, self._rng)
            else:
                message = mutated_json(message, self._rng)
        case = Case(way, message, behind)
        if oddly_sent:
            self.one(framed(case, self._rng))
        elif self.one(case) and len(pool) < MAX_POOL:
            pool.append((message, behind))

    def one(self, case: Case) -> bool:
        """Send a case both ways. Whether Triton executed it when asked directly."""
        sides = self._sides
        answered = sides.direct.ask(case)
        direct = sides.executed()
        if sides.revive():
            self.outcomes["died, asked directly"] += 1
        sides.keeper.asked.clear()
        through = sides.through.ask(case)
        executed, screened = sides.executed(), list(sides.keeper.asked)
        if sides.revive() and screened:
            self._find("died", case, screened, executed)
        told = _told(case, answered=bool(direct), through=bool(executed), screened=bool(screened))
        if [_seen(report) for report in executed] not in ([], [_seen(report) for report in screened]):
            self._find("executed", case, screened, executed)
        elif direct and screened and [_seen(report) for report in direct] != [_seen(report) for report in screened]:
            self._find("understood", case, screened, direct)
        elif answered and screened and not through:
            told = "answered only directly, and screened"
        self.outcomes[told] += 1
        return bool(direct)

    def _find(self, kind: str, case: Case, screened: Sequence[Report], other: Sequence[Report]) -> None:
        kind = f"{kind}: {_difference(screened, other)} by {case.way}"
        self.outcomes["found"] += 1
        examples = self.findings.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            message, behind = repr(case.message), repr(case.behind)
            sent = {"message": message, "behind": behind, "frame": case.framed()._asdict()}
            examples.append(sent | {"screened": screened, "executed": other})


def _pool(way: str) -> str:
    return REST if way == REST else GRPC


def _seen(report: Report) -> dict[str, Any]:
    """What of a report Guard looks at."""
    return {key: _plain(report[key]) for key in _SCREENED}


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _difference(screened: Sequence[Report], other: Sequence[Report]) -> str:
    if len(screened) != len(other):
        return f"{len(screened)} screened and {len(other)} executed"
    return ", ".join(
        key for key in _SCREENED if any(_seen(a)[key] != _seen(b)[key] for a, b in zip(screened, other, strict=True))
    )


def _told(case: Case, *, answered: bool, through: bool, screened: bool) -> str:
    if answered and through:
        return "same" if case.frame is None else "same, oddly sent"
    if answered:
        return f"executed only directly, by {case.way}" + (", and screened" if screened else ", refused by guard")
    return f"executed only through guard, by {case.way}" if through else "executed by neither"


def main() -> None:
    """Fuzz for as long as is said, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=1, help="a run can be repeated with it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for fuzz-differential.json")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # refusals, mostly
    ends_s, cases = time.monotonic() + 60 * options.minutes, 0
    with tempfile.TemporaryDirectory(prefix="guard-differential-") as folder, both(Path(folder)) as sides:
        fuzzer = Differential(sides, options.seed)
        fuzzer.seeds()
        while time.monotonic() < ends_s:
            fuzzer.step()
            cases += 1
        report = {"about": machine("benchmarks.fuzz.differential"), "cases": cases, "seed": options.seed}
        report |= {"outcomes": dict(fuzzer.outcomes.most_common()), "triton died": sides.crashes}
        report["findings"] = fuzzer.findings
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "fuzz-differential.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))  # noqa: T201 - for the person who waits
    sys.exit(1 if fuzzer.findings else 0)


if __name__ == "__main__":
    main()
