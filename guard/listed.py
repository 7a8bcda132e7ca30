"""Which models are under guard, in which versions, and what is made of all others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from guard.config import VERSION_MARK, ModelPolicy, Unlisted, model_and_version
from guard.decide.drift import Drift
from guard.decide.judge import Judge
from guard.decide.universal import UniversalWatch
from guard.decode.preprocessing import ImageReader
from guard.errors import MalformedRequest, ModelNotListed
from guard.queries.watch import QueryWatch
from guard.screen.engine import Engine
from guard.values import NOT_GUARDED, Mode, ModelInfo, Provenance

_NUMBER = re.compile(r"\s*[+-]?0*([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class GuardedModel:
    """A model under guard. `info` has the name that its policy has.

    `unverified` says why a version of it ("" for the server's own) is not known to be the profile's; None if it is.
    `recognised` says which version is, "" where that isn't known.
    `watch` remembers its queries and `drift` looks for drift, None where the policy says not to. `universal` compares
    what is flagged, None where inputs are no images. `images` reads encoded ones, None for a model that takes tensors.
    `provenance` lacks the policy, which is of all models.
    """

    info: ModelInfo
    policy: ModelPolicy
    judge: Judge
    engine: Engine
    unverified: Callable[[str], str | None]
    watch: QueryWatch | None = None
    drift: Drift | None = None
    universal: UniversalWatch | None = None
    images: ImageReader | None = None
    provenance: Provenance = NOT_GUARDED
    recognised: Callable[[], str] = str

    @property
    def approximate(self) -> bool:
        """Whether the guarded server may see other values than are screened."""
        return self.images is not None and self.images.approximate


class Listed:
    """The models of one policy. What it lists never changes: another policy makes another one of these.

    `screening` is the number of requests that are being screened by it, `policy` what tells its policy from others.
    """

    def __init__(self, models: Mapping[str, GuardedModel], unlisted: Unlisted, policy: str = "") -> None:
        self._models = dict(models)
        self._unlisted = unlisted
        self._policy = policy
        self.screening = 0

    def get(self, model: str, version: str) -> GuardedModel | None:
        """The model under guard that a request asks for, None if there is none.

        A policy for the version that is asked for comes first, then that of the model. Triton takes "01" or "1a" for
        version 1: a policy for that one holds for them too, so that nobody gets by it, and finds them not verified.
        """
        if VERSION_MARK in model:  # or a client could name a policy where it has to name a model
            return None
        for known_as in (version, number_of(version)) if version else ():
            if known_as and (exact := self._models.get(f"{model}{VERSION_MARK}{known_as}")) is not None:
                return exact
        return self._models.get(model)

    def find(self, model: str, version: str) -> GuardedModel | None:
        """The same; None only where the policy lets models pass that it does not name.

        Raises:
            MalformedRequest: the request names no model.
            ModelNotListed: the policy denies the model, or the version.
        """
        guarded = self.get(model, version)
        if guarded is None:
            self._check_unlisted(model)
        elif version and self._unlisted is Unlisted.DENY and guarded.unverified("") is None:
            self._check_version(guarded, model, version)
        return guarded

    def version(self, model: str, version: str) -> str:
        """The version that the server is to be asked for, where a request asks for one, or for "", the server's own.

        That is the one which is known to be the profile's, wherever another would be refused: the server may choose
        another at any moment, and would then answer what was screened by the model of before.
        """
        guarded = self.get(model, version)
        if version or guarded is None or guarded.policy.mode is not Mode.ENFORCE:
            return version
        recognised = guarded.recognised()
        return recognised if self.get(model, recognised) is guarded else version

    def provenance(self, model: str, version: str) -> Provenance:
        """By what a request for a version of a model is judged."""
        guarded = self.get(model, version)
        if guarded is None:
            return replace(NOT_GUARDED, policy=self._policy, version=version)
        return replace(guarded.provenance, policy=self._policy, version=version or guarded.recognised())

    def _check_unlisted(self, model: str) -> None:
        if not model:
            raise MalformedRequest("the request names no model: fill in its `model_name`")
        versions = [version for name, version in map(model_and_version, self._models) if name == model]
        if versions:  # whatever the policy says of others: this one it names
            raise ModelNotListed(
                f"of model {model!r} only version {' and '.join(versions)} is under guard: ask for one that is, "
                f"or name {model!r} in the policy's `models`"
            )
        if self._unlisted is Unlisted.DENY:
            raise ModelNotListed(
                f"model {model!r} is not under guard: name it in the policy's `models`, or set `unlisted_models: pass`"
            )

    def _check_version(self, guarded: GuardedModel, model: str, version: str) -> None:
        why = guarded.unverified(version)
        if why is not None:
            raise ModelNotListed(
                f"version {version!r} of model {model!r} is not under guard: name {model}{VERSION_MARK}{version} in "
                f"the policy's `models`. {why}"
            )


def number_of(version: str) -> str:
    """The number that C++ reads at the beginning of a version; "" if there is none."""
    found = _NUMBER.match(version)
    return found[1] if found else ""
