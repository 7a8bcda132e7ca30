"""What Guard exports, as Prometheus reads it from the admin port."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata

import grpc
import pytest

from guard import __version__
from guard.errors import Overloaded
from guard.observe.labels import OTHER
from guard.observe.metrics import LABEL_EVALUATION, Metrics
from guard.observe.suspects import LEAST_QUERIES
from guard.recording import Outcome, Sink
from guard.screen.live import LABEL
from guard.sharing import Sharing, StoreFailure
from guard.tracing import Exported
from guard.values import (
    Action,
    Decision,
    DriftScope,
    InferenceOutcome,
    Mode,
    Probing,
    Reloaded,
    SharedPerturbation,
    UnscreenedReason,
    Verdict,
)

Scrape = Callable[[], dict[str, float]]


def changed(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Series that moved between two scrapes, by how much; of histograms, count and sum alone."""
    moved = {key: value - before.get(key, 0) for key, value in after.items()}
    return {key: value for key, value in moved.items() if value and "_bucket{" not in key}


def use_everything(metrics: Metrics, decision: Decision) -> None:
    """Call every method once, with each kind of finding."""
    probing = Probing("queries", of_client=9, of_everyone=9, suspicious=True)
    probed = replace(decision.items[0], findings=(*decision.items[0].findings, probing))
    metrics.decided(replace(decision, items=(*decision.items[1:], probed)))
    metrics.decided(replace(decision, items=(replace(probed, verdict=Verdict.CLEAN),) * LEAST_QUERIES))
    shared = SharedPerturbation("universal", shared_with=3, compared_with=9)
    metrics.decided(replace(decision, items=(replace(decision.items[0], findings=(shared,)),)))
    metrics.policy_in_force("1a2b")
    metrics.policy_reloaded(Reloaded.SWAPPED)
    metrics.watch_engine("digits", depth=lambda: 3, busy_s=lambda: 1.5)
    metrics.watch_memory("digits", lambda: 3)
    metrics.watch_drift("digits", suspected=lambda: DriftScope.ONE_CLIENT, evidence=lambda _scope: 9.5)
    metrics.watch_sharing("digits", lambda: True)
    metrics.watch_credentials("listen.tls", lambda: True, {"listen.tls.certificate_file": lambda: 1.0})
    metrics.queries_shared("digits", Sharing.SENT, 2)
    metrics.query_store_failed(StoreFailure.TIMEOUT)
    metrics.decided(replace(decision, verdict=Verdict.UNSCREENED, reason=UnscreenedReason.FAULT))
    metrics.request_finished(decision=decision, model="digits", protocol="grpc", duration_s=0.2, overhead_s=0.1)
    metrics.request_refused(Overloaded.code)
    metrics.upstream_finished(model="digits", code="OK", duration_s=0.1)
    metrics.upstream_streamed("digits", InferenceOutcome.ANSWERED)
    metrics.upstream_carried("digits")
    metrics.upstream_asked("digits", InferenceOutcome.ANSWERED)
    metrics.watch_selftest("digits", lambda: 1_900_000_000.5, 300.0)
    metrics.watch_audit(lambda: 4096)
    metrics.audited(Sink.LOG, Outcome.WRITTEN)
    metrics.traced(Exported.SENT)
    metrics.upstream_unresponsive(now=True)


def test_series_of_a_watched_model_begin_at_zero(scrape: Scrape) -> None:
    """Each series of a model is there, at 0, before its first request, so that a rate has a beginning."""
    samples = scrape()
    counters = {key: value for key, value in samples.items() if "_total{" in key}
    assert set(counters.values()) == {0}
    assert {key for key in counters if "guard_requests_total" in key and "model=digits" in key} == {
        f"guard_requests_total{{decision={decision},model=digits,protocol={protocol}}}"
        for decision in ("forward", "flag", "reject", "screen_only", "none")
        for protocol in ("grpc", "http", "ext_proc", "mirror")
    }
    for detector in ("squeezing", "network", "smoothing", "sensitivity_gaussian"):
        assert f"guard_verdicts_total{{detector={detector},model=digits}}" in samples
        assert samples[f"guard_detector_pvalue_ratio_count{{detector={detector},model=digits}}"] == 0


def test_state_of_a_watched_model(scrape: Scrape) -> None:
    """Policy, profile and queue of a model are exported; exactly one mode is 1."""
    samples = scrape()
    assert [samples[f"guard_policy_mode{{mode={mode},model=digits}}"] for mode in Mode] == [0, 1, 0]
    assert samples["guard_profile_info{created=2025-01-02T03:04:05Z,fingerprint=abc,model=digits}"] == 1
    assert samples["guard_false_positive_rate_target{model=digits}"] == 0.05
    assert samples["guard_profile_calibration_samples{model=digits}"] == 400
    assert samples["guard_detector_info{detector=network,model=digits}"] == 1
    assert samples["guard_queued_items{model=digits}"] == 7


def test_build_info_names_what_runs(scrape: Scrape) -> None:
    """guard_build_info holds the versions of Guard, Python, ONNX Runtime and torch that are installed."""
    (series,) = [key for key in scrape() if key.startswith("guard_build_info")]
    assert f"version={__version__}" in series
    assert f"python={platform.python_version()}" in series
    assert f"torch={metadata.version('torch')}" in series
    assert "onnxruntime=," not in series


def test_a_decision_is_counted_by_item_and_finding(metrics: Metrics, scrape: Scrape, decision: Decision) -> None:
    """Items count by verdict, findings by kind, evaluations by who asked; nothing else moves.

    An adversarial item is charged to the detector with the smallest p-value, which is not the combined one.
    """
    before = scrape()
    metrics.decided(decision)
    moved = changed(before, scrape())
    durations = {key: moved.pop(key) for key in list(moved) if key.startswith("guard_detector_duration_seconds")}
    assert moved == pytest.approx(
        {
            "guard_items_total{model=digits,verdict=adversarial}": 1,
            "guard_items_total{model=digits,verdict=clean}": 1,
            "guard_verdicts_total{detector=network,model=digits}": 1,
            "guard_detector_pvalue_ratio_count{detector=combined,model=digits}": 2,
            "guard_detector_pvalue_ratio_sum{detector=combined,model=digits}": 0.602,
            "guard_detector_pvalue_ratio_count{detector=squeezing,model=digits}": 2,
            "guard_detector_pvalue_ratio_sum{detector=squeezing,model=digits}": 0.73,
            "guard_detector_pvalue_ratio_count{detector=network,model=digits}": 1,
            "guard_detector_pvalue_ratio_sum{detector=network,model=digits}": 0.004,
            "guard_detector_pvalue_ratio_count{detector=sensitivity_gaussian,model=digits}": 1,
            "guard_detector_pvalue_ratio_sum{detector=sensitivity_gaussian,model=digits}": 0.4,
            "guard_model_evaluations_total{detector=label,model=digits}": 2,
            "guard_model_evaluations_total{detector=squeezing,model=digits}": 8,
            "guard_model_evaluations_total{detector=smoothing,model=digits}": 80,
            "guard_detector_abstentions_total{detector=smoothing,model=digits}": 1,
            "guard_detector_errors_total{detector=sensitivity_gaussian,reason=backend}": 1,
            "guard_certificates_total{model=digits}": 1,
            "guard_client_detections_top_share_ratio{model=digits}": 1,
        }
    )
    assert durations["guard_detector_duration_seconds_count{detector=smoothing}"] == 2
    assert durations["guard_detector_duration_seconds_sum{detector=smoothing}"] == pytest.approx(0.4)


def test_suspicious_queries_are_counted(metrics: Metrics, scrape: Scrape, decision: Decision) -> None:
    """Suspicious items count whatever their verdict; those that nothing else condemned are charged to `queries`."""
    before = scrape()
    for suspicious, condemns in ((False, False), (True, False), (True, True)):
        probing = Probing("queries", of_client=9, of_everyone=9, suspicious=suspicious, condemns=condemns)
        adversarial = replace(decision.items[0], findings=(*decision.items[0].findings, probing))
        metrics.decided(replace(decision, items=(adversarial,)))
    moved = changed(before, scrape())
    assert moved["guard_suspicious_queries_total{model=digits}"] == 2
    assert moved["guard_verdicts_total{detector=network,model=digits}"] == 2
    assert moved["guard_verdicts_total{detector=queries,model=digits}"] == 1


def test_how_busy_an_engine_is(metrics: Metrics, scrape: Scrape) -> None:
    """What an engine has counted is asked at each scrape; an engine in its place counts anew, under the same name."""
    busy_s = 2.5
    metrics.watch_engine("digits", depth=lambda: 0, busy_s=lambda: busy_s)
    before, busy_s = scrape(), 4.0
    assert changed(before, scrape()) == {"guard_engine_busy_seconds_total{model=digits}": 1.5}
    metrics.watch_engine("digits", depth=lambda: 0, busy_s=lambda: 0.25)
    assert scrape()["guard_engine_busy_seconds_total{model=digits}"] == 0.25
    metrics.forget_model("digits")
    assert not [key for key in scrape() if key.startswith("guard_engine_busy_seconds_total{")]


def test_remembered_queries(metrics: Metrics, scrape: Scrape) -> None:
    """How many queries are remembered is asked at each scrape."""
    metrics.watch_memory("digits", lambda: 12)
    assert scrape()["guard_remembered_queries{model=digits}"] == 12


def test_drift(metrics: Metrics, scrape: Scrape) -> None:
    """Whose drift is suspected, and the evidence, are asked at each scrape; one scope at most is 1."""
    suspected: DriftScope | None = None
    evidence = {DriftScope.ONE_CLIENT: 8.0, DriftScope.SEVERAL_CLIENTS: -0.5}
    metrics.watch_drift("digits", suspected=lambda: suspected, evidence=evidence.__getitem__)
    for suspected in (None, *DriftScope):
        samples = scrape()
        found = [samples[f"guard_drift_suspected{{model=digits,scope={scope}}}"] for scope in DriftScope]
        assert found == [scope is suspected for scope in DriftScope]
    assert samples["guard_drift_log_martingale{model=digits,scope=one_client}"] == 8.0
    assert samples["guard_drift_log_martingale{model=digits,scope=several_clients}"] == -0.5


def test_shared_perturbations_are_counted(metrics: Metrics, scrape: Scrape, decision: Decision) -> None:
    """Flagged items that share a perturbation count, each once, and those that share none don't."""
    before = scrape()
    for others in (0, 1, 5):
        shared = SharedPerturbation("universal", shared_with=others, compared_with=9)
        metrics.decided(replace(decision, items=(replace(decision.items[0], findings=(shared,)),)))
    assert changed(before, scrape())["guard_shared_perturbations_total{model=digits}"] == 2


def test_sharing(metrics: Metrics, scrape: Scrape) -> None:
    """Whether queries are shared is asked at each scrape; what became of them is counted, from 0."""
    up = True
    metrics.watch_sharing("digits", lambda: up)
    assert scrape()["guard_query_store_up{model=digits}"] == 1
    before, up = scrape(), False
    metrics.queries_shared("digits", Sharing.DROPPED, 3)
    metrics.query_store_failed(StoreFailure.REFUSED)
    assert changed(before, scrape()) == {
        "guard_query_store_up{model=digits}": -1,
        "guard_shared_queries_total{model=digits,outcome=dropped}": 3,
        "guard_query_store_errors_total{reason=refused}": 1,
    }
    assert before["guard_shared_queries_total{model=digits,outcome=received}"] == 0


def test_credentials(metrics: Metrics, scrape: Scrape) -> None:
    """When certificates end, and whether files can't be used as they are, is asked at each scrape."""
    stale = False
    metrics.watch_credentials("listen.tls", lambda: stale, {"listen.tls.certificate_file": lambda: 1_900_000_000.5})
    expiry = "guard_tls_cert_expiry_timestamp_seconds{file=listen.tls.certificate_file}"
    before, stale = scrape(), True
    assert before[expiry] == 1_900_000_000.5
    assert changed(before, scrape()) == {"guard_credentials_stale{section=listen.tls}": 1}


def test_p_values_fall_into_the_buckets_that_drift_is_read_from(
    metrics: Metrics, scrape: Scrape, decision: Decision
) -> None:
    """A p-value of .002 counts under .005 and not under .001."""
    metrics.decided(decision)
    samples = scrape()
    below = {
        le: samples[f"guard_detector_pvalue_ratio_bucket{{detector=combined,le={le},model=digits}}"]
        for le in ("0.001", "0.005", "0.05", "0.5", "0.75", "1.0")
    }
    assert below == {"0.001": 0, "0.005": 1, "0.05": 1, "0.5": 1, "0.75": 2, "1.0": 2}


@pytest.mark.parametrize("reason", UnscreenedReason)
def test_unscreened_requests_count_by_reason(
    metrics: Metrics, scrape: Scrape, decision: Decision, reason: UnscreenedReason
) -> None:
    """A request that nobody looked at counts once, under its reason."""
    before = scrape()
    metrics.decided(replace(decision, verdict=Verdict.UNSCREENED, items=(), reason=reason, spent={}))
    assert changed(before, scrape()) == {f"guard_unscreened_requests_total{{model=digits,reason={reason}}}": 1}


@pytest.mark.parametrize("action", Action)
def test_requests_count_by_action(metrics: Metrics, scrape: Scrape, decision: Decision, action: Action) -> None:
    """A finished request counts under what was done with it, with its duration and overhead."""
    before = scrape()
    metrics.request_finished(
        decision=replace(decision, action=action), model="digits", protocol="grpc", duration_s=0.25, overhead_s=0.125
    )
    assert changed(before, scrape()) == {
        f"guard_requests_total{{decision={action},model=digits,protocol=grpc}}": 1,
        "guard_request_duration_seconds_count{}": 1,
        "guard_request_duration_seconds_sum{}": 0.25,
        "guard_overhead_seconds_count{}": 1,
        "guard_overhead_seconds_sum{}": 0.125,
    }


def test_screen_only_requests_count_apart(metrics: Metrics, scrape: Scrape, decision: Decision) -> None:
    """A request that was judged and not to be forwarded is no rejection, nor was it forwarded."""
    metrics.request_finished(
        decision=decision, model="digits", protocol="http", duration_s=0.1, overhead_s=0.1, screen_only=True
    )
    counted = {key: value for key, value in scrape().items() if key.startswith("guard_requests_total") and value}
    assert counted == {"guard_requests_total{decision=screen_only,model=digits,protocol=http}": 1}


def test_a_request_without_a_decision_is_counted(metrics: Metrics, scrape: Scrape) -> None:
    """A request that was refused before a decision counts under its model, or `other` where it names no guarded one."""
    for model in ("digits", "", "stranger"):
        metrics.request_finished(decision=None, model=model, protocol="grpc", duration_s=0.1, overhead_s=0.1)
    assert scrape()["guard_requests_total{decision=none,model=digits,protocol=grpc}"] == 1
    assert scrape()["guard_requests_total{decision=none,model=other,protocol=grpc}"] == 2


def test_no_client_can_make_series(metrics: Metrics, scrape: Scrape, decision: Decision) -> None:
    """Models, codes and detectors that nobody listed are counted as `other`: a client's words label nothing."""
    use_everything(metrics, replace(decision, model="digits"))
    before = scrape()
    for number in range(20):
        stranger = replace(decision, model=f"stranger-{number}", spent={f"detector-{number}": 1})
        use_everything(metrics, stranger)
        metrics.request_finished(
            decision=stranger, model=stranger.model, protocol=f"p{number}", duration_s=0.1, overhead_s=0.1
        )
        metrics.upstream_finished(model=stranger.model, code=f"CODE_{number}", duration_s=0.1)
        metrics.request_refused(f"code-{number}")
    after = scrape()
    assert {key for key in after if "stranger" in key or "-1" in key or "CODE_" in key or "=p1" in key} == set()
    assert after["guard_items_total{model=other,verdict=adversarial}"] == 60
    assert after["guard_requests_total{decision=flag,model=other,protocol=other}"] == 20
    assert after["guard_refused_requests_total{reason=internal}"] == 20
    grown = [key for key in after.keys() - before.keys() if "_bucket" not in key]
    assert all(OTHER in key for key in grown)


@pytest.mark.parametrize("code", [Overloaded.code, "malformed_request", "unimplemented", "internal"])
def test_refusals_count_by_error_code(metrics: Metrics, scrape: Scrape, code: str) -> None:
    """A call that Guard ends with an error of its own counts under that error's code."""
    before = scrape()
    metrics.request_refused(code)
    assert changed(before, scrape()) == {f"guard_refused_requests_total{{reason={code}}}": 1}


def test_upstream_calls_count_by_code(metrics: Metrics, scrape: Scrape) -> None:
    """Calls to the guarded server count by model and gRPC status; calls without a model count as `other`."""
    before = scrape()
    metrics.upstream_finished(model="digits", code="UNAVAILABLE", duration_s=0.5)
    metrics.upstream_finished(model="digits", code="INVALID_ARGUMENT", duration_s=0.0)
    metrics.upstream_finished(model="", code="OK", duration_s=0.25)
    assert changed(before, scrape()) == {
        "guard_upstream_requests_total{code=UNAVAILABLE,model=digits}": 1,
        "guard_upstream_requests_total{code=INVALID_ARGUMENT,model=digits}": 1,
        "guard_upstream_requests_total{code=OK,model=other}": 1,
        "guard_upstream_inferences_total{model=digits,outcome=unknown,sender=call}": 1,
        "guard_upstream_inferences_total{model=digits,outcome=failed,sender=call}": 1,
        "guard_upstream_request_duration_seconds_count{}": 3,
        "guard_upstream_request_duration_seconds_sum{}": 0.75,
    }


def test_inferences_count_by_sender(metrics: Metrics, scrape: Scrape) -> None:
    """What the guarded server is asked for counts by whom it is for and how it ended; an unguarded model is `other`."""
    before = scrape()
    metrics.upstream_streamed("digits", InferenceOutcome.ANSWERED)
    metrics.upstream_streamed("stranger", InferenceOutcome.FAILED)
    metrics.upstream_asked("digits", InferenceOutcome.UNKNOWN)
    metrics.upstream_carried("digits")
    assert changed(before, scrape()) == {
        "guard_upstream_inferences_total{model=digits,outcome=answered,sender=stream}": 1,
        "guard_upstream_inferences_total{model=other,outcome=failed,sender=stream}": 1,
        "guard_upstream_inferences_total{model=digits,outcome=unknown,sender=guard}": 1,
        "guard_upstream_inferences_total{model=digits,outcome=unknown,sender=carried}": 1,
    }


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_outcome_of_a_code(code: grpc.StatusCode) -> None:
    """Only codes of requests that were refused say that nothing ran; lost calls and errors of models do not."""
    may_have_run = {"ABORTED", "CANCELLED", "DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN"}
    expected = InferenceOutcome.FAILED
    if code.name in {*may_have_run, "RESOURCE_EXHAUSTED"}:
        expected = InferenceOutcome.UNKNOWN
    elif code is grpc.StatusCode.OK:
        expected = InferenceOutcome.ANSWERED
    assert InferenceOutcome.of(code.name) is expected


def test_inflight_counts_only_while_a_request_lasts(metrics: Metrics, scrape: Scrape) -> None:
    """The gauge follows requests in and out, also when one fails."""
    with metrics.inflight(), metrics.inflight():
        assert scrape()["guard_inflight_requests{}"] == 2
    with pytest.raises(Overloaded), metrics.inflight():
        raise Overloaded("full")
    assert scrape()["guard_inflight_requests{}"] == 0


def test_every_metric_is_set_by_something(metrics: Metrics, scrape: Scrape, decision: Decision) -> None:
    """No family is exported that nothing sets."""
    with metrics.inflight():
        use_everything(metrics, decision)
        families = {family.name for family in metrics.registry.collect()}
        moved = {key.partition("{")[0] for key, value in scrape().items() if value}
    unset = {name for name in families if not any(key.startswith(name) for key in moved)}
    assert len(families) >= 22
    assert unset == set()


def test_a_model_that_is_forgotten(metrics: Metrics, scrape: Scrape, decision: Decision) -> None:
    """No series of it is left, and what still comes in about it is counted as `other`; another model's series stay."""
    use_everything(metrics, decision)
    metrics.watch_model(
        model="more",
        detectors=("network",),
        mode=Mode.SHADOW,
        fingerprint="def",
        false_positive_rate=0.01,
        calibration_samples=7,
        created="",
    )
    metrics.forget_model("digits")
    metrics.request_finished(decision=None, model="digits", protocol="grpc", duration_s=0.2, overhead_s=0.1)
    samples = scrape()
    assert not [key for key in samples if "model=digits" in key]
    assert samples["guard_policy_mode{mode=shadow,model=more}"] == 1
    assert samples["guard_items_total{model=more,verdict=clean}"] == 0
    assert samples[f"guard_requests_total{{decision=none,model={OTHER},protocol=grpc}}"] == 1


def test_a_model_as_it_is_now(metrics: Metrics, scrape: Scrape, decision: Decision) -> None:
    """What is exported of a model as it is can be replaced; what was counted of it stays."""
    use_everything(metrics, decision)
    counted = {key: value for key, value in scrape().items() if "_total{" in key}
    metrics.forget_state("digits")
    samples = scrape()
    assert {key: value for key, value in samples.items() if "_total{" in key} == counted
    assert not [key for key in samples if key.startswith(("guard_profile_info", "guard_policy_mode", "guard_drift"))]


def test_one_policy_is_in_force(metrics: Metrics, scrape: Scrape) -> None:
    """The policy in force is the only one that is exported; a reload that is refused shows until one succeeds."""
    metrics.policy_in_force("1a2b")
    metrics.policy_in_force("3c4d", "1a2b")
    assert [key for key in scrape() if key.startswith("guard_policy_info")] == ["guard_policy_info{version=3c4d}"]
    for outcome, successful in ((Reloaded.REFUSED, 0), (Reloaded.UNCHANGED, 1)):
        metrics.policy_reloaded(outcome)
        samples = scrape()
        assert samples["guard_config_last_reload_successful{}"] == successful
        assert samples[f"guard_config_reloads_total{{outcome={outcome}}}"] == 1


def test_label_evaluations_have_the_engines_name() -> None:
    """The engine charges the evaluation of the unchanged input to the name that is exported for it."""
    assert LABEL_EVALUATION == LABEL


def test_metrics_live_side_by_side(metrics: Metrics) -> None:
    """Nothing is registered globally: a second set in one process counts on its own."""
    other = Metrics()
    other.request_refused("internal")
    assert other.registry.get_sample_value("guard_refused_requests_total", {"reason": "internal"}) == 1
    assert metrics.registry.get_sample_value("guard_refused_requests_total", {"reason": "internal"}) == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package: prometheus)")
def test_promtool_finds_nothing_to_complain_about(
    metrics: Metrics, exposition: Callable[[], str], decision: Decision
) -> None:
    """Prometheus' own linter accepts the exposition."""
    use_everything(metrics, decision)
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition(), check=False, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
