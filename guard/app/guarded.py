"""A model at work: its engine, its memories, and who watches that it is the model that is served.

A part that would be made of the same things again is taken over as it is, running, with all that it remembers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from guard import __version__
from guard.app.files import Stamp
from guard.app.models import LoadedModel
from guard.app.parts import Part, drift, self_test, universal_watch
from guard.app.selftest import SelfTest
from guard.channel import Link
from guard.config import Queries, Settings
from guard.decide import universal
from guard.decode.preprocessing import ImageReader
from guard.layout import of_model
from guard.listed import GuardedModel
from guard.model.encoded import EncodedClient
from guard.model.sweep import best_batch
from guard.model.upstream import UpstreamBackend
from guard.observe.metrics import Metrics
from guard.profile.spec import ServerPreprocessing
from guard.queries import watch
from guard.queries.fingerprint import Fingerprinter
from guard.queries.memory import QueryMemory, Radii
from guard.queries.record import Seal
from guard.queries.watch import QueryWatch
from guard.screen.build import build_detectors
from guard.screen.engine import Engine
from guard.screen.live_items import live_items
from guard.values import Provenance
from guard.verify import Verifier

if TYPE_CHECKING:
    from guard.queries.store import QueryStore


@dataclass(frozen=True, slots=True, eq=False)
class Guarded:
    """A model at work. `content` and `stamps` are those that it was loaded from."""

    model: GuardedModel
    verifier: Verifier
    parts: Mapping[str, Part]
    content: str
    stamps: tuple[Stamp, ...]
    show: Callable[[], None]
    """Shows it in the metrics, in place of the one that was there by its name."""

    def beside(self, other: Guarded | None) -> list[Part]:
        """Its parts that the other has not."""
        theirs = () if other is None else tuple(other.parts.values())
        return [part for part in self.parts.values() if part not in theirs]


class Builder:
    """Puts models to work, with what all of them share."""

    def __init__(self, settings: Settings, secret: bytes, store: QueryStore | None, metrics: Metrics) -> None:
        self._settings, self._secret, self._store, self._metrics = settings, secret, store, metrics

    def build(self, model: LoadedModel, before: Guarded | None = None) -> Guarded:
        """Put a model to work, with the parts of the one before that stay as they are. Nothing is started yet.

        Raises:
            GuardError: a replica fails. The model is closed then.
        """
        parts: dict[str, Part] = {}
        try:
            for name, (made_of, make) in self._plan(model, parts).items():
                old = None if before is None else before.parts.get(name)
                parts[name] = old if old is not None and old.made_of == made_of else make(made_of)
            same = before is not None and before.content == model.content
            verifier = before.verifier if before is not None and same else self._verifier(model)
        except BaseException:
            model.close()
            raise
        if before is not None and parts["engine"] is before.parts["engine"]:
            model.close()
        return self._guarded(model, parts, verifier)

    def _guarded(self, model: LoadedModel, parts: Mapping[str, Part], verifier: Verifier) -> Guarded:
        guarded = GuardedModel(
            model.info,
            model.policy,
            model.judge,
            parts["engine"].it,
            verifier.unverified,
            parts["queries"].it,
            parts["drift"].it,
            parts["universal"].it,
            parts["images"].it,
            _provenance(model),
            lambda: verifier.recognised,
        )
        show = partial(self._show, guarded, parts["self-test"].it, _facts(model))
        return Guarded(guarded, verifier, parts, model.content, model.stamps, show)

    def _plan(
        self, model: LoadedModel, made: Mapping[str, Part]
    ) -> dict[str, tuple[tuple[object, ...], Callable[[tuple[object, ...]], Part]]]:
        """What each part is made of, and what makes it, perhaps with parts `made` before."""
        policy, content = model.policy, model.content
        judged = policy.false_positive_rate, policy.false_positive_confidence
        engine = (content, policy.replica, policy.device, policy.certificate, policy.certified_radius, *judged)
        return {
            "engine": (engine, partial(self._engine, model)),
            "self-test": (
                (*engine, policy.self_test_interval_s, policy.screening_budget_s),
                partial(self_test, model, made),
            ),
            "queries": (
                (content, policy.queries is Queries.SKIP, policy.query_memory_s, policy.query_limit),
                partial(self._queries, model),
            ),
            "drift": ((content, policy.drift_false_alarm, *judged), partial(drift, model)),
            "universal": ((content,), partial(universal_watch, model)),
            "images": ((content,), partial(self._images, model)),
        }

    def _verifier(self, model: LoadedModel) -> Verifier:
        server, profile = Link(self._settings.upstream), model.profile
        asked = partial(self._metrics.upstream_asked, model.info.name)
        return Verifier(server, model.info, profile.canaries, preprocessing=profile.preprocessing, asked=asked)

    def _engine(self, model: LoadedModel, made_of: tuple[object, ...]) -> Part:
        limits = self._settings.limits
        for backend in model.backends.values():
            if isinstance(backend, UpstreamBackend):  # which other clients wait for
                backend.count(partial(self._metrics.upstream_asked, model.info.name))
            else:
                backend.preferred_batch = best_batch(backend).batch
        detectors = build_detectors(model.detectors)
        engine = Engine(
            detectors=detectors,
            backends=model.backends,
            secret=self._secret,
            decided=model.judge.certain,
            max_queued_items=limits.max_queued_items,
            max_live_items=live_items(limits.max_live_items, detectors, model.backends),
        )

        def close() -> None:
            engine.stop()
            model.close()

        return Part(made_of, engine, engine.start, close)

    def _queries(self, model: LoadedModel, made_of: tuple[object, ...]) -> Part:
        """The memory of a model's queries; none where the policy wants none or the profile knows no distances."""
        policy, info, radii = model.policy, model.info, model.profile.query_radii
        if policy.queries is Queries.SKIP or radii is None:
            return Part(made_of)
        low, high = info.bounds
        capacity = self._settings.limits.max_remembered_queries
        fingerprinter = Fingerprinter(self._secret, info.name, info.shape, high - low, info.layout)
        query_watch = QueryWatch(
            fingerprinter,
            QueryMemory(capacity=capacity, keep_s=policy.query_memory_s, radii=Radii(radii.client, radii.everyone)),
            limit=policy.query_limit,
        )
        if self._store is None:
            return Part(made_of, query_watch, close=query_watch.close)
        store, seal = self._store, Seal(fingerprinter.key(info.fingerprint))

        def share() -> None:
            store.share(query_watch, seal, model=info.name, capacity=capacity, keep_s=policy.query_memory_s)

        def close() -> None:
            store.leave(query_watch)
            query_watch.close()

        return Part(made_of, query_watch, share, close)

    def _images(self, model: LoadedModel, made_of: tuple[object, ...]) -> Part:
        """What reads the model's encoded images; none where it takes tensors."""
        preprocessing, upstream = model.profile.preprocessing, Link(self._settings.upstream)
        if preprocessing is None:
            return Part(made_of)
        server = None
        if isinstance(preprocessing, ServerPreprocessing):
            server = EncodedClient(upstream)
            server.count(partial(self._metrics.upstream_asked, preprocessing.upstream_model))
        max_pixels = self._settings.limits.max_image_pixels
        reader = ImageReader(preprocessing, model.info, max_pixels=max_pixels, server=server)
        return Part(made_of, reader, close=reader.close)

    def _show(self, guarded: GuardedModel, self_test: SelfTest | None, facts: Mapping[str, Any]) -> None:
        metrics, name = self._metrics, guarded.info.name
        metrics.forget_state(name)
        metrics.watch_model(**facts)
        engine = guarded.engine
        metrics.watch_engine(name, depth=lambda: engine.depth, busy_s=lambda: engine.busy_s)
        if self_test is not None:
            metrics.watch_selftest(name, lambda: self_test.succeeded_s, self_test.interval_s)
        if (drift := guarded.drift) is not None:
            metrics.watch_drift(name, suspected=lambda: drift.suspected, evidence=drift.log_martingale)
        if (query_watch := guarded.watch) is not None:
            metrics.watch_memory(name, query_watch.__len__)
            if (store := self._store) is not None:
                metrics.watch_sharing(name, lambda: store.answers)


def _provenance(model: LoadedModel) -> Provenance:
    """By what the model's requests are judged. A detector's version changes with its parameters."""
    info, preprocessing = model.info, model.profile.preprocessing
    versions = {
        spec.name: f"{__version__}+{hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:12]}"
        for spec in model.detectors
    }
    return Provenance(
        profile=model.content,
        fingerprint=info.fingerprint,
        detectors={**versions, watch.NAME: __version__, universal.NAME: __version__},
        input_name=info.input_name if preprocessing is None else preprocessing.input,
        shape=info.shape,
        layout=of_model(info),
        bounds=info.bounds,
    )


def _facts(model: LoadedModel) -> dict[str, Any]:
    """What metrics say of a model for as long as it stays as it is."""
    profile, policy = model.profile, model.policy
    return {
        "model": model.info.name,
        "detectors": [*(spec.name for spec in profile.detectors), watch.NAME, universal.NAME],
        "mode": policy.mode,
        "fingerprint": profile.model.fingerprint,
        "false_positive_rate": policy.false_positive_rate,
        "calibration_samples": len(profile.calibration),
        "created": profile.provenance.created,
    }
