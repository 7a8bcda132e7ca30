"""What names and values metadata may have over gRPC, and headers over HTTP.

Source: gRPC over HTTP/2, "Custom-Metadata".
"""

from __future__ import annotations

import re
from typing import Final

BINARY: Final = "-bin"
"""What names of metadata end in whose values are any bytes."""

_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_LINE: Final = re.compile(r"[\x20-\x7e]*")


def is_name(name: str) -> bool:
    """Whether it may be a name: lower case, as gRPC has them."""
    return _NAME.fullmatch(name) is not None


def is_line(value: object) -> bool:
    """Whether it may be the value of a name that does not end in `BINARY`: a line of printable ASCII."""
    return isinstance(value, str) and _LINE.fullmatch(value) is not None
