"""Paths and the calls that they mean."""

from __future__ import annotations

import pytest

from guard.errors import UnknownPath
from guard.wire.rest.routes import Kind, Route, find

ROUTES = {
    "/v2": Route(Kind.SERVER_METADATA),
    "/v2/health/live": Route(Kind.SERVER_LIVE),
    "/v2/health/ready": Route(Kind.SERVER_READY),
    "/v2/models/stats": Route(Kind.STATISTICS),
    "/v2/models/m": Route(Kind.MODEL_METADATA, "m"),
    "/v2/models/m/versions/3": Route(Kind.MODEL_METADATA, "m", "3"),
    "/v2/models/m/ready": Route(Kind.MODEL_READY, "m"),
    "/v2/models/m/infer": Route(Kind.INFER, "m"),
    "/v2/models/m/versions/3/infer": Route(Kind.INFER, "m", "3"),
    "/v2/models/m/config": Route(Kind.MODEL_CONFIG, "m"),
    "/v2/models/m/versions/3/stats": Route(Kind.STATISTICS, "m", "3"),
    "/v2/models/a%20b%2Fc/infer": Route(Kind.INFER, "a b/c"),
    "/v2/models/%C3%A9": Route(Kind.MODEL_METADATA, "é"),
    "/v2/models/m/generate": Route(Kind.GENERATE, "m"),
    "/v2/models/m/generate_stream": Route(Kind.GENERATE, "m"),
    "/v2/models/m/trace/setting": Route(Kind.DENIED),
    "/v2/repository/index": Route(Kind.INDEX),
    "/v2/repository/r/index": Route(Kind.INDEX, "r"),
    "/v2/repository/models/m/load": Route(Kind.DENIED),
    "/v2/repository/r/models/m/unload": Route(Kind.DENIED),
    "/v2/systemsharedmemory/status": Route(Kind.DENIED),
    "/v2/systemsharedmemory/region/r/register": Route(Kind.DENIED),
    "/v2/cudasharedmemory/unregister": Route(Kind.DENIED),
    "/v2/trace/setting": Route(Kind.DENIED),
    "/v2/logging": Route(Kind.DENIED),
}


@pytest.mark.parametrize(("path", "route"), ROUTES.items())
def test_routes(path: str, route: Route) -> None:
    """Each path of the protocol means one call. A slash that is encoded belongs to a name."""
    assert find(path.encode()) == route


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "*",
        "/v1/models/m:predict",
        "/v2/",
        "/v2//health/live",
        "/v2/models",
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/m/versions",
        "/v2/models/m/infer/",
        "/v2/models/m/versions/3/trace/other",
        "/v2/models/m/../n/infer",
        "/v2/models/%FF",
        "/v2/health",
        "/v2/repository/models/m/index/more",
    ],
)
def test_unknown_paths(path: str) -> None:
    """Every other path means none."""
    with pytest.raises(UnknownPath):
        find(path.encode())
