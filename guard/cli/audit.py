"""`guard audit`."""

# ruff: noqa: PLC0415 - see guard/cli/__init__.py

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guard.cli.words import AsJson, out, print_json, progress
from guard.errors import ConfigError, DataError, FileUnusable
from guard.plural import counted

if TYPE_CHECKING:
    from guard.values import Float32Array, Occlusion

audit_app = typer.Typer(help="Look at the audit log.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The folder that the policy names as audit.folder.")]
_MOST_SHOWN = 20


@audit_app.command()
def verify(
    folder: Folder,
    *,
    head: Annotated[str, typer.Option(help="A hash that Guard's log told: it must be in the chain.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say whether the log is as Guard wrote it; else where it was changed, and how."""
    from guard.audit.verify import verify

    with _reading(folder) as advance:
        found = verify(folder, advance)
    if as_json:
        print_json(asdict(found) | {"heads": len(found.heads), "head_found": head in found.heads if head else None})
        raise typer.Exit(DataError.exit_code if found.problems or (head and head not in found.heads) else 0)
    for note in found.notes:
        out.print(note, soft_wrap=True)
    for problem in found.problems[:_MOST_SHOWN]:
        out.print(str(problem), style="red", soft_wrap=True)
    if found.problems:
        changed = counted(len(found.problems), "place was", "places were")
        raise DataError(f"{folder} is not as it was written: {changed} changed")
    if head and head not in found.heads:
        raise DataError(f"{folder} has no line with the hash {head}: its end was cut off, or it is another log")
    span = f"lines {found.first} to {found.last.sequence} in {counted(found.segments, 'segment')}"
    out.print(f"{folder} is as it was written: {span}, the last with hash {found.last.hash}", soft_wrap=True)


@audit_app.command()
def show(
    decision: Annotated[str, typer.Argument(metavar="ID", help="A decision's id (guard_id), or a request's.")],
    folder: Folder,
    *,
    key: Annotated[
        list[Path] | None, typer.Option(help="The file that audit.captures.key_file names; again for older ones.")
    ] = None,
    item: Annotated[int | None, typer.Option(min=0, help="Which of a batch; without it the first culprit.")] = None,
    picture: Annotated[Path | None, typer.Option("--out", help="Write a picture here: .png or .html.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="The model's ONNX file: with --profile, the heat map is made now.")
    ] = None,
    profile: Annotated[Path | None, typer.Option(help="The profile of that model.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what is recorded of a request, and draw its input, its heat map and what each detector said."""
    from guard.audit.picture import evidence_of
    from guard.audit.records import record_of
    from guard.audit.text import lines_of

    if (model is None) != (profile is None) or (model is not None and picture is None):
        raise ConfigError("--model, --profile and --out go together: they draw a heat map that the record lacks")

    event = record_of(folder, decision)
    culprits = event["data"]["unmapped"]["guard"]["culprits"]
    chosen = item if item is not None else next(iter(culprits), 0)
    if picture is not None:
        _draw(event, chosen, folder, picture, keys=key or [], model=model, profile=profile)
    if as_json:
        print_json(event)
    for line in () if as_json else lines_of(event, chosen, evidence_of(event, chosen)):
        out.print(line, soft_wrap=True)
    if picture is not None:
        progress(as_json=as_json).print(f"drawn in {picture}", soft_wrap=True)


@audit_app.command()
def export(
    folder: Folder,
    *,
    file: Annotated[Path, typer.Option("--out", help="The Parquet file to write.")],
    as_json: AsJson = False,
) -> None:
    """Write all records to a Parquet file, a row for each (needs the extra `audit`)."""
    from guard.audit.export import export
    from guard.audit.records import records

    with _reading(folder) as advance:
        written = export(records(folder, advance), file)
    if as_json:
        print_json({"file": str(file), "records": written})
    else:
        out.print(f"{counted(written, 'record is', 'records are')} in {file}", soft_wrap=True)


@audit_app.command()
def pseudonym(
    client: Annotated[str, typer.Argument(help="A client as Guard's log has it, for example ipv4:10.0.0.7.")],
    *,
    key: Annotated[Path, typer.Option(help="The file that audit.pseudonym_key_file names.")],
    as_json: AsJson = False,
) -> None:
    """Print the pseudonym of a client, to look for in records."""
    from guard.audit.keys import PSEUDONYM_KEY, key_id, pseudonym

    content = _key(PSEUDONYM_KEY, key)
    if as_json:
        print_json({"client": client, "pseudonym": pseudonym(content, client), "key": key_id(content)})
    else:
        out.print(f"{pseudonym(content, client)} (key {key_id(content)})", soft_wrap=True)


def _draw(
    event: Mapping[str, Any],
    item: int,
    folder: Path,
    picture: Path,
    *,
    keys: list[Path],
    model: Path | None,
    profile: Path | None,
) -> None:
    from guard.audit.keys import CAPTURE_KEY
    from guard.audit.picture import draw
    from guard.audit.pixels import input_of, pixels_of

    image = seen = None
    if keys or model or "dataref" in event:
        came = input_of(folder, event, item, [_key(CAPTURE_KEY, path) for path in keys])
        image = pixels_of(event, came)
        if model is not None and profile is not None:
            seen = _heat(event, came, model, profile)
    draw(event, item, image, picture, seen)


def _heat(event: Mapping[str, Any], came: bytes | Float32Array, model: Path, profile: Path) -> Occlusion:
    """What covering parts of an input shows now."""
    from guard.environment import check_onnxruntime
    from guard.observe.logs import configure_logging
    from guard.offline.evaluate.request import model_of
    from guard.profile import store

    check_onnxruntime()
    loaded = store.load(profile)
    if event["data"]["unmapped"]["guard"]["fingerprint"] != loaded.model.fingerprint:
        raise DataError(f"--profile {profile} is of another model than the one that answered {event['id']}")
    content = model_of(loaded, model)  # with mistakes told before the imports, which take seconds
    from guard.offline.heat import heat_of

    configure_logging(json=False, level="warning")
    return heat_of(came, loaded, content)


@contextmanager
def _reading(folder: Path) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, for a log may be large; nothing where that is no terminal."""
    from guard.audit.records import log_of
    from guard.offline.progress import Reporter, quiet

    console = progress(as_json=True)
    reporter = Reporter(console) if console.is_terminal else quiet()
    with reporter.stage("reading the log", len(log_of(folder))) as advance:
        yield advance


def _key(setting: str, path: Path) -> bytes:
    """The key that a file holds, which has to be the one that Guard used."""
    from guard.audit.keys import check_key

    try:
        return check_key(setting, path, path.read_bytes())
    except OSError as exc:
        why = f"can't be read ({os.strerror(exc.errno or 0)})"
    except FileUnusable as exc:
        why = exc.problem.partition(f"{path} ")[2]
    raise DataError(f"--key {path} {why}; name the file that the policy has as {setting}")
