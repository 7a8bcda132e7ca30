"""The detector networks of a calibration: what they learn from, and which there can be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from guard.errors import BackendError, EnvironmentProblem
from guard.model.backend import Backend
from guard.model.onnx import OnnxBackend
from guard.offline.auxiliary import train_auxiliary
from guard.offline.denoiser import train_denoiser
from guard.offline.material import Material
from guard.offline.network import train_network, train_on_activations, train_surrogate
from guard.offline.options import Budget
from guard.offline.progress import Reporter
from guard.offline.whitebox import WhiteBox, best_white_box
from guard.profile.spec import Condition, NetworkSpec
from guard.values import Float32Array

_LEAST_POSITIVES = 100
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Network:
    """A trained network: what the profile says of it, and its ONNX file."""

    spec: NetworkSpec
    content: bytes


def train(
    backend: Backend, material: Material, noise: float, *, seed: int, budget: Budget, reporter: Reporter
) -> tuple[Network, ...]:
    """Train a network on inputs, an auxiliary model, and for model files one on activations and a denoiser for images.

    `noise` is the strongest that benign inputs bear, as a share of their range.
    """
    made = []
    if material.positives:
        content = train_network(material, backend.info, seed=seed, reporter=reporter, steps=budget.network_steps)
        made.append(_network("input", content))
    else:
        _log.warning("no attack fooled the model in calibration, so there is no detector network")
    inner = _on_activations(backend, material, seed=seed, steps=budget.activation_steps, reporter=reporter)
    made += [] if inner is None else [_network("activations", inner)]
    denoiser = _denoiser(backend, material, noise, seed=seed, steps=budget.denoiser_steps, reporter=reporter)
    made += [] if denoiser is None else [_network("reconstruction", denoiser)]
    small = train_auxiliary(material, backend, seed=seed, reporter=reporter, steps=budget.auxiliary_steps)
    return (*made, _network("auxiliary", small))


def white_box(
    backend: Backend,
    fit: Float32Array,
    conditions: Sequence[Condition],
    *,
    seed: int,
    budget: Budget,
    reporter: Reporter,
) -> WhiteBox:
    """The model with gradients; or a surrogate that imitates it, where it has none to give."""
    if isinstance(backend, OnnxBackend):
        try:
            return best_white_box(backend, fit, seed=seed, reporter=reporter, steps=budget.surrogate_steps)
        except EnvironmentProblem as exc:
            _log.warning("detector networks learn from attacks on a surrogate, and so learn less", reason=str(exc))
    surrogate = train_surrogate(
        backend, fit, seed=seed, reporter=reporter, steps=budget.surrogate_steps, conditions=conditions
    )
    return WhiteBox(surrogate, exact=False, agreement=0.0)


def _on_activations(backend: Backend, material: Material, *, seed: int, steps: int, reporter: Reporter) -> bytes | None:
    """None for a model that is no file, that can't be looked into, or that nothing fooled: it has nothing to show."""
    fooled = sum(map(len, material.positives)) if material.exact else 0
    if not isinstance(backend, OnnxBackend) or fooled < _LEAST_POSITIVES:
        return None
    try:
        content = backend.content
        return train_on_activations(material, content, backend.info, seed=seed, reporter=reporter, steps=steps)
    except BackendError as exc:
        _log.info("there is no detector network on the model's activations", reason=str(exc))
        return None


def _denoiser(
    backend: Backend, material: Material, noise: float, *, seed: int, steps: int, reporter: Reporter
) -> bytes | None:
    clean = material.benign[: material.clean]
    try:
        return train_denoiser(backend, clean, noise, seed=seed, steps=steps, reporter=reporter)
    except BackendError as exc:
        _log.info("there is no denoiser in front of the model", reason=str(exc))
        return None


def _network(on: str, content: bytes) -> Network:
    file = "network.onnx" if on == "input" else f"{on}.onnx"
    spec = NetworkSpec.model_validate({"on": on, "file": file, "sha256": hashlib.sha256(content).hexdigest()})
    return Network(spec, content)
