"""Both ways to a real Triton: directly, and through a Guard that screens nothing and keeps what it would have."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np

from benchmarks.fuzz.frames import BARE, GRPC, REST, Case, post
from guard.background import LoopThread
from guard.config import Listen, Settings, Upstream
from guard.datatypes import BYTES, WIRE_DTYPES
from guard.errors import MalformedRequest
from guard.listed import number_of
from guard.observe.metrics import Metrics
from guard.values import Action, Course, Decision, InferRequest, Mode, Provenance, Verdict, WireTensor
from guard.wire.server import GuardServer
from tests.support import digits
from tests.support.triton import Triton

REPORT = Path(__file__).parents[2] / "tests" / "support" / "triton_report.py"
INPUTS = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64")
_SERVICE = "/inference.GRPCInferenceService/"
_WAIT_S = 20.0
_OUTPUT = """output [{ name: "report" data_type: TYPE_STRING dims: [1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""

Report: TypeAlias = dict[str, Any]


class Keeper:
    """A screener that finds all clean, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Report] = []

    def now(self) -> Keeper:
        """Itself."""
        return self

    def listed_as(self, model: str, _version: str) -> str:
        """The model."""
        return model

    def version(self, _model: str, version: str) -> str:
        """What is asked for."""
        return version

    def course(self, model: str, _version: str = "") -> Course:
        """As with a policy that enforces."""
        if not model:
            raise MalformedRequest("the request names no model")
        return Course.BEFORE

    async def screen(
        self, request: InferRequest, *, decision_id: str, deadline_s: float | None, client: str = ""
    ) -> Decision:
        """Keep it."""
        del deadline_s, client
        self.asked.append(screened(request))
        name, forward = request.model_name, Action.FORWARD
        return Decision(decision_id, name, Mode.ENFORCE, Verdict.CLEAN, None, forward, forward, ())

    def provenance(self, _request: InferRequest) -> Provenance:
        """Nothing is known of it."""
        return Provenance()

    def unverified(self, _request: InferRequest) -> str:
        """It is."""
        return ""


def screened(request: InferRequest) -> Report:
    """What was screened, as the model `report` says it."""
    inputs = sorted([tensor.name, *_contents(tensor)] for tensor in request.inputs)
    return {
        "model": [request.model_name, number_of(request.model_version) or "1"],
        "id": request.request_id,
        "inputs": inputs,
    }


def _contents(tensor: WireTensor) -> tuple[str, list[int], Any]:
    shape = list(tensor.shape)
    if tensor.datatype != BYTES:
        dtype = WIRE_DTYPES[tensor.datatype]
        contents = bytes(tensor.raw) if tensor.raw is not None else np.asarray(tensor.typed, dtype).tobytes()
        return str(dtype), shape, contents.hex()
    if tensor.typed is not None:
        return "object", shape, [one.hex() for one in tensor.typed.ravel().tolist()]
    strings, at, raw = [], 0, bytes(tensor.raw or b"")
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        strings.append(raw[at + 4 : end].hex())
        at = end
    return "object", shape, strings


class Side:
    """One way to the model. `ask` returns whether there was an answer that is no error."""

    def __init__(self, grpc_address: str, http_address: str) -> None:
        self._channel = grpc.insecure_channel(grpc_address)
        self._infer = self._channel.unary_unary(f"{_SERVICE}ModelInfer", bytes, bytes)
        self._stream = self._channel.stream_stream(f"{_SERVICE}ModelStreamInfer", bytes, bytes)
        self._address = http_address
        self._connection = http.client.HTTPConnection(http_address, timeout=_WAIT_S)

    def ask(self, case: Case) -> bool:
        """Send a request."""
        return self._post(case) if case.way == REST else self._call(case)

    def _call(self, case: Case) -> bool:
        message, compression = case.packed(), case.compression()
        try:
            if case.way == GRPC:
                self._infer(message, timeout=_WAIT_S, compression=compression)
                return True
            return bool([*self._stream(iter([message]), timeout=_WAIT_S, compression=compression)])
        except grpc.RpcError:
            return False

    def _post(self, case: Case) -> bool:
        try:
            return post(self._connection, case)
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = http.client.HTTPConnection(self._address, timeout=_WAIT_S)
            return False

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()
        self._connection.close()


class Sides:
    """A Triton with the model `report`, and both ways to it."""

    def __init__(self, triton: Triton, reports: Path, guard: tuple[str, str], keeper: Keeper) -> None:
        self.triton = triton
        self.crashes = 0
        self._reports = reports.open()
        self.keeper = keeper
        self.direct = Side(triton.address, triton.http_address)
        self.through = Side(*guard)

    def executed(self) -> list[Report]:
        """What the model was asked since it was last looked at."""
        return [json.loads(line) for line in self._reports]

    def revive(self) -> bool:
        """Start Triton again if it died. Whether it had."""
        process = self.triton._process  # noqa: SLF001 - only this wants to know
        if process is not None and process.poll() is None:
            return False
        self.crashes += 1
        self.triton.ensure_running()
        return True

    def close(self) -> None:
        """Close what is open."""
        self.direct.close()
        self.through.close()
        self._reports.close()


@contextlib.contextmanager
def both(folder: Path) -> Iterator[Sides]:
    """Start Triton and Guard."""
    triton = Triton(folder, name="digits", onnx=digits.onnx_file())
    inputs = [f'{{ name: "{name}" data_type: TYPE_{name} dims: [-1] optional: true }}' for name in INPUTS]
    inputs.append('{ name: "BYTES" data_type: TYPE_STRING dims: [-1] optional: true }')
    triton.add(
        "report",
        REPORT,
        f"max_batch_size: 0\ninput [{', '.join(inputs)}]\n{_OUTPUT}",
    )
    for name in BARE:
        kind = {"bare_pairs": "FP32", "bare_BYTES": "STRING"}.get(name, name.removeprefix("bare_"))
        dims = {"bare_pairs": "-1, 2", "bare_BYTES": "1"}.get(name, "-1")
        triton.add(
            name,
            REPORT,
            f'max_batch_size: 0\ninput [{{ name: "{name}" data_type: TYPE_{kind} dims: [{dims}] }}]\n{_OUTPUT}',
        )
    triton.start()
    keeper = Keeper()
    settings = Settings(
        upstream=Upstream(address=triton.address),
        listen=Listen(address="127.0.0.1:0", http_address="127.0.0.1:0", admin_address="127.0.0.1:0"),
    )
    with LoopThread() as loop:
        server = GuardServer(screener=keeper, settings=settings, metrics=Metrics(), ready=_ready)
        port = loop.run(server.start())
        sides = Sides(triton, folder / "reports.jsonl", (f"127.0.0.1:{port}", f"127.0.0.1:{server.http_port}"), keeper)
        try:
            yield sides
        finally:
            sides.close()
            loop.run(server.stop(1.0))
            triton.stop()


async def _ready() -> bool:
    return True
