"""The names, labels and buckets of all metrics. `Metrics` sets them."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from guard import errors
from guard.observe.labels import OTHER, Closed, WatchedCounter
from guard.recording import Outcome, Sink
from guard.sharing import Sharing, StoreFailure
from guard.tracing import Exported
from guard.values import Action, FaultReason, InferenceOutcome, Reloaded, Sender, UnscreenedReason, Verdict

PROTOCOLS = ("grpc", "http", "ext_proc", "mirror")
UNDECIDED = "none"
"""The value of `decision` for requests that were refused or given up before there was one."""

SCREEN_ONLY = "screen_only"
"""The value of `decision` for requests that were judged, and by their own wish not forwarded."""

DECISIONS = (*Action, SCREEN_ONLY, UNDECIDED)
GRPC_CODES = tuple(code.name for code in grpc.StatusCode)
INTERNAL = "internal"
REFUSALS = (
    *(kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GuardError)),
    INTERNAL,
)
P_VALUE_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
DURATION_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Families:
    """Every metric, in one registry. Label sets that don't depend on a model are created at 0 here."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._of_models: list[Closed[Counter] | Closed[Histogram] | WatchedCounter] = []
        self._states_of_models: list[Gauge] = []
        self._traffic()
        self._detection()
        self._state()

    def forget_state(self, model: str) -> None:
        """Remove what is exported of a model as it is, and keep what was counted of it."""
        for gauge in self._states_of_models:
            for sample in [sample for family in gauge.collect() for sample in family.samples]:
                if sample.labels["model"] == model:
                    gauge.remove(*sample.labels.values())

    def forget_model(self, model: str) -> None:
        """Remove all series of a model."""
        self.forget_state(model)
        for each in self._of_models:
            each.remove(model)

    def _traffic(self) -> None:
        self.requests = self._counter(
            "guard_requests_total",
            "Inference requests by what was done with them; screen_only: judged, and not to be forwarded; "
            "none: refused or given up before a decision.",
            model=(OTHER,),
            protocol=PROTOCOLS,
            decision=DECISIONS,
        )
        self.unscreened = self._counter(
            "guard_unscreened_requests_total",
            "Inference requests that nobody looked at.",
            model=(OTHER,),
            reason=tuple(UnscreenedReason),
        )
        self.refused = self._counter(
            "guard_refused_requests_total", "Calls that ended in an error of Guard's own.", reason=REFUSALS
        )
        self.upstream = self._counter(
            "guard_upstream_requests_total",
            "Calls to the guarded server by gRPC status; other: for models that aren't guarded, or no inference.",
            model=(OTHER,),
            code=GRPC_CODES,
        )
        self.inferences = self._counter(
            "guard_upstream_inferences_total",
            "Inferences that the guarded server was asked for; failed: refused, and not run; unknown: may have run.",
            model=(OTHER,),
            sender=tuple(Sender),
            outcome=tuple(InferenceOutcome),
        )
        self.duration = self._duration("guard_request_duration_seconds", "Inference requests, end to end.")
        self.overhead = self._duration(
            "guard_overhead_seconds", "Inference requests, without the time spent waiting for the guarded server."
        )
        self.upstream_duration = self._duration(
            "guard_upstream_request_duration_seconds", "Calls to the guarded server."
        )
        self.upstream_unresponsive = self._gauge(
            "guard_upstream_unresponsive", "1 while the guarded server answers nothing, and calls to it are refused."
        )
        self.inflight = self._gauge("guard_inflight_requests", "Inference requests being handled.")
        self.queued = self._gauge("guard_queued_items", "Items waiting for the engine.", "model")
        self.engine_busy = WatchedCounter(
            "guard_engine_busy_seconds_total",
            "Time that the engine had evaluations under way.",
            "model",
            self._registry,
        )
        self._of_models.append(self.engine_busy)

    def _detection(self) -> None:
        self.items = self._counter(
            "guard_items_total", "Items of requests by verdict.", model=(), verdict=tuple(Verdict)
        )
        self.verdicts = self._counter(
            "guard_verdicts_total", "Adversarial items, by the detector with the smallest p-value.", **_BY_DETECTOR
        )
        self.p_values = self._histogram(
            "guard_detector_pvalue_ratio",
            "p-values of items. combined: 5 % below .05 on traffic like the calibration; of one detector: approximate.",
            P_VALUE_BUCKETS,
            **_BY_DETECTOR,
        )
        self.evaluations = self._counter(
            "guard_model_evaluations_total",
            "Evaluations of the guarded model, charged to who asked first. label: of the unchanged input.",
            **_BY_DETECTOR,
        )
        self.abstentions = self._counter(
            "guard_detector_abstentions_total", "Items of which a detector could not tell.", **_BY_DETECTOR
        )
        self.certificates = self._counter("guard_certificates_total", "Items whose L2 radius was certified.", model=())
        self.suspicious_queries = self._counter(
            "guard_suspicious_queries_total",
            "Items with as many near-duplicates sent before them as make a query attack.",
            model=(),
        )
        self.shared_perturbations = self._counter(
            "guard_shared_perturbations_total",
            "Flagged items that share a perturbation with flagged items of other content.",
            model=(),
        )
        self.top_share = self._gauge(
            "guard_client_detections_top_share_ratio",
            "Share of the adversarial items of the last five minutes that one client sent, at most.",
            "model",
        )
        self.query_attackers = self._gauge(
            "guard_query_attack_clients", "Clients that sent many suspicious queries in the last ten minutes.", "model"
        )
        self.detector_duration = self._histogram(
            "guard_detector_duration_seconds",
            "From the start of an item's screening to a detector's finding, other detectors' turns included.",
            DURATION_BUCKETS_S,
            detector=(),
        )
        self.faults = self._counter(
            "guard_detector_errors_total",
            "Items at which a detector could not look.",
            detector=(),
            reason=tuple(FaultReason),
        )

    def _state(self) -> None:
        self.remembered = self._gauge("guard_remembered_queries", "Queries that are remembered.", "model")
        self.store_up = self._gauge("guard_query_store_up", "1 while queries are shared with other replicas.", "model")
        self.shared = self._counter(
            "guard_shared_queries_total", "Queries that went between replicas.", model=(), outcome=tuple(Sharing)
        )
        self.store_failures = self._counter(
            "guard_query_store_errors_total", "Exchanges with the query store that failed.", reason=tuple(StoreFailure)
        )
        self.audited = self._counter(
            "guard_audit_events_total", "Pieces of evidence.", sink=tuple(Sink), outcome=tuple(Outcome)
        )
        self.audit_bytes = self._gauge("guard_audit_disk_bytes", "What the audit log and captured inputs take.")
        self.spans = self._counter("guard_trace_spans_total", "Spans of requests.", outcome=tuple(Exported))
        self.certificate_ends = self._gauge(
            "guard_tls_cert_expiry_timestamp_seconds", "When a certificate in use ends, in Unix time.", "file"
        )
        self.credentials_stale = self._gauge(
            "guard_credentials_stale", "1 while files can't be used, and what was read before serves on.", "section"
        )
        self.selftest_succeeded = self._gauge(
            "guard_selftest_last_success_timestamp_seconds",
            "When known adversarial inputs were found so last, in Unix time; 0: not yet.",
            "model",
        )
        self.selftest_interval = self._gauge(
            "guard_selftest_interval_seconds", "How often the policy wants known adversarial inputs screened.", "model"
        )
        self.drift_suspected = self._gauge(
            "guard_drift_suspected", "1 while scores are no longer like the calibration data's.", "model", "scope"
        )
        self.drift_evidence = self._gauge(
            "guard_drift_log_martingale", "Evidence of drift: 0 is none, in nats.", "model", "scope"
        )
        self.mode = self._gauge("guard_policy_mode", "1 for the mode that a model is guarded in.", "model", "mode")
        self.detector_info = self._gauge("guard_detector_info", "1 for each configured detector.", "model", "detector")
        self.profile_info = self._gauge(
            "guard_profile_info", "1 for the profile in use.", "model", "fingerprint", "created"
        )
        self.calibration_samples = self._gauge(
            "guard_profile_calibration_samples", "Benign inputs that p-values are taken among.", "model"
        )
        self.target_rate = self._gauge(
            "guard_false_positive_rate_target", "Share of benign inputs that may be judged adversarial.", "model"
        )
        self.policy_info = self._gauge("guard_policy_info", "1 for the policy in force.", "version")
        self.reload_successful = self._gauge(
            "guard_config_last_reload_successful", "0 while a changed policy, profile or model is refused."
        )
        self.reloads = self._counter(
            "guard_config_reloads_total", "Times that the policy was read again.", outcome=tuple(Reloaded)
        )
        self.build_info = self._gauge(
            "guard_build_info", "1, with the versions that run.", "version", "python", "onnxruntime", "torch"
        )

    def _counter(self, name: str, text: str, **labels: Sequence[str]) -> Closed[Counter]:
        counter = Closed(Counter(name, text, tuple(labels), registry=self._registry), *labels.values())
        if "model" in labels:
            self._of_models.append(counter)
        return counter

    def _histogram(self, name: str, text: str, buckets: Sequence[float], **labels: Sequence[str]) -> Closed[Histogram]:
        histogram = Histogram(name, text, tuple(labels), registry=self._registry, buckets=buckets)
        closed = Closed(histogram, *labels.values())
        if "model" in labels:
            self._of_models.append(closed)
        return closed

    def _duration(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, registry=self._registry, buckets=DURATION_BUCKETS_S)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        gauge = Gauge(name, text, labels, registry=self._registry)
        if "model" in labels:
            self._states_of_models.append(gauge)
        return gauge


_BY_DETECTOR: dict[str, Sequence[str]] = {"model": (), "detector": ()}
