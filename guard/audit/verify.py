"""Whether a log is as it was written: every line whole, in its place, and none missing between two others.

The end is the one place where lines can be cut off without a trace in the files themselves: for that there is the
hash that Guard tells its own log whenever it closes the audit log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from guard.audit.chain import GENESIS, WHOLE, Line, Link, read
from guard.audit.log import REMOVED
from guard.audit.records import lines_of, log_of, quietly
from guard.audit.segments import first_of
from guard.plural import counted

_CUT = "its lines were cut off: with --head, a hash that Guard's own log told shows which"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was done to a log, and where."""

    segment: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.segment}:{self.line}: {self.what}"


@dataclass(slots=True)
class Verified:
    """What a look at a log showed. `notes` are no problems: what an interrupted writer leaves, and what it removed."""

    segments: int = 0
    first: int = 0
    last: Link = field(default_factory=Link)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    heads: set[str] = field(default_factory=set)


def verify(folder: Path, advance: Callable[[int], object] = quietly) -> Verified:
    """Look at each line of the log in a folder. `advance` is called with the number of segments just read.

    Raises:
        DataError: there is no log, or it can't be read.
    """
    segments = log_of(folder)
    found, removed, start = Verified(segments=len(segments)), set[str](), None
    place = Problem("", 0, "")
    before: Link | None = None
    for segment in segments:
        for number, line in _lines(segment, found):
            place = Problem(segment.name, number, "")
            if line is None:
                found.problems.append(Problem(segment.name, number, "the line was changed: it is no record any more"))
                before = None if before is None else Link(before.sequence + 1, "")
                continue
            if start is None:
                start, found.first = (place, line), line.link.sequence
            found.problems += _problems(segment, number, line, before)
            if line.event.get("type") == REMOVED and line.sound:
                removed.add(str(line.event.get("data", {}).get("lasthash")))
            before = line.link
            found.heads.add(line.link.hash)
        advance(1)
    found.last = before or Link()
    if start is not None:
        _check_start(*start, removed, found)
    elif not found.problems:
        what = f"no line of the log is left: Guard was interrupted before it had written one, or {_CUT}"
        found.problems.append(Problem(segments[0].name, 1, what))
    return found


def _lines(segment: Path, found: Verified) -> Iterator[tuple[int, Line | None]]:
    number = 0
    for number, raw in enumerate(lines_of(segment), 1):
        if raw.endswith(b"\n") or WHOLE.search(raw):
            yield number, read(raw.removesuffix(b"\n"))
        else:
            found.notes.append(f"{segment.name}:{number}: the writer was interrupted within this line")
    if not number:
        found.notes.append(
            f"{segment.name}:1: it is empty: the writer was interrupted before its first line, or {_CUT}"
        )


def _problems(segment: Path, number: int, line: Line, before: Link | None) -> Iterator[Problem]:
    if not line.sound:
        yield Problem(segment.name, number, "the line was changed: its content is not what its hash is of")
    if before is None:
        if number == 1 and line.link.sequence != first_of(segment):
            yield Problem(segment.name, number, f"the segment does not begin with line {first_of(segment)}")
        return
    missing = line.link.sequence - before.sequence - 1
    if missing > 0:
        removed = counted(missing, "line before this one was", "lines before this one were")
        yield Problem(segment.name, number, f"{removed} removed")
    elif missing < 0:
        yield Problem(segment.name, number, f"the line is out of order: it was written as {line.link.sequence}")
    elif before.hash and line.before != before.hash:
        yield Problem(segment.name, number, "the line does not follow the one before it: one of them was replaced")


def _check_start(place: Problem, line: Line, removed: set[str], found: Verified) -> None:
    """The log begins at its beginning, or where it says itself that older segments were removed."""
    if line.before == GENESIS and line.link.sequence == 1:
        return
    if line.before in removed:
        found.notes.append(f"lines before {line.link.sequence} were removed by Guard, as the log itself says")
        return
    missing = counted(line.link.sequence - 1, "line was", "lines were")
    what = f"the beginning is missing: {missing} removed, and not by Guard"
    found.problems.insert(0, Problem(place.segment, place.line, what))
