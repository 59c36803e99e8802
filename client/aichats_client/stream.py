"""Requests, and the events that come back, as they are: what `Client` is made of, for whoever wants it so."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import PubAck
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from aichats_client.errors import ClientError, CutOff, Gap, NoWorker, Stalled, service_error
from aichats_schemas.events import Done, Error, ErrorCode, ErrorData, Result, StreamEvent, parse_event
from aichats_schemas.subjects import MSG_ID, REPLY_TO, Kind, Subjects

# A worker is never silent for longer than its keep-alive interval, 0.8 s by default.
STALL_SECONDS: Final = 15.0
CANCEL_TIMEOUT_SECONDS: Final = 5.0
SUBMIT_TIMEOUT_SECONDS: Final = 5.0
NO_RESPONDERS: Final = "503"
HEADERS_MAX_BYTES: Final = 1024  # ours are a few hundred; the broker counts them, and nats-py does not

Request = BaseModel | dict[str, Any] | str | bytes


def encoded(request: Request) -> bytes:
    """Turn a request into a body: a model or a dict into JSON, a string into plain text."""
    if isinstance(request, BaseModel):
        return request.model_dump_json(exclude_none=True, by_alias=True).encode()
    if isinstance(request, dict):
        return to_json(request)
    return request if isinstance(request, bytes) else request.encode()


def fitting(nc: NatsClient, body: bytes) -> bytes:
    """Return a body that the broker takes: one that is too large would close the connection for good.

    Raises:
        TooLargeError: It is larger than the broker's limit.
    """
    if len(body) + HEADERS_MAX_BYTES <= nc.max_payload:
        return body
    says = f"the request has {len(body)} bytes, and the broker takes {nc.max_payload - HEADERS_MAX_BYTES} (max_payload)"
    raise service_error(ErrorData(code=ErrorCode.TOO_LARGE, message=says, retryable=False))


async def stream(
    nc: NatsClient,
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
        CutOff: It ended without its final event.
    """
    subject = (subjects or Subjects()).request("req", kind, tenant)
    headers = {MSG_ID: request_id} if request_id else None
    async with aclosing(_events(nc, subject, encoded(request), headers, stall_seconds)) as events:
        async for event in events:
            yield event


async def resume(
    nc: NatsClient,
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
    nc: NatsClient,
    subject: str,
    body: bytes,
    headers: dict[str, str] | None,
    stall_seconds: float,
    *,
    after: tuple[int, int] | None = None,
) -> AsyncGenerator[StreamEvent, None]:
    inbox, queue = nc.new_inbox(), asyncio.Queue[Msg]()
    order, ended = _Order(after), False
    subscription = await nc.subscribe(inbox, cb=queue.put)
    try:
        await nc.publish(subject, fitting(nc, body), reply=inbox, headers=headers)
        while (message := await _next(nc, subject, queue, stall_seconds)).data:
            if (event := _parsed(message)) is not None and order.admits(event):
                ended = isinstance(event, Done | Result | Error)
                yield event
        if not ended:
            raise CutOff("the answer ended without its final event")
    finally:
        if not nc.is_closed:
            await subscription.unsubscribe()


async def _next(nc: NatsClient, subject: str, queue: asyncio.Queue[Msg], stall_seconds: float) -> Msg:
    try:
        async with asyncio.timeout(stall_seconds):
            message = await queue.get()
    except TimeoutError:
        raise Stalled(f"nothing came for {stall_seconds:g} s: {_suspected(nc, subject)}") from None
    if (message.headers or {}).get("Status") == NO_RESPONDERS:
        raise NoWorker(nobody(subject))
    return message


def nobody(subject: str) -> str:
    """Say that nobody serves a subject, and what to look at."""
    return (
        f"no worker serves {subject}, or all are full: start one (`aichats-worker run`), or try again; "
        "`aichats-worker doctor` and `nats micro ls` show which there are"
    )


def _suspected(nc: NatsClient, subject: str) -> str:
    if not nc.is_connected:
        return "the connection to the broker is lost"
    if f'permissions violation for publish to "{subject}"'.lower() in str(nc.last_error or "").lower():
        return f"this user may not publish to {subject}; is it another tenant's?"
    return "the worker is gone, or never got the request"


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
            return event.attempt == 0  # what a resume says itself has no place in the order
        expected = self._seq + 1 if event.attempt == self._attempt else 0
        if event.seq > expected:
            raise Gap(f"attempt {event.attempt}: event {expected} is missing, {event.seq} came")
        fresh = event.seq == expected
        if fresh:
            self._attempt, self._seq = event.attempt, event.seq
        return fresh


async def ask(
    nc: NatsClient,
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
        timeout_seconds: How long to wait. The worker does not know of it.
        tenant: The subject's tenant.
        subjects: Where the workers use another prefix.

    Raises:
        NoWorker: Nobody serves the subject.
        Stalled: No answer within `timeout_seconds`.
    """
    subject = (subjects or Subjects()).request("ask", kind, tenant)
    event = parse_event(await _answered(nc, subject, fitting(nc, encoded(request)), timeout_seconds))
    if not isinstance(event, Result | Error):
        raise ClientError(f"an ask is answered by a result or an error, not by {event.type}")
    return event


async def cancel(nc: NatsClient, request_id: str, *, tenant: str = "default", subjects: Subjects | None = None) -> bool:
    """Stop a request, running or queued. False where nobody runs or holds it, or it has ended.

    Raises:
        NoWorker: There is no worker.
        Stalled: No word within CANCEL_TIMEOUT_SECONDS.
        ClientError: It could not be found out; ask again.
    """
    subject = (subjects or Subjects()).cancel(tenant, request_id)
    answer = from_json(await _answered(nc, subject, b"", CANCEL_TIMEOUT_SECONDS))
    if "cancelled" not in answer:
        raise ClientError(f"whether it runs could not be found out: {answer.get('error', 'no reason was given')}")
    return bool(answer["cancelled"])


async def _answered(nc: NatsClient, subject: str, body: bytes, timeout_seconds: float) -> bytes:
    try:
        return bytes((await nc.request(subject, body, timeout=timeout_seconds)).data)
    except NoRespondersError:
        raise NoWorker(nobody(subject)) from None
    except (NatsTimeoutError, TimeoutError):
        raise Stalled(f"no answer within {timeout_seconds:g} s: {_suspected(nc, subject)}") from None


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
