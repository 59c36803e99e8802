"""Dead letters: kept whatever happens, read in batches, tried again without harm, dropped."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import nats
import pytest
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from aichats_worker.broker.bus import Bus
from aichats_worker.commands.operating import dead_drop, dead_list, dead_retry, dead_show
from aichats_worker.jobs.letters import DeadLetter, DeadLetters, RetryRefused
from aichats_worker.settings import load_settings
from tests.commands.test_commands import command
from tests.jobs.provisioned import WAIT_SECONDS, bus, job, provisioner, server, submit
from tests.processes import ROOT, NatsServer

__all__ = ["bus", "server"]

MANY = 10_000


@pytest.fixture
async def letters(bus: Bus) -> DeadLetters:
    await provisioner(bus).apply()
    return DeadLetters(bus)


async def write(letters: DeadLetters, request_id: str = "r1", *, stream_seq: int = 1, **changed: Any) -> None:
    await letters.write(job(request_id, **changed), stream_seq=stream_seq, code="internal", reason="why", attempts=3)


async def kept(letters: DeadLetters) -> list[DeadLetter]:
    return [letter async for letter in letters.all()]


async def stored(bus: Bus, stream: str, subject: str) -> int:
    info = await bus.js.stream_info(stream, subjects_filter=subject)
    return sum((info.state.subjects or {}).values())


async def test_a_letter_holds_the_job_its_headers_and_the_reason(letters: DeadLetters) -> None:
    await write(letters, headers={"correlation_id": "c7", "Nats-Msg-Id": "x", "Ai-Dead-Left-Out": "body"})
    (letter,) = await kept(letters)
    assert (letter.kind, letter.tenant, letter.id, letter.body) == ("text", "t", "r1", b"hi")
    assert (letter.code, letter.reason, letter.attempts) == ("internal", "why", 3)
    assert letter.original_headers == {"correlation_id": "c7"}
    assert letter.left_out == ""
    assert await letters.get(letter.seq) == letter


async def test_a_letter_that_is_written_again_is_there_once(letters: DeadLetters) -> None:
    """Whoever did not hear that it is stored writes it again; a later job of the same id is another one."""
    for stream_seq in (1, 1, 2):
        await write(letters, stream_seq=stream_seq)
    await write(letters, kind="image")
    assert len(await kept(letters)) == 3


async def test_where_a_letter_cannot_be_stored_the_writer_hears_of_it_and_may_write_it_again(
    bus: Bus, letters: DeadLetters
) -> None:
    await bus.js.delete_stream("AIDEAD")
    with pytest.raises(NatsError):
        await write(letters)
    await provisioner(bus).apply()
    await write(letters)
    assert len(await kept(letters)) == 1


async def test_what_somebody_else_captures_is_not_taken_for_stored(bus: Bus, letters: DeadLetters) -> None:
    await bus.js.delete_stream("AIDEAD")
    await bus.js.add_stream(name="THEIRS", subjects=["ai.v1.dead.>"])
    with pytest.raises(APIError, match="expected stream does not match"):
        await write(letters)


@pytest.mark.parametrize(
    ("changed", "left_out", "says"),
    [
        ({"body": b"x" * 65_000}, "body", "(its body of 65000 bytes does not fit and is left out) why"),
        ({"headers": {"a": "x" * 61_000}}, "headers", "(its headers of 61005 bytes do not fit and are left out) why"),
        ({"tenant": "*"}, "tenant", "(its tenant is none) why"),
    ],
)
async def test_what_does_not_fit_is_left_out_and_such_a_letter_is_not_tried_again(
    own_nats_server: Callable[..., NatsServer], changed: dict[str, Any], left_out: str, says: str
) -> None:
    nc = await nats.connect(own_nats_server("max_payload: 65536").url)
    bus = Bus(nc, nc.jetstream())
    await provisioner(bus).apply()
    letters = DeadLetters(bus)
    await write(letters, **changed)
    (letter,) = await kept(letters)
    assert (letter.left_out, letter.reason) == (left_out, says)
    with pytest.raises(RetryRefused, match=f"does not hold the whole job \\({left_out} left out\\)"):
        await letters.retry(letter)
    assert (await kept(letters), await stored(bus, "AIJOBS", ">")) == ([letter], 0)
    await nc.close()


async def test_retry_clears_the_record_submits_the_job_as_it_was_and_drops_the_letter(
    bus: Bus, letters: DeadLetters
) -> None:
    for name in ("r1", "r2"):
        await bus.js.publish(f"ai.v1.out.t.{name}", b"the end")
    await write(letters, headers={"correlation_id": "c7"})
    (letter,) = await kept(letters)
    await letters.retry(letter)
    message = await bus.js.get_msg("AIJOBS", subject="ai.v1.job.text.t.r1")
    headers = {name: value for name, value in (message.headers or {}).items() if not name.startswith("Nats-")}
    assert (message.data, headers) == (b"hi", {"correlation_id": "c7"})
    assert await stored(bus, "AIOUT", "ai.v1.out.t.r1") == 0, "it would be taken for the answer"
    assert await stored(bus, "AIOUT", "ai.v1.out.t.r2") == 1
    assert await kept(letters) == []


@pytest.mark.parametrize("kind", ["text", "image"])
async def test_retry_leaves_a_job_alone_that_has_the_same_id(bus: Bus, letters: DeadLetters, kind: str) -> None:
    await write(letters)
    await submit(bus, "r1", kind=kind)
    await bus.js.publish("ai.v1.out.t.r1", b"an event")
    (letter,) = await kept(letters)
    with pytest.raises(RetryRefused, match="a job r1 of t is queued or runs"):
        await letters.retry(letter)
    assert await stored(bus, "AIOUT", "ai.v1.out.t.r1") == 1
    assert await kept(letters) == [letter]


async def test_a_letter_stays_where_the_queue_refuses_its_job(bus: Bus, letters: DeadLetters) -> None:
    await provisioner(bus, jobs_max=1).apply()
    await submit(bus, "other")
    await write(letters)
    (letter,) = await kept(letters)
    with pytest.raises(APIError, match="maximum messages exceeded"):
        await letters.retry(letter)
    assert await kept(letters) == [letter]


async def test_retry_is_not_swallowed_by_a_message_id(bus: Bus, letters: DeadLetters) -> None:
    """However soon after the first submit, and whatever ids that one had."""
    for number in range(3):
        await submit(bus, "r1", **{"Nats-Msg-Id": "t.r1"}) if number == 0 else None
        await bus.js.purge_stream("AIJOBS")
        await write(letters, stream_seq=number, headers={"Nats-Msg-Id": "t.r1"})
        (letter,) = await kept(letters)
        await letters.retry(letter)
        assert await stored(bus, "AIJOBS", ">") == 1


async def test_operators_list_show_retry_and_drop(
    letters: DeadLetters, server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(nats_url=server.url)
    await dead_list(settings, as_json=True)
    await dead_list(settings, as_json=False)
    assert capsys.readouterr().out == "there are no dead letters\n"
    for number in range(2):
        await write(letters, f"r{number}", headers={"correlation_id": "c7"})
    await dead_list(settings, as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["number"], row["id"], row["code"], row["attempts"]) for row in rows] == [
        (1, "r0", "internal", 3),
        (2, "r1", "internal", 3),
    ]
    await dead_list(settings, as_json=False)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["number", "1", "2"]
    shown = await dead_show(settings, 1)
    assert (shown["body"], shown["headers"]["correlation_id"]) == ("hi", "c7")
    assert (await dead_retry(settings, 1), await dead_drop(settings, 2)) == ("r0", "r1")
    assert await kept(letters) == []


async def test_a_number_that_is_none_is_said_so(letters: DeadLetters, server: NatsServer) -> None:
    gone = await command("dead", "show", "2", "--server", server.url)
    shows = f"`aichats-worker dead list -s {server.url}` shows them"
    assert (gone.status, gone.err) == (1, f"there is no dead letter 2; {shows}\n")


async def test_nothing_is_tried_again_without_a_yes(letters: DeadLetters, server: NatsServer) -> None:
    await write(letters)
    assert (await command("dead", "retry", "1", "--server", server.url, stdin=b"n\n")).status == 1
    assert len(await kept(letters)) == 1
    ran = await command("dead", "retry", "1", "--yes", "--server", server.url)
    assert ran.out == b"submitted r1 again\n"


async def test_a_reason_is_whole_in_a_pipe(letters: DeadLetters, server: NatsServer) -> None:
    reason = "why " * 49 + "end."
    await letters.write(job(), stream_seq=1, code="internal", reason=reason, attempts=1)
    out = (await command("dead", "list", "--server", server.url, COLUMNS="80")).out.decode()
    assert out.splitlines()[1].endswith(reason)


async def test_a_retry_that_is_refused_says_why_and_ends_with_1(
    bus: Bus, letters: DeadLetters, server: NatsServer
) -> None:
    await write(letters)
    await submit(bus, "r1")
    ran = await command("dead", "retry", "1", "--yes", "--server", server.url)
    assert (ran.status, ran.err) == (1, "a job r1 of t is queued or runs: try again after its end\n")


@pytest.fixture
async def many(bus: Bus, letters: DeadLetters) -> DeadLetters:
    """10,000 letters of 1 kB."""
    headers = {"Ai-Dead-Reason": "why", "Ai-Dead-Code": "internal", "Ai-Dead-Attempts": "5", "Ai-Dead-Time": "now"}
    for number in range(MANY):
        await bus.nc.publish(f"ai.v1.dead.text.t.d{number}", b"x" * 1000, headers=headers)
        if number % 500 == 0:
            await bus.nc.flush()
    async with asyncio.timeout(WAIT_SECONDS):
        while (await bus.js.stream_info("AIDEAD")).state.messages < MANY:
            await asyncio.sleep(0.02)
    return letters


async def test_ten_thousand_letters_are_read_in_batches(bus: Bus, many: DeadLetters) -> None:
    await bus.js.delete_msg("AIDEAD", 500)
    asked = bus.nc.stats["out_msgs"]
    numbers = [letter.seq async for letter in many.all()]
    assert numbers == [number for number in range(1, MANY + 1) if number != 500]
    assert bus.nc.stats["out_msgs"] - asked <= MANY / 500 + 2


async def test_letters_as_large_as_a_message_can_be_come_in_small_batches(bus: Bus, letters: DeadLetters) -> None:
    body = b"x" * (bus.nc.max_payload - 8192)
    for number in range(12):
        await write(letters, f"r{number}", body=body)
    assert [(letter.id, len(letter.body)) async for letter in letters.all()] == [
        (f"r{number}", len(body)) for number in range(12)
    ]


async def test_the_list_ends_quietly_where_nobody_reads_on(many: DeadLetters, server: NatsServer) -> None:
    listing = f"{sys.executable} -m aichats_worker dead list --json --server {server.url} | head -n 1"
    ran = await asyncio.to_thread(
        subprocess.run, ["/bin/sh", "-c", listing], capture_output=True, cwd=ROOT, timeout=30, check=False
    )
    assert (ran.returncode, ran.stdout.count(b"\n"), ran.stderr) == (0, 1, b"")
