"""What `objrepo.instrumentation` tells, as traces and metrics of OpenTelemetry.

It needs the extra ``otel``, which is OpenTelemetry's API; where the telemetry goes is what the program configures with
OpenTelemetry's own SDK.
"""

from __future__ import annotations

import time
from typing import Final

from opentelemetry import metrics, trace

import objrepo
from objrepo.instrumentation import Hook, Operation

__all__ = ("telemetry",)

_NANOSECONDS: Final = 1_000_000_000


def telemetry(
    tracer_provider: trace.TracerProvider | None = None, meter_provider: metrics.MeterProvider | None = None
) -> Hook:
    """Return a hook that makes a span of each operation, and measures its time and its bytes.

    Metrics are ``objrepo.operation.duration`` (a histogram, in seconds) and ``objrepo.operation.size`` (a counter, in
    bytes). Attributes are ``objrepo.operation.name`` and ``objrepo.backend``, and ``error.type`` where something went
    wrong, as OpenTelemetry's semantic conventions name it (https://opentelemetry.io/docs/specs/semconv/).

    :param tracer_provider: who makes spans; the program's own unless given.
    :param meter_provider: who takes measurements; likewise.
    """
    tracer = trace.get_tracer("objrepo", objrepo.__version__, tracer_provider)
    meter = metrics.get_meter("objrepo", objrepo.__version__, meter_provider)
    duration = meter.create_histogram("objrepo.operation.duration", "s", "How long operations take.")
    size = meter.create_counter("objrepo.operation.size", "By", "Bytes of objects that operations move.")

    def hook(operation: Operation) -> None:
        attributes = {"objrepo.operation.name": operation.name, "objrepo.backend": operation.backend}
        if operation.outcome != "ok":
            attributes["error.type"] = operation.outcome
        duration.record(operation.seconds, attributes)
        if operation.size is not None:
            size.add(operation.size, attributes)
        end = time.time_ns()
        start = end - int(operation.seconds * _NANOSECONDS)
        span = tracer.start_span(f"objrepo {operation.name}", kind=trace.SpanKind.CLIENT, start_time=start)
        span.set_attributes(attributes)
        if operation.size is not None:
            span.set_attribute("objrepo.operation.size", operation.size)
        if operation.outcome not in ("ok", "cancelled"):
            span.set_status(trace.StatusCode.ERROR, operation.outcome)
        span.end(end)

    return hook
