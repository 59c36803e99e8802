"""Probes, metrics and documentation over HTTP, through FastStream's ASGI application."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import orjson
import structlog
import uvicorn
import yaml
from faststream.asgi import AsgiFastStream, AsgiResponse, get
from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI
from prometheus_client import CollectorRegistry
from prometheus_client import make_asgi_app as make_metrics_app

from aichats_schemas import __version__
from aichats_worker.errors import SetupError

log = structlog.get_logger(__name__)

STOP_TIMEOUT_SECONDS = 3.0

Check = Callable[[], tuple[bool, dict[str, Any]]]


class _Server(uvicorn.Server):
    """Serves until it is told to stop; signals are the worker's own, which answers probes while it drains."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Web:
    """The HTTP side of the worker.

    Args:
        broker: Whose subscribers the AsyncAPI document describes.
        registry: What /metrics shows.
        live: Says whether the process can go on, with the details.
        ready: Says whether requests reach it, with the details.
    """

    def __init__(self, broker: NatsBroker, registry: CollectorRegistry, *, live: Check, ready: Check) -> None:
        specification = AsyncAPI(title="ai-worker", version=__version__, description="The wire contract ai.v1.")
        self.app = AsgiFastStream(
            broker,
            specification=specification,
            logger=None,
            asgi_routes=[
                ("/livez", _probe(live)),
                ("/readyz", _probe(ready)),
                ("/metrics", make_metrics_app(registry)),
                ("/docs/asyncapi", _document(specification, "text/html; charset=utf-8", _page)),
                ("/docs/asyncapi.json", _document(specification, "application/json", orjson.dumps)),
                ("/docs/asyncapi.yaml", _document(specification, "application/yaml", _yaml)),
            ],
        )
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen on `host` and `port`; on `::` for IPv4 as well.

        Raises:
            SetupError: The address is taken or not this machine's.
        """
        # Bound here: uvicorn ends the whole process where it cannot bind.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = host == "::" and socket.has_dualstack_ipv6()
        try:
            listening = socket.create_server((host, port), family=family, dualstack_ipv6=both)
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno else type(error).__name__
            raise SetupError(f"WORKER_HTTP_PORT {port} on {host}: {reason}; another worker may have it") from None
        config = uvicorn.Config(self.app, lifespan="off", log_config=None, log_level="warning", access_log=False)
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="http")
        self._task.add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        if self._server is not None and not self._server.should_exit:
            log.error("the probes are not served any more: this worker has to be restarted")

    async def stop(self) -> None:
        """Stop listening; requests under way have STOP_TIMEOUT_SECONDS."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await asyncio.wait({self._task}, timeout=STOP_TIMEOUT_SECONDS)
        self._task.cancel()


def _probe(check: Check) -> Any:
    @get(include_in_schema=False)
    async def probe(scope: Any) -> AsgiResponse:  # noqa: ARG001 - FastStream passes it
        good, details = check()
        return AsgiResponse(orjson.dumps(details), 200 if good else 503, {"content-type": "application/json"})

    return probe


def _document(specification: AsyncAPI, content_type: str, render: Callable[[Any], bytes]) -> Any:
    @get(include_in_schema=False)
    async def document(scope: Any) -> AsgiResponse:  # noqa: ARG001 - FastStream passes it
        jsonable = specification.to_specification().to_jsonable()
        return AsgiResponse(render(jsonable), 200, {"content-type": content_type})

    return document


def _yaml(document: Any) -> bytes:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode()


def _page(document: Any) -> bytes:
    """FastStream's own page loads its script from elsewhere and stays blank offline; this one needs nothing."""
    text = escape(_yaml(document).decode())
    return (
        "<!doctype html><meta charset=utf-8><title>ai-worker: AsyncAPI</title>"
        "<h1>ai-worker: AsyncAPI</h1><p>Also as <a href=asyncapi.json>JSON</a> and <a href=asyncapi.yaml>YAML</a>, "
        f"for AsyncAPI Studio and generators.</p><pre>{text}</pre>"
    ).encode()
