"""The fence by itself: who is refused, what was stored all the same, and what a delivery means for a record."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import nats
import orjson
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import StreamSource

from aichats_worker.broker.bus import Bus
from aichats_worker.errors import JobLost
from aichats_worker.jobs.mailbox import Mailbox
from aichats_worker.jobs.queue import Job
from aichats_worker.jobs.record import Crowded, Record
from aichats_worker.jobs.records import Elsewhere, Ended, Exhausted, Records, Start, Taken
from aichats_worker.request.call import job_call
from tests.jobs.broker import WAIT_SECONDS, Broker, StartJobs, broker, checked, flooded, start_jobs
from tests.jobs.provisioned import provisioner
from tests.link import Link, linked
from tests.processes import NatsServer

__all__ = ["broker", "start_jobs"]

ATTEMPTS_MAX = 3
OUT = "ai.v1.out.t.r1"
FOREIGN = b'{"stream":"AIJOBS","seq":2}'
WITHOUT_BATCHES = """
server_name: test
accounts { A { jetstream: enabled, users: [
  {user: operator, password: p}
  {user: w, password: p, permissions: {publish: {deny: ["$JS.API.DIRECT.GET.>"]}}}
] } }
no_auth_user: operator
"""


def a_job(*, seq: int = 7, delivery: int = 1, kind: str = "text") -> Job:
    call = job_call("ai.v1.job.text.t.r1", "image" if kind == "image" else "text", headers={}, body=b"hi")
    return Job(call, seq, 0.0, delivery, "$JS.ACK.none")


async def records_on(nc: Client) -> Records:
    """What one worker has."""
    mail = Mailbox(Bus(nc, nc.jetstream()))
    await mail.start()
    return Records(mail, ATTEMPTS_MAX)


@pytest.fixture
async def streams(broker: Broker, start_jobs: StartJobs) -> Broker:
    """The streams, and nobody who serves jobs."""
    app = await start_jobs()
    await app.drain()
    return broker


@pytest.fixture
async def mine(streams: Broker) -> Records:
    return await records_on(streams.nc)


@pytest.fixture
async def theirs(streams: Broker) -> Records:
    return await records_on(streams.nc)


@pytest.fixture
async def link(streams: Broker) -> AsyncIterator[Link]:
    async with linked(streams.server.port) as running:
        yield running


async def begun(records: Records, job: Job) -> Record:
    start = await records.begin(job)
    assert isinstance(start, Record)
    return start


async def test_whoever_did_not_write_last_is_refused_and_stays_refused(
    streams: Broker, mine: Records, theirs: Records
) -> None:
    first = await begun(mine, a_job())
    await first.append(b"response", b'"one"')
    second = await begun(theirs, a_job(delivery=2))
    with pytest.raises(JobLost):
        await first.append(b"done", b"{}")
    await second.append(b"response", b'"two"')
    with pytest.raises(JobLost):
        await first.append(b"done", b"{}")
    assert [(s.event.attempt, s.event.seq) for s in await streams.record()] == [(1, 0), (1, 1), (2, 0), (2, 1)]


async def test_of_two_that_begin_in_one_moment_one_does(streams: Broker, mine: Records, theirs: Records) -> None:
    """Their first events are the same to the letter: the mark tells whose is stored."""
    starts = await asyncio.gather(mine.begin(a_job()), theirs.begin(a_job()))
    assert sorted(type(start).__name__ for start in starts) == ["Elsewhere", "Record"]
    assert len(await streams.record()) == 1


async def test_an_event_whose_acknowledgement_was_lost_is_stored_once(streams: Broker, link: Link) -> None:
    nc = await nats.connect(link.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=_quiet)
    record = await begun(await records_on(nc), a_job())
    link.down.clear()  # what the broker says does not come any more
    appending = asyncio.create_task(record.append(b"response", b'"one"'))
    async with asyncio.timeout(10):
        while len(await streams.record()) < 2:
            await asyncio.sleep(0.02)
    link.cut()
    link.down.set()
    await appending
    await record.append(b"response", b'"two"')
    events = [stored.event for stored in await streams.record()]
    assert [(event.seq, event.data) for event in events] == [(0, "started"), (1, "one"), (2, "two")]
    await nc.close()


async def test_an_event_that_never_came_is_sent_again(streams: Broker, link: Link) -> None:
    nc = await nats.connect(link.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=_quiet)
    record = await begun(await records_on(nc), a_job())
    link.flowing.clear()
    appending = asyncio.create_task(record.append(b"response", b'"one"'))
    await asyncio.sleep(0.2)
    link.cut()
    link.flowing.set()
    await appending
    assert [s.event.data for s in await streams.record()] == ["started", "one"]
    await nc.close()


async def test_an_event_whose_storing_was_broken_off_comes_before_the_next(streams: Broker, link: Link) -> None:
    nc = await nats.connect(link.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=_quiet)
    record = await begun(await records_on(nc), a_job())
    link.flowing.clear()
    with suppress(TimeoutError):
        await asyncio.wait_for(record.append(b"response", b'"one"'), 0.2)
    link.cut()
    link.flowing.set()
    await record.append(b"error", b'{"code":"cancelled","message":"","retryable":false}')
    assert [(s.event.seq, s.event.type) for s in await streams.record()] == [
        (0, "status"),
        (1, "response"),
        (2, "error"),
    ]
    await nc.close()


async def test_a_message_of_nobodys_is_stepped_over(streams: Broker, mine: Records) -> None:
    record = await begun(mine, a_job())
    await streams.js.publish("ai.v1.out.t.r1", b'{"stream":"AIJOBS","seq":2}')
    await record.append(b"response", b'"one"')
    await streams.js.publish("ai.v1.out.t.r1", b"")
    place = await mine.place(a_job().call)
    assert place.entry is not None
    assert (place.entry.data, place.entry.number) == ("one", 1)


async def test_a_flood_of_messages_of_nobodys_makes_an_event_wait(
    streams: Broker, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round trip is so long that another one always comes between what was read and what is written."""
    nc = await nats.connect(link.url)
    record = await begun(await records_on(nc), a_job())
    monkeypatch.setattr("aichats_worker.jobs.record.STORE_TIMEOUT_SECONDS", 0.5)
    async with flooded(streams, 0.001):
        link.delay_seconds = 0.02
        with pytest.raises(Crowded):
            await record.append(b"response", b'"one"', tries_max=1)
        appending = asyncio.create_task(record.append(b"response", b'"two"'))
    await appending  # both of them
    assert [s.event.data for s in await streams.record()] == ["started", "one", "two"]
    await nc.close()


async def test_an_attempt_is_not_begun_behind_a_flood_of_messages_of_nobodys(
    streams: Broker, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for without a bound, and known not to count: the slot is another job's meanwhile."""
    nc = await nats.connect(link.url)
    records = await records_on(nc)
    monkeypatch.setattr("aichats_worker.jobs.record.STORE_TIMEOUT_SECONDS", 0.5)
    async with flooded(streams, 0.001):
        link.delay_seconds = 0.02
        with pytest.raises(Crowded):
            await records.begin(a_job())
    assert await streams.record() == []
    await nc.close()


async def test_a_purged_record_is_lost(streams: Broker, mine: Records) -> None:
    record = await begun(mine, a_job())
    await streams.js.purge_stream("AIOUT")
    with pytest.raises(JobLost):
        await record.append(b"response", b'"one"')


async def test_a_purged_record_is_lost_though_a_message_of_nobodys_has_come_since(
    streams: Broker, mine: Records
) -> None:
    """Else an answer would go on behind its own purged beginning."""
    record = await begun(mine, a_job())
    await record.append(b"response", b'"one"')
    await streams.js.purge_stream("AIOUT", subject=OUT)
    await streams.js.publish(OUT, FOREIGN)
    with pytest.raises(JobLost):
        await record.append(b"response", b'"two"')


async def test_a_mirror_of_the_records_is_not_asked(streams: Broker, mine: Records) -> None:
    """It answers direct gets in its stream's place, keeps what it wants, and follows no purge."""
    first = await begun(mine, a_job())
    await first.append(b"done", b"{}")
    await streams.nc.publish(OUT, FOREIGN)
    await streams.js.add_stream(name="COPY", mirror=StreamSource(name="AIOUT"), max_msgs_per_subject=1)
    async with asyncio.timeout(WAIT_SECONDS):
        while (await streams.js.stream_info("COPY")).state.messages == 0:
            await asyncio.sleep(0.02)
    for _ in range(20):
        place = await mine.place(a_job().call)
        assert place.entry is not None
        assert place.entry.is_end


async def test_what_is_nobodys_is_read_once_by_whoever_looks_again_and_again(streams: Broker, mine: Records) -> None:
    record = await begun(mine, a_job())
    for _ in range(3):
        last = await streams.js.publish(OUT, FOREIGN)
    assert await record.is_ours()
    assert record._last_seq == last.seq
    await record.append(b"done", b"{}")


async def test_a_worker_that_may_not_read_in_batches_reads_one_by_one(
    own_nats_server: Callable[..., NatsServer],
) -> None:
    """One of this version whose rights are an older one's: the broker does not answer what it does not allow."""
    server = own_nats_server(WITHOUT_BATCHES)
    operator = await nats.connect(server.url)
    await provisioner(Bus(operator, operator.jetstream())).apply()
    nc = await nats.connect(server.url, user="w", password="p")
    records = await records_on(nc)
    record = await begun(records, a_job())
    for _ in range(3):
        await operator.jetstream().publish(OUT, FOREIGN)
    await record.append(b"done", b"{}")
    place = await records.place(a_job().call)
    assert place.entry is not None
    assert (place.entry.is_end, record.unsure) == (True, False)
    await nc.close()
    await operator.close()


async def test_what_a_delivery_means_for_a_record(streams: Broker, mine: Records, theirs: Records) -> None:
    """Numbered steps, each on what the one before has left."""

    async def met(job: Job, expected: type[Start]) -> Start:
        start = await theirs.begin(job)
        assert isinstance(start, expected), start
        return start

    # 1. The first attempt runs: its own delivery out of an old socket is left alone; a later one says that it died.
    await begun(mine, a_job(delivery=1))
    await met(a_job(delivery=1), Elsewhere)
    # 2. A job of the other kind finds the id taken.
    await met(a_job(seq=8, kind="image"), Taken)
    # 3. It died: one failure. It is given back: none more.
    second = await begun(theirs, a_job(delivery=2))
    assert (second.attempt, second.mark.failed) == (2, 1)
    await second.append(b"status", b'"given_back"', failed=1)
    third = await begun(mine, a_job(delivery=3))
    assert (third.attempt, third.mark.failed) == (3, 1)
    # 4. It failed: two.
    await third.append(b"status", b'"retrying"', failed=2)
    fourth = await begun(mine, a_job(delivery=4))
    assert (fourth.attempt, fourth.mark.failed) == (4, 2)
    # 5. It died: three, which is the last.
    exhausted = await met(a_job(delivery=5), Exhausted)
    assert isinstance(exhausted, Exhausted)
    error = {"code": "internal", "message": "died", "retryable": True}
    await exhausted.record.append(b"error", orjson.dumps(error), failed=3)
    # 6. It has its end, for whoever comes.
    ended = await met(a_job(delivery=6), Ended)
    assert isinstance(ended, Ended)
    assert ended.entry.mark.failed == 3
    await met(a_job(seq=9, delivery=1), Ended)
    checked(await streams.record())


async def test_where_the_record_cannot_be_written_no_attempt_is_made(streams: Broker, mine: Records) -> None:
    await streams.js.delete_stream("AIOUT")
    with pytest.raises(NatsError):
        await mine.begin(a_job())


async def _quiet(_: Exception) -> None:
    """The link is cut on purpose."""
