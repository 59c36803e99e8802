"""FastStream's own metrics of what it takes in, with labels that stay few."""

from typing import Any

from faststream.prometheus import ConsumeAttrs, MetricsSettingsProvider, PrometheusMiddleware
from prometheus_client import CollectorRegistry


class _ByPattern(MetricsSettingsProvider[Any, Any]):
    """Labels of FastStream's middleware: `<mode>.<kind>`, since a requester chooses the rest of the subject."""

    messaging_system = "nats"

    def __init__(self, prefix: str) -> None:
        self._skipped = len(prefix) + 1

    def get_consume_attrs_from_message(self, msg: Any) -> ConsumeAttrs:
        mode, kind = msg.raw_message.subject[self._skipped :].split(".")[:2]
        return {"destination_name": f"{mode}.{kind}", "message_size": len(msg.body), "messages_count": 1}

    def get_publish_destination_name_from_cmd(self, cmd: Any) -> str:  # noqa: ARG002 - the worker publishes none
        return "reply"


def faststream_metrics(registry: CollectorRegistry, prefix: str) -> PrometheusMiddleware[Any, Any]:
    """Make FastStream's Prometheus middleware with labels that stay few."""
    provider = _ByPattern(prefix)
    return PrometheusMiddleware(settings_provider_factory=lambda _: provider, registry=registry)
