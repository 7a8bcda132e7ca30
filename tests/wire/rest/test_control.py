"""Everything but inference: what passes, what is denied, and what isn't there."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from guard.pb import grpc_service_pb2 as v2
from tests.wire.rest.client import ask
from tests.wire.rest.conftest import MethodicalUpstream, StartRest

METADATA = v2.ModelMetadataResponse(name="digits", versions=["1"], platform="python")
METADATA.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
CONFIG = v2.ModelConfigResponse()
CONFIG.config.name = "digits"
CONFIG.config.input.add(name="x", data_type="TYPE_FP32", dims=[-1, 2])
CONFIG.config.parameters["a"].string_value = "b"
STATISTICS = v2.ModelStatisticsResponse()
STATISTICS.model_stats.add(name="digits", version="1", inference_count=2**53 + 1).inference_stats.success.ns = 5
INDEX = v2.RepositoryIndexResponse()
INDEX.models.add(name="digits", version="1", state="READY")
INDEX.models.add(name="gone")


async def test_health(rest: StartRest, upstream: MethodicalUpstream) -> None:
    """Health is a status without a body: 200, or 400 as in Triton."""
    guard = await rest()
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/ready"):
        upstream.body = b"\x08\x01"
        assert ((yes := await guard.get(path)).status, yes.body) == (200, b"")
        upstream.body = b""
        assert ((no := await guard.get(path)).status, no.body) == (400, b"")


@pytest.mark.parametrize(
    ("path", "method", "response", "expected"),
    [
        ("/v2", "ServerMetadata", v2.ServerMetadataResponse(name="s"), {"name": "s", "version": "", "extensions": []}),
        (
            "/v2/models/digits",
            "ModelMetadata",
            METADATA,
            {
                "name": "digits",
                "versions": ["1"],
                "platform": "python",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                "outputs": [],
            },
        ),
    ],
)
async def test_metadata(
    rest: StartRest, upstream: MethodicalUpstream, *, path: str, method: str, response: Any, expected: dict[str, Any]
) -> None:
    """Metadata are JSON, integers being numbers and nothing being left out."""
    upstream.bodies[method] = response.SerializeToString()
    answer = await (await rest()).get(path)
    assert (answer.status, answer.headers["content-type"], answer.json) == (200, "application/json", expected)


async def test_configuration(rest: StartRest, upstream: MethodicalUpstream) -> None:
    """The configuration is that of the one model, with enumerations by name and maps as objects."""
    upstream.bodies["ModelConfig"] = CONFIG.SerializeToString()
    config = (await (await rest()).get("/v2/models/digits/versions/1/config")).json
    assert (config["name"], config["max_batch_size"]) == ("digits", 0)
    assert (config["input"][0]["data_type"], config["input"][0]["dims"]) == ("TYPE_FP32", [-1, 2])
    assert config["parameters"] == {"a": {"string_value": "b"}}
    assert "dynamic_batching" not in config


@pytest.mark.parametrize("path", ["/v2/models/stats", "/v2/models/digits/stats"])
async def test_statistics(rest: StartRest, upstream: MethodicalUpstream, path: str) -> None:
    """Statistics are JSON whose integers are whole."""
    upstream.bodies["ModelStatistics"] = STATISTICS.SerializeToString()
    (model,) = (await (await rest()).get(path)).json["model_stats"]
    assert (model["name"], model["inference_count"]) == ("digits", 2**53 + 1)
    assert model["inference_stats"]["success"] == {"count": 0, "ns": 5}


async def test_index(rest: StartRest, upstream: MethodicalUpstream) -> None:
    """The index is asked by POST, and says of a model what there is to say."""
    upstream.body = INDEX.SerializeToString()
    guard = await rest()
    for body in (b"", b'{"ready": true}'):
        answer = await ask(guard.port, "POST", "/v2/repository/index", body)
        assert answer.json == [{"name": "digits", "version": "1", "state": "READY"}, {"name": "gone"}]
    assert [v2.RepositoryIndexRequest.FromString(c.message).ready for c in upstream.received] == [False, True]
    assert (await ask(guard.port, "POST", "/v2/repository/index", b'{"ready": 1}')).status == 400


async def test_errors(rest: StartRest, upstream: MethodicalUpstream) -> None:
    """An error of the upstream has its status and its words, and an answer that can't be read is 500."""
    guard = await rest()
    upstream.body = b"\xff"
    assert (await guard.get("/v2/models/nobody")).status == 500
    upstream.failure = (grpc.StatusCode.NOT_FOUND, "no such model")
    answer = await guard.get("/v2/models/nobody")
    assert (answer.status, answer.error) == (404, "no such model")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/models/m/load"),
        ("POST", "/v2/repository/models/m/unload"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/cudasharedmemory/region/r/register"),
        ("POST", "/v2/trace/setting"),
        ("GET", "/v2/models/m/trace/setting"),
        ("GET", "/v2/logging"),
    ],
)
async def test_denied(rest: StartRest, upstream: MethodicalUpstream, method: str, path: str) -> None:
    """What would change or show what is screened is 403, and never reaches the upstream."""
    guard = await rest()
    answer = await ask(guard.port, method, path, b"{}" if method == "POST" else b"")
    assert answer.status == 403
    assert f"guard does not let {path} through" in answer.error
    assert (guard.metrics.refused, upstream.received) == (["method_denied"], [])


async def test_generate(rest: StartRest, upstream: MethodicalUpstream) -> None:
    """The other way to infer is not screened, so it doesn't pass."""
    guard = await rest()
    answer = await ask(guard.port, "POST", "/v2/models/m/generate", b"{}")
    assert (answer.status, upstream.received) == (501, [])
    assert "lets none through; use infer" in answer.error


async def test_unknown_path(rest: StartRest) -> None:
    """A path that isn't there is 404."""
    guard = await rest()
    answer = await guard.get("/v3/models")
    assert (answer.status, guard.metrics.refused) == (404, ["unknown_path"])
    assert "guard does not know the path /v3/models" in answer.error


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/m/infer", "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("POST", "/v2/health/live", "GET"),
        ("DELETE", "/v2/models/m", "GET"),
        ("HEAD", "/v2", "GET"),
    ],
)
async def test_wrong_method(
    rest: StartRest, upstream: MethodicalUpstream, method: str, path: str, allowed: str
) -> None:
    """Another method than the path's is 405, which says what it takes."""
    guard = await rest()
    answer = await ask(guard.port, method, path)
    assert (answer.status, answer.headers["allow"], upstream.received) == (405, allowed, [])
