"""All that a measurement needs, started: Triton with its models, the proxies, and requests that Guard finds clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np

from benchmarks.wire import parts
from benchmarks.wire.parts import Variant
from benchmarks.wire.payloads import (
    FALSE_POSITIVE_RATE,
    Payload,
    by_model,
    images,
    over_grpc,
    over_http,
    write_model,
    write_profile,
)
from guard.pb.grpc_service_pb2 import ModelInferResponse
from guard.values import Float32Array
from guard.wire.passage import METHOD
from tests.support.triton import Triton

_TRIED = 40
_SEED = 2
_BUDGET_S = 30.0
_QUEUE = 1024

Start: TypeAlias = Callable[[str, Path], AbstractContextManager[Variant]]
"""Starts a proxy in front of an address, with a folder for its files."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What runs, files with one request for each payload and protocol, and why some proxies don't run."""

    variants: tuple[Variant, ...]
    bodies: Mapping[tuple[str, str], Path]
    left_out: tuple[str, ...]


@contextmanager
def setting(payloads: Sequence[Payload], folder: Path) -> Iterator[Setting]:
    """Start everything, and stop it at the end."""
    models = {name: write_model(one, folder) for name, one in by_model(payloads).items()}
    profiles = {name: write_profile(one, models[name], folder) for name, one in by_model(payloads).items()}
    with ExitStack() as held:
        (first, onnx), *others = models.items()
        triton = Triton(folder, name=first, onnx=onnx, others=dict(others))
        held.callback(triton.stop)
        triton.start()
        at = triton.address

        def policy(**settings: Any) -> dict[str, Any]:
            rate = {"false_positive_rate": FALSE_POSITIVE_RATE, "queries": "skip"} | settings
            return {name: {"profile": str(profiles[name]), "model": str(models[name]), **rate} for name in models}

        policies: dict[str, dict[str, Any]] = {
            "off": {"unlisted_models": "pass"},
            "shadow": {"models": policy(mode="shadow")},
            # With time and room for all, so that it screens each.
            "enforce": {
                "models": policy(mode="enforce", screening_budget_s=_BUDGET_S),
                "limits": {"max_queued_items": _QUEUE},
            },
        }
        started = {name: held.enter_context(parts.guard(at, folder, name, said)) for name, said in policies.items()}
        (off, rest), (shadow, _), (enforce, _) = (parts.ready(process, name) for name, process in started.items())
        bodies = _bodies(payloads, enforce.address, folder)
        floor = held.enter_context(parts.pass_through(at))
        native, left_out = _native(held, (parts.nginx, parts.envoy, *_second_way(off, shadow, enforce)), at, folder)
        variants = (Variant("direct", "grpc", at), floor, *native, off, shadow, enforce, rest)
        yield Setting(variants, bodies, left_out)


def _second_way(off: Variant, shadow: Variant, enforce: Variant) -> tuple[Start, ...]:
    """Envoy with each of the Guards beside it."""
    return (
        partial(parts.beside, shadow, "Envoy mirrors to Guard", "shadow.yaml"),
        partial(parts.beside, off, "Envoy asks Guard, off", "enforce.yaml"),
        partial(parts.beside, enforce, "Envoy asks Guard, enforce", "enforce.yaml"),
    )


def _native(
    held: ExitStack,
    starts: Sequence[Start],
    upstream: str,
    folder: Path,
) -> tuple[list[Variant], tuple[str, ...]]:
    """The proxies that are installed, and why others are not there."""
    found, left_out = [], []
    for start in starts:
        try:
            found.append(held.enter_context(start(upstream, folder)))
        except parts.NotInstalled as missing:
            left_out.append(str(missing))
    return found, tuple(left_out)


def _bodies(payloads: Sequence[Payload], address: str, folder: Path) -> dict[tuple[str, str], Path]:
    bodies = {}
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        for payload in payloads:
            inputs = _clean(payload, channel)
            for protocol, write in (("grpc", over_grpc), ("http", over_http)):
                body = folder / f"{payload.name}.{protocol}"
                body.write_bytes(write(payload, inputs))
                bodies[payload.name, protocol] = body
    return bodies


def _clean(payload: Payload, channel: grpc.Channel) -> Float32Array:
    """Images for a request of which Guard finds each clean, so that it never rejects it."""
    call = channel.unary_unary(METHOD, None, ModelInferResponse.FromString)
    found = []
    for image in images(payload.shape, payload.items + _TRIED, _SEED):
        try:
            answer = call(over_grpc(payload, image[None]), timeout=_BUDGET_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                raise
            continue
        if answer.parameters["guard_verdict"].string_param == "clean":
            found.append(image)
        if len(found) == payload.items:
            return np.stack(found)
    raise RuntimeError(f"Guard finds fewer than {payload.items} images for {payload.name} clean")
