"""Compressed messages, both ways and on both hops: inflated within the limit, and answered in kind."""

from __future__ import annotations

import asyncio
import gzip
import os
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from guard.errors import MalformedRequest, MessageTooLarge
from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from guard.wire.answer import MAX_COMPRESSED_BYTES
from guard.wire.receive import compression_of, unpacked
from tests.wire.parts import SERVICE, RecordingUpstream, Running, Serve
from tests.wire.stream_parts import STREAM
from tests.wire.stream_upstream import StreamingUpstream, request, response

LIMIT = 1024 * 1024
PIECE = 1024 * 1024
KINDS = {grpc.Compression.Gzip: gzip.compress, grpc.Compression.Deflate: zlib.compress}
AS_IT_CAME = (("grpc.per_message_decompression", 0),)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=["gzip", "deflate"])


@pytest.fixture
def compressible(message: bytes) -> bytes:
    """A request that is worth compressing."""
    request = ModelInferRequest.FromString(message)
    request.id = "7" * 5000
    return request.SerializeToString()


async def body_of(guard: Running, sent: bytes, compression: grpc.Compression | None) -> bytes:
    """The answer to a ModelInfer as it came over the wire."""
    async with grpc.aio.insecure_channel(guard.address, AS_IT_CAME) as channel:
        return bytes(await channel.unary_unary(SERVICE + "ModelInfer")(sent, compression=compression))


@pytest.mark.parametrize("method", ["ModelInfer", "ModelConfig"])
@every_kind
async def test_a_compressed_request(
    serve: Serve, upstream: RecordingUpstream, compressible: bytes, method: str, kind: grpc.Compression
) -> None:
    """A compressed request is screened and forwarded as the same one is that isn't compressed."""
    guard = await serve()
    for sent, compression in ((compressible, None), (compressible, kind), (KINDS[kind](compressible), None)):
        assert (await guard.call(method, sent, compression=compression)).code is grpc.StatusCode.OK
    plain, *others = [call.message for call in upstream.received]
    assert others == [plain, plain]
    assert len({request.inputs[0].raw.tobytes() for request, _ in guard.screener.asked}) == (method == "ModelInfer")


@every_kind
async def test_answers_in_kind(
    serve: Serve,
    upstream: RecordingUpstream,
    compressible: bytes,
    kind: grpc.Compression,
) -> None:
    """Who sends compressed is answered compressed, unless the answer is large; who doesn't is not."""
    guard = await serve()
    small, large = bytes(5000), bytes(MAX_COMPRESSED_BYTES)
    for content, sent_in, expected in (
        (small, kind, kind),
        (small, None, grpc.Compression.NoCompression),
        (large, kind, grpc.Compression.NoCompression),
    ):
        upstream.body = ModelInferResponse(model_name="digits", raw_output_contents=[content]).SerializeToString()
        body = await body_of(guard, compressible, sent_in)
        assert compression_of(body) is expected
        answered = ModelInferResponse.FromString(await unpacked("it", body, LIMIT))
        assert answered.raw_output_contents == [content]
        assert answered.parameters["guard_verdict"].string_param == "clean"


@every_kind
async def test_streams(serve: Serve, streams: StreamingUpstream, kind: grpc.Compression) -> None:
    """On a stream each message may be compressed, small answers go likewise, and a bomb is an answer's error."""
    guard = await serve(address=streams.address)
    sizes = [10, 5000, MAX_COMPRESSED_BYTES]
    streams.answer = lambda asked: [response(asked, body=bytes(sizes[int(asked.id)]))]
    bomb = KINDS[kind](bytes(2 * LIMIT))
    async with grpc.aio.insecure_channel(guard.address, AS_IT_CAME) as channel:
        stream = channel.stream_stream(STREAM)()
        answers = []
        for sent in (*(KINDS[kind](request(str(n)).SerializeToString()) for n in range(3)), bomb):
            await stream.write(sent)
            answers.append(await stream.read())
        await stream.done_writing()
    assert [compression_of(answer) for answer in answers[1:3]] == [kind, grpc.Compression.NoCompression]
    read = [ModelStreamInferResponse.FromString(await unpacked("it", answer, LIMIT)) for answer in answers]
    assert [len(each.infer_response.raw_output_contents[0]) for each in read[:3]] == sizes
    assert "the request inflates to more than upstream.max_message_bytes allows" in read[3].error_message
    assert streams.received == [request(str(n)).SerializeToString() for n in range(3)]


@every_kind
async def test_a_bomb(serve: Serve, upstream: RecordingUpstream, kind: grpc.Compression) -> None:
    """What inflates over the limit is RESOURCE_EXHAUSTED, counted, and never in memory."""
    guard = await serve(max_message_bytes=LIMIT)
    bomb = KINDS[kind](bytes(64 * LIMIT))
    assert len(bomb) < LIMIT
    tracemalloc.start()
    try:
        answer = await guard.call("ModelInfer", bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"the request inflates to more than upstream.max_message_bytes allows ({LIMIT})" in answer.message
    assert guard.metrics.refused == ["message_too_large"]
    assert upstream.received == []
    assert peak < 2 * LIMIT + 2 * PIECE


@every_kind
async def test_broken_compression(serve: Serve, compressible: bytes, kind: grpc.Compression) -> None:
    """Cut off, damaged, or with more behind its end: INVALID_ARGUMENT."""
    guard = await serve()
    whole = KINDS[kind](compressible)
    for broken in (whole[:-1], whole[:8], whole + b"\0", whole + whole, whole[:20] + b"\xff" * 9 + whole[29:]):
        answer = await guard.call("ModelInfer", broken)
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "the request " in answer.message
    assert set(guard.metrics.refused) == {"malformed_request"}


@every_kind
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
@pytest.mark.parametrize("make", [bytes, os.urandom], ids=["zeros", "noise"])
async def test_sizes(kind: grpc.Compression, make: Callable[[int], bytes], size: int) -> None:
    """Whatever its size is, a message comes out as it went in, and one byte over the limit is too much."""
    content = make(size)
    compressed = KINDS[kind](content)
    assert compression_of(compressed) is kind
    limit = max(size, len(compressed))
    assert await unpacked("it", compressed, limit) == content
    if size > len(compressed):
        with pytest.raises(MessageTooLarge, match="it inflates to more"):
            await unpacked("it", compressed, size - 1)


@pytest.mark.parametrize("level", range(10))
async def test_levels(level: int) -> None:
    """Whatever level a client's library compresses at."""
    for compressed in (zlib.compress(b"a" * 100, level), gzip.compress(b"a" * 100, level)):
        assert await unpacked("it", compressed, LIMIT) == b"a" * 100


async def test_what_is_not_compressed() -> None:
    """No message of the protocol is taken for a compressed one: each begins with a field below the fifteenth."""
    for content in (b"", b"\x0a", b"\x12", ModelInferResponse(model_name="a").SerializeToString()):
        assert await unpacked("it", content, LIMIT) == content
    with pytest.raises(MalformedRequest, match="it is compressed, and ends too early"):
        await unpacked("it", b"\x78\x9cabc", LIMIT)


class TestUpstream:
    """Compression between Guard and the guarded server."""

    @pytest.fixture
    async def raw(self) -> AsyncIterator[RecordingUpstream]:
        """A guarded server that keeps messages as they came over the wire."""
        made = RecordingUpstream()
        await made.start(options=AS_IT_CAME)
        yield made
        await made.stop()

    @pytest.mark.parametrize("told", ["none", "gzip", "deflate"])
    async def test_requests(
        self, serve: Serve, raw: RecordingUpstream, upstream: RecordingUpstream, compressible: bytes, told: str
    ) -> None:
        """`upstream.compression` is how requests go to the server, however they came; it reads the same."""
        expected = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
        guard = await serve(address=raw.address, reach={"compression": told})
        await guard.call("ModelInfer", compressible)
        (call,) = raw.inferred()
        assert compression_of(call.message) is expected.get(told, grpc.Compression.NoCompression)
        plain = await serve()
        await plain.call("ModelInfer", compressible)
        assert await unpacked("it", call.message, LIMIT) == upstream.inferred()[0].message

    @every_kind
    async def test_answers(self, serve: Serve, message: bytes, kind: grpc.Compression) -> None:
        """A server may answer compressed, within the limit."""
        response = ModelInferResponse(model_name="digits", raw_output_contents=[bytes(5000)])
        server = Compressing(kind)
        await server.start()
        try:
            guard = await serve(address=server.address, max_message_bytes=10_000)
            server.body = response.SerializeToString()
            answered = ModelInferResponse.FromString((await guard.call("ModelInfer", message)).body)
            assert answered.raw_output_contents == response.raw_output_contents
            server.body = bytes(100_000)
            answer = await guard.call("ModelInfer", message)
            assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "the upstream's answer inflates to more than upstream.max_message_bytes" in answer.message
        finally:
            await server.stop()


class Compressing(RecordingUpstream):
    """Answers compressed."""

    def __init__(self, kind: grpc.Compression) -> None:
        super().__init__()
        self._kind = kind

    async def _answer(self, context: grpc.aio.ServicerContext) -> bytes:
        context.set_compression(self._kind)
        await context.send_initial_metadata(())  # without which gRPC does not compress
        return await super()._answer(context)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_tritonclient(serve: Serve, upstream: RecordingUpstream, algorithm: str) -> None:
    """The stock client's compression_algorithm works unchanged."""
    guard, values = await serve(), np.zeros((8, 1000), np.float32)

    def send() -> str:
        tensor = triton.InferInput("image", [8, 1000], "FP32")
        tensor.set_data_from_numpy(values)
        with triton.InferenceServerClient(guard.address) as client:
            result = client.infer("digits", [tensor], compression_algorithm=algorithm)
        return result.get_response().parameters["guard_verdict"].string_param

    assert await asyncio.to_thread(send) == "clean"
    assert ModelInferRequest.FromString(upstream.inferred()[0].message).raw_input_contents == [values.tobytes()]
