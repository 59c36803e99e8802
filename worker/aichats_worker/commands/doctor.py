"""`aichats-worker doctor`: what answers, what does not, and which settings are in force."""

import asyncio
import json
from dataclasses import replace
from http.client import HTTPConnection, HTTPException

from aichats_worker.commands.findings import Finding, Report
from aichats_worker.commands.naming import as_typed
from aichats_worker.settings import Settings
from aichats_worker.starting import hidden

with hidden("rich"):  # as in running.py: a tenth of the command's start
    from aichats_worker.commands.examining import broker_findings, provider_findings
    from aichats_worker.health import WELL

PORT_TIMEOUT_SECONDS = 2.0


async def examine(settings: Settings, defaults: Settings) -> Report:
    """Look at the broker, at each provider and at the port, each with a bound.

    Raises:
        SetupError: A file cannot be used. What does not answer is a finding.
    """
    found = await asyncio.gather(broker_findings(settings), provider_findings(settings), _port(settings))
    masked, plain = settings.masked(), defaults.masked()
    changed = [name for name, value in masked.items() if value != plain[name]]
    findings = [replace(finding, says=as_typed(finding.says)) for findings in found for finding in findings]
    return Report(findings, masked, changed)


async def _port(settings: Settings) -> list[Finding]:
    """Look who has the port of the probes: nobody, or a worker, and how it is."""
    port = settings.worker_http_port
    if not port:
        return []
    host = "127.0.0.1" if settings.worker_http_host in ("0.0.0.0", "::") else settings.worker_http_host  # noqa: S104
    try:
        checks = await asyncio.to_thread(_ready, host, port)
    except ConnectionRefusedError:
        return [Finding("port", True, f"{port} is free on {host}")]
    except (OSError, HTTPException, ValueError, TypeError, LookupError):
        return [Finding("port", False, f"{port} on {host} has somebody else: set WORKER_HTTP_PORT")]
    troubles = "; ".join(f"{name}: {says}" for name, says in checks.items() if says != WELL)
    return [Finding("port", not troubles, f"{port} has a worker: {troubles or 'it is ready, and all is well'}")]


def _ready(host: str, port: int) -> dict[str, str]:
    connection = HTTPConnection(host, port, timeout=PORT_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        checks: dict[str, str] = dict(json.loads(connection.getresponse().read())["checks"])
    finally:
        connection.close()
    return checks
