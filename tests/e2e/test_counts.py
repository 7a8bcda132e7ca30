"""What Guard says that it asked of a Triton, beside what that Triton says it ran: the two sides of a bypass alert."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from guard.app import Sidecar
from guard.config import ModelPolicy, Queries
from guard.values import Mode
from tests.e2e.peer import Peer, tensor, wait_until_serving
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.sidecars import running, settings
from tests.support.triton import Triton
from tests.support.waiting import wait_for


@pytest.fixture
def sidecar(triton: Triton, profile: Path) -> Iterator[tuple[Sidecar, str]]:
    """A ready Guard that rejects nothing, and its address."""
    policy = ModelPolicy(
        profile=profile,
        model=digits.onnx_file(),
        mode=Mode.FLAG,
        queries=Queries.SKIP,
        screening_budget_s=60.0,
        false_positive_rate=0.05,
    )
    with LoopThread() as loop, running(loop, Sidecar(settings(triton.address, {"digits": policy}))) as started:
        wait_until_serving(f"127.0.0.1:{started.grpc_port}")
        yield started, f"127.0.0.1:{started.grpc_port}"


def ran(triton: Triton) -> float:
    """Triton's own count of the successful inferences of the model."""
    with urllib.request.urlopen(f"http://{triton.metrics_address}/metrics", timeout=10) as response:
        exported = response.read().decode()
    (count,) = re.findall(r'^nv_inference_request_success\{model="digits",version="1"\} (\S+)$', exported, re.MULTILINE)
    return float(count)


def asked(sidecar: Sidecar, *senders: str) -> float:
    """What Guard counted."""
    labels = [{"model": "digits", "sender": sender} for sender in senders or ("call", "stream", "guard")]
    values = [sidecar.metrics.registry.get_sample_value("guard_upstream_inferences_total", each) for each in labels]
    return sum(value or 0.0 for value in values)


def test_both_sides_agree(triton: Triton, sidecar: tuple[Sidecar, str]) -> None:
    """Calls count on both sides alike, Guard's own too; a client that goes round Guard counts on Triton's only."""
    guard, address = sidecar
    images = digits.load_data().test[0]
    ran_before, asked_before, own_before = ran(triton), asked(guard), asked(guard, "guard")
    with Peer(address) as guarded, Peer(triton.address) as direct:
        for image in images[:6]:
            guarded.infer(tensor(np.stack([image, image])))
        own = asked(guard, "guard") - own_before
        assert asked(guard) - asked_before - own == 6
        # Triton counts a call after it has answered it.
        wait_for(lambda: ran(triton) - ran_before == asked(guard) - asked_before)
        for image in images[:4]:
            direct.infer(tensor(image[None]))
    wait_for(lambda: (ran(triton) - ran_before) - (asked(guard) - asked_before) == 4)
