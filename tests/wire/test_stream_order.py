"""The order of a stream: of requests towards the upstream, of answers towards the client, and whose answer is whose."""

from __future__ import annotations

import asyncio
import random

import grpc

from guard.pb.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from guard.wire.stream_entrance import MAX_SCREENED
from tests.wire.parts import Decide, Serve
from tests.wire.stream_parts import ByValue, marks, talk, until
from tests.wire.stream_upstream import StreamingUpstream, request, response


async def test_requests_keep_their_order(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """The verdict on a later message may be there first; it waits for its turn."""
    judge = ByValue(decide, held={1: asyncio.Event()})
    guard = await serve(judge, address=streams.address)
    async with talk(guard) as client:
        await client.send(*(request(value=n) for n in (1, 2, 3)))
        await until(lambda: len(guard.screener.asked) == 3 and judge.now == 1)
        await asyncio.sleep(0.05)
        assert not streams.received
        judge.held[1].set()
        await client.hear_all(3)
    assert [each.raw_input_contents[0][0] for each in streams.requests] == [1, 2, 3]


async def test_so_many_are_screened_at_once(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """Messages of one stream are screened side by side, up to a bound; the rest is not read."""
    judge = ByValue(decide, held={1: asyncio.Event()})
    guard = await serve(judge, address=streams.address)
    async with talk(guard) as client:
        await client.send(*(request() for _ in range(2 * MAX_SCREENED)))
        await until(lambda: judge.now == MAX_SCREENED)
        await asyncio.sleep(0.05)
        judge.held[1].set()
        await client.hear_all(2 * MAX_SCREENED)
    assert judge.most == MAX_SCREENED
    assert guard.metrics.live == 0


async def test_a_rejection_waits_for_earlier_answers(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """A client that goes by the order must not take a rejection for the answer to an earlier request."""
    streams.release.clear()
    async with talk(await serve(ByValue(decide, rejected={2}), address=streams.address)) as client:
        await client.send(*(request(value=n) for n in (1, 2, 3)))
        await until(lambda: len(streams.received) == 2)
        assert await client.silent()
        streams.release.set()
        heard = await client.hear_all(3)
    assert [marks(each)[1] for each in heard] == ["d-1", "d-2", "d-3"]
    assert [bool(each.error_message) for each in heard] == [False, True, False]


async def test_a_rejection_does_not_wait_for_decoupled_models(
    serve: Serve, streams: StreamingUpstream, decide: Decide
) -> None:
    """A decoupled model may never answer, so nothing waits for it, nor does a rejected request to it wait."""
    streams.decoupled, streams.answer = {"many"}, lambda _: []
    async with talk(await serve(ByValue(decide, rejected={2}), address=streams.address)) as client:
        await client.send(request(model="many", value=1), request(value=2))
        assert marks(await client.hear()) == ("adversarial", "d-2")
        streams.release.clear()
        await client.send(request(value=3), request(model="many", value=2))
        assert marks(await client.hear()) == ("adversarial", "d-2")
        streams.release.set()
        assert (await client.end())[0] is grpc.StatusCode.OK


async def test_decoupled_answers_are_told_apart_by_id(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """Answers that interleave have the verdict on the request whose id they have."""
    held: list[ModelInferRequest] = []

    def interleave(asked: ModelInferRequest) -> list[ModelStreamInferResponse]:
        held.append(asked)
        if len(held) < 2:
            return []
        a, b = held
        return [
            response(b, final=False),
            response(a, final=False),
            response(a, final=True),
            response(b, final=False),
            response(b, final=True),
        ]

    streams.decoupled, streams.answer = {"many"}, interleave
    async with talk(await serve(ByValue(decide), address=streams.address)) as client:
        await client.send(request("a", model="many", value=1), request("b", model="many", value=2))
        heard = await client.hear_all(5)
    assert [marks(each)[1] for each in heard] == ["d-2", "d-1", "d-1", "d-2", "d-2"]


async def test_decoupled_without_ids(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """Without ids the verdict is told while one request at a time is open, and not where nobody can tell."""
    streams.decoupled = {"many"}
    streams.answer = lambda r: [response(r, final=False), response(r, final=r.raw_input_contents[0] != b"\3")]
    async with talk(await serve(ByValue(decide), address=streams.address)) as client:
        for value in (1, 2, 3, 4):
            await client.send(request(model="many", value=value))
            heard = await client.hear_all(2)
            assert [marks(each) for each in heard] == [() if value == 4 else ("clean", f"d-{value}")] * 2


async def test_one_look_at_each_model(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """The upstream is asked once in a stream whether a model is decoupled."""
    async with talk(await serve(ByValue(decide), address=streams.address)) as client:
        await client.send(*(request(model=name) for name in ("digits", "other") * 5))
        heard = await client.hear_all(10)
    assert all(marks(each) for each in heard)
    assert len(streams.configs) == 2


async def test_answers_of_another_protocol(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """Bare ModelInferResponses, which other servers send on streams, pass as they are; rejections need not wait."""
    streams.answer = lambda r: [response(r).infer_response]
    guard = await serve(ByValue(decide, rejected={2}), address=streams.address)
    async with talk(guard) as client:
        await client.send(request("a", value=1))
        bare = await client.call.read()
        streams.release.clear()
        await client.send(request("b", value=1), request("c", value=2))
        assert marks(await client.hear()) == ("adversarial", "d-2")
    assert bare == response(request("a", value=1)).infer_response.SerializeToString()


async def test_any_conversation(serve: Serve, streams: StreamingUpstream, decide: Decide) -> None:
    """Whatever is mixed, each plain request is answered once and in order, each answer with its request's verdict."""
    rng = random.Random(7)  # noqa: S311 - dice of a test
    streams.decoupled, streams.answer = {"many"}, three_if_decoupled
    rejected = set(range(0, 250, 5))
    guard = await serve(ByValue(decide, rejected=rejected, delay_s=lambda: rng.random() / 99), address=streams.address)

    async def converse() -> None:
        # Requests to the decoupled model have ids of their own; of the others many share one or have none.
        models = [rng.choice(["digits", "many"]) for _ in range(rng.randrange(250))]
        ids = [f"{n}" if model == "many" else rng.choice(["", "same"]) for n, model in enumerate(models)]
        sent = [request(i, model=model, value=n) for n, (i, model) in enumerate(zip(ids, models, strict=True))]
        due = [n for n, each in enumerate(models) for _ in range(3 if each == "many" and n not in rejected else 1)]
        async with talk(guard) as client:
            sending = asyncio.create_task(client.send(*sent))
            heard = await client.hear_all(len(due))
            await sending
            assert (await client.end())[0] is grpc.StatusCode.OK
        whose = [int(marks(each)[1].removeprefix("d-")) for each in heard]
        assert [n for n in whose if models[n] == "digits"] == [n for n in due if models[n] == "digits"]
        assert sorted(whose) == due
        for n, each in zip(whose, heard, strict=True):
            assert each.infer_response.id == ids[n]
            assert bool(each.error_message) == (n in rejected)
            assert each.error_message or each.infer_response.raw_output_contents == [bytes([n])]

    await asyncio.gather(*(converse() for _ in range(6)))


def three_if_decoupled(asked: ModelInferRequest) -> list[ModelStreamInferResponse]:
    """The answers to a request."""
    if asked.model_name != "many":
        return [response(asked)]
    return [response(asked, final=last) for last in (False, False, True)]
