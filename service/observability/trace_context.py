"""The trace that a request belongs to (W3C Trace Context), and the start of OpenTelemetry's export if that is on.

Log lines carry the trace id of a request whose client sent one, with or without OpenTelemetry. Only
`service.observability.otel` imports OpenTelemetry's SDK, and it is imported here only: the SDK comes with the extra
`tracing`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from normfold.contract.errors import MissingPackageError
from normfold.service.errors import SettingsError

if TYPE_CHECKING:
    from normfold.service.observability.otel import Spans

MAX_TRACEPARENT_BYTES = 512
"""A longer `traceparent` is malformed; version 00 of the standard has 55 bytes."""

_PARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def read_trace_id(traceparent: bytes) -> str | None:
    """Return the trace id of a `traceparent` header, 32 hexadecimal digits; None if the header is malformed."""
    found = _PARENT.fullmatch(traceparent.strip(b" \t")) if len(traceparent) <= MAX_TRACEPARENT_BYTES else None
    if found is None or (found[1] == b"00" and found[3] is not None):  # only a later version may have more fields
        return None
    return found[2].decode()


def open_tracing() -> Spans:
    """Return a maker of spans, exported by OTLP over HTTP as OpenTelemetry's environment variables say.

    Raises:
        MissingPackageError: the extra `tracing` is not installed.
        SettingsError: OpenTelemetry rejects one of its variables.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from normfold.service.observability.otel import Spans
    except ImportError:
        raise MissingPackageError("opentelemetry-sdk", "tracing", "Tracing (NORMFOLD_TRACING)") from None
    try:
        return Spans(OTLPSpanExporter())
    except ValueError as error:
        raise SettingsError(f"A variable OTEL_… of OpenTelemetry is wrong: {str(error).rstrip('.')}.") from None
