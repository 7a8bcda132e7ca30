"""Is this machine's clock right?

A profile that was made after now shows that the clock is behind, now or when the profile was made. That it is ahead
nothing on this machine shows. But the kernel knows whether a time server keeps it, which guards against both.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from guard.app.models import LoadedModel
from guard.doctor.values import Finding, Level

_CHECK = "clock"
_SLACK_S = 120
_UNSYNCHRONISED = 0x40  # STA_UNSYNC of <sys/timex.h>
_REFUSED = -1
_MICROSECONDS = 1_000_000
_REMEDY = "set this machine's clock, by NTP: certificates, deadlines and logs depend on it"


@dataclass(frozen=True, slots=True)
class Kept:
    """What the kernel says of the clock: whether a time server keeps it, how far it may be off, and what it shows."""

    synchronised: bool
    most_off_s: float
    shows_s: float


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2), as 64-bit Linux has it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("constant", "precision", "tolerance", "seconds", "fraction", "tick")),
        ("rest", ctypes.c_byte * 256),  # more than what follows
    )


def kept_by_kernel() -> Kept | None:
    """Ask the kernel; None where it is another one than Linux, or doesn't say."""
    if ctypes.sizeof(ctypes.c_long) < ctypes.sizeof(ctypes.c_int64):
        return None
    asked = _Timex(modes=0)  # nothing is adjusted
    try:
        if ctypes.CDLL(None).adjtimex(ctypes.byref(asked)) == _REFUSED:
            return None
    except (AttributeError, OSError):
        return None
    return Kept(
        synchronised=not asked.status & _UNSYNCHRONISED,
        most_off_s=asked.maxerror / _MICROSECONDS,
        shows_s=float(asked.seconds),
    )


def clock(models: Mapping[str, LoadedModel], kept: Callable[[], Kept | None] = kept_by_kernel) -> Iterator[Finding]:
    """A clock that shows less than when a profile was made is wrong, or was then; one that nobody keeps may be."""
    now = datetime.now(UTC)
    made = {name: _aware(datetime.fromisoformat(model.profile.provenance.created)) for name, model in models.items()}
    later = [name for name, when in made.items() if (when - now).total_seconds() > _SLACK_S]
    if later:
        found = f"it is {now:%Y-%m-%d %H:%M} here, before the profiles of {', '.join(later)} were made"
        yield Finding(_CHECK, Level.PROBLEM, found, _REMEDY)
        return
    shown = f"{now:%Y-%m-%d %H:%M} UTC" + (", after all profiles were made" if made else "")
    match kept():
        case None:
            yield Finding(
                _CHECK, Level.NOTE, f"{shown}; whether it is ahead can't be seen here", "compare it with another"
            )
        case Kept(synchronised=True, most_off_s=most):
            yield Finding(_CHECK, Level.OK, f"{shown}; a time server keeps it, to within {most:.2g} s")
        case _:
            found = f"{shown}; the kernel knows of no time server that keeps it, so it may be ahead or behind"
            yield Finding(_CHECK, Level.WARNING, found, f"{_REMEDY} (chrony tells the kernel with rtcsync)")


def _aware(when: datetime) -> datetime:
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
