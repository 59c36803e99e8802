"""What the requesters of the soak do: good requests and all kinds of faults, each with the ends that are right."""

import asyncio
import random
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from aichats_client import Answer, ClientError, Gap, NoWorker, Stalled, cancel, resume, submit
from aichats_schemas import parse_event
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Received, Simulator
from tests.requester import Exchange, check, text_of

Family = Literal["text", "image", "job"]

AFTER_SECONDS: Final = 0.2  # nothing may come behind a sentinel for so long
STREAM_SECONDS: Final = 60.0
IMAGE_LOST_SECONDS: Final = 5  # an image that was made is fetched again until the deadline
JOB_SECONDS: Final = 120.0
REFUSED_SECONDS: Final = 1.0  # a stream that was refused is not followed by the next one at once
LEFT_SECONDS: Final = 10.0
NO_SEQ: Final = 10**9
IMAGE_BYTES: Final = (0, 30_000, 300_000, 1_500_000)
BAD_BODIES: Final[tuple[bytes | dict[str, Any], ...]] = (
    b"",
    b"\xff\xfe",
    b"{",
    {"prompt": " "},
    {"prompt": "x", "messages": []},
    {"prompt": "x", "timeout_seconds": 0},
    {"prompt": "x", "metadata": {"a": 1}},
)


@dataclass
class Weather:
    """Whether the way between the worker and its requesters was broken, and since when."""

    breaks: int = 0
    ongoing: bool = False

    def mark(self) -> int:
        """Return what `broken_since` takes; -1 while it is broken."""
        return -1 if self.ongoing else self.breaks

    def broken_since(self, mark: int) -> bool:
        """Whether it was broken at that mark, or at any time since."""
        return self.mark() != mark or mark < 0


@dataclass(frozen=True)
class Stream:
    """One stream's own things: who asks, under which id, how long its answer is, and its dice."""

    load: "Load"
    dice: random.Random
    tenant: str
    id: str
    words: int
    mark: int

    @property
    def nc(self) -> Client:
        """The requesters' connection."""
        return self.load.nc

    @property
    def spoken(self) -> str:
        """The directives of an answer of its length."""
        return f"words={self.words} pause={self.dice.choice(('0.1', '0.2', '0.3'))}"

    def subject(self, mode: str = "req", kind: str = "text") -> str:
        """Where it asks."""
        return f"ai.v1.{mode}.{kind}.{self.tenant}"

    async def exchange(self, mode: str, body: bytes | dict[str, Any], kind: str = "text") -> Exchange:
        """Send a request."""
        return await Exchange(self.nc).send(self.subject(mode, kind), body, {"Nats-Msg-Id": self.id})

    async def ended(self, exchange: Exchange) -> list[Any]:
        """Read up to the sentinel and a little beyond, and hold the reply against the contract.

        A job that was tried again has sent what an earlier attempt made, too: the last one replaces it.
        """
        try:
            while not exchange.messages or exchange.messages[-1].data:
                await exchange.next()
            if (exchange.messages[-1].headers or {}).get("Status") == "503":
                raise NoWorker("no responders, though a worker is up and has free slots")
            try:
                async with asyncio.timeout(AFTER_SECONDS):
                    await exchange.next()
            except TimeoutError:
                return check(_last_attempt(exchange.messages))
            raise AssertionError("a message came after the sentinel")
        finally:
            await exchange.leave()

    async def asked(self, mode: str, body: bytes | dict[str, Any], kind: str = "text") -> str:
        """Send a request, and hold its whole reply against the contract and the text that was asked for."""
        events = await self.ended(await self.exchange(mode, body, kind))
        said = events[-1].data.text if mode == "ask" and events[-1].type == "result" else text_of(events)
        return self.judged(events, said, kind)

    def judged(self, events: list[Any], said: str | None, kind: str = "text") -> str:
        """Return the name of the end, where the answer is the one that was asked for."""
        end = outcome(events[-1])
        if end == "done" and kind == "text":
            assert said == "".join(words(self.words)), f"the wrong text: {said!r}"
        if end == "done" and kind == "image" and events[-1].type == "done":
            answer = Answer()
            for event in events:
                answer.add(event)
            assert len(answer.images) == 1, "not one image"
        return end


def _last_attempt(messages: list[Msg]) -> list[Msg]:
    """Return the sentinel, and what belongs to the attempt that has ended, or to none."""
    *rest, sentinel = messages
    attempts = [parse_event(message.data).attempt for message in rest]
    return [one for one, attempt in zip(rest, attempts, strict=True) if attempt in (0, attempts[-1])] + [sentinel]


def outcome(event: Any) -> str:
    """Return `done`, `circuit open`, or an error's code."""
    if event is None or event.type in ("done", "result"):
        return "cut" if event is None else "done"
    return "circuit open" if "is not asked" in event.data.message else str(event.data.code)


Play = Callable[[Stream], Awaitable[str]]


@dataclass(frozen=True)
class Card:
    """One kind of stream: how often it is dealt, and the ends that are right where nothing was broken."""

    name: str
    weight: float
    play: Play
    ends: tuple[str, ...]


def asks(mode: str, directive: str, kind: str = "text") -> Play:
    """Make a play that sends a prompt with this directive, in which {spoken} and {size} are the stream's own."""

    async def play(stream: Stream) -> str:
        directives = directive.format(spoken=stream.spoken, size=stream.dice.choice(IMAGE_BYTES))
        return await stream.asked(mode, f"[sim: {directives}]".encode(), kind)

    return play


def image_lost(directive: str) -> Play:
    """Make a play that asks for an image which is made, and whose download fails each time until the deadline."""

    async def play(stream: Stream) -> str:
        body = orjson.dumps({"prompt": f"[sim: {directive}]", "timeout_seconds": IMAGE_LOST_SECONDS})
        return await stream.asked("req", body, "image")

    return play


async def conversation(stream: Stream) -> str:
    """A whole conversation with metadata, which comes back."""
    told = {"stream": stream.id}
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"[sim: {stream.spoken}]"}]
    events = await stream.ended(await stream.exchange("req", {"messages": messages, "metadata": told}))
    assert events[-1].type == "error" or events[-1].data.metadata == told, "the metadata did not come back"
    return stream.judged(events, text_of(events))


async def in_silence(stream: Stream) -> str:
    """Nothing for a while: status events are due."""
    body = f"[sim: delay=2.5 {stream.spoken}]".encode()
    events = await stream.ended(await stream.exchange("req", body))
    assert events[-1].type == "error" or events[0].type == "status", "nothing was said in the silence"
    return stream.judged(events, text_of(events))


async def out_of_time(stream: Stream) -> str:
    """A budget that is too short."""
    return await stream.asked("req", {"prompt": "[sim: words=40 pause=0.2]", "timeout_seconds": 1})


async def bad(stream: Stream) -> str:
    """A request that cannot be read."""
    return await stream.asked("req", stream.dice.choice(BAD_BODIES))


async def another_model(stream: Stream) -> str:
    """A model that there is none of."""
    return await stream.asked("req", {"prompt": "x", "model": "none"})


async def too_many(stream: Stream) -> str:
    """More metadata than is accepted."""
    return await stream.asked("req", {"prompt": "x", "metadata": {str(number): "" for number in range(17)}})


async def leaves(stream: Stream) -> str:
    """The requester goes away in the middle: the provider's connection has to close."""
    exchange = await stream.exchange("req", f"[sim: words=400 pause=0.2] {stream.id}".encode())
    event = await exchange.event()
    await exchange.leave()
    if event.type == "error":
        return outcome(event)
    received = stream.load.received(stream.id)
    async with asyncio.timeout(LEFT_SECONDS):
        await received.ended.wait()
    assert received.closed_early, "the provider's answer was read to its end for nobody"
    return "left"


async def cancels(stream: Stream) -> str:
    """The requester cancels in the middle."""
    exchange = await stream.exchange("req", b"[sim: words=400 pause=0.2]")
    event = await exchange.event()
    if event.type != "error":
        assert await cancel(stream.nc, stream.id, tenant=stream.tenant), "a running request could not be cancelled"
    return outcome((await stream.ended(exchange))[-1])


async def forbidden_reply(stream: Stream) -> str:
    """A reply subject that is no inbox: nothing may come there."""
    exchange = Exchange(stream.nc, f"soak.elsewhere.{stream.id}")
    await exchange.send(stream.subject(), b"[sim: words=2]")
    try:
        async with asyncio.timeout(1.5):
            message = await exchange.next()
    except TimeoutError:
        return "dropped"
    finally:
        await exchange.leave()
    raise AssertionError(f"something was published outside of an inbox: {message.data[:80]!r}")


async def no_reply(stream: Stream) -> str:
    """No reply subject at all."""
    await stream.nc.publish(stream.subject(), b"[sim: words=2]")
    await asyncio.sleep(1)
    return "dropped"


async def twice(stream: Stream) -> str:
    """The same id twice at once: one runs."""
    body = f"[sim: {stream.spoken}]".encode()
    first = await stream.exchange("req", body)
    event = await first.event()
    if event.type == "error":
        return outcome((await stream.ended(first))[-1])
    second = outcome((await stream.ended(await stream.exchange("req", body)))[-1])
    events = await stream.ended(first)
    end = stream.judged(events, text_of(events))
    # A short answer may have ended before the second one came, which then runs.
    return second if end == "done" else end


async def own_proxy(stream: Stream) -> str:
    """A proxy of the request's own, which nobody else names."""
    scheme, port = stream.dice.choice(list(stream.load.proxies.items()))
    proxy = f"{scheme}://{stream.id}:secret@127.0.0.1:{port}"
    return await stream.asked("req", {"prompt": f"[sim: {stream.spoken}]", "proxy": proxy})


async def dead_proxy(stream: Stream) -> str:
    """A proxy that is not there."""
    return await stream.asked("req", {"prompt": "x", "proxy": f"socks5://{stream.id}:secret@127.0.0.1:1"})


async def resumes_nothing(stream: Stream) -> str:
    """A resume of a job that never was."""
    return outcome((await _followed(stream)).end)


def job(directive: str) -> Play:
    """Make a play that submits a job and follows it."""

    async def play(stream: Stream) -> str:
        await _submitted(stream, f"[sim: {directive.format(spoken=stream.spoken, size=30_000)}]")
        return _judged(stream, await _followed(stream))

    return play


async def image_job(stream: Stream) -> str:
    """An image as a job."""
    await _submitted(stream, "[sim: delay=1 bytes=30000]", kind="image")
    answer = await _followed(stream)
    assert outcome(answer.end) != "done" or len(answer.images) == 1, "not one image"
    return outcome(answer.end)


async def job_seen_again(stream: Stream) -> str:
    """A job whose requester leaves in the middle, comes back for the rest, and then reads it all once more."""
    await _submitted(stream, f"[sim: {stream.spoken}]")
    answer = await _followed(stream, leave_after=3)
    again = await _followed(stream)
    assert (again.text, outcome(again.end)) == (answer.text, outcome(answer.end)), "another answer the second time"
    return _judged(stream, again)


async def job_submitted_twice(stream: Stream) -> str:
    """A job that is submitted twice runs once."""
    await _submitted(stream, f"[sim: {stream.spoken}]")
    with suppress(APIError):  # refused, as long as the first is queued or at work; afterwards it runs nothing
        await submit(stream.nc.jetstream(), "text", "[sim: words=1]", request_id=stream.id, tenant=stream.tenant)
    return _judged(stream, await _followed(stream))


async def job_cancelled(stream: Stream) -> str:
    """A job that is cancelled, in the queue or at work."""
    await _submitted(stream, "[sim: words=400 pause=0.2]")
    await asyncio.sleep(stream.dice.choice((0, 1, 2)))
    cancelled = await cancel(stream.nc, stream.id, tenant=stream.tenant)
    if not cancelled:  # between the queue and its slot for a moment, or the broker was frozen
        await asyncio.sleep(4)
        cancelled = await cancel(stream.nc, stream.id, tenant=stream.tenant)
    assert cancelled, "a job could not be cancelled"
    return outcome((await _followed(stream)).end)


async def job_to_inbox(stream: Stream) -> str:
    """A job that names an inbox."""
    exchange = await Exchange(stream.nc).listen()
    await _submitted(stream, f"[sim: {stream.spoken}]", reply_to=exchange.inbox)
    return stream.judged(events := await stream.ended(exchange), text_of(events))


async def job_forbidden(stream: Stream) -> str:
    """A job whose events are to go where they may not: it is given up, and kept as a dead letter."""
    exchange = await Exchange(stream.nc, f"soak.elsewhere.{stream.id}").listen()
    await _submitted(stream, "[sim: words=2]", reply_to=exchange.inbox)
    await asyncio.sleep(1.5)
    await exchange.leave()
    assert exchange._queue.empty(), "something was published outside of an inbox"  # noqa: SLF001
    return "dropped"


async def _submitted(
    stream: Stream, prompt: str, *, kind: Literal["text", "image"] = "text", reply_to: str | None = None
) -> None:
    """Submit until it is confirmed: while the broker is down, that takes more than once."""
    while True:
        try:
            await submit(
                stream.nc.jetstream(), kind, prompt, request_id=stream.id, tenant=stream.tenant, reply_to=reply_to
            )
        except (NatsError, TimeoutError):
            if not stream.load.weather.broken_since(stream.mark):
                raise
            await asyncio.sleep(0.5)
        else:
            return


async def _followed(stream: Stream, leave_after: int = 0) -> Answer:
    """Follow a job to its end; where the way was broken, come back for the rest as often as it takes."""
    answer, last = Answer(), (0, -1)
    while answer.end is None:
        events = resume(stream.nc, stream.id, tenant=stream.tenant, after=last if last[0] else None)
        try:
            async for event in events:
                answer.add(event)
                last = max(last, (event.attempt, event.seq)) if event.attempt else last
                if leave_after and event.seq >= leave_after:
                    leave_after = 0
                    break
        except (Gap, Stalled, NoWorker, NatsError) as error:
            if not stream.load.weather.broken_since(stream.mark):
                raise
            if isinstance(error, Gap):  # an attempt that a break cut: the next one replaces it
                last = (max(last[0], 1), NO_SEQ)
            await asyncio.sleep(0.5)
        finally:
            await events.aclose()
    return answer


def _judged(stream: Stream, answer: Answer) -> str:
    end = outcome(answer.end)
    assert end != "done" or answer.text == "".join(words(stream.words)), f"the wrong text: {answer.text!r}"
    return end


OPEN: Final = "circuit open"
LOST: Final = ("interrupted", "deadline_exceeded", OPEN)
CARDS: Final[dict[Family, list[Card]]] = {
    "text": [
        Card("good", 40, asks("req", "{spoken}"), ("done", OPEN)),
        Card("good: a conversation", 5, conversation, ("done", OPEN)),
        Card("good: silence first", 5, in_silence, ("done", OPEN)),
        Card("ask", 10, asks("ask", "{spoken} pause=0.1"), ("done", OPEN)),  # silent to its end
        Card("own proxy", 4, own_proxy, ("done",)),
        Card("dead proxy", 1, dead_proxy, ("provider_unavailable",)),
        Card("requester leaves", 5, leaves, ("left", OPEN)),
        Card("cancel", 4, cancels, ("cancelled", OPEN)),
        Card("same id twice", 2, twice, ("duplicate", OPEN)),
        Card("bad request", 2, bad, ("invalid_request",)),
        Card("unknown model", 1, another_model, ("model_not_found",)),
        Card("too large", 1, too_many, ("too_large",)),
        Card("forbidden reply", 2, forbidden_reply, ("dropped",)),
        Card("no reply subject", 1, no_reply, ("dropped",)),
        Card("short timeout", 3, out_of_time, ("deadline_exceeded", OPEN)),
        Card("resume of nothing", 1, resumes_nothing, ("invalid_request",)),
        Card("provider 503", 3, asks("req", "status=503"), ("provider_unavailable", OPEN)),
        Card("provider 429, short", 2, asks("req", "status=429 retry-after=1"), ("rate_limited", OPEN)),
        Card("provider 429, long", 2, asks("req", "status=429 retry-after=body"), ("rate_limited", OPEN)),
        Card("provider challenge", 0.5, asks("req", "answer=challenge status=403"), ("challenge", OPEN)),
        Card("provider quota", 0.3, asks("req", "answer=none tries=0"), ("quota_exhausted", OPEN)),
        Card("provider HTML", 2, asks("req", "answer=html"), ("bad_response", OPEN)),
        Card("provider JSON error", 1, asks("req", "answer=json-error"), ("provider_unavailable", OPEN)),
        Card("provider prose", 1, asks("req", "answer=prose"), ("bad_response", OPEN)),
        Card("provider says nothing", 1, asks("req", "answer=empty"), ("bad_response", OPEN)),
        Card("provider cut", 3, asks("req", "{spoken} cut-after=2"), ("interrupted", OPEN)),
        Card("provider cut at once", 1, asks("req", "cut-after=0"), ("provider_unavailable", OPEN)),
        Card("provider stall", 3, asks("req", "{spoken} stall-after=2"), ("deadline_exceeded", OPEN)),
        Card("ask, provider stall", 1, asks("ask", "{spoken} stall-after=2"), ("deadline_exceeded", OPEN)),
    ],
    "image": [
        Card("image", 30, asks("req", "delay=1 bytes={size}", "image"), ("done", OPEN)),
        Card("image in the answer", 8, asks("req", "delay=1 bytes=300000 source=b64", "image"), ("done", OPEN)),
        Card("image ask", 8, asks("ask", "delay=1 bytes=30000", "image"), ("done", OPEN)),
        Card("image ask, too large", 3, asks("ask", "bytes=1500000", "image"), ("too_large", OPEN)),
        Card("image cut", 4, image_lost("bytes=300000 image-cut-after=9000"), LOST),
        Card("image stall", 3, image_lost("bytes=30000 image-stall-after=9000"), LOST),
        Card("no image", 3, asks("req", "type=text bytes=300", "image"), ("bad_response", OPEN)),
        Card("image 404", 3, asks("req", "image-status=404", "image"), ("bad_response", OPEN)),
        Card("private image", 3, asks("req", "image-url=http://127.0.0.1:1/a.png", "image"), ("bad_response", OPEN)),
    ],
    "job": [
        Card("job", 20, job("{spoken}"), ("done", OPEN)),
        Card("job seen again", 10, job_seen_again, ("done", OPEN)),
        Card("job submitted twice", 4, job_submitted_twice, ("done", OPEN)),
        Card("job cancelled", 4, job_cancelled, ("cancelled", OPEN)),
        Card("job to an inbox", 4, job_to_inbox, ("done", OPEN)),
        Card("job to a forbidden place", 2, job_forbidden, ("dropped",)),
        Card("job, provider 503", 3, job("status=503"), ("provider_unavailable", OPEN)),
        Card("job, provider cut", 3, job("{spoken} cut-after=2"), ("interrupted", OPEN)),
        Card("job, image", 4, image_job, ("done", OPEN)),
    ],
}  # fmt: skip


@dataclass
class Load:
    """All requesters: one stream at a time on each seat, until told to stop.

    Seats belong to a family, so that the mix at any moment stays the same: 1 in 10 to jobs, 1 in 20 to images.

    Args:
        nc: The requesters' connection.
        provider: The simulator that the worker asks.
        proxies: The port of a working proxy by its scheme.
        weather: Whether streams may be broken.
        seed: Of every seat's dice.
        words_max: Of the longest answer.
    """

    nc: Client
    provider: Simulator
    proxies: dict[str, int]
    weather: Weather
    seed: int
    words_max: int
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    started: int = 0
    stopping: bool = False

    def __post_init__(self) -> None:
        self._undealt = {family: list(cards) for family, cards in CARDS.items()}

    async def sit(self, seat: int) -> None:
        """Take one stream after the other; of each kind at least one comes, however short the run."""
        family: Family = "job" if seat % 10 == 0 else "image" if seat % 20 == 1 else "text"
        dice = random.Random(f"{self.seed}-{seat}")  # noqa: S311 - a plan that can be made again
        await asyncio.sleep(dice.random())
        while not self.stopping or self._undealt[family]:
            began = time.monotonic()
            await self._one(family, self._dealt(family, dice), dice)
            if time.monotonic() - began < REFUSED_SECONDS:
                await asyncio.sleep(REFUSED_SECONDS)

    def received(self, mark: str) -> Received:
        """Find the provider's record of the prompt that holds `mark`."""
        return next(one for one in reversed(self.provider.requests) if mark.encode() in one.body)

    def unseen(self) -> list[str]:
        """Return the cards of which none came to a right end."""
        seen = {name for name, end in self.ends if end != "broken"}
        return [card.name for cards in CARDS.values() for card in cards if card.name not in seen]

    def _dealt(self, family: Family, dice: random.Random) -> Card:
        if self._undealt[family]:
            return self._undealt[family].pop(0)
        cards = CARDS[family]
        return dice.choices(cards, [card.weight for card in cards])[0]

    async def _one(self, family: Family, card: Card, dice: random.Random) -> None:
        self.started += 1
        mark = self.weather.mark()
        stream = Stream(
            self, dice, f"t{self.started}", f"s{self.started}", dice.randint(5, self.words_max), mark
        )  # a tenant of its own for each: what grows with them is found
        seconds = JOB_SECONDS if card.name.startswith("job") else STREAM_SECONDS
        end, wrong = "", ""
        try:
            async with asyncio.timeout(seconds):
                end = await card.play(stream)
            wrong = "" if end in card.ends else f"ended with {end}, which is wrong for it"
        except TimeoutError as error:
            wrong = f"fell silent or took more than {seconds:g} s {_where(error)}"
        except (AssertionError, ClientError, NatsError, StopIteration, ValueError) as error:
            wrong = f"{type(error).__name__}: {error} {_where(error)}"
        if wrong and self.weather.broken_since(mark):
            end = "broken"
            if card.name in self.unseen():  # once more: of each kind one has to be judged
                self._undealt[family].append(card)
        elif wrong:
            end = "VIOLATION"
            self.violations.append(f"{card.name} ({stream.id}): {wrong}")
        self.ends[card.name, end] += 1


def _where(error: BaseException) -> str:
    """Return the line of our own that raised: an assertion of tests/requester.py has no words."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    return f"[{frames[-1].line}]" if frames else ""
