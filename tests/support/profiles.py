"""Profiles of the digits classifier, calibrated in seconds."""

from __future__ import annotations

import functools

from guard.model.onnx import OnnxBackend, inspect_onnx
from guard.offline.calibrate import calibrate
from guard.offline.options import Budget, Options
from guard.profile.profile import Profile
from tests.support import digits

SHORT = Budget(surrogate_steps=100, network_steps=150, activation_steps=150, auxiliary_steps=150)


def digits_backend() -> OnnxBackend:
    """A replica of the digits classifier."""
    file = digits.onnx_file()
    return OnnxBackend(file.read_bytes(), inspect_onnx(file, name="digits", bounds=(0.0, 1.0), dims=(1, 8, 8)))


@functools.cache
def digits_profile() -> Profile:
    """With all default detectors, the network trained for a moment only: enough for plain attacks."""
    backend = digits_backend()
    try:
        return calibrate(backend, digits.load_data().calibration[0], Options(budget=SHORT))
    finally:
        backend.close()


@functools.cache
def plain_profile() -> Profile:
    """Without detector networks and occlusion: calibrated in a moment, and enough for weak attacks."""
    backend = digits_backend()
    try:
        plain = Options(network=False, occlusion=False, conditions=())
        return calibrate(backend, digits.load_data().calibration[0], plain)
    finally:
        backend.close()
