"""A span as OTLP's own message, and its way to the receiver."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext

from aichats_schemas import __version__
from aichats_schemas.events import Usage
from aichats_worker.errors import WorkerError


class Followed:
    """A span at work: it is its own message from the start, so that nothing has to be turned into another form.

    Args:
        context: Its ids, and whether it is kept.
        above: Whoever it is part of; None for a trace's first.
        message: What is known of its kind.
    """

    __slots__ = ("context", "message")

    def __init__(self, context: SpanContext, above: SpanContext | None, message: SpanMessage) -> None:
        self.context = context
        self.message = SpanMessage()
        self.message.CopyFrom(message)
        self.message.trace_id = context.trace_id.to_bytes(16, "big")
        self.message.span_id = context.span_id.to_bytes(8, "big")
        if above is not None:
            self.message.parent_span_id = above.span_id.to_bytes(8, "big")
        self.message.start_time_unix_nano = time.time_ns()

    def says(self, name: str, value: Any) -> None:
        """Add an attribute."""
        _say(self.message.attributes.add(), name, value)

    def event(self, name: str, *attributes: KeyValue) -> None:
        """Add an event."""
        self.message.events.add(name=name, time_unix_nano=time.time_ns(), attributes=attributes)

    def failed(self, error: WorkerError) -> None:
        """Take note of an error: of a requester's own it is no failure, as with a 4xx of a server's."""
        self.says("error.type", str(error.code))
        if error.fault != "requester":
            self.message.status.code = Status.STATUS_CODE_ERROR

    def counted(self, usage: Usage) -> None:
        """Take note of what was used."""
        self.says("gen_ai.usage.input_tokens", usage.input_tokens)
        self.says("gen_ai.usage.output_tokens", usage.output_tokens)


_FIELDS: Final[Mapping[type, str]] = {
    str: "string_value", bool: "bool_value", int: "int_value", float: "double_value",
}  # fmt: skip


def _say(attribute: KeyValue, name: str, value: Any) -> None:
    attribute.key = name
    if (field := _FIELDS.get(type(value))) is not None:
        setattr(attribute.value, field, value)
    else:
        attribute.value.array_value.values.extend(AnyValue(string_value=str(each)) for each in value)


def attributes_of(values: Mapping[str, Any]) -> list[KeyValue]:
    """Return attributes as messages: strings, truths, numbers, or several strings."""
    found = []
    for name, value in values.items():
        found.append(KeyValue())
        _say(found[-1], name, value)
    return found


class Sender(OTLPSpanExporter):
    """OpenTelemetry's exporter, for spans that are messages already. What its own encoder costs is most of a trace.

    Args:
        resource: What the worker is.
    """

    def __init__(self, resource: Resource) -> None:
        super().__init__()
        self._of = ResourceMessage(attributes=attributes_of(resource.attributes))
        self._scope = InstrumentationScope(name="aichats_worker", version=__version__)

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Send them, in the exporter's own way: its retries, headers, compression and limits."""
        scope = ScopeSpans(scope=self._scope, spans=[span.message for span in spans])
        request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=self._of, scope_spans=[scope])])
        sent = self._client.export(request.SerializeToString())
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE
