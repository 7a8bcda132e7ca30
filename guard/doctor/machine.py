"""Certificates and limits."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

from guard.config import Settings
from guard.credentials import ends_of, watch_credentials
from guard.doctor.values import Finding, Level
from guard.errors import FileUnusable
from guard.plural import counted

_DAY_S = 86_400
_SOON_DAYS = 14
_LEAST_FILES = 4096
_MEMORY = Path("/proc/meminfo")
_KIBIBYTE = 1024


def certificates(settings: Settings) -> Iterator[Finding]:
    """When certificates end."""
    if settings.listen.tls is None and settings.upstream.tls is None:
        yield Finding("certificates", Level.OK, "there are none: the policy has neither listen.tls nor upstream.tls")
    for section, tls in (("listen.tls", settings.listen.tls), ("upstream.tls", settings.upstream.tls)):
        if tls is None:
            continue
        try:
            ends = {name: end() for name, end in ends_of(watch_credentials(section, tls, quiet=True)).items()}
        except FileUnusable as error:
            yield Finding("certificates", Level.PROBLEM, error.problem, error.remedy)
            continue
        yield from (_certificate(setting, end_s) for setting, end_s in ends.items())


def limits(settings: Settings) -> Iterator[Finding]:
    """What the system allows, beside what the policy does."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= files < _LEAST_FILES
    yield Finding(
        "limits",
        Level.WARNING if few else Level.OK,
        f"a process may open {files if files >= 0 else 'any number of'} files here, and each connection is one",
        f"raise it to {_LEAST_FILES} or more (ulimit -n, LimitNOFILE=, or the container's ulimits)" if few else "",
    )
    held, free = settings.limits.max_inflight_bytes, _available_bytes()
    if free is not None:
        much = held > free // 2
        yield Finding(
            "limits",
            Level.WARNING if much else Level.OK,
            f"requests in flight may hold {held} bytes, and {free} bytes of memory are free",
            "lower limits.max_inflight_bytes, or give Guard more memory" if much else "",
        )
    if settings.upstream.max_message_bytes > held:
        yield Finding(
            "limits",
            Level.WARNING,
            "one message may be larger than all requests in flight together",
            "raise limits.max_inflight_bytes over upstream.max_message_bytes",
        )


def _certificate(setting: str, end_s: float) -> Finding:
    left_s = end_s - time.time()
    whole = round(abs(left_s) / _DAY_S)
    days = counted(whole, "day") if whole else "less than a day"
    if left_s < 0:
        return Finding("certificates", Level.PROBLEM, f"{setting} ended {days} ago", "replace it now")
    if left_s < _SOON_DAYS * _DAY_S:
        return Finding("certificates", Level.WARNING, f"{setting} ends in {days}", "replace it before")
    return Finding("certificates", Level.OK, f"{setting} is good for {days}")


def _available_bytes() -> int | None:
    """What /proc/meminfo calls available; None where there is no such file."""
    try:
        lines = _MEMORY.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * _KIBIBYTE for line in lines if line.startswith("MemAvailable:")), None)
