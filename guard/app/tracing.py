"""The collector of traces that the settings name, if they name one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.config import Settings
from guard.environment import check_otel
from guard.observe.metrics import Metrics

if TYPE_CHECKING:
    from guard.observe.spans import Tracer


def open_tracer(settings: Settings, metrics: Metrics) -> Tracer | None:
    """What traces requests, not started yet; None where nobody collects traces, and then nothing of it is imported.

    Raises:
        GuardError: a file is missing, or OpenTelemetry is.
    """
    tracing = settings.tracing
    if tracing.address is None:
        return None
    check_otel()
    from guard.observe.otlp import OtlpCollector  # noqa: PLC0415 - an extra brings OpenTelemetry
    from guard.observe.spans import Tracer  # noqa: PLC0415 - needed with a collector only

    return Tracer(
        OtlpCollector(tracing.address, tls=tracing.tls, ca_file=tracing.ca_file, timeout_s=tracing.timeout_s),
        metrics,
        sample_ratio=tracing.sample_ratio,
        max_queued_spans=tracing.max_queued_spans,
    )
