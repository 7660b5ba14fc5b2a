"""Which trace a request belongs to (W3C Trace Context), and the door to OpenTelemetry if that is on.

Lines of the log carry the trace of a request whose client named one, with OpenTelemetry or without. Only
`service.observability.otel` imports OpenTelemetry's SDK, and only this opens it: the SDK comes with the extra
`tracing`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from normfold.contract.errors import MissingPackageError
from normfold.service.errors import SettingsError

if TYPE_CHECKING:
    from normfold.service.observability.otel import Spans

LONGEST_PARENT = 512
"""Bytes; a longer `traceparent` is malformed. The present version of the standard needs 55."""

_PARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def read_trace_id(traceparent: bytes) -> str | None:
    """Return the trace that a `traceparent` header names, as 32 hexadecimal digits; None if it is malformed."""
    found = _PARENT.fullmatch(traceparent.strip(b" \t")) if len(traceparent) <= LONGEST_PARENT else None
    if found is None or (found[1] == b"00" and found[3] is not None):  # only a later version may go on
        return None
    return found[2].decode()


def open_tracing() -> Spans:
    """Return what makes spans, exported by OTLP over HTTP as OpenTelemetry's own variables say.

    Raises:
        MissingPackageError: the extra `tracing` is not installed.
        SettingsError: OpenTelemetry refuses one of its variables.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from normfold.service.observability.otel import Spans
    except ImportError:
        raise MissingPackageError("opentelemetry-sdk", "tracing", "Tracing (NORMFOLD_TRACING)") from None
    try:
        return Spans(OTLPSpanExporter())
    except ValueError as error:
        raise SettingsError(f"A variable OTEL_… of OpenTelemetry's is wrong: {str(error).rstrip('.')}.") from None
