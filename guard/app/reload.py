"""Hot reload: a changed policy, profile or model is put in force while requests run, and a bad one is not.

Files are looked at, not waited for: a look costs a few system calls, follows symbolic links as a mounted ConfigMap or
Secret has them, and misses nothing that an editor or a network file system does.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from guard.app.files import Stamp, stamp, stamps_of
from guard.app.models import LoadedModel
from guard.app.policy import fixed, load_policy
from guard.app.sidecar import Sidecar, noise_secret
from guard.config import ModelPolicy, Settings
from guard.config_file import locate, salvage
from guard.errors import ConfigError, GuardError
from guard.values import Reloaded

POLL_S: Final = 1.0
"""How often files are looked at. They are read once they stayed the same from one look to the next."""

_Seen: TypeAlias = frozenset[Stamp]
_log = structlog.get_logger(__name__)


class Reload:
    """Keeps the policy of a sidecar as its file says. Create it before the file is read for the first time."""

    def __init__(self, policy: Path, *, poll_s: float = POLL_S) -> None:
        self._policy = policy
        self._poll_s = poll_s
        self._first = stamp(policy)
        self._asked = asyncio.Event()

    def at_once(self) -> None:
        """Read the policy again now, whether it changed or not."""
        self._asked.set()

    async def run(self, sidecar: Sidecar) -> None:
        """Watch the files and do what they say, until cancelled."""
        models = sidecar.in_force.models.values()
        watched = [guarded.model.policy for guarded in models]
        tried = last = frozenset([self._first, *(each for guarded in models for each in guarded.stamps)])
        while True:
            asked = await self._pause()
            seen = await sidecar.in_thread(self._look, watched)
            if asked or (seen != tried and seen == last):
                watched = await sidecar.in_thread(self._worth_watching, sidecar)
                seen = tried = await sidecar.in_thread(self._look, watched)  # before they are read, to miss no change
                await self._reload(sidecar)
            last = seen

    async def _pause(self) -> bool:
        """Wait for the next look: whether somebody asked for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._asked.wait()
        asked = self._asked.is_set()
        self._asked.clear()
        return asked

    def _look(self, watched: list[ModelPolicy]) -> _Seen:
        return frozenset([stamp(self._policy), *(each for policy in watched for each in stamps_of(policy))])

    def _worth_watching(self, sidecar: Sidecar) -> list[ModelPolicy]:
        """The models in force, and those of a file that may have mistakes: its files may be mended."""
        found = salvage(self._policy)
        return [*sidecar.in_force.settings.models.values(), *(found.models.values() if found else ())]

    async def _reload(self, sidecar: Sidecar) -> None:
        try:
            settings, loaded = await sidecar.in_thread(self._load, sidecar)
            changed = await sidecar.change(settings, loaded)
        except GuardError as exc:
            _refuse(sidecar, str(exc))
        except Exception:  # noqa: BLE001 - whatever is wrong with what is new, what is in force goes on
            _log.exception("guard failed to read the policy again")
            _refuse(sidecar, "guard failed to read the policy again; its log has the cause")
        else:
            sidecar.refused = ""
            sidecar.metrics.policy_reloaded(Reloaded.SWAPPED if changed else Reloaded.UNCHANGED)
            what = "another policy is in force" if changed else "the policy was read again, and is as it was"
            _log.info(what, policy=sidecar.in_force.version, models=list(sidecar.in_force.models))

    def _load(self, sidecar: Sidecar) -> tuple[Settings, dict[str, LoadedModel]]:
        """Read the policy file, and load the models that changed.

        Raises:
            ConfigError: each line of the message is a mistake, or a change that takes a restart.
        """
        in_force = sidecar.in_force

        def runs(name: str, policy: ModelPolicy) -> bool:
            guarded = in_force.models.get(name)
            return guarded is not None and guarded.model.policy == policy and guarded.stamps == stamps_of(policy)

        settings, loaded = load_policy(self._policy, runs)
        changed = list(fixed(in_force.settings, settings))
        if not changed and settings.noise_secret_file and noise_secret(settings.noise_secret_file) != sidecar.secret:
            changed = [("noise_secret_file",)]
        if changed:
            for model in loaded.values():
                model.close()
            raise ConfigError("\n".join(self._takes_restart(where) for where in changed))
        return settings, loaded

    def _takes_restart(self, where: tuple[str, ...]) -> str:
        setting = ".".join(where)
        at = locate(self._policy, where)
        return f"{at}: {setting} can't change while guard runs; restart guard, or put back what it was"


def _refuse(sidecar: Sidecar, problem: str) -> None:
    sidecar.refused = problem
    sidecar.metrics.policy_reloaded(Reloaded.REFUSED)
    _log.error(
        "a changed policy was refused, and the one before stays in force",
        policy=sidecar.in_force.version,
        problem=problem,
    )
