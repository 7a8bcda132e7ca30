"""All checks, one after the other."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from guard.app.models import LoadedModel
from guard.app.policy import load_policy
from guard.channel import Link
from guard.config import Settings, Unlisted, host_and_port
from guard.config_file import PolicyUnusable, load_settings
from guard.doctor.around import HTTP_PORT, reachable_around
from guard.doctor.clock import clock
from guard.doctor.machine import certificates, limits
from guard.doctor.values import Finding, Level
from guard.errors import EnvironmentProblem, GuardError, ProviderMissing
from guard.model.onnx import OnnxBackend
from guard.screen.trial import MODEL
from guard.values import Mode
from guard.verify import Verifier

_LOOK_S = 30.0
_ADMIN_S = 3.0
_PROVIDER = "provider"
_CUDA = "CUDAExecutionProvider"
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""This machine is asked itself, and no proxy that the environment names."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - looked for, and not bound


def examine(path: Path, http_port: int = HTTP_PORT) -> Iterator[Finding]:
    """Look at the deployment that a policy file describes, from the machine that Guard runs on.

    Raises:
        PolicyUnusable: the file itself can't be read as a policy; `guard check-config` has all that is wrong with it.
    """
    settings = load_settings(path)
    loaded: Mapping[str, LoadedModel] = {}
    try:
        settings, loaded = load_policy(path)
    except PolicyUnusable as error:
        yield from (_unusable(at, problem) for at, problem in error.problems)
        yield from _left_out(settings)
    try:
        yield from _policy(settings, loaded)
        yield from _served(settings, loaded)
        yield from reachable_around(settings, http_port)
        yield from _running(settings)
        yield from clock(loaded)
        yield from certificates(settings)
        yield from limits(settings)
    finally:
        for model in loaded.values():
            model.close()


def _unusable(at: str, problem: GuardError) -> Finding:
    """What keeps a model from being loaded: what is wrong, and behind the first semicolon what to do."""
    found, _, remedy = str(problem).partition("; ")
    match problem:
        case ProviderMissing():
            check = _PROVIDER
        case EnvironmentProblem():
            check = "installation"
        case _:
            check = "profiles"
    return Finding(check, Level.PROBLEM, f"{at}: {found}", remedy)


def _left_out(settings: Settings) -> Iterator[Finding]:
    """Where one model can't be loaded none is, so that of the sound ones nothing else can be said."""
    if settings.models:
        found = f"{', '.join(settings.models)}: not looked at further, because the policy can't be loaded"
        yield Finding("models", Level.NOTE, found, "mend the problems above, and look again")


def _policy(settings: Settings, loaded: Mapping[str, LoadedModel]) -> Iterator[Finding]:
    for name, model in loaded.items():
        yield Finding("profiles", Level.OK, f"{name}: the profile is of the policy's model, and supports its rate")
        yield from _provider(name, model)
        known = model.profile.known_attacks
        if model.policy.self_test_interval_s and (known is None or not len(known)):
            yield Finding(
                "self-test",
                Level.WARNING,
                f"{name}: the profile keeps no known attacks, so nobody sees it if detectors fail silently",
                "calibrate again, or set self_test_interval_s: 0 to do without",
            )
        if model.policy.mode is Mode.SHADOW:
            yield Finding(
                "mode",
                Level.NOTE,
                f"{name}: shadow mode only watches",
                "set mode: flag or enforce once figures are fine",
            )
    if settings.unlisted_models is Unlisted.PASS:
        yield Finding(
            "mode", Level.WARNING, "models that the policy does not name pass unscreened", "set unlisted_models: deny"
        )
    if loaded and settings.noise_secret_file is None:
        yield Finding(
            "mode",
            Level.NOTE,
            "each start draws another noise secret, so a replayed request may be judged otherwise",
            "name a noise_secret_file that all replicas share",
        )


def _provider(name: str, model: LoadedModel) -> Iterator[Finding]:
    """What really runs the replica, by its session's own account."""
    import onnxruntime  # noqa: PLC0415 - only once it is known that one is installed

    replica = model.backends[MODEL]
    if not isinstance(replica, OnnxBackend):
        yield Finding(_PROVIDER, Level.OK, f"{name}: the guarded server answers Guard's own evaluations")
        return
    used = replica.providers[0]
    if used != _CUDA and _CUDA in onnxruntime.get_available_providers():
        yield Finding(_PROVIDER, Level.NOTE, f"{name}: runs on {used}, and CUDA is there", "set device: cuda to use it")
    else:
        yield Finding(_PROVIDER, Level.OK, f"{name}: runs on {used}")


def _served(settings: Settings, loaded: Mapping[str, LoadedModel]) -> Iterator[Finding]:
    """Whether the model that the server has is the profile's, by what it answers."""
    problems = asyncio.run(_compare(settings, loaded))
    for name, problem in problems.items():
        if problem is None:
            yield Finding("served model", Level.OK, f"{name}: the server answers like the profile's model")
        else:
            yield Finding("served model", Level.PROBLEM, f"{name}: {problem}")


async def _compare(settings: Settings, loaded: Mapping[str, LoadedModel]) -> dict[str, str | None]:
    link = Link(settings.upstream)
    found = {}
    for name, model in loaded.items():
        profile = model.profile
        verifier = Verifier(link, model.info, profile.canaries, preprocessing=profile.preprocessing)
        verifier.start()
        try:
            await verifier.looked(_LOOK_S)
            found[name] = verifier.problem
        finally:
            await verifier.stop()
    return found


def _running(settings: Settings) -> Iterator[Finding]:
    """What a Guard says that runs here."""
    host, port = host_and_port(settings.listen.admin_address)
    host = _EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{host}:{port}/readyz"
    try:
        with _DIRECTLY.open(url, timeout=_ADMIN_S):
            yield Finding("guard", Level.OK, f"a Guard runs here and is ready ({url})")
    except urllib.error.HTTPError as error:
        with error:
            why = error.read().decode(errors="replace").strip()
        yield Finding("guard", Level.PROBLEM, f"a Guard runs here and is not ready: {why}", "mend what it says")
    except OSError:
        yield Finding("guard", Level.NOTE, f"no Guard answers at {url}", "start it with guard serve")
