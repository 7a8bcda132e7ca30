"""Streams of the stock tritonclient against a real Triton, direct and through Guard."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import tritonclient.grpc as triton_client

from guard.config import Limits, ModelPolicy, Unlisted
from tests.e2e.peer import Peer, Refused, outcome, wait_until_serving
from tests.support.sidecars import serving, settings
from tests.support.triton import Triton

WAIT_S = 60.0
SUPPORT = Path(__file__).parents[1] / "support"
DECOUPLED = """max_batch_size: 0
input [{ name: "input" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "output" data_type: TYPE_FP32 dims: [1] }]
model_transaction_policy { decoupled: True }
instance_group [{ count: 1 kind: KIND_CPU }]
"""
SEQUENCE = """max_batch_size: 4
input [{ name: "input" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "output" data_type: TYPE_FP32 dims: [1] }]
sequence_batching {
  oldest { max_candidate_sequences: 4 }
  control_input [
    { name: "START" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }] },
    { name: "SEQUENCE" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
  ]
}
instance_group [{ count: 1 kind: KIND_CPU }]
"""


@pytest.fixture(scope="module")
def server(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """The real server with the digits, a decoupled model and one of sequences."""
    server = Triton(tmp_path_factory.mktemp("triton_streams"), name="digits", onnx=digits_onnx)
    server.add("counter", SUPPORT / "triton_decoupled.py", DECOUPLED)
    server.add("sum", SUPPORT / "triton_sequence.py", SEQUENCE)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guard_of_streams(server: Triton, enforcing: ModelPolicy, noise_secret: Path) -> Iterator[str]:
    """Guard in front of it: it enforces on the digits, and lets the other models pass."""
    chosen = settings(
        server.address,
        {"digits": enforcing},
        limits=Limits(max_queued_items=512),
        noise_secret_file=noise_secret,
        unlisted_models=Unlisted.PASS,
    )
    with serving(chosen) as sidecar:
        yield f"127.0.0.1:{sidecar.grpc_port}"


@pytest.fixture(autouse=True)
def _serving(server: Triton, guard_of_streams: str) -> None:
    """Each test finds the server running, and Guard ready."""
    server.ensure_running()
    wait_until_serving(guard_of_streams)


@dataclass(frozen=True)
class Heard:
    """An answer as tritonclient hands it to its callback. `status` is None for an error without one."""

    id: str = ""
    values: tuple[float, ...] = ()
    final: bool | None = None
    verdict: str | None = None
    error: str = ""
    status: str | None = None


class Stream:
    """A stream of the stock client."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        self._client = triton_client.InferenceServerClient(address)
        self._heard: queue.Queue[Heard] = queue.Queue()
        self._client.start_stream(lambda result, error: self._heard.put(_heard(result, error)), headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_args: object) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def ask(self, model: str, values: np.ndarray, request_id: str = "", **options: Any) -> None:
        """Send a request."""
        tensor = triton_client.InferInput("input", list(values.shape), "FP32")
        tensor.set_data_from_numpy(values.astype(np.float32))
        self._client.async_stream_infer(model, [tensor], request_id=request_id, **options)

    def hear(self, number: int) -> list[Heard]:
        """So many answers."""
        return [self._heard.get(timeout=WAIT_S) for _ in range(number)]

    def finish(self) -> list[Heard]:
        """Send no more, and wait for the end: the answers that were not heard before."""
        self._client.stop_stream()
        return list(self._heard.queue)


def _heard(result: Any, error: Any) -> Heard:
    if error is not None:
        return Heard(error=error.message(), status=error.status())
    response = result.get_response()
    parameters = response.parameters
    values = () if not response.outputs else tuple(result.as_numpy(response.outputs[0].name).ravel().tolist())
    final = parameters["triton_final_response"].bool_param if "triton_final_response" in parameters else None
    verdict = parameters["guard_verdict"].string_param if "guard_verdict" in parameters else None
    return Heard(response.id, values, final, verdict)


def without_verdict(heard: list[Heard]) -> list[Heard]:
    """What is heard, without what Guard adds."""
    return [Heard(h.id, h.values, h.final, None, h.error, h.status) for h in heard]


def counting(address: str) -> list[Heard]:
    """Requests that a decoupled model answers three times, never and once, with empty final answers, by request."""
    with Stream(address) as stream:
        for request_id, number in (("a", 3), ("b", 0), ("c", 1)):
            stream.ask("counter", np.array([number]), request_id, enable_empty_final_response=True)
        return sorted(stream.hear(7), key=lambda heard: heard.id)


def counting_without_ends(address: str) -> list[Heard]:
    """Requests to a decoupled model that say neither who they are nor, where they have none, that they are done."""
    with Stream(address) as stream:
        for number in (2, 0, 1):
            stream.ask("counter", np.array([number]))
        return sorted([*stream.hear(3), *stream.finish()], key=lambda heard: heard.values)


def sums(address: str) -> list[Heard]:
    """Two sequences, interleaved."""
    with Stream(address) as stream:
        for n in range(6):
            for sequence in (7, 8):
                stream.ask(
                    "sum",
                    np.array([[n * sequence]]),
                    f"{sequence}_{n}",
                    sequence_id=sequence,
                    sequence_start=n == 0,
                    sequence_end=n == 5,
                )
        return sorted(stream.hear(12), key=lambda heard: heard.id)


def failing_model(address: str) -> list[Heard]:
    """An error of a model, and one of a request that no model sees; the stream goes on."""
    with Stream(address) as stream:
        stream.ask("counter", np.array([-1]), "a")
        heard = stream.hear(1)
        stream.ask("counter", np.array([1, 2]), "b")
        heard += stream.hear(1)
        stream.ask("counter", np.array([1]), "c")
        return heard + stream.hear(1)


def failing_with_a_status(address: str) -> list[Heard]:
    """An error of a model, where the client asks for statuses."""
    with Stream(address, {"triton_grpc_error": "true"}) as stream:
        stream.ask("counter", np.array([-1]), "a")
        return stream.hear(1)


@pytest.mark.parametrize(
    ("ask", "direct"),
    [
        (counting, [("a", 0.0), ("a", 1.0), ("a", 2.0), ("a", None), ("b", None), ("c", 0.0), ("c", None)]),
        (counting_without_ends, [("", 0.0), ("", 0.0), ("", 1.0)]),
        (sums, [(f"{s}_{n}", float(s * n * (n + 1) // 2)) for s in (7, 8) for n in range(6)]),
        (failing_model, [("", None), ("", None), ("c", 0.0)]),
        (failing_with_a_status, [("", None)]),
    ],
)
def test_as_direct(
    server: Triton, guard_of_streams: str, ask: Callable[[str], list[Heard]], direct: list[tuple[str, float | None]]
) -> None:
    """Through Guard a stream says what Triton says directly, answers and errors alike."""
    heard = ask(server.address)
    assert [(each.id, each.values[0] if each.values else None) for each in heard] == direct
    assert without_verdict(ask(guard_of_streams)) == heard


def test_verdicts_of_decoupled_models(guard_of_streams: str) -> None:
    """Each answer of a request with an id has its verdict, be they many."""
    assert [each.verdict for each in counting(guard_of_streams)] == ["unscreened"] * 7


def test_verdicts(server: Triton, guard_of_streams: str, digits_data: Any, adversarial: np.ndarray) -> None:
    """Attacks are rejected within the stream, in their place; the rest is answered as directly."""
    images = [*digits_data.test[0][:8], *adversarial[:8]]
    with Stream(guard_of_streams) as through, Stream(server.address) as direct:
        for each in (through, direct):
            for image in images:
                each.ask("digits", image[None])
        guarded, plain = through.hear(16), direct.hear(16)
        assert through.finish() == []
    rejected = [bool(each.error) for each in guarded]
    assert sum(rejected[:8]) <= 2
    assert sum(rejected[8:]) >= 6
    for each, bare in zip(guarded, plain, strict=True):
        if each.error:
            assert "rejected by guard: adversarial input at item 0 of 1 [guard_verdict=adversarial" in each.error
        else:
            assert each.verdict == "clean"
            np.testing.assert_allclose(each.values, bare.values, rtol=1e-5)


def test_a_rejection_with_a_status(guard_of_streams: str, adversarial: np.ndarray) -> None:
    """A client that asks for statuses gets that of the rejection."""
    with Stream(guard_of_streams, {"triton_grpc_error": "true"}) as stream:
        for image in adversarial[:8]:
            stream.ask("digits", image[None])
        heard = stream.hear(1)
        while not heard[-1].error:
            heard += stream.hear(1)
    assert heard[-1].status == "StatusCode.PERMISSION_DENIED"
    assert "guard_verdict=adversarial" in heard[-1].error


def test_many_requests(guard_of_streams: str, digits_data: Any) -> None:
    """Hundreds of requests that are sent at once are all answered, in order."""
    images = digits_data.test[0]
    with Stream(guard_of_streams) as stream:
        for n in range(300):
            stream.ask("digits", images[n % 8][None], f"{n}")
        heard = stream.hear(300)
        assert not any("overloaded" in each.error for each in heard)
    ids = [each.id for each in heard if not each.error]
    assert len(ids) >= 200
    assert ids == sorted(ids, key=int)


def test_clients_that_leave(server: Triton, guard_of_streams: str) -> None:
    """Triton survives clients of Guard that cancel their streams, which crash it directly, and serves the next."""
    for _ in range(30):
        with Stream(guard_of_streams) as stream:
            for n in range(10):
                stream.ask("counter", np.array([50]), f"{n}")
            stream.hear(1)
    assert counting(guard_of_streams)
    with Peer(server.address) as peer:
        assert peer.client.is_server_live()


def test_triton_dies(server: Triton, guard_of_streams: str) -> None:
    """A stream whose Triton dies ends, and says so; a new one works once Triton is back."""
    with Stream(guard_of_streams) as stream:
        stream.ask("counter", np.array([1]), "a")
        stream.hear(1)
        assert server._process is not None
        server._process.kill()
        server._process.wait(WAIT_S)
        (end,) = stream.hear(1)
    assert end.status == "StatusCode.UNAVAILABLE"
    assert f"can't reach the upstream at {server.address}" in end.error, end
    server.ensure_running()
    with Peer(guard_of_streams) as peer:
        deadline = time.monotonic() + WAIT_S
        while isinstance(outcome(lambda p: p.client.is_model_ready("counter"), peer), Refused):
            assert time.monotonic() < deadline
    assert len(counting(guard_of_streams)) == 7
