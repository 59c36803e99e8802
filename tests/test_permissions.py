"""docs/nats-server.conf: everything works under it that should, and nothing else does."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from typing import Any

import nats
import orjson
import pytest
import pytest_asyncio
import trustme
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext

from client import Answer, ask, cancel, resume, stream, submit
from client.stream import NoWorker
from schemas import StreamEvent, parse_event
from tests.processes import ROOT
from tests.secured import SAMPLE, USERS, Party, Secured, rights, secured
from worker.simulated import image as simulated_image
from worker.simulated import words
from worker.simulator import HOLD

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_SECONDS = 20.0
TENANTS = ("teama", "teamb")
LONG = "[sim: words=1000 pause=0.1]"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    async with secured(tmp_path_factory.mktemp("secured")) as running:
        yield running


async def whole(events: Any) -> Answer:
    answer = Answer()
    async with asyncio.timeout(WAIT_SECONDS):
        async for event in events:
            answer.add(event)
    return answer


async def first(events: Any) -> StreamEvent:
    """The first piece of an answer: it runs."""
    async with asyncio.timeout(WAIT_SECONDS):
        async for event in events:
            if event.type == "response":
                return event  # type: ignore[no-any-return]
    raise AssertionError("no piece of an answer came")


async def submit_again(js: JetStreamContext, prompt: str, request_id: str, tenant: str) -> None:
    """Submit without a message id, once the job before has left the queue."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                await js.publish(f"ai.v1.job.text.{tenant}.{request_id}", prompt.encode())
            except nats.js.errors.APIError:
                await asyncio.sleep(0.05)
            else:
                return


async def requests_are_answered(party: Party, tenant: str) -> None:
    result = await ask(party.nc, "text", "[sim: words=2]", timeout_seconds=WAIT_SECONDS, tenant=tenant)
    assert result.type == "result"
    assert result.data.text == "".join(words(2))
    assert (await whole(stream(party.nc, "text", "[sim: words=3]", tenant=tenant))).text == "".join(words(3))
    images = (await whole(stream(party.nc, "image", "[sim: bytes=2000000]", tenant=tenant))).images
    assert images == [simulated_image("png", 2_000_000)]


async def jobs_are_done(party: Party, tenant: str) -> None:
    js = party.nc.jetstream()
    await submit(js, "text", "[sim: words=3 pause=0.2]", request_id="kept", tenant=tenant)
    assert (await whole(resume(party.nc, "kept", tenant=tenant))).text == "".join(words(3))
    await submit_again(js, "[sim: words=1]", "kept", tenant)
    await submit(js, "image", "[sim: bytes=100]", request_id="picture", tenant=tenant)
    assert (await whole(resume(party.nc, "picture", tenant=tenant))).images == [simulated_image("png", 100)]

    inbox = party.nc.new_inbox()
    heard = await party.listen(inbox)
    await submit(js, "text", "[sim: words=2]", request_id="told", tenant=tenant, reply_to=inbox)
    async with asyncio.timeout(WAIT_SECONDS):
        while not heard or heard[-1].data:
            await asyncio.sleep(0.02)
    texts = [event.data for event in map(parse_event, (message.data for message in heard[:-1])) if event.type == "response"]
    assert "".join(texts) == "".join(words(2))

    await submit(js, "text", "[sim: status=503]", request_id="hopeless", tenant=tenant)
    end = (await whole(resume(party.nc, "hopeless", tenant=tenant))).end
    assert end is not None
    assert end.type == "error"
    assert end.attempt == 2


async def cancels_are_heard(party: Party, tenant: str, site: Secured) -> None:
    js = party.nc.jetstream()
    await submit(js, "text", LONG, request_id="running", tenant=tenant)
    assert (await first(resume(party.nc, "running", tenant=tenant))).attempt == 1
    await submit(js, "text", f"never for {tenant}", request_id="queued", tenant=tenant)
    for request_id in ("queued", "running"):
        assert await cancel(party.nc, request_id, tenant=tenant)
        end = (await whole(resume(party.nc, request_id, tenant=tenant))).end
        assert end is not None
        assert end.type == "error"
        assert end.data.code == "cancelled"
    assert f"never for {tenant}" not in [request.content for request in site.simulator.requests]


async def a_job_whose_worker_dies_on_the_last_delivery_is_ended(party: Party, tenant: str, site: Secured) -> None:
    js = party.nc.jetstream()
    site.simulator.script(b"", status=503, prompt="deadly")
    site.simulator.script(HOLD, prompt="deadly")
    await submit(js, "text", "deadly", request_id="abandoned", tenant=tenant)
    async with asyncio.timeout(WAIT_SECONDS):
        while [request.content for request in site.simulator.requests].count("deadly") < 2:
            await asyncio.sleep(0.02)
    site.worker.kill()
    site.worker = site.make_worker()
    await site.start_worker()
    end = (await whole(resume(party.nc, "abandoned", tenant=tenant))).end
    assert end is not None
    assert end.type == "error"
    assert (end.data.code, end.attempt) == ("internal", 2)


async def dead_letters(site: Secured) -> list[tuple[str, str, str]]:
    ran = await site.command("operator", "dead", "list", "--json")
    assert ran.status == 0, ran.err
    rows = [orjson.loads(line) for line in ran.out.splitlines()]
    return [(row["tenant"], row["id"], row["code"]) for row in rows]


def used(right: str, said: list[list[str]], way: str) -> bool:
    """Whether a user's protocol lines have used a right: `subject` or `subject queue`."""
    subject, _, queue = right.partition(" ")
    pattern = re.escape(subject).replace(r"\*", r"[^.]+").replace(">", ".+") + r"\Z"
    for words_ in said:
        if words_[0] == "SUB" and way == "subscribe":
            if re.match(pattern, words_[1]) and (not queue or words_[2] == queue):
                return True
        elif words_[0] in ("PUB", "HPUB") and way == "publish" and re.match(pattern, words_[1]):
            return True
    return False


async def test_all_that_the_contract_has_works_and_no_right_of_worker_or_tenant_is_spare(site: Secured) -> None:
    for tenant in TENANTS:
        async with site.party(tenant) as party:
            await requests_are_answered(party, tenant)
            await jobs_are_done(party, tenant)
            await cancels_are_heard(party, tenant, site)
            assert party.refusals == []
    async with site.party("teama") as party:
        await a_job_whose_worker_dies_on_the_last_delivery_is_ended(party, "teama", site)
    letters = await dead_letters(site)
    assert {("teama", "hopeless", "provider_unavailable"), ("teamb", "hopeless", "provider_unavailable")} <= {*letters}
    assert ("teama", "abandoned", "internal") in letters
    assert [line for line in site.log if "Violation" in line and site.public["worker"] in line] == []
    for user in ("worker", "teama"):
        said = site.said(user)
        for way in ("publish", "subscribe"):
            assert [right for right in rights(user, way) if not used(right, said, way)] == []
