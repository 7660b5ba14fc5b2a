"""Traces of requests, their sums as metrics, the access log, and export to OpenTelemetry."""
