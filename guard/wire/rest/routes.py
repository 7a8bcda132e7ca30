"""Which call a path means.

Source: Open Inference Protocol, "HTTP/REST"; Triton's extensions of it (statistics, model configuration, model
repository, shared memory, trace, logging, generate).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import unquote

from guard.errors import UnknownPath


class Kind(Enum):
    """What is done with a request for a path."""

    INFER = auto()
    SERVER_LIVE = auto()
    SERVER_READY = auto()
    SERVER_METADATA = auto()
    MODEL_METADATA = auto()
    MODEL_READY = auto()
    MODEL_CONFIG = auto()
    STATISTICS = auto()
    INDEX = auto()
    DENIED = auto()
    GENERATE = auto()


POSTED = frozenset({Kind.INFER, Kind.INDEX})
"""What is asked by POST. All else that passes is asked by GET."""

_OF_SERVER = {
    ("v2",): Kind.SERVER_METADATA,
    ("v2", "health", "live"): Kind.SERVER_LIVE,
    ("v2", "health", "ready"): Kind.SERVER_READY,
    ("v2", "models", "stats"): Kind.STATISTICS,
}
_ACTIONS = {
    "infer": Kind.INFER,
    "ready": Kind.MODEL_READY,
    "config": Kind.MODEL_CONFIG,
    "stats": Kind.STATISTICS,
    "generate": Kind.GENERATE,
    "generate_stream": Kind.GENERATE,
}


@dataclass(frozen=True, slots=True)
class Route:
    """A call, and the model and version that its path names; for an index, `name` is the repository's."""

    kind: Kind
    name: str = ""
    version: str = ""


def find(raw_path: bytes) -> Route:
    """The call that a path means, in which segments are percent-encoded.

    Raises:
        UnknownPath: none.
    """
    try:
        segments = [unquote(segment, errors="strict") for segment in raw_path.decode("ascii").split("/")[1:]]
    except UnicodeDecodeError as error:
        raise UnknownPath("the path is not percent-encoded UTF-8") from error
    route = _find(segments) if "" not in segments else None
    if route is None:
        path = raw_path.decode("ascii")
        raise UnknownPath(f"guard does not know the path {path}, so it does not let it through")
    return route


def _find(segments: list[str]) -> Route | None:
    if tuple(segments) in _OF_SERVER:
        return Route(_OF_SERVER[*segments])
    match segments:
        case ["v2", "models", name, "versions", version, *action]:
            return _of_model(name, version, action)
        case ["v2", "models", name, *action]:
            return _of_model(name, "", action)
        case ["v2", "repository", *rest]:
            return _of_repository(rest)
        case ["v2", "systemsharedmemory" | "cudasharedmemory" | "trace" | "logging", *_]:
            return Route(Kind.DENIED)
    return None


def _of_model(name: str, version: str, action: list[str]) -> Route | None:
    match action:
        case []:
            return Route(Kind.MODEL_METADATA, name, version)
        case ["trace", "setting"]:
            return Route(Kind.DENIED)
        case [word] if word in _ACTIONS:
            return Route(_ACTIONS[word], name, version)
    return None


def _of_repository(rest: list[str]) -> Route | None:
    match rest:
        case ["index"]:
            return Route(Kind.INDEX)
        case [name, "index"]:
            return Route(Kind.INDEX, name)
        case ["models", _, "load" | "unload"] | [_, "models", _, "load" | "unload"]:
            return Route(Kind.DENIED)
    return None
