"""What one policy puts in force, and how another takes its place while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from guard.app.guarded import Builder, Guarded
from guard.app.models import LoadedModel
from guard.app.parts import Part
from guard.app.policy import version_of
from guard.channel import Link
from guard.config import Settings
from guard.listed import Listed
from guard.verify import ServerWatch, Watch

FIRST_LOOK_S: Final = 10.0
"""How long a swap waits for the first comparison of a served model with its new profile: until then all of its requests
would be unscreened."""

_PAUSE_S = 0.05
_SLACK_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class InForce:
    """Models at work by the names of their policies. `server` is watched where there is none, for `/readyz`."""

    settings: Settings
    models: Mapping[str, Guarded]
    server: ServerWatch | None
    version: str

    @property
    def watches(self) -> list[Watch]:
        """Those who watch the guarded server."""
        verifiers = [guarded.verifier for guarded in self.models.values()]
        return [*verifiers, *([] if self.server is None else [self.server])]

    @property
    def parts(self) -> list[Part]:
        """The parts of all models."""
        return [part for guarded in self.models.values() for part in guarded.parts.values()]

    def listed(self) -> Listed:
        """What requests are screened by."""
        models = {name: guarded.model for name, guarded in self.models.items()}
        return Listed(models, self.settings.unlisted_models, self.version)

    def unready(self) -> list[str]:
        """Why Guard is not ready; empty when it is."""
        models = self.models.items()
        reasons = [f"{name}: the screening engine is not running" for name, g in models if not g.model.engine.alive]
        reasons += [f"{name}: the screening engine hangs" for name, g in models if g.model.engine.hangs]
        reasons += [f"{name}: {g.verifier.problem}" for name, g in models if g.verifier.problem is not None]
        if self.server is not None and self.server.problem is not None:
            reasons.append(self.server.problem)
        return reasons

    def alive(self) -> bool:
        """Whether all engines run, and get on."""
        engines = [guarded.model.engine for guarded in self.models.values()]
        return all(engine.alive and not engine.hangs for engine in engines)


def put_together(
    builder: Builder, settings: Settings, loaded: Mapping[str, LoadedModel], before: InForce | None = None
) -> InForce:
    """What the settings put in force; models that are not `loaded` go on as before. Nothing is started yet.

    Raises:
        GuardError: a replica fails. All that was loaded is closed then.
    """
    old = {} if before is None else before.models
    waiting = dict(loaded)
    models: dict[str, Guarded] = {}
    try:
        for name in settings.models:
            models[name] = builder.build(waiting.pop(name), old.get(name)) if name in waiting else old[name]
        server = before.server if before is not None else None
        server = None if models else server or ServerWatch(Link(settings.upstream))
    except BaseException:
        for model in waiting.values():
            model.close()
        close(part for name, guarded in models.items() for part in guarded.beside(old.get(name)))
        raise
    version = version_of(settings, {name: guarded.content for name, guarded in models.items()})
    return InForce(settings, models, server, version)


def beside(these: Iterable[Part], those: Iterable[Part]) -> list[Part]:
    """Parts that are not among others."""
    known = set(map(id, those))
    return [part for part in these if id(part) not in known]


def start(parts: Iterable[Part]) -> None:
    """Start parts."""
    for part in parts:
        part.start()


def close(parts: Iterable[Part]) -> None:
    """Close parts: threads have ended then, but those of a replica that hangs."""
    for part in parts:
        part.close()


async def drained(listed: Listed, before: InForce) -> None:
    """Wait until all requests are screened that began with what was listed, as long as policy gives the slowest."""
    longest_s = max((g.model.policy.screening_budget_s for g in before.models.values()), default=0.0) + _SLACK_S
    loop = asyncio.get_running_loop()
    ends = loop.time() + longest_s
    await asyncio.sleep(_PAUSE_S)  # what was let in a moment ago has begun to be screened then
    while listed.screening and loop.time() < ends:  # noqa: ASYNC110 - requests have nobody to wake but here
        await asyncio.sleep(_PAUSE_S)
