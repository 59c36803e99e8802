"""Probes, metrics and documentation over HTTP, through FastStream's ASGI application."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import orjson
import structlog
import uvicorn
from faststream.asgi import AsgiFastStream, AsgiResponse, get
from prometheus_client import CollectorRegistry
from prometheus_client import make_asgi_app as make_metrics_app

from aichats_worker.documents.contract import WRITERS, Contract
from aichats_worker.documents.front import FrontPage
from aichats_worker.documents.html import HEADERS
from aichats_worker.errors import SetupError
from aichats_worker.health import Health

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Serves until it is told to stop; signals are the worker's own, which answers probes while it drains."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Web:
    """The HTTP side of the worker.

    Args:
        contract: The document that is shown, and FastStream's broker.
        registry: What /metrics shows.
        health: What the probes say.
        facts: What the worker's own page says of it, by name.
    """

    def __init__(
        self,
        contract: Contract,
        registry: CollectorRegistry,
        health: Health,
        facts: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.app = AsgiFastStream(
            contract.broker,
            specification=contract.specification,
            logger=None,
            asgi_routes=[
                ("/", _front(health, facts)),
                ("/livez", _probe(health.live)),
                ("/readyz", _probe(health.ready)),
                ("/metrics", _metrics(registry)),
                ("/docs/asyncapi", _document(contract, "html", HEADERS)),
                ("/docs/asyncapi.json", _document(contract, "json", {"content-type": "application/json"})),
                ("/docs/asyncapi.yaml", _document(contract, "yaml", {"content-type": "application/yaml"})),
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

    async def stop(self, timeout_seconds: float) -> None:
        """Stop listening; requests under way have `timeout_seconds`."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await asyncio.wait({self._task}, timeout=timeout_seconds)
        self._task.cancel()


def _probe(check: Callable[[], tuple[bool, dict[str, Any]]]) -> Any:
    @get(include_in_schema=False)
    async def probe(scope: Any) -> AsgiResponse:  # noqa: ARG001 - FastStream passes it
        good, details = check()
        return AsgiResponse(orjson.dumps(details), 200 if good else 503, {"content-type": "application/json"})

    return probe


def _metrics(registry: CollectorRegistry) -> Any:
    """The library's own, which raises where a header is no UTF-8."""
    shown = make_metrics_app(registry)

    async def metrics(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = scope | {"headers": [(name, value) for name, value in scope["headers"] if value.isascii()]}
        await shown(scope, receive, send)

    return metrics


def _front(health: Health, facts: Callable[[], Mapping[str, Any]]) -> Any:
    """A browser gets a page, `curl` lines."""

    @get(include_in_schema=False)
    async def front(scope: Any) -> AsgiResponse:
        ready, said = health.ready()
        shown = FrontPage(ready, said["checks"], facts())
        if any(name == b"accept" and b"text/html" in value for name, value in scope["headers"]):
            return AsgiResponse(shown.html(), 200, HEADERS)
        return AsgiResponse(shown.text(), 200, {"content-type": "text/plain; charset=utf-8"})

    return front


def _document(contract: Contract, name: str, headers: dict[str, str]) -> Any:
    made = cache(
        lambda: WRITERS[name](contract.document())
    )  # it does not change, and takes 0.2 s: not the event loop's

    @get(include_in_schema=False)
    async def document(scope: Any) -> AsgiResponse:  # noqa: ARG001 - FastStream passes it
        return AsgiResponse(await asyncio.to_thread(made), 200, headers)

    return document
