"""Requests, and the events that come back.

ClientError
├── NoWorker     nobody serves the subject
├── Stalled      nothing came for longer than a worker is ever silent
└── Gap          an event is missing
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import PubAck
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from aichats_schemas.events import Error, Result, StreamEvent, parse_event
from aichats_schemas.subjects import MSG_ID, REPLY_TO, Kind, Subjects

# A worker is never silent for longer than its keep-alive interval, 0.8 s by default.
STALL_SECONDS = 15.0
CANCEL_TIMEOUT_SECONDS = 5.0
SUBMIT_TIMEOUT_SECONDS = 5.0
NO_RESPONDERS = "503"

Request = BaseModel | dict[str, Any] | str | bytes


class ClientError(Exception):
    """What a requester notices by itself; what the worker says comes as an `error` event."""


class NoWorker(ClientError):
    """Nobody serves the subject, or all that do are full."""


class Stalled(ClientError):
    """Nothing came for longer than a worker is ever silent: the stream was cut."""


class Gap(ClientError):
    """An event is missing: `seq` did not grow by one."""


def encoded(request: Request) -> bytes:
    """Turn a request into a body: a model or a dict into JSON, a string into plain text."""
    if isinstance(request, BaseModel):
        return request.model_dump_json(exclude_none=True).encode()
    if isinstance(request, dict):
        return to_json(request)
    return request if isinstance(request, bytes) else request.encode()


async def stream(
    nc: Client,
    kind: Kind,
    request: Request,
    *,
    tenant: str = "default",
    request_id: str | None = None,
    stall_seconds: float = STALL_SECONDS,
    subjects: Subjects | None = None,
) -> AsyncGenerator[StreamEvent, None]:
    """Ask, and yield the events up to the final one.

    Args:
        nc: A connection to the broker.
        kind: `text` or `image`.
        request: A model, a dict, or a string, which is then the prompt.
        tenant: The subject's tenant.
        request_id: The request's id; the worker makes one where it is None.
        stall_seconds: Longest wait between two events.
        subjects: Where the workers use another prefix.

    Raises:
        NoWorker: Nobody serves the subject.
        Stalled: Nothing came for `stall_seconds`.
        Gap: An event is missing.
    """
    subject = (subjects or Subjects()).request("req", kind, tenant)
    headers = {MSG_ID: request_id} if request_id else None
    async with aclosing(_events(nc, subject, encoded(request), headers, stall_seconds)) as events:
        async for event in events:
            yield event


async def resume(
    nc: Client,
    request_id: str,
    *,
    tenant: str = "default",
    after: tuple[int, int] | None = None,
    stall_seconds: float = STALL_SECONDS,
    subjects: Subjects | None = None,
) -> AsyncGenerator[StreamEvent, None]:
    """Yield a job's events again, after `(attempt, seq)` where it is given, and go on live up to the final one.

    Raises:
        ClientError: As `stream`.
    """
    body: dict[str, Any] = {"id": request_id}
    if after is not None:
        body["after"] = {"attempt": after[0], "seq": after[1]}
    subject = (subjects or Subjects()).resume(tenant)
    async with aclosing(_events(nc, subject, to_json(body), None, stall_seconds, after=after)) as events:
        async for event in events:
            yield event


async def _events(
    nc: Client,
    subject: str,
    body: bytes,
    headers: dict[str, str] | None,
    stall_seconds: float,
    *,
    after: tuple[int, int] | None = None,
) -> AsyncGenerator[StreamEvent, None]:
    inbox, queue = nc.new_inbox(), asyncio.Queue[Msg]()
    subscription = await nc.subscribe(inbox, cb=queue.put)
    order = _Order(after)
    try:
        await nc.publish(subject, body, reply=inbox, headers=headers)
        while (message := await _next(queue, stall_seconds)).data:
            if (event := _parsed(message)) is not None and order.admits(event):
                yield event
    finally:
        if not nc.is_closed:
            await subscription.unsubscribe()


async def _next(queue: asyncio.Queue[Msg], stall_seconds: float) -> Msg:
    try:
        async with asyncio.timeout(stall_seconds):
            message = await queue.get()
    except TimeoutError:
        raise Stalled(f"nothing came for {stall_seconds:g} s: the worker is gone, or never got the request") from None
    if (message.headers or {}).get("Status") == NO_RESPONDERS:
        raise NoWorker("no worker serves this subject, or all are full: start one, or try again")
    return message


def _parsed(message: Msg) -> StreamEvent | None:
    """Read an event; None for a type of tomorrow, which clients ignore."""
    try:
        return parse_event(message.data)
    except ValidationError:
        return None


class _Order:
    """The rule of `(attempt, seq)`: a higher attempt replaces a lower one, which is ignored; within one, no gaps."""

    def __init__(self, after: tuple[int, int] | None) -> None:
        self._attempt, self._seq = after or (0, -1)

    def admits(self, event: StreamEvent) -> bool:
        if event.attempt == 0 or event.attempt < self._attempt:
            return event.attempt == 0  # the status of a queued job has no place in the order
        expected = self._seq + 1 if event.attempt == self._attempt else 0
        if event.seq > expected:
            raise Gap(f"attempt {event.attempt}: event {expected} is missing, {event.seq} came")
        fresh = event.seq == expected
        if fresh:
            self._attempt, self._seq = event.attempt, event.seq
        return fresh


async def ask(
    nc: Client,
    kind: Kind,
    request: Request,
    *,
    timeout_seconds: float,
    tenant: str = "default",
    subjects: Subjects | None = None,
) -> Result | Error:
    """Ask for the whole answer in one message.

    Args:
        nc: A connection to the broker.
        kind: `text` or `image`.
        request: A model, a dict, or a string, which is then the prompt.
        timeout_seconds: How long to wait.
        tenant: The subject's tenant.
        subjects: Where the workers use another prefix.

    Raises:
        NoWorker: Nobody serves the subject.
        Stalled: No answer within `timeout_seconds`.
    """
    subject = (subjects or Subjects()).request("ask", kind, tenant)
    try:
        message = await nc.request(subject, encoded(request), timeout=timeout_seconds)
    except NoRespondersError:
        raise NoWorker("no worker serves this subject, or all are full: start one, or try again") from None
    except NatsTimeoutError:
        raise Stalled(f"no answer within {timeout_seconds:g} s") from None
    event = parse_event(message.data)
    if not isinstance(event, Result | Error):
        raise ClientError(f"an ask is answered by a result or an error, not by {event.type}")
    return event


async def cancel(nc: Client, request_id: str, *, tenant: str = "default", subjects: Subjects | None = None) -> bool:
    """Stop a request, running or queued. False where nobody runs or holds it, or it has ended.

    Raises:
        NoWorker: There is no worker.
        Stalled: No word within CANCEL_TIMEOUT_SECONDS.
    """
    subject = (subjects or Subjects()).cancel(tenant, request_id)
    try:
        message = await nc.request(subject, b"", timeout=CANCEL_TIMEOUT_SECONDS)
    except NoRespondersError:
        raise NoWorker("there is no worker") from None
    except NatsTimeoutError:
        raise Stalled(f"no word within {CANCEL_TIMEOUT_SECONDS:g} s") from None
    return bool(from_json(message.data)["cancelled"])


async def submit(
    js: JetStreamContext,
    kind: Kind,
    request: Request,
    *,
    request_id: str,
    tenant: str = "default",
    reply_to: str | None = None,
    subjects: Subjects | None = None,
) -> PubAck:
    """Submit a job. The answer says that it is stored.

    Without a message id: those are shared by all tenants, and a job's id is in its subject.

    Args:
        js: JetStream of a connection.
        kind: `text` or `image`.
        request: A model, a dict, or a string, which is then the prompt.
        request_id: The job's id, the last token of its subject.
        tenant: The subject's tenant.
        reply_to: An inbox for the events; without one they are kept for `resume`.
        subjects: Where the workers use another prefix.

    Raises:
        nats.js.errors.APIError: The stream refuses it: the queue is full, or a job of this id is queued or running.
    """
    headers = {REPLY_TO: reply_to} if reply_to else None
    subject = (subjects or Subjects()).job(kind, tenant, request_id)
    return await js.publish(subject, encoded(request), headers=headers, timeout=SUBMIT_TIMEOUT_SECONDS)
