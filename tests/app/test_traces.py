"""Traces of a running Guard, as a collector with OpenTelemetry's own protocol gets them."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from guard.app import Sidecar
from guard.audit.records import records
from guard.audit.segments import segments_of
from guard.config import Listen, Tracing
from guard.profile import store
from guard.recording import Audit
from tests.app.parts import policy
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.otlp import Receiver, Relay, receiving, relaying
from tests.support.profiles import plain_profile
from tests.support.sidecars import embedded, running, settings, wait_until
from tests.support.waiting import wait_for

CLIENTS_TRACE, CLIENTS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAID = {
    "traceparent": f"00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01",
    "tracestate": "rojo=00f067aa0ba902b7",
}
"""A client that wants its request to be traced."""


@dataclass(frozen=True)
class House:
    """A ready Guard with a collector, an audit log that records all, and a server that shows what it is told."""

    sidecar: Sidecar
    receiver: Receiver
    relay: Relay
    log: Path

    def counted(self, outcome: str) -> float:
        """What it exports of spans."""
        return self.sidecar.metrics.registry.get_sample_value("guard_trace_spans_total", {"outcome": outcome}) or 0.0

    def record_of(self, uid: str) -> Any:
        """The audit log's record of a request."""
        found: list[Any] = []

        def there() -> bool:
            found[:] = [each for each in records(self.log) if each["id"] == uid] if segments_of(self.log) else []
            return bool(found)

        wait_for(there)
        return found[0]


@contextmanager
def house(loop: LoopThread, folder: Path, **tracing: Any) -> Iterator[House]:
    """A house, closed at the end."""
    store.save(plain_profile(), folder / "profile")
    (folder / "names").write_bytes(b"n" * 32)
    audit = Audit(folder=folder / "log", pseudonym_key_file=folder / "names", forwards=1.0)
    listen = Listen(address="127.0.0.1:0", admin_address="127.0.0.1:0", http_address="127.0.0.1:0")
    with receiving() as receiver, embedded(loop, {"digits": digits.onnx_file()}) as server, relaying(server) as relay:
        given = settings(
            relay.address,
            {"digits": policy(folder / "profile")},
            audit=audit,
            listen=listen,
            tracing=Tracing(address=receiver.address, **tracing),
        )
        with running(loop, Sidecar(given)) as sidecar:
            wait_until(sidecar)
            relay.told.clear()
            yield House(sidecar, receiver, relay, folder / "log")


@pytest.fixture(scope="module")
def traced(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house that traces every request."""
    with house(loop, tmp_path_factory.mktemp("traced"), sample_ratio=1.0) as made:
        yield made


def clean() -> np.ndarray:
    """An image that is let through."""
    return digits.load_data().test[0][:1]


def by_grpc(made: House, image: np.ndarray) -> None:
    """Send an image in a call."""
    tensor = triton.InferInput("input", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    with triton.InferenceServerClient(f"127.0.0.1:{made.sidecar.grpc_port}") as client:
        client.infer("digits", [tensor], headers=dict(SAID))


def by_http(made: House, image: np.ndarray) -> None:
    """Send an image over HTTP."""
    tensor = triton_http.InferInput("input", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    with triton_http.InferenceServerClient(f"127.0.0.1:{made.sidecar.http_port}") as client:
        client.infer("digits", [tensor], headers=dict(SAID))


def stream(made: House, *images: np.ndarray) -> None:
    """Send images on a stream, and read the answers."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{made.sidecar.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)), headers=dict(SAID))
        for image in images:
            tensor = triton.InferInput("input", list(image.shape), "FP32")
            tensor.set_data_from_numpy(image)
            client.async_stream_infer("digits", [tensor])
        for _ in images:
            assert answers.get(timeout=60)[1] is None
        client.stop_stream()


def told(span: Span | Span.Event) -> dict[str, Any]:
    """Attributes by name."""
    values = ((each.key, each.value) for each in span.attributes)
    return {key: getattr(value, str(value.WhichOneof("value"))) for key, value in values}


@pytest.mark.parametrize(("send", "protocol"), [(by_grpc, "grpc"), (by_http, "http")], ids=["grpc", "http"])
def test_a_request_is_one_span(traced: House, send: Callable[[House, np.ndarray], None], protocol: str) -> None:
    """A request leaves one server span with what was decided, in a trace of Guard's that links to the client's."""
    before = len(traced.receiver.spans())
    send(traced, clean())
    *_, span = traced.receiver.wait_for(before + 1)
    assert len(traced.receiver.spans()) == before + 1
    assert (span.kind, span.name) == (Span.SPAN_KIND_SERVER, "inference.GRPCInferenceService/ModelInfer")
    assert (span.trace_id.hex(), span.parent_span_id) != (CLIENTS_TRACE, bytes.fromhex(CLIENTS_SPAN))
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in span.links] == [(CLIENTS_TRACE, CLIENTS_SPAN)]
    said = told(span)
    assert (said["guard.protocol"], said["guard.model"], said["guard.verdict"]) == (protocol, "digits", "clean")
    assert (said["guard.decision"], said["guard.mode"], said["rpc.grpc.status_code"]) == ("forward", "enforce", 0)
    assert 0 < said["guard.upstream_s"] < (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def test_detectors_are_events(traced: House) -> None:
    """Each detector's finding is an event at the time at which it was there, within the span."""
    before = len(traced.receiver.spans())
    by_grpc(traced, clean())
    *_, span = traced.receiver.wait_for(before + 1)
    events = {event.name: event for event in span.events}
    assert {"confidence", "squeezing", "sensitivity_gaussian"} <= events.keys()
    said = told(events["squeezing"])
    assert (said["guard.finding"], said["guard.item"]) == ("evidence", 0)
    assert 0 < said["guard.p_value"] <= 1
    assert said["guard.evaluations"] > 0
    assert said["guard.duration_s"] > 0
    times = [event.time_unix_nano for event in span.events]
    assert span.start_time_unix_nano < min(times) <= max(times) < span.end_time_unix_nano
    apart_s = (events["sensitivity_gaussian"].time_unix_nano - events["confidence"].time_unix_nano) / 1e9
    longer_s = told(events["sensitivity_gaussian"])["guard.duration_s"] - told(events["confidence"])["guard.duration_s"]
    assert apart_s == pytest.approx(longer_s, abs=1e-6)


@pytest.mark.parametrize("send", [by_grpc, by_http], ids=["grpc", "http"])
def test_server_and_audit_log_are_told(traced: House, send: Callable[[House, np.ndarray], None]) -> None:
    """The guarded server and the audit log get Guard's trace, and the log keeps what the client said of its own."""
    before, asked = len(traced.receiver.spans()), len(traced.relay.told)
    send(traced, clean())
    *_, span = traced.receiver.wait_for(before + 1)
    traceparent = f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
    (metadata,) = traced.relay.told[asked:]
    assert metadata["traceparent"] == traceparent
    assert "tracestate" not in metadata
    record = traced.record_of(told(span)["guard.request_id"])
    assert record["traceparent"] == traceparent
    assert record["data"]["metadata"]["correlation_uid"] == span.trace_id.hex()
    assert record["data"]["unmapped"]["guard"]["client_traceparent"] == SAID["traceparent"]


def test_a_stream_is_a_span_with_one_for_each_message(traced: House) -> None:
    """Messages of a stream are spans within the stream's, which is the one that the guarded server is told of."""
    before, asked = len(traced.receiver.spans()), len(traced.relay.told)
    stream(traced, clean(), clean())
    new = traced.receiver.wait_for(before + 3)[before:]
    (whole,) = [span for span in new if span.name.endswith("ModelStreamInfer")]
    messages = [span for span in new if span is not whole]
    assert {span.parent_span_id for span in messages} == {whole.span_id}
    assert {span.trace_id for span in messages} == {whole.trace_id}
    assert [told(span)["guard.verdict"] for span in messages] == ["clean", "clean"]
    (metadata,) = traced.relay.told[asked:]
    assert metadata["traceparent"] == f"00-{whole.trace_id.hex()}-{whole.span_id.hex()}-01"


def test_what_ends_badly_is_marked(traced: House) -> None:
    """A rejection is no error of the server's, and has its verdict and its status; spans are counted."""
    images, labels = digits.load_data().test
    net = digits.trained_network()
    before = len(traced.receiver.spans())
    sent = 0
    for image in digits.attack(net, images[:40], labels[:40], epsilon=0.1):
        sent += 1
        try:
            by_grpc(traced, image[None])
        except triton.InferenceServerException:
            break
    spans = traced.receiver.wait_for(before + sent)[before:]
    said = told(next(span for span in spans if told(span)["guard.decision"] == "reject"))
    assert (said["guard.verdict"], said["rpc.grpc.status_code"]) == ("adversarial", 7)
    assert {span.status.code for span in spans} == {Status.STATUS_CODE_UNSET}
    wait_for(lambda: traced.counted("sent") == len(traced.receiver.spans()))
    assert traced.counted("dropped") == traced.counted("failed") == 0


def test_resource(traced: House) -> None:
    """Spans say which program they are from."""
    by_grpc(traced, clean())
    traced.receiver.wait_for(1)
    named = {each.key: each.value.string_value for each in traced.receiver.received[-1].resource.attributes}
    assert named["service.name"] == "guard"


def test_clients_cannot_have_themselves_traced(loop: LoopThread, tmp_path: Path) -> None:
    """Where Guard does not sample, nobody does, whatever a client says: the guarded server is told so."""
    with house(loop, tmp_path, sample_ratio=0.0) as made:
        by_grpc(made, clean())
        by_http(made, clean())
        flags = [metadata["traceparent"].rsplit("-", 1)[1] for metadata in made.relay.told]
        traces = {metadata["traceparent"].split("-")[1] for metadata in made.relay.told}
    assert flags == ["00", "00"]
    assert CLIENTS_TRACE not in traces
    assert made.receiver.spans() == []
    assert made.counted("sent") == made.counted("dropped") == made.counted("failed") == 0


_OFF = """
import sys, threading
seen = set()
def note(frame, event, argument):
    if event == "call":
        seen.add(frame.f_code.co_filename)
threading.setprofile(note)  # for Guard's loop, which is a thread that starts after this
from tests.app import traces_off as off
off.serve_one(sys.argv[1])
loaded = [name for name in sys.modules if name.startswith("opentelemetry")]
loaded += [name for name in ("guard.observe.spans", "guard.observe.otlp") if name in sys.modules]
ran = [name for name in seen if name.endswith(("guard/tracing.py", "guard/observe/spans.py", "guard/observe/otlp.py"))]
assert any(name.endswith("guard/wire/passage.py") for name in seen), "nothing was looked at"
assert not loaded and not ran, (loaded, ran)
"""


def test_nothing_is_paid_when_off(tmp_path: Path) -> None:
    """Without a collector nothing of OpenTelemetry is imported, and no line about traces runs for a request."""
    store.save(plain_profile(), tmp_path / "profile")
    ran = subprocess.run(
        [sys.executable, "-c", _OFF, str(tmp_path / "profile")], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
