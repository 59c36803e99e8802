"""An OTLP receiver: takes what a worker exports over HTTP, and reads the protobuf."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web  # noqa: TID251 - it is the other side of an exporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_SECONDS = 20.0


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


def attributes(pairs: Any) -> dict[str, Any]:
    found: list[KeyValue] = list(pairs)
    return {pair.key: plain(pair.value) for pair in found}


@dataclass(frozen=True)
class Seen:
    """A span as it was received."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    said: dict[str, Any]
    failed: bool
    events: list[tuple[str, dict[str, Any]]]
    links: list[tuple[str, str]]
    resource: dict[str, Any]
    state: str
    flags: int


def seen(span: Span, resource: dict[str, Any]) -> Seen:
    return Seen(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        said=attributes(span.attributes),
        failed=span.status.code == 2,
        events=[(event.name, attributes(event.attributes)) for event in span.events],
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        resource=resource,
        state=span.trace_state,
        flags=span.flags,
    )


@dataclass
class Receiver:
    """What was received, and where it listens.

    Attributes:
        raw: Each body as it came, decompressed.
        headers: Of each.
        stuck: While it is set, no export is answered.
    """

    url: str = ""
    raw: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    spans: list[Seen] = field(default_factory=list)
    stuck: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.called.set()
        while self.stuck.is_set():
            await asyncio.sleep(0.05)
        assert request.content_type == "application/x-protobuf"
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        self.raw.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            of = attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [seen(span, of) for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    async def until(self, wanted: Callable[[list[Seen]], bool]) -> list[Seen]:
        """Wait until what was received is what is wanted."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not wanted(self.spans):
                await asyncio.sleep(0.02)
        return self.spans

    def settings(self) -> dict[str, str]:
        """The variables of a worker that exports here, soon after each end."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield receiver
    receiver.stuck.clear()
    await runner.cleanup()
