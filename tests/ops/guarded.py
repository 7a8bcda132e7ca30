"""A ready Guard in front of a real Triton, as the tests with real watchers have it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from guard.app import Sidecar
from guard.config import Listen, ModelPolicy
from guard.profile import store
from guard.recording import Audit
from guard.values import Mode
from tests.support import digits
from tests.support.loop import LoopThread
from tests.support.profiles import digits_profile
from tests.support.sidecars import running, settings, wait_until
from tests.support.triton import Triton


@contextmanager
def guarded(folder: Path) -> Iterator[tuple[Sidecar, Triton]]:
    """A Guard that rejects, tests itself and keeps an audit log, in front of a real Triton."""
    store.save(digits_profile(), folder / "profile")
    (folder / "names").write_bytes(b"n" * 32)
    policy = ModelPolicy(
        profile=folder / "profile",
        model=digits.onnx_file(),
        mode=Mode.ENFORCE,
        false_positive_rate=0.02,
        screening_budget_s=30.0,
        self_test_interval_s=10.0,
    )
    listen = Listen(address="127.0.0.1:0", admin_address="127.0.0.1:0", http_address="127.0.0.1:0")
    audit = Audit(folder=folder / "log", pseudonym_key_file=folder / "names")
    triton = Triton(folder, name="digits", onnx=digits.onnx_file())
    # or a line for each request
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    triton.start()
    try:
        given = settings(triton.address, {"digits": policy}, listen=listen, audit=audit)
        with LoopThread() as loop, running(loop, Sidecar(given)) as sidecar:
            wait_until(sidecar)
            yield sidecar, triton
    finally:
        triton.stop()
        structlog.reset_defaults()
