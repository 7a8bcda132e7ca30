"""Messages over the limit, small ones that inflate to more than it, and one below it that costs much to parse."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable, Iterable

from benchmarks.chaos.house import LIMIT_BYTES, PAYLOAD, Guard, House
from benchmarks.chaos.load import Answers, client
from benchmarks.chaos.table import Check
from guard.pb.grpc_service_pb2 import InferTensorContents, ModelInferRequest

_MB = 1024 * 1024
_ROOM_MB = 2 * LIMIT_BYTES / _MB
_INFLATED = 64
_AT_ONCE = 8
_AT_ONCE_MB = 6 * LIMIT_BYTES / _MB
"""Three quarters of what they would take together: Guard inflates few at a time, and a busy machine lets go late."""
_SPLINTERED = "millions of strings of a byte"
_SPLINTER = InferTensorContents(bytes_contents=[b"x"]).SerializeToString()
_REFUSALS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")


async def oversized(house: House, rounds: float) -> list[Check]:
    """Send each kind so many times, one after the other, and eight at once."""
    guard = house.common()
    async with client(house.body, guard.address) as clients:
        await clients.for_a_time(50, 1.0)
    kinds = {
        "a byte over the limit": b"\0" * (LIMIT_BYTES + 1),
        "twice the limit": b"\0" * (2 * LIMIT_BYTES),
        "eight times the limit": b"\0" * (8 * LIMIT_BYTES),
        "a gzip bomb": _bomb(gzip.compress),
        "a deflate bomb": _bomb(zlib.compress),
        _SPLINTERED: gzip.compress(_splinters()),
    }
    checks, others = [], 0
    for name, message in kinds.items():
        answers = Answers()
        async with client(message, guard.address) as clients:
            one_mb = await _rise_mb(guard, (clients.ask(answers) for _ in range(round(rounds))))
            all_mb = await _rise_mb(guard, [asyncio.gather(*(clients.ask(answers) for _ in range(_AT_ONCE)))])
        refusals = _REFUSALS if name == _SPLINTERED else _REFUSALS[:1]
        others += len(answers.codes) - sum(map(answers.codes.count, refusals))
        checks += [
            Check(f"RSS rise, {name}", one_mb, "<=", _ROOM_MB, "MB"),
            Check(f"RSS rise, {name}, {_AT_ONCE} at once", all_mb, "<=", _AT_ONCE_MB, "MB"),
        ]
    return [
        Check("answers other than RESOURCE_EXHAUSTED, or INVALID_ARGUMENT where that is as good", others, "=", 0),
        *checks,
    ]


async def _rise_mb(guard: Guard, one_by_one: Iterable[Awaitable[object]]) -> float:
    """How much resident memory rises at most, megabytes, while some things are done."""
    before_mb = guard.rss_mb()
    guard.forget_peak()
    for each in one_by_one:
        await each
    return guard.rss_mb(peak=True) - before_mb


def _splinters() -> bytes:
    """A request just under the limit whose one input has as many elements as fit: what costs most to parse."""
    count = LIMIT_BYTES // len(_SPLINTER) - 1024
    request = ModelInferRequest(model_name=PAYLOAD.model)
    tensor = request.inputs.add(name="input", datatype="BYTES", shape=[count])
    tensor.contents.MergeFromString(_SPLINTER * count)
    return request.SerializeToString()


def _bomb(compress: Callable[[bytes], bytes]) -> bytes:
    return compress(bytes(_INFLATED * LIMIT_BYTES))
