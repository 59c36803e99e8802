"""Knows how a request is followed: the spans of OpenTelemetry, where an OTLP endpoint is named, and nothing else."""
