"""A real Triton that keeps what it executes, behind Guards that enforce, and the ways in to all of them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from prometheus_client import generate_latest
from tritonclient.grpc import service_pb2

from benchmarks.chaos.attacks import DATA, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, request_headers
from guard.app import Sidecar
from guard.app.models import load_models
from guard.config import Listen, Mode, ModelPolicy, Queries, ScreenOnly, Settings, Upstream
from guard.transport import RestrictedProtocol
from tests.e2e.http_peer import HttpPeer
from tests.support.loop import LoopThread
from tests.support.sidecars import running, settings, wait_until
from tests.support.tap import Tap
from tests.support.triton import MAX_BATCH_SIZE, Triton

SUPPORT = Path(__file__).parents[1] / "support"
RATE = 0.05
GUARDED = ("digits", "hasty", "thorough", "flagging", "speculative", "ahead")
THOROUGH_S = 1.0
ANY_PORT = "127.0.0.1:0"
KEY, SECRET = "guard-key", "open sesame"
HEADER = f"triton-grpc-protocol-{KEY}"
PROTOCOLS = "health,metadata,inference,shared-memory,model-config,model-repository,statistics,trace,logging"
TENSORS = """input [{ name: "input" data_type: TYPE_FP32 dims: [1, 8, 8] }]
output [{ name: "logits" data_type: TYPE_FP32 dims: [10] }]
"""
INNER = f"max_batch_size: {MAX_BATCH_SIZE}\n{TENSORS}instance_group [{{ count: 1 kind: KIND_CPU }}]\n"
ENSEMBLE = f"""platform: "ensemble"
max_batch_size: {MAX_BATCH_SIZE}
version_policy: {{ all {{}} }}
{TENSORS}ensemble_scheduling {{ step [{{
  model_name: "inner" model_version: -1
  input_map {{ key: "input" value: "input" }} output_map {{ key: "logits" value: "logits" }}
}}] }}
"""


@dataclass(frozen=True)
class Told:
    """What a client hears: a status, or that of HTTP, and a message. `verdict` is None where there is none."""

    code: str
    message: str = ""
    verdict: str | None = None


@dataclass
class House:
    """The Triton, its Guards, and what these send it."""

    triton: Triton
    tap: Tap
    guards: list[Sidecar]
    settings: Settings
    loop: LoopThread
    file: Path

    def executed(self) -> set[bytes]:
        """The items that the server was given so far."""
        return {bytes.fromhex(line) for line in self.file.read_text().split()} if self.file.exists() else set()

    def grpc(self, message: bytes, metadata: Sequence[tuple[str, str]] = (), *, guard: int = 0, **options: Any) -> Told:
        """Send a serialised request to ModelInfer, of a Guard or at the `port` that the options name."""
        with _channel(options.get("port", self.guards[guard].grpc_port)) as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                response_deserializer=service_pb2.ModelInferResponse.FromString,
            )
            try:
                answer = call(message, metadata=metadata, timeout=options.get("timeout_s", 30.0))
            except grpc.RpcError as error:
                return Told(error.code().name, error.details(), _verdict(error.details()))
        return Told("OK", "", answer.parameters["guard_verdict"].string_param)

    def received(self, request_id: str) -> list[tuple[bytes, tuple[tuple[str, str | bytes], ...]]]:
        """The requests of that id that came to the server: the message, and the metadata of its call."""
        return [
            (each.message, each.metadata)
            for each in self.tap.inferences()
            if service_pb2.ModelInferRequest.FromString(each.message).id == request_id
        ]

    def begin(self, message: bytes) -> grpc.Future:
        """Begin a call that the caller cancels."""
        channel = grpc.insecure_channel(f"127.0.0.1:{self.guards[0].grpc_port}")
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(message)
        call.add_done_callback(lambda _: channel.close())
        return call

    def slowly(self, message: bytes, pieces: int, pause_s: float) -> str:
        """Send a request in so many pieces, with a pause after each: what ends the call, headers as they come."""
        body = b"\0" + struct.pack(">I", len(message)) + message
        cuts = [len(body) * piece // pieces for piece in range(pieces + 1)]
        with socket.create_connection(("127.0.0.1", self.guards[0].grpc_port), timeout=30.0) as line:
            line.sendall(PREFACE + frame(SETTINGS) + request_headers(1))
            for begin, end in pairwise(cuts):
                line.sendall(frame(DATA, body[begin:end], flags=END_STREAM if end == len(body) else 0, stream=1))
                time.sleep(pause_s)
            with line.makefile("rb") as answer:
                while len(head := answer.read(9)) == 9:
                    told = answer.read(int.from_bytes(head[:3]))
                    if head[3] == HEADERS and head[4] & END_STREAM:
                        return told.decode("latin-1")
        return ""

    def stream(self, message: bytes, metadata: Sequence[tuple[str, str]] = ()) -> Told:
        """Send it on a stream that tells errors as statuses."""
        with _channel(self.guards[0].grpc_port) as channel:
            call = channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
            )
            try:
                (answer,) = call(iter([message]), metadata=[*metadata, ("triton_grpc_error", "true")], timeout=30.0)
            except grpc.RpcError as error:
                return Told(error.code().name, error.details(), _verdict(error.details()))
        return Told("OK", answer.error_message, answer.infer_response.parameters["guard_verdict"].string_param)

    def rest(self, text: bytes, behind: bytes = b"", path: str = "/v2/models/digits/infer", **headers: str) -> Told:
        """Post a body, of which `behind` follows the JSON."""
        if behind:
            headers = {"Inference_Header_Content_Length": str(len(text))} | headers
        with HttpPeer(f"127.0.0.1:{self.guards[0].http_port}") as peer:
            status, told, body = peer.raw("POST", path, text + behind, **headers)
        message = "" if status == 200 else json.loads(body)["error"]
        return Told(str(status), message, told.get("guard-verdict"))

    def reload(self, false_positive_rate: float) -> None:
        """Have the first Guard judge at another rate, by an engine of its own."""
        policies = {
            name: policy.model_copy(update={"false_positive_rate": false_positive_rate})
            for name, policy in self.settings.models.items()
        }
        settings = self.settings.model_copy(update={"models": policies})
        self.loop.run(self.guards[0].change(settings, load_models(settings, {})))
        wait_until(self.guards[0])

    def counted(self, sample: str) -> float:
        """The sum of a metric's samples, of which a part is given, of the first Guard."""
        lines = generate_latest(self.guards[0].metrics.registry).decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(sample, line))


@contextmanager
def house(folder: Path, onnx: Path, profile: Path, thorough: Path) -> Iterator[House]:
    """Start the server and two Guards that share a noise secret. By `thorough` an input is screened for long."""
    triton = _triton(folder / "triton", onnx)
    for name, value in (("noise", "n" * 32), ("secret", SECRET)):
        (folder / name).write_text(value)
    with ExitStack() as stack:
        stack.callback(triton.stop)
        triton.start()
        tap = Tap(triton.address)
        stack.callback(tap.stop)
        tap.start()
        secret = RestrictedProtocol(key=KEY, value_file=folder / "secret")
        chosen = settings(
            tap.address,
            models(profile, thorough, onnx),
            upstream=Upstream(address=tap.address, restricted_protocol=secret),
            listen=Listen(**dict.fromkeys(("address", "http_address", "envoy_address", "admin_address"), ANY_PORT)),
            noise_secret_file=folder / "noise",
            screen_only=ScreenOnly.ALLOW,
        )
        loop = stack.enter_context(LoopThread())
        guards = [stack.enter_context(running(loop, Sidecar(chosen))) for _ in range(2)]
        for guard in guards:
            wait_until(guard)
        yield House(triton, tap, guards, chosen, loop, folder / "triton" / "executed")


def _triton(folder: Path, onnx: Path) -> Triton:
    """A Triton for which everything needs the secret: all that is under guard are ensembles around `inner`."""
    folder.mkdir()
    options = {
        "model-control-mode": "explicit",
        "load-model": "*",
        "grpc-restricted-protocol": f"{PROTOCOLS}:{KEY}={SECRET}",
        "http-restricted-api": f"{PROTOCOLS}:{KEY}={SECRET}",
    }
    triton = Triton(folder, name="unlisted", onnx=onnx, options=options, metadata=((HEADER, SECRET),))
    triton.add("inner", SUPPORT / "triton_recording.py", INNER)
    shutil.copy(onnx, folder / "models" / "inner" / "1" / "model.onnx")
    for name in GUARDED:
        for version in "12" if name == "digits" else "1":
            (folder / "models" / name / version).mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(f'name: "{name}"\n{ENSEMBLE}')
    return triton


def models(profile: Path, thorough: Path, onnx: Path) -> dict[str, ModelPolicy]:
    """Policies: all enforce but that of `flagging`.

    The budget of `hasty` is too short for any screening; that of `thorough` is for one input, and not for a batch.
    """
    common: dict[str, Any] = {
        "profile": profile,
        "model": onnx,
        "mode": Mode.ENFORCE,
        "false_positive_rate": RATE,
        "screening_budget_s": 30.0,
    }
    special: dict[str, dict[str, Any]] = {
        "digits": {},
        "hasty": {"screening_budget_s": 0.001},
        "thorough": {"profile": thorough, "screening_budget_s": THOROUGH_S, "queries": Queries.SKIP},
        "flagging": {"mode": Mode.FLAG},
        "speculative": {"speculative": True},
        "ahead": {"speculative": True, "profile": thorough, "queries": Queries.SKIP},
    }
    return {name: ModelPolicy(**(common | special[name])) for name in GUARDED}


@contextmanager
def _channel(port: int) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def _verdict(message: str) -> str | None:
    found = re.search(r"guard_verdict=(\w+)", message)
    return found[1] if found else None


def request(*tensors: np.ndarray, model: str = "digits", version: str = "") -> service_pb2.ModelInferRequest:
    """A request with raw inputs, all of one name."""
    made = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for values in tensors:
        made.inputs.add(name="input", datatype="FP32", shape=values.shape)
        made.raw_input_contents.append(values.tobytes())
    return made


def typed(values: np.ndarray, model: str = "digits") -> service_pb2.ModelInferRequest:
    """A request with a typed input."""
    made = service_pb2.ModelInferRequest(model_name=model)
    made.inputs.add(name="input", datatype="FP32", shape=values.shape).contents.fp32_contents.extend(values.ravel())
    return made


def document(values: np.ndarray, **others: Any) -> dict[str, Any]:
    """The JSON of a body, with all in it."""
    inputs = [{"name": "input", "datatype": "FP32", "shape": values.shape, "data": values.ravel().tolist()}]
    return {"inputs": inputs} | others
