"""The NATS services API (ADR-32): `nats micro ls`, `info`, `stats`, and `nats service req ai-worker ask-text`.

Written out, because nats-py's own service would subscribe to the endpoints' subjects beside FastStream and handle every
request twice.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import TypeAdapter

from aichats_schemas import __version__
from aichats_schemas.events import EVENTS
from aichats_schemas.requests import MODELS
from aichats_schemas.subjects import PROTOCOL, QUEUE, SERVICE, CoreMode, Kind, Subjects, is_reply_subject, new_id
from aichats_worker.telemetry.counting import EndpointStats, Telemetry

DESCRIPTION = "Streams text and images from ai-chats.org to each request's own reply subject."
REVISION = "2"
ANNOUNCED_TENANT = "default"  # `nats service req` publishes to the literal subject: no wildcards here


class Discovery:
    """Answers PING, INFO and STATS for this instance.

    Args:
        subjects: Below the worker's prefix.
        telemetry: Where the counters of the endpoints are.
        metadata: What is announced beside the protocol, as it is when somebody asks.
    """

    def __init__(self, subjects: Subjects, telemetry: Telemetry, metadata: Callable[[], Mapping[str, str]]) -> None:
        self.id = new_id()
        self._subjects = subjects
        self._telemetry = telemetry
        self._metadata = metadata
        self._max_payload: Callable[[], int] | None = None
        self._started = datetime.now(UTC).isoformat().replace("+00:00", "Z")

    async def start(self, nc: Client) -> None:
        """Subscribe to the nine subjects: each verb for all, for this service, and for this instance."""
        self._max_payload = lambda: nc.max_payload
        answers = {"PING": self._ping, "INFO": self._info, "STATS": self._stats}
        for verb, answer in answers.items():

            async def respond(message: Msg, make: Any = answer) -> None:
                if is_reply_subject(message.reply):
                    await message.respond(orjson.dumps(make()))
                elif message.reply:
                    self._telemetry.dropped_control("discovery", "forbidden_reply")

            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{SERVICE}", f"$SRV.{verb}.{SERVICE}.{self.id}"):
                await nc.subscribe(subject, cb=respond)

    def _identity(self, kind: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": SERVICE,
            "id": self.id,
            "version": __version__,
            "metadata": self._announced(),
        }

    def _announced(self) -> dict[str, str]:
        said = {"protocol": PROTOCOL, "revision": REVISION, "prefix": self._subjects.prefix, **self._metadata()}
        if self._max_payload is not None:  # the server says it in the handshake
            said["max_payload"] = str(self._max_payload())
        return said

    def about(self) -> dict[str, str]:
        """Return what is announced of this worker, for whoever asks in another way."""
        return {"instance": self.id, "started": self._started} | self._announced()

    def _ping(self) -> dict[str, Any]:
        return self._identity("ping")

    def _info(self) -> dict[str, Any]:
        return self._identity("info") | {
            "description": DESCRIPTION,
            "endpoints": [self._endpoint(*e) | {"metadata": _described(*e)} for e in ENDPOINTS],
        }

    def _stats(self) -> dict[str, Any]:
        endpoints = [self._endpoint(*e) | self._counted(*e) for e in ENDPOINTS]
        return self._identity("stats") | {"started": self._started, "endpoints": endpoints}

    def _endpoint(self, mode: CoreMode, kind: Kind) -> dict[str, Any]:
        return {
            "name": f"{mode}-{kind}",
            "subject": self._subjects.request(mode, kind, ANNOUNCED_TENANT),
            "queue_group": QUEUE,
        }

    def _counted(self, mode: CoreMode, kind: Kind) -> dict[str, Any]:
        stats = self._telemetry.endpoints.get((mode, kind), EndpointStats())
        return {
            "num_requests": stats.num_requests,
            "num_errors": stats.num_errors,
            "last_error": stats.last_error,
            "processing_time": stats.processing_time,
            "average_processing_time": stats.processing_time // max(stats.num_requests, 1),
            # Where ADR-32 lets a service say more: from receipt to the first piece of an answer, of those that had one.
            "data": {
                "num_first_events": stats.num_first_events,
                "average_first_event_time": stats.first_event_time // max(stats.num_first_events, 1),
            },
        }


@cache
def _described(mode: CoreMode, kind: Kind) -> dict[str, str]:
    """Return an endpoint's metadata, all of it strings: what is sent there and what comes back, as JSON Schemas."""
    return {
        "reply": "events and sentinel" if mode == "req" else "one result event",
        "request_schema": _schema(MODELS[kind]),
        "event_schema": _schema(EVENTS[mode, kind]),
    }


def _schema(model: Any) -> str:
    return orjson.dumps(TypeAdapter(model).json_schema()).decode()


ENDPOINTS = tuple(EVENTS)
