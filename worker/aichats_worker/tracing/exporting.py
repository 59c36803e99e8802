"""Where spans go: OpenTelemetry's own variables say it. Nothing of it is loaded where they name no endpoint."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from aichats_schemas import __version__
from aichats_schemas.subjects import SERVICE
from aichats_worker.tracing import trace
from aichats_worker.urls import masked_url

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

log = structlog.get_logger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_TIMEOUT_SECONDS: Final = 3.0
PROTOCOLS: Final = ("", "http/protobuf")
# Of a span's attributes, events and links. OpenTelemetry's own spans keep to them.
LIMITS: Final = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
)


class Exporting:
    """Sends the spans of this process, if its environment says where to.

    Args:
        environment: OpenTelemetry's variables are read, and read again by its own code.
        prefix: Of the worker's subjects.
        instance: The worker's.
    """

    def __init__(self, environment: Mapping[str, str], *, prefix: str, instance: str) -> None:
        self._processor: SpanProcessor | None = None
        if not _is_wanted(environment):
            return
        try:
            self._processor = _listen(prefix, instance)
        except ImportError:
            hint = "an OTLP endpoint is named: pip install 'aichats-worker[otel]', or build the image with LOCK=otel"
            log.warning("traces are off", hint=hint)
            return
        except ValueError as error:  # most that is wrong it logs, and takes its default; some it raises
            log.warning("traces are off", hint=f"one of OpenTelemetry's variables is wrong: {error}")
            return
        except RuntimeError as error:
            log.warning("traces are off", hint=f"another version of OpenTelemetry is installed: {error}")
            return
        if limits := [name for name in LIMITS if environment.get(name)]:
            log.warning("traces have bounds of their own", hint=f"{', '.join(limits)}: docs/traces.md says which")
        named = next(environment[name] for name in ENDPOINTS if environment.get(name))
        log.info("traces are on", endpoint=masked_url(named))

    def stop(self) -> None:
        """Send what is left, in FLUSH_TIMEOUT_SECONDS at most: a receiver that is away holds up no stop."""
        if self._processor is None:
            return
        trace.listen(None)
        sending = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(FLUSH_TIMEOUT_SECONDS)
        if sending.is_alive():
            log.warning("the last spans were not sent")


def _is_wanted(environment: Mapping[str, str]) -> bool:
    if not any(environment.get(name) for name in ENDPOINTS):
        return False
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp").lower()
    if off or "otlp" not in exporter.split(","):
        return False
    protocols = [environment.get(f"OTEL_EXPORTER_OTLP{which}_PROTOCOL", "") for which in ("_TRACES", "")]
    if any(protocol not in PROTOCOLS for protocol in protocols):
        log.warning("traces are sent as http/protobuf, which is the one protocol there is")
    return True


def _listen(prefix: str, instance: str) -> "SpanProcessor":
    """OpenTelemetry's own code reads the endpoint, headers, timeout, sampler and batches of the environment."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    from aichats_worker.tracing.sending import Sender  # noqa: PLC0415
    from aichats_worker.tracing.spans import Spans  # noqa: PLC0415

    ours = {"service.name": SERVICE, "service.version": __version__, "service.instance.id": instance}
    resource = Resource.create({}).merge(Resource(ours)).merge(OTELResourceDetector().detect())
    processor = BatchSpanProcessor(Sender(resource))
    hand_over: Any = processor.on_end  # it looks at the context, and hands the rest on as it is
    trace.listen(Spans(hand_over, TracerProvider(shutdown_on_exit=False).sampler, prefix))
    return processor
