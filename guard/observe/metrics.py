"""What Guard exports to Prometheus: named methods over closed label sets, and no label of a client."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib import metadata

from prometheus_client import CollectorRegistry, disable_created_metrics

from guard import __version__
from guard.environment import RUNTIMES
from guard.observe.families import (
    DECISIONS,
    GRPC_CODES,
    INTERNAL,
    PROTOCOLS,
    REFUSALS,
    SCREEN_ONLY,
    UNDECIDED,
    Families,
)
from guard.observe.labels import OTHER, Inflight
from guard.observe.suspects import Suspects
from guard.recording import Outcome, Sink
from guard.sharing import Sharing, StoreFailure
from guard.tracing import Exported
from guard.values import (
    Abstention,
    Certified,
    Decision,
    DriftScope,
    Evidence,
    Fault,
    FaultReason,
    Finding,
    InferenceOutcome,
    ItemDecision,
    Mode,
    Probing,
    Reloaded,
    Sender,
    SharedPerturbation,
    Spared,
    UnscreenedReason,
    Verdict,
)

COMBINED = "combined"
"""The value of `detector` for the p-value that all detectors give together."""

LABEL_EVALUATION = "label"
"""The value of `detector` for the evaluation of the unchanged input, which serves every detector."""


class Metrics:
    """Guard's metrics, in a registry of their own unless one is given.

    `watch_model` creates all series of a model, at 0, so that a rate has a beginning. What comes in about a model, or
    a detector, that isn't watched is counted as `other`. All but `inflight` is safe to call from any thread.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        # A creation time beside each counter and histogram would add a third to the series. Process-wide: the client
        # library has no other switch.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the client library left its type out
        self.registry = CollectorRegistry() if registry is None else registry
        self._families = Families(self.registry)
        self._suspects: dict[str, Suspects] = {}
        self._inflight = Inflight()
        self._families.inflight.set_function(self._inflight.count)
        self._families.build_info.labels(
            version=__version__,
            python=platform.python_version(),
            onnxruntime=_installed(*RUNTIMES),
            torch=_installed("torch"),
        ).set(1)

    def watch_model(
        self,
        *,
        model: str,
        detectors: Sequence[str],
        mode: Mode,
        fingerprint: str,
        false_positive_rate: float,
        calibration_samples: int,
        created: str,
    ) -> None:
        """Export a guarded model: its policy, its profile, and its series at 0."""
        one = (model,)
        self._families.requests.add(one, PROTOCOLS, DECISIONS)
        self._families.unscreened.add(one, tuple(UnscreenedReason))
        self._families.items.add(one, tuple(Verdict))
        self._families.verdicts.add(one, detectors)
        self._families.p_values.add(one, (*detectors, COMBINED))
        self._families.evaluations.add(one, (*detectors, LABEL_EVALUATION))
        self._families.abstentions.add(one, detectors)
        self._families.certificates.add(one)
        self._families.suspicious_queries.add(one)
        self._families.shared_perturbations.add(one)
        self._families.detector_duration.add(detectors)
        self._families.faults.add(detectors, tuple(FaultReason))
        self._families.upstream.add(one, GRPC_CODES)
        self._families.inferences.add(one, tuple(Sender), tuple(InferenceOutcome))
        suspects = self._suspects.setdefault(model, Suspects())
        self._families.top_share.labels(model).set_function(suspects.top_share)
        self._families.query_attackers.labels(model).set_function(suspects.attacking)
        for each in Mode:
            self._families.mode.labels(model, each).set(each is mode)
        for detector in detectors:
            self._families.detector_info.labels(model, detector).set(1)
        self._families.profile_info.labels(model, fingerprint, created).set(1)
        self._families.target_rate.labels(model).set(false_positive_rate)
        self._families.calibration_samples.labels(model).set(calibration_samples)

    def forget_state(self, model: str) -> None:
        """Export no more how a model is, and go on with what was counted of it."""
        self._families.forget_state(model)

    def forget_model(self, model: str) -> None:
        """Export a model no more."""
        self._suspects.pop(model, None)
        self._families.forget_model(model)

    def policy_in_force(self, version: str, before: str = "") -> None:
        """Export which policy is in force, in place of the one before."""
        if before:
            self._families.policy_info.remove(before)
        self._families.policy_info.labels(version).set(1)
        self._families.reload_successful.set(1)

    def policy_reloaded(self, outcome: Reloaded) -> None:
        """The policy was read again."""
        self._families.reloads[outcome,].inc()
        self._families.reload_successful.set(outcome is not Reloaded.REFUSED)

    def watch_engine(self, model: str, *, depth: Callable[[], int], busy_s: Callable[[], float]) -> None:
        """Export how many items wait for a model's engine, and for how long it has been busy.

        Both are asked for at each scrape, from another thread.
        """
        self._families.queued.labels(model).set_function(depth)
        self._families.engine_busy.watch(model, busy_s)

    def watch_memory(self, model: str, size: Callable[[], int]) -> None:
        """Export how many queries of a model are remembered, asked of `size` at each scrape, from another thread."""
        self._families.remembered.labels(model).set_function(size)

    def watch_drift(
        self, model: str, *, suspected: Callable[[], DriftScope | None], evidence: Callable[[DriftScope], float]
    ) -> None:
        """Export whose drift is suspected, and the evidence for it, asked of these from another thread."""
        for scope in DriftScope:
            self._families.drift_suspected.labels(model, scope).set_function(partial(_answers, suspected, scope))
            self._families.drift_evidence.labels(model, scope).set_function(partial(evidence, scope))

    def watch_selftest(self, model: str, succeeded_s: Callable[[], float], interval_s: float) -> None:
        """Export when a model's self-test succeeded last, asked of `succeeded_s` from another thread, and how often."""
        self._families.selftest_succeeded.labels(model).set_function(succeeded_s)
        self._families.selftest_interval.labels(model).set(interval_s)

    def watch_sharing(self, model: str, up: Callable[[], bool]) -> None:
        """Export whether a model's queries are shared, asked of `up` at each scrape, from another thread."""
        self._families.store_up.labels(model).set_function(up)
        self._families.shared.add((model,), tuple(Sharing))

    def watch_credentials(
        self, section: str, stale: Callable[[], bool], ends_s: Mapping[str, Callable[[], float]]
    ) -> None:
        """Export, asked of these at each scrape from another thread, how it stands with the files of a section.

        `stale`: they can't be used, so that what was read before is. `ends_s`: by setting, when certificates end.
        """
        self._families.credentials_stale.labels(section).set_function(stale)
        for setting, ends in ends_s.items():
            self._families.certificate_ends.labels(setting).set_function(ends)

    def watch_audit(self, disk_bytes: Callable[[], int]) -> None:
        """Export how many bytes evidence takes, asked of `disk_bytes` at each scrape, from another thread."""
        self._families.audit_bytes.set_function(disk_bytes)

    def audited(self, sink: Sink, outcome: Outcome, number: int = 1) -> None:
        """So many pieces of evidence were written, left out by sampling, dropped for want of room, or lost."""
        self._families.audited[sink, outcome].inc(number)

    def traced(self, outcome: Exported, number: int = 1) -> None:
        """So many spans were sent, dropped because too many waited, or not taken by the collector."""
        self._families.spans[outcome,].inc(number)

    def queries_shared(self, model: str, what: Sharing, number: int) -> None:
        """So many queries of a model were sent, dropped, received, or not understood."""
        self._families.shared[model, what].inc(number)

    def query_store_failed(self, why: StoreFailure) -> None:
        """An exchange with the query store failed."""
        self._families.store_failures[why,].inc()

    def request_finished(
        self,
        *,
        decision: Decision | None,
        model: str,
        protocol: str,
        duration_s: float,
        overhead_s: float,
        screen_only: bool = False,
    ) -> None:
        """An inference request was answered or given up, with a decision or before there was one.

        One that named no guarded model, or none that could be read, counts as `other`.
        """
        done = UNDECIDED if decision is None else SCREEN_ONLY if screen_only else decision.action
        self._families.requests[model, protocol, done].inc()
        self._families.duration.observe(duration_s)
        self._families.overhead.observe(overhead_s)

    def request_refused(self, error_code: str) -> None:
        """A call ended in an error of Guard's own: the `code` of its class, or `internal`."""
        self._families.refused[error_code if error_code in REFUSALS else INTERNAL,].inc()

    def upstream_finished(self, *, model: str, code: str, duration_s: float | None) -> None:
        """The guarded server answered with a gRPC status code; `model` is empty for calls that carry no inference.

        A stream has no model and no duration (None).
        """
        self._families.upstream[model, code].inc()
        if model:
            self._families.inferences[model, Sender.CALL, InferenceOutcome.of(code)].inc()
        if duration_s is not None:
            self._families.upstream_duration.observe(duration_s)

    def upstream_streamed(self, model: str, outcome: InferenceOutcome) -> None:
        """It is known what became of a message of a stream that went to the guarded server, or it never will be."""
        self._families.inferences[model, Sender.STREAM, outcome].inc()

    def upstream_carried(self, model: str) -> None:
        """Somebody else carries an inference to the guarded server, and hears what becomes of it."""
        self._families.inferences[model, Sender.CARRIED, InferenceOutcome.UNKNOWN].inc()

    def upstream_asked(self, model: str, outcome: InferenceOutcome) -> None:
        """Guard itself asked the guarded server, for an evaluation or to recognise the model."""
        self._families.inferences[model, Sender.GUARD, outcome].inc()

    def upstream_unresponsive(self, now: bool) -> None:  # noqa: FBT001 - it is what is told
        """The guarded server answers nothing any more, or answers again."""
        self._families.upstream_unresponsive.set(now)

    def inflight(self) -> AbstractContextManager[object]:
        """Count an inference request for as long as the context lasts. Only the event loop does."""
        return self._inflight

    def decided(self, decision: Decision, client: str = "") -> None:
        """A request of a client was judged: its items, findings and evaluations are counted."""
        for detector, evaluations in decision.spent.items():
            self._families.evaluations[decision.model, detector].inc(evaluations)
        if decision.verdict is Verdict.UNSCREENED:
            self._families.unscreened[decision.model, decision.reason or OTHER].inc()
        for item in decision.items:
            self._item(decision.model, item)
        if (suspects := self._suspects.get(decision.model)) is not None:
            _note(suspects, decision, client)

    def _item(self, model: str, item: ItemDecision) -> None:
        self._families.items[model, item.verdict].inc()
        if item.p_value is not None:
            self._families.p_values[model, COMBINED].observe(item.p_value)
        if item.verdict is Verdict.ADVERSARIAL:
            self._families.verdicts[model, _accuser(item)].inc()
        for finding in item.findings:
            self._finding(model, finding)

    def _finding(self, model: str, finding: Finding) -> None:
        if isinstance(finding, Spared):
            return  # it did nothing that could be measured
        self._families.detector_duration[finding.detector,].observe(finding.duration_s)
        match finding:
            case Evidence(p_value=p_value):
                if p_value is not None:
                    self._families.p_values[model, finding.detector].observe(p_value)
            case Certified():
                self._families.certificates[model,].inc()
            case Abstention():
                self._families.abstentions[model, finding.detector].inc()
            case Probing(suspicious=suspicious):
                self._families.suspicious_queries[model,].inc(suspicious)
            case SharedPerturbation(shared_with=others):
                self._families.shared_perturbations[model,].inc(others > 0)
            case Fault(reason=reason):
                self._families.faults[finding.detector, reason].inc()


def _accuser(item: ItemDecision) -> str:
    """Behaviour where that alone condemns, else the detector with the smallest p-value."""
    for finding in item.findings:
        if isinstance(finding, Probing) and finding.condemns:
            return finding.detector
    p_values = {f.detector: f.p_value for f in item.findings if isinstance(f, Evidence) and f.p_value is not None}
    return min(p_values, key=lambda detector: p_values[detector], default=OTHER)


def _note(suspects: Suspects, decision: Decision, client: str) -> None:
    for item in decision.items:
        if item.verdict is Verdict.ADVERSARIAL:
            suspects.detections.add(client)
        if any(isinstance(finding, Probing) and finding.suspicious for finding in item.findings):
            suspects.queries.add(client)


def _answers(ask: Callable[[], DriftScope | None], scope: DriftScope) -> bool:
    return ask() is scope


def _installed(*distributions: str) -> str:
    """The version of the first of these that is installed, "" if none is."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""
