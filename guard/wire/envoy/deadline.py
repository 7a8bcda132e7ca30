"""The deadline of a gRPC call, by its header.

Source: gRPC over HTTP/2, "Timeout".
"""

from __future__ import annotations

import re
import time

from guard.errors import MalformedRequest

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def deadline_of(timeout: str) -> float | None:
    """When a call ends that has this `grpc-timeout`, by the monotonic clock; None if it has none ("").

    Raises:
        MalformedRequest: it is no timeout.
    """
    if not timeout:
        return None
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        raise MalformedRequest("the header grpc-timeout has to be a number of up to eight digits with its unit, H to n")
    return time.monotonic() + int(found[1]) * _UNIT_S[found[2]]
