"""Honest clients and an attacker, each with an address of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
import numpy as np
import torch
from torch import nn

from benchmarks.detection.subjects import Split
from benchmarks.models import LENET5_SHAPE
from guard.datatypes import to_wire
from guard.offline.evaluate.craft import generate
from guard.offline.evaluate.suite import find
from guard.offline.evaluate.target import with_gradients
from guard.pb import grpc_service_pb2 as v2
from guard.values import Float32Array

ATTACKS: Final = ("FGSM, L-inf 0.2", "PGD, L-inf 0.1", "C&W, L2", "Patch, 5 % of the area", "Patch, 10 % of the area")
_IMAGES: Final = 60
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_HONEST_PER_S, _ATTACKS_PER_S = 9.0, 2.5


def attacked(net: nn.Module, split: Split) -> Float32Array:
    """What several attacks make of images so that the model gets them wrong, mixed."""
    model = with_gradients(net, LENET5_SHAPE, 10)
    right = _labels(net, split.images[:1000]) == split.labels[:1000]
    images, labels = split.images[:1000][right][:_IMAGES], split.labels[:1000][right][:_IMAGES]
    found = []
    for title in ATTACKS:
        made = generate(find(title), lambda _: model, images, seed=0)
        found.append(made[_labels(net, made) != labels])
    mixed = np.concatenate(found)
    return mixed[np.random.default_rng(0).permutation(len(mixed))]


def _labels(net: nn.Module, images: Float32Array) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(net(torch.from_numpy(images)).argmax(1).numpy())


@contextmanager
def sending(port: int, honest: Float32Array, bad: Float32Array, *, pause_s: float) -> Iterator[None]:
    """Send images, the bad ones after a pause, until the end."""
    stop = threading.Event()

    def send(images: Float32Array, per_s: float, begin_s: float) -> None:
        if stop.wait(begin_s):
            return
        rng = np.random.default_rng(round(per_s))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer = channel.unary_unary(_METHOD, lambda message: message, lambda message: message)
            while not stop.wait(rng.exponential(1 / per_s)):
                with contextlib.suppress(grpc.RpcError):
                    infer(_message(images[rng.integers(len(images))]), timeout=30.0)

    threads = [
        threading.Thread(target=send, args=(honest, _HONEST_PER_S, 0.0)),
        threading.Thread(target=send, args=(bad, _ATTACKS_PER_S, pause_s)),
    ]
    for each in threads:
        each.start()
    time.sleep(0.1)
    try:
        yield
    finally:
        stop.set()
        for each in threads:
            each.join()


def _message(image: Float32Array) -> bytes:
    request = v2.ModelInferRequest(model_name="mnist", raw_input_contents=[to_wire("FP32", image)])
    request.inputs.add(name="input", datatype="FP32", shape=[1, *image.shape])
    return bytes(request.SerializeToString())
