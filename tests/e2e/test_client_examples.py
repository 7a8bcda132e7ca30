"""What else Triton's client examples do: sequences by every way, connections with options of their own, time-outs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client

from guard.config import ModelPolicy, Unlisted
from tests.e2e.cases import Case
from tests.e2e.examples import (
    ADDENDS,
    SHORT_S,
    SLOW_S,
    SUMS,
    WAIT_S,
    Ends,
    called_back,
    digits,
    marks,
    once,
    once_by_asyncio,
    out_of_time,
    stream_called_back,
    streamed,
    sums,
    sums_by_asyncio,
    sums_by_asyncio_over_http,
    sums_over_http,
)
from tests.e2e.http_peer import wait_until_listening
from tests.e2e.peer import Refused, outcome
from tests.e2e.test_streams import SEQUENCE, SUPPORT
from tests.e2e.test_transactions import IN_SEQUENCES
from tests.support.digits import DigitsData
from tests.support.sidecars import serving, settings
from tests.support.triton import Triton

SLOW = """max_batch_size: 0
input [{ name: "input" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "output" data_type: TYPE_FP32 dims: [1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""


def of_four(got: list[Any]) -> bool:
    """Whether four digits were answered."""
    return [len(each["outputs"]) for each in got] == [1] * 4


NO_START = "must specify the START flag on the first request of the sequence"
NO_SEQUENCE = "must specify a non-zero or non-empty correlation ID"
STEPS = [("sum", value, marks(13, at, len(ADDENDS))) for at, value in enumerate(ADDENDS)]
TOO_LATE = Refused("DEADLINE_EXCEEDED", "Deadline Exceeded")
TOLD_TOO_LATE = Refused("DEADLINE_EXCEEDED", "")
"""By the client's own clock or by Guard, whichever is the sooner."""

KEEPALIVE = grpc_client.KeepAliveOptions(
    keepalive_time_ms=2**31 - 1,
    keepalive_timeout_ms=20_000,
    keepalive_permit_without_calls=False,
    http2_max_pings_without_data=2,
)
CHANNEL = [
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.lb_policy_name", "pick_first"),
    ("grpc.enable_retries", 0),
]
NARROW = [("grpc.max_receive_message_length", 8)]
CASES = {
    "a sequence by gRPC": Case(sums(5), [SUMS]),
    "sequences in turns by gRPC": Case(sums(6, 7), [SUMS, SUMS]),
    "a sequence by gRPC and asyncio": Case(sums_by_asyncio, SUMS),
    "a sequence over HTTP": Case(sums_over_http(8), [SUMS]),
    "sequences in turns over HTTP": Case(sums_over_http(9, 10), [SUMS, SUMS]),
    "a sequence in JSON": Case(sums_over_http(14, binary=False), [SUMS]),
    "a sequence over HTTP and asyncio": Case(sums_by_asyncio_over_http, SUMS),
    "a sequence over a stream of asyncio": Case(streamed(*STEPS), [(f"{at}", each) for at, each in enumerate(SUMS)]),
    "errors over a stream of asyncio": Case(
        streamed(("sum", 1.0, {"sequence_id": 15}), ("slow", 0.0, {}), ("nobody", 0.0, {})),
        lambda got: NO_START in got[0] and got[1] == ("1", 0.0) and "unknown model: 'nobody'" in got[2],
    ),
    "digits in a sequence by gRPC": Case(digits(21), of_four),
    "digits in a sequence over HTTP": Case(digits(22, http=True), of_four),
    "a sequence whose id is text, by gRPC": Case(digits("one"), of_four),
    "a sequence whose id is text, over HTTP": Case(digits("two", http=True), of_four),
    "no start by gRPC": Case(once("sum", [[1.0]], sequence_id=16), Refused("INVALID_ARGUMENT", NO_START)),
    "no start over HTTP": Case(once("sum", [[1.0]], http=True, sequence_id=16), Refused("400", NO_START)),
    "no sequence by gRPC": Case(once("sum", [[1.0]]), Refused("INVALID_ARGUMENT", NO_SEQUENCE)),
    "no sequence over HTTP": Case(once("sum", [[1.0]], http=True), Refused("400", NO_SEQUENCE)),
    "keepalive": Case(once("slow", [0.5], options={"keepalive_options": KEEPALIVE}), 0.5),
    "keepalive by asyncio": Case(once_by_asyncio("slow", [0.5], options={"keepalive_options": KEEPALIVE}), 0.5),
    "options of the channel": Case(once("slow", [0.5], options={"channel_args": CHANNEL}), 0.5),
    "options of the channel by asyncio": Case(once_by_asyncio("slow", [0.5], options={"channel_args": CHANNEL}), 0.5),
    "a channel too narrow": Case(
        once("slow", [0.0], options={"channel_args": NARROW}),
        Refused("RESOURCE_EXHAUSTED", "vs. 8)"),
        Refused("RESOURCE_EXHAUSTED", "vs. 8)"),
    ),
    "time enough": Case(once("slow", [0.0], client_timeout=WAIT_S), 0.0),
    "a time-out": Case(once("slow", [SLOW_S], client_timeout=SHORT_S), TOO_LATE, TOLD_TOO_LATE),
    "a time-out of asyncio": Case(once_by_asyncio("slow", [SLOW_S], client_timeout=SHORT_S), TOO_LATE, TOLD_TOO_LATE),
    "a time-out to a callback": Case(called_back, TOO_LATE, TOLD_TOO_LATE),
    "a time-out of a stream": Case(stream_called_back, TOO_LATE, TOLD_TOO_LATE),
    "a time-out of a stream of asyncio": Case(
        streamed(("slow", SLOW_S, {}), timeout_s=SHORT_S), TOO_LATE, TOLD_TOO_LATE
    ),
    "a time-out over HTTP": Case(
        out_of_time(once("slow", [SLOW_S], http=True, options={"network_timeout": SHORT_S})), "timed out"
    ),
}


@pytest.fixture(scope="module")
def server(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """The real server with the digits, the same in sequences, sums of sequences, and a model that takes its time."""
    folder = tmp_path_factory.mktemp("client_examples")
    server = Triton(folder, name="digits", onnx=digits_onnx, others={"sequences": digits_onnx})
    server.amend("sequences", IN_SEQUENCES)
    server.add("sum", SUPPORT / "triton_sequence.py", SEQUENCE)
    server.add("slow", SUPPORT / "triton_slow.py", SLOW)
    server.start()
    wait_until_listening(server.http_address)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def through_guard(server: Triton, enforcing: ModelPolicy, noise_secret: Path) -> Iterator[Ends]:
    """Guard in front of it: it enforces on the digits in sequences, and lets the other models pass."""
    chosen = settings(
        server.address,
        {"sequences": enforcing},
        http=True,
        noise_secret_file=noise_secret,
        unlisted_models=Unlisted.PASS,
    )
    with serving(chosen) as sidecar:
        yield Ends(f"127.0.0.1:{sidecar.grpc_port}", f"127.0.0.1:{sidecar.http_port}")


@pytest.fixture
def direct(server: Triton) -> Ends:
    """That Triton, which runs."""
    server.ensure_running()
    return Ends(server.address, server.http_address)


@pytest.fixture(scope="module")
def clean(through_guard: Ends, digits_data: DigitsData) -> np.ndarray:
    """Four digits that Guard finds clean, (4, 1, 8, 8)."""
    found = [
        image
        for image in digits_data.test[0][:24]
        if not isinstance(outcome(digits(23), through_guard, image[None]), Refused)
    ]
    return np.stack(found[:4])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_direct(direct: Ends, digits_data: DigitsData, case: Case) -> None:
    """The real Triton does what the table says, so that the table is worth comparing with."""
    case.check_direct(outcome(case.ask, direct, digits_data.test[0][:4]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_through_guard(direct: Ends, through_guard: Ends, clean: np.ndarray, case: Case) -> None:
    """Through Guard the outcome is the same, errors included; Guard may be the one who says that time is up."""
    case.check_guarded(outcome(case.ask, through_guard, clean), lambda: outcome(case.ask, direct, clean))
