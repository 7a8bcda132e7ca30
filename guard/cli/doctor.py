"""`guard doctor`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard.cli.words import AsJson, NoConfig, out, print_json
from guard.plural import counted

if TYPE_CHECKING:
    from guard.doctor import Finding

PROBLEMS_FOUND = 6
"""The exit code where there is something that has to be mended."""


def doctor(
    *,
    policy: Annotated[Path, typer.Argument(help="The policy file of the deployment.")],
    http_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where the guarded server may serve HTTP; it may be a way round.")
    ] = 8000,
    as_json: AsJson = False,
    _config: NoConfig = None,
) -> None:
    """Look at a deployment, from the machine that Guard runs on, and say what to do. It exits with 6 for problems."""
    from guard.config_file import load_settings
    from guard.environment import check_onnxruntime
    from guard.observe.logs import configure_logging

    check_onnxruntime()
    configure_logging(json=False, level="critical")  # what it finds, it says itself
    load_settings(policy)  # mistakes are told before the imports, which take seconds
    from guard.doctor import Level, examine

    styles = {Level.OK: "green", Level.NOTE: "", Level.WARNING: "yellow", Level.PROBLEM: "red"}
    found = []
    for finding in examine(policy, http_port):
        found.append(finding)
        if not as_json:
            out.print(*lines(finding), sep="\n", style=styles[finding.level], soft_wrap=True)
    counts = {level: sum(finding.level is level for finding in found) for level in Level}
    if as_json:
        print_json({"counts": counts, "findings": [asdict(finding) for finding in found]})
    else:
        out.print(
            ", ".join(counted(number, level, "ok" if level is Level.OK else "") for level, number in counts.items())
        )
    if counts[Level.PROBLEM]:
        raise typer.Exit(PROBLEMS_FOUND)


def lines(finding: Finding) -> Iterator[str]:
    """A finding in words, and what to do about it."""
    yield f"{finding.level:<8} {finding.check}: {finding.found}"
    if finding.remedy:
        yield f"{'':<8} -> {finding.remedy}"
