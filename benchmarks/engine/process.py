"""The engine in a process of its own, beside the one in this process: `python -m benchmarks.engine.process`.

The same engine code runs in a spawned process, and inputs and findings pass through a pipe, which for inputs of some
kilobytes costs less than a request's own Python does. In turns: how many requests a second either serves, what an echo
on a gRPC loop in this process takes beside either at 40 % of its capacity over what it takes beside none, and memory.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.engine import load
from benchmarks.engine.remote import Remote
from benchmarks.engine.subject import Subject, Submits, engine
from benchmarks.engine.subject import load as load_subjects
from benchmarks.engine.table import machine

HERE, THERE = "this process", "its own process"
_ROUNDS = 5
_CAPACITY_S = 2.0
_ECHO_S = 4.0
_LOAD = 0.4
_ENOUGH = 1.05
"""Times the capacity, or the other way round the echo: what is less is noise on this machine."""
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run the engine: a figure a round, sorted, and the memory that is not shared with other processes."""

    model: str
    where: str
    capacity: tuple[float, ...]
    echo_ratio: tuple[float, ...]
    rss_mb: float
    private_mb: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds, and seconds of each reading in one."""

    rounds: int = _ROUNDS
    capacity_s: float = _CAPACITY_S
    echo_s: float = _ECHO_S


def compare(subject: Subject, plan: Plan) -> list[Side]:
    """Both ways of running the engine."""
    with engine(subject, load.SPECS) as local, Remote(subject, load.SPECS) as remote:
        return measured(subject, local, remote, plan)


def measured(subject: Subject, local: Submits, remote: Remote, plan: Plan) -> list[Side]:
    """Both, in turns that begin with the one and with the other."""
    sides: dict[str, Submits] = {HERE: local, THERE: remote}
    capacities: dict[str, list[float]] = {where: [] for where in sides}
    ratios: dict[str, list[float]] = {where: [] for where in sides}
    for running in sides.values():
        load.capacity(running, subject, plan.capacity_s)  # the first requests are slower
    for turn in range(plan.rounds):
        for where in sorted(sides, reverse=bool(turn % 2)):
            capacities[where].append(load.capacity(sides[where], subject, plan.capacity_s))
            echo = load.echo_p99s(subject, sides[where], plan.echo_s, turn, turns=1)
            ratios[where].extend(busy / idle for idle, busy in zip(*asyncio.run(echo), strict=True))
    memory = {HERE: _memory("self"), THERE: _memory(str(remote.pid))}
    return [
        Side(subject.name, where, tuple(sorted(capacities[where])), tuple(sorted(ratios[where])), *memory[where])
        for where in sides
    ]


def _memory(process: str) -> tuple[float, float]:
    """Resident and private memory of a process, in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return kilobytes["Rss"] * 1024 / _MB, private * 1024 / _MB


def verdict(sides: list[Side]) -> str:
    """Whether a process of its own measures better, by the medians."""
    capacity, echo = (
        [read(there) / read(here) for here, there in zip(sides[::2], sides[1::2], strict=True)]
        for read in (_capacity, _echo)
    )
    more = ", ".join(f"{each:.2f}" for each in capacity)
    slower = ", ".join(f"{each:.2f}" for each in echo)
    better = min(capacity) >= 1 / _ENOUGH and max(echo) <= _ENOUGH
    better &= max(capacity) > _ENOUGH or min(echo) < 1 / _ENOUGH
    words = "measures better" if better else "does not measure better"
    memory = max(side.private_mb for side in sides if side.where == THERE)
    return (
        f"A process of its own {words}: {more} times the capacity and {slower} times the echo's ratio of this process, "
        f"model by model, for {memory:.0f} MB more."
    )


def _capacity(side: Side) -> float:
    return statistics.median(side.capacity)


def _echo(side: Side) -> float:
    return statistics.median(side.echo_ratio)


def markdown(sides: list[Side], about: dict[str, str]) -> str:
    """The table for people."""
    lines = [
        "# The engine in this process, and in a process of its own",
        "",
        verdict(sides),
        "",
        "Medians over rounds in turns, with the least and the largest. The echo is on a gRPC loop in this process, its",
        f"p99 with the engine at {_LOAD:.0%} of its capacity over that with an idle one. Memory is of the process that",
        "the engine is in; what is private to this one holds the benchmark, its models and images as well.",
        "",
        "| model | engine in | requests/s | echo p99, busy over idle | resident | private |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {side.model} | {side.where} | {_spread(side.capacity, '.0f')} | {_spread(side.echo_ratio, '.2f')} | "
        f"{side.rss_mb:.0f} MB | {side.private_mb:.0f} MB |"
        for side in sides
    ]
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in about.items()), ""])


def _spread(values: tuple[float, ...], style: str) -> str:
    return f"{statistics.median(values):{style}} ({values[0]:{style}} to {values[-1]:{style}})"


def write(sides: list[Side], about: dict[str, str], out: Path) -> str:
    """Write process.json and process.md."""
    out.mkdir(parents=True, exist_ok=True)
    report = {"about": about, "verdict": verdict(sides), "sides": [asdict(side) for side in sides]}
    (out / "process.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = markdown(sides, about)
    (out / "process.md").write_text(text, encoding="utf-8")
    return text


def main(
    data: Annotated[Path, typer.Option(help="Folder with mnist.npz and cifar10-jpeg.zip.")],
    out: Annotated[Path, typer.Option(help="Where process.json and process.md go.")] = Path("benchmarks/results"),
    seed: Annotated[int, typer.Option(help="Of the images.")] = 0,
) -> None:
    """Measure the engine in this process beside the engine in another one."""
    torch.set_num_threads(1)
    about = machine("benchmarks.engine.process")
    sides = [side for subject in load_subjects(data, seed=seed) for side in compare(subject, Plan())]
    Console().print(write(sides, about, out))


if __name__ == "__main__":
    typer.run(main)
