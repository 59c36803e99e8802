"""The way of spans to the receiver."""

from collections.abc import Sequence
from typing import Any, Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from aichats_schemas import __version__
from aichats_worker.tracing.messages import Batch

log = structlog.get_logger(__name__)

REQUEST_MAX_BYTES: Final = 64 * 2**20  # before compression: what OpenTelemetry's own exporter sends at most


class Sender(OTLPSpanExporter):
    """OpenTelemetry's exporter, for spans that are messages already: what its own encoder costs is most of a trace.

    Its public way in takes spans as objects and encodes them. What comes after that, with its retries, headers,
    compression and timeouts, is a client of its own that has no public name, so pyproject.toml allows the versions
    that are known to have it.

    Args:
        resource: What the worker is.

    Raises:
        RuntimeError: This version has no such client.
    """

    def __init__(self, resource: Resource) -> None:
        super().__init__()
        try:
            self._send = self._client.export
        except AttributeError as missing:
            raise RuntimeError("opentelemetry-exporter-otlp-proto-http is of another version than 1.45") from missing
        self._batch = Batch(resource.attributes, __version__)

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Send them in one request, if it is within the bound."""
        request = self._batch.of(spans)
        if len(request) > REQUEST_MAX_BYTES:
            log.warning("spans were not sent", bytes=len(request), bytes_max=REQUEST_MAX_BYTES)
            return SpanExportResult.FAILURE
        sent = self._send(request)
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE
