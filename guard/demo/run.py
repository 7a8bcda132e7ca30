"""The demo from end to end: train, serve, calibrate, attack, send, report."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from guard.app import Sidecar
from guard.background import LoopThread
from guard.config import Certify, Listen, ModelPolicy, Settings, Upstream
from guard.demo.attacks import craft
from guard.demo.digits import BOUNDS, SHAPE, Digits, load_digits, train_classifier
from guard.demo.report import as_json, show
from guard.demo.stable import noise_secret, screen_again
from guard.demo.traffic import MODEL, Client, Kind, send_all
from guard.embedded import EmbeddedServer
from guard.errors import UpstreamUnavailable
from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.offline.calibrate import calibrate
from guard.offline.nets import one_thread, to_onnx
from guard.offline.options import Options
from guard.offline.picture import draw
from guard.offline.progress import Reporter
from guard.output import writing
from guard.profile import store
from guard.values import Mode

ASKED_RATE = 0.05
_ATTEMPTS = 150
_READY_TIMEOUT_S = 20.0
_BUDGET_S = 30.0  # that a busy machine leaves nothing unscreened
_SHOWN_METRICS = (
    "guard_requests_total",
    "guard_items_total",
    "guard_verdicts_total",
    "guard_model_evaluations_total",
    "guard_certificates_total",
)


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for. `folder` takes the model and its profile."""

    folder: Path
    seed: int = 0
    keep_running: bool = False


def run(request: Request, console: Console, tell: Callable[[Mapping[str, Any]], None] | None = None) -> None:
    """Run the demo in a folder that is there, and tell its results to a machine if one asks for them.

    Raises:
        GuardError: something it needs is missing; the message says what to do.
    """
    started = time.monotonic()
    reporter = Reporter(console)
    digits = load_digits(request.seed)
    with one_thread():
        net = train_classifier(digits.training, seed=request.seed, reporter=reporter)
    model_file, profile_folder = _prepare(net, digits, request, reporter)
    with noise_secret() as secret_file, _servers(model_file, profile_folder, secret_file) as (sidecar, direct_port):
        ports = f"Guard on 127.0.0.1:{sidecar.grpc_port}, the model server behind it on 127.0.0.1:{direct_port}"
        console.print(f"{ports}, metrics on http://127.0.0.1:{sidecar.admin_port}/metrics", highlight=False)
        kinds = _send(net, digits, request, sidecar=sidecar, direct_port=direct_port, reporter=reporter)
        kinds[0].noisy = screen_again(
            digits.held_out.images, profile_folder=profile_folder, model_file=model_file, secret_file=secret_file
        )
        accuracy = _accuracy(net, digits)
        show(console, kinds, asked=ASKED_RATE, accuracy=accuracy)
        _show_metrics(console, sidecar)
        if tell is not None:
            tell(as_json(kinds, asked=ASKED_RATE, accuracy=accuracy, seed=request.seed))
        _show_next(console, request.folder, profile_folder, time.monotonic() - started)
        if request.keep_running:
            _wait(console)


def _prepare(net: nn.Module, digits: Digits, request: Request, reporter: Reporter) -> tuple[Path, Path]:
    """Write the model and its profile, made by the code behind `guard calibrate`."""
    model_file, profile_folder = request.folder / "digits.onnx", request.folder / "profile"
    with writing(request.folder):
        model_file.write_bytes(to_onnx(net, SHAPE))
        np.savez_compressed(request.folder / "clean.npz", inputs=digits.calibration.images)
    info = inspect_onnx(model_file, name=MODEL, bounds=BOUNDS, dims=SHAPE)
    backend = OnnxBackend(model_file.read_bytes(), info)
    options = Options(seed=request.seed, shared_noise=True)  # it asks for certificates as well
    profile = calibrate(backend, digits.calibration.images, options, reporter)
    store.save(profile, profile_folder)
    draw(profile, profile_folder)
    return model_file, profile_folder


@contextmanager
def _servers(model_file: Path, profile_folder: Path, secret_file: Path) -> Iterator[tuple[Sidecar, int]]:
    """The embedded server with the model, and Guard in front of it, on free ports; stopped at the end."""
    embedded = EmbeddedServer({MODEL: model_file})
    with LoopThread() as background:
        direct_port = background.run(embedded.start())
        try:
            policy = ModelPolicy(
                profile=profile_folder,
                model=model_file,
                mode=Mode.ENFORCE,
                false_positive_rate=ASKED_RATE,
                certificate=Certify.REPORT,
                screening_budget_s=_BUDGET_S,
            )
            sidecar = Sidecar(
                Settings(
                    upstream=Upstream(address=f"127.0.0.1:{direct_port}"),
                    listen=Listen(address="127.0.0.1:0", admin_address="127.0.0.1:0"),
                    models={MODEL: policy},
                    noise_secret_file=secret_file,
                )
            )
            background.run(sidecar.start())
            try:
                _wait_until_ready(sidecar)
                yield sidecar, direct_port
            finally:
                background.run(sidecar.stop(grace_s=1.0))
        finally:
            background.run(embedded.stop(grace_s=1.0))


def _wait_until_ready(sidecar: Sidecar) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while sidecar.unready():
        if time.monotonic() > deadline:
            raise UpstreamUnavailable(f"Guard did not become ready: {'; '.join(sidecar.unready())}")
        threading.Event().wait(0.05)


def _send(
    net: nn.Module, digits: Digits, request: Request, *, sidecar: Sidecar, direct_port: int, reporter: Reporter
) -> list[Kind]:
    with one_thread():
        crafted = craft(net, digits.held_out, attempts=_ATTEMPTS, seed=request.seed, reporter=reporter)
    with writing(request.folder):
        np.savez_compressed(request.folder / "attacks.npz", inputs=np.concatenate([each.images for each in crafted]))
    direct, guarded = Client(direct_port), Client(sidecar.grpc_port)
    try:
        for client in (direct, guarded):
            client.send(digits.calibration.images[0])  # the first call connects
        benign = Kind("benign digits", attack=False)
        kinds = [benign]
        sets = [(benign, digits.held_out.images)]
        for each in crafted:
            kind = Kind(f"{each.attack.name}, {each.attack.setting}", attack=True, attempts=each.attempts)
            kinds.append(kind)
            sets.append((kind, each.images))
        for kind, images in sets:
            send_all(kind, images, direct=direct, guarded=guarded, sidecar=sidecar, reporter=reporter)
    finally:
        direct.close()
        guarded.close()
    return kinds


@torch.no_grad()
def _accuracy(net: nn.Module, digits: Digits) -> float:
    labels = net(torch.from_numpy(digits.held_out.images)).argmax(dim=1).numpy()
    return float((labels == digits.held_out.labels).mean())


def _show_metrics(console: Console, sidecar: Sidecar) -> None:
    console.print(f"\nA few of the metrics at http://127.0.0.1:{sidecar.admin_port}/metrics:", highlight=False)
    for family in sidecar.metrics.registry.restricted_registry(_SHOWN_METRICS).collect():
        for sample in family.samples:
            if sample.value:
                labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
                console.print(f"  {sample.name}{{{labels}}} {sample.value:g}", highlight=False, markup=False)


def _show_next(console: Console, folder: Path, profile: Path, elapsed_s: float) -> None:
    console.print(
        f"""
Done in {elapsed_s:.0f} s. The model, its profile, clean samples and attacks are in {folder}; benign scores: \
{profile / "scores.png"}.
Your own model:
  guard calibrate --model model.onnx --data clean-samples/ --out profile/
  guard calibrate --upstream localhost:8001 --model-name NAME --data clean-samples/ --out profile/
  guard profile show {profile}
  guard check-config policy.yaml
  guard serve --config policy.yaml
  guard serve --embedded {folder / "digits.onnx"} --profile {profile}""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _wait(console: Console) -> None:
    console.print("\nStill running; Ctrl-C stops it.", highlight=False)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("Stopping.", highlight=False)
