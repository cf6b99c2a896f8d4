"""A hook for `objrepo.instrumentation` that makes spans and metrics of OpenTelemetry.

It needs the extra ``otel``, which installs OpenTelemetry's API. The program configures with OpenTelemetry's SDK where
the telemetry goes.
"""

from __future__ import annotations

import time
from typing import Final

from opentelemetry import metrics, trace

import objrepo
from objrepo.instrumentation import Hook, OperationEvent

__all__ = ("telemetry",)

_NANOSECONDS: Final = 1_000_000_000


def telemetry(
    tracer_provider: trace.TracerProvider | None = None, meter_provider: metrics.MeterProvider | None = None
) -> Hook:
    """Return a hook that makes a span of each operation, and measures its duration and size.

    The metrics are ``objrepo.operation.duration`` (a histogram, in seconds) and ``objrepo.operation.size`` (a counter,
    in bytes). The attributes are ``objrepo.operation.name``, ``objrepo.backend`` and, for an operation that failed or
    was cancelled, ``error.type``, the name that OpenTelemetry's semantic conventions give it
    (https://opentelemetry.io/docs/specs/semconv/).

    :param tracer_provider: makes the spans; the global provider by default.
    :param meter_provider: makes the instruments; the global provider by default.
    :return: a hook for :class:`~objrepo.instrumentation.InstrumentedRepository`.
    """
    tracer = trace.get_tracer("objrepo", objrepo.__version__, tracer_provider)
    meter = metrics.get_meter("objrepo", objrepo.__version__, meter_provider)
    duration = meter.create_histogram("objrepo.operation.duration", "s", "How long operations take.")
    size = meter.create_counter("objrepo.operation.size", "By", "Bytes of objects that operations move.")

    def hook(event: OperationEvent) -> None:
        attributes = {"objrepo.operation.name": event.name, "objrepo.backend": event.backend}
        if event.outcome != "ok":
            attributes["error.type"] = event.outcome
        duration.record(event.seconds, attributes)
        if event.size is not None:
            size.add(event.size, attributes)
        end = time.time_ns()
        start = end - int(event.seconds * _NANOSECONDS)
        span = tracer.start_span(f"objrepo {event.name}", kind=trace.SpanKind.CLIENT, start_time=start)
        span.set_attributes(attributes)
        if event.size is not None:
            span.set_attribute("objrepo.operation.size", event.size)
        if event.outcome not in ("ok", "cancelled"):
            span.set_status(trace.StatusCode.ERROR, event.outcome)
        span.end(end)

    return hook
