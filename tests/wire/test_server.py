"""The rest of the service: allow-list, health, binding, deadlines and cancellation."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guard.config import Listen, Settings
from guard.errors import ConfigError
from guard.pb.grpc_service_pb2 import DESCRIPTOR
from guard.wire.methods import DENIED, PASSED, STREAM
from guard.wire.server import GuardServer
from tests.support.waiting import PATIENCE_S
from tests.wire.parts import RecordingUpstream, Serve

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class TestMethods:
    """The allow-list."""

    def test_every_method_has_its_place(self) -> None:
        """Each method of the vendored protocol is screened, passed or refused on purpose."""
        service = DESCRIPTOR.services_by_name["GRPCInferenceService"]
        assert {method.name for method in service.methods} == PASSED | DENIED | {STREAM, "ModelInfer"}
        assert not PASSED & DENIED

    @pytest.mark.parametrize("method", sorted(PASSED - {"ServerMetadata"}))
    async def test_passed(self, serve: Serve, upstream: RecordingUpstream, method: str) -> None:
        """A read-only method passes byte for byte, with its metadata, in both directions."""
        upstream.body = b"\x0a\x05bytes\xff"  # not even valid protobuf
        upstream.initial_metadata = (("x-initial", "1"),)
        upstream.trailing_metadata = (("x-trailing", "2"),)
        answer = await (await serve()).call(method, b"\x00raw", metadata=(("traceparent", "t"), ("guard-id", "x")))
        assert (answer.code, answer.body) == (grpc.StatusCode.OK, upstream.body)
        assert (answer.initial, answer.trailing) == ({"x-initial": "1"}, {"x-trailing": "2"})
        (call,) = upstream.received
        assert (call.method, call.message, call.metadata["traceparent"]) == (method, b"\x00raw", "t")
        assert "guard-id" not in call.metadata

    async def test_passed_error(self, serve: Serve, upstream: RecordingUpstream) -> None:
        """An upstream's error passes back untouched from a read-only method too."""
        upstream.failure = (grpc.StatusCode.NOT_FOUND, "unknown model")
        upstream.trailing_metadata = (("grpc-status-details-bin", b"\x01"),)
        answer = await (await serve()).call("ModelConfig")
        assert (answer.code, answer.message) == upstream.failure
        assert answer.trailing == {"grpc-status-details-bin": b"\x01"}

    async def test_upstream_down(self, serve: Serve, free_address: str) -> None:
        """A read-only method says which upstream can't be reached."""
        answer = await (await serve(address=free_address)).call("ServerLive")
        assert answer.code is grpc.StatusCode.UNAVAILABLE
        assert free_address in answer.message

    @pytest.mark.parametrize("method", sorted(DENIED))
    async def test_denied(self, serve: Serve, upstream: RecordingUpstream, method: str) -> None:
        """A method that changes or exposes what is screened is PERMISSION_DENIED, and counted."""
        guard = await serve()
        answer = await guard.call(method, b"anything")
        assert answer.code is grpc.StatusCode.PERMISSION_DENIED
        assert f"guard does not let {method} through" in answer.message
        assert upstream.received == []
        assert guard.metrics.refused == ["method_denied"]

    @pytest.mark.parametrize(
        "method", ["Unheard", "/other.Service/Method", "/inference.GRPCInferenceService/modelinfer"]
    )
    async def test_unknown(self, serve: Serve, upstream: RecordingUpstream, method: str) -> None:
        """What Guard doesn't know is UNIMPLEMENTED."""
        guard = await serve()
        assert (await guard.call(method)).code is grpc.StatusCode.UNIMPLEMENTED
        assert upstream.received == []
        assert guard.metrics.refused == ["unimplemented"]


class TestHealth:
    """grpc.health.v1."""

    @pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
    async def test_follows_readiness(self, serve: Serve, service: str) -> None:
        """grpc.health.v1 is SERVING exactly while Guard is ready, and NOT_SERVING once it stops."""
        guard = await serve()
        watch = health_pb2_grpc.HealthStub(guard.channel).Watch(health_pb2.HealthCheckRequest(service=service))

        async def until(status: int) -> None:
            while (await watch.read()).status != status:
                pass

        await until(SERVING)
        guard.readiness["ready"] = False
        await until(NOT_SERVING)
        guard.readiness["ready"] = True
        await until(SERVING)
        stopping = asyncio.create_task(guard.server.stop(PATIENCE_S))
        await until(NOT_SERVING)
        watch.cancel()
        await stopping

    async def test_check(self, serve: Serve, free_address: str) -> None:
        """Check answers while the upstream is down, and NOT_FOUND for a service it doesn't know."""
        guard = await serve(address=free_address)
        guard.readiness["ready"] = False
        health = health_pb2_grpc.HealthStub(guard.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        while (await watch.read()).status != NOT_SERVING:
            pass
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_failing_readiness(self, serve: Serve) -> None:
        """A readiness check that raises is not ready, and is asked again."""
        guard = await serve()
        guard.readiness.clear()  # the check now raises KeyError
        watch = health_pb2_grpc.HealthStub(guard.channel).Watch(health_pb2.HealthCheckRequest())
        while (await watch.read()).status != NOT_SERVING:
            pass
        guard.readiness["ready"] = True
        while (await watch.read()).status != SERVING:
            pass


class TestBinding:
    """Start and stop."""

    async def test_busy_port(self, serve: Serve) -> None:
        """A port that is in use is a configuration error that says so, not a port shared by chance."""
        guard = await serve()
        second = GuardServer(
            screener=guard.screener,
            settings=Settings(listen=Listen(address=guard.address)),
            metrics=guard.metrics,
            ready=lambda: asyncio.sleep(0, result=True),
        )
        with pytest.raises(ConfigError, match=f"can't listen on {guard.address}: the address is in use"):
            await second.start()

    async def test_stop_lets_calls_end(self, serve: Serve, upstream: RecordingUpstream, message: bytes) -> None:
        """Stopping gives running calls their grace period."""
        upstream.release.clear()
        guard = await serve()
        call = guard.start_call("ModelInfer", message)
        answered = asyncio.ensure_future(call.code())
        await upstream.started.wait()
        stopping = asyncio.create_task(guard.server.stop(PATIENCE_S))
        upstream.release.set()
        assert await answered is grpc.StatusCode.OK
        await stopping
        await guard.server.stop(0)  # again, to no effect
