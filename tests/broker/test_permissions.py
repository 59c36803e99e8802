"""docs/nats-server.conf: everything works under it that should, and nothing else does."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import orjson
import pytest
import pytest_asyncio
import trustme
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext

from aichats_client import Answer, NoWorker, ask, cancel, resume, stream, submit
from aichats_schemas import StreamEvent, parse_event
from aichats_worker.broker.patches.subscribing import settle
from aichats_worker.simulator.answers import image as simulated_image
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import HOLD
from tests.broker.secured import Party, Secured, rights, secured
from tests.processes import ROOT

# Side by side with others, and one after the other among themselves: the site takes seconds to make.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("permissions")]

WAIT_SECONDS = 60.0
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

    # Its acknowledgement lies in another job's record, of a tenant that is a user: read over.
    await party.nc.publish(f"ai.v1.job.text.{tenant}.other", b"[sim: words=1]", reply=f"ai.v1.out.{tenant}.kept")
    await whole(resume(party.nc, "other", tenant=tenant))
    assert (await whole(resume(party.nc, "kept", tenant=tenant))).text == "".join(words(3))

    inbox = party.nc.new_inbox()
    heard = await party.listen(inbox)
    await submit(js, "text", "[sim: words=2]", request_id="told", tenant=tenant, reply_to=inbox)
    async with asyncio.timeout(WAIT_SECONDS):
        while not heard or heard[-1].data:
            await asyncio.sleep(0.02)
    texts = [
        event.data for event in map(parse_event, (message.data for message in heard[:-1])) if event.type == "response"
    ]
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


async def a_job_whose_workers_die_is_ended(party: Party, tenant: str, site: Secured) -> None:
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


def used(right: str, said: set[tuple[str, ...]], way: str) -> bool:
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


async def everything_is_tried(site: Secured) -> None:
    for tenant in TENANTS:
        async with site.party(tenant) as party:
            await requests_are_answered(party, tenant)
            await jobs_are_done(party, tenant)
            await cancels_are_heard(party, tenant, site)
            assert party.refusals == []
    async with site.party("teama") as party:
        await a_job_whose_workers_die_is_ended(party, "teama", site)
    letters = await dead_letters(site)
    assert {("teama", "hopeless", "provider_unavailable"), ("teamb", "hopeless", "provider_unavailable")} <= {*letters}
    assert ("teama", "abandoned", "internal") in letters
    assert "violation" not in "".join(log.read_text() for log in site.directory.glob("worker-*.log")).lower()


def spare(site: Secured) -> list[str]:
    """The rights of worker and tenant that were not used."""
    said = {user: {tuple(words_[:3]) for words_ in site.said(user)} for user in ("worker", "teama")}
    return [
        right
        for user, lines in said.items()
        for way in ("publish", "subscribe")
        for right in rights(user, way)
        if not used(right, lines, way)
    ]


OLD_ACKS = [f"$JS.ACK.AIJOBS.ai-workers-{kind}.>" for kind in ("text", "image")]
NEW_ACKS = [f"$JS.ACK.*.*.AIJOBS.ai-workers-{kind}.>" for kind in ("text", "image")]


async def test_all_that_the_contract_has_works_and_no_right_of_worker_or_tenant_is_spare(site: Secured) -> None:
    await everything_is_tried(site)
    assert spare(site) == NEW_ACKS


@pytest.mark.slow("a second site is made")
@pytest.mark.xdist_group("another-site")  # it waits for nothing of the first
@pytest.mark.timeout(180)  # a whole site of its own, from its keys on
async def test_the_same_with_the_acknowledgement_subjects_that_are_to_come(tmp_path: Path) -> None:
    async with secured(tmp_path, new_acks=True) as site:
        await everything_is_tried(site)
        assert spare(site) == OLD_ACKS


# Each is answered with a permissions violation, and nothing happens.
REFUSED_PUBLISH = {
    "teama": [
        "_INBOX.teamb.x", "_INBOX.worker.x", "_INBOX.teama.x",
        "ai.v1.req.text.teamb", "ai.v1.ask.text.teamb", "ai.v1.job.text.teamb.r1", "ai.v1.req.text.default",
        "ai.v1.ctl.cancel.teamb.r1", "ai.v1.ctl.resume.teamb",
        "ai.v1.out.teamb.r1", "ai.v1.out.teama.r1", "ai.v1.dead.text.teama.r1", "ai.v1.int.cancel.teama.r1",
        "$JS.API.INFO", "$JS.API.STREAM.INFO.AIJOBS", "$JS.API.STREAM.PURGE.AIOUT", "$JS.API.STREAM.DELETE.AIJOBS",
        "$JS.API.STREAM.MSG.GET.AIOUT", "$JS.API.DIRECT.GET.AIOUT", "$JS.API.CONSUMER.CREATE.AIOUT",
        "$JS.API.CONSUMER.CREATE.AIOUT.mine.ai.v1.out.teamb.r1", "$JS.API.CONSUMER.MSG.NEXT.AIJOBS.ai-workers-text",
        "$JS.ACK.AIJOBS.ai-workers-text.1.1.1.1.0", "$JS.ACK._.acc.AIJOBS.ai-workers-text.1.1.1.1.0",
        "$SRV.INFO", "$SYS.REQ.SERVER.PING",
    ],
    "worker": [
        "ai.v1.req.text.teama", "ai.v1.job.text.teama.r1", "ai.v1.ctl.cancel.teama.r1",
        "$JS.API.STREAM.CREATE.AIJOBS", "$JS.API.STREAM.DELETE.AIJOBS", "$JS.API.STREAM.PURGE.AIJOBS",
        "$JS.API.STREAM.PURGE.AIOUT", "$JS.API.STREAM.MSG.GET.AIDEAD", "$JS.API.STREAM.MSG.DELETE.AIOUT",
        "$JS.API.CONSUMER.CREATE.AIOUT", "$JS.API.CONSUMER.CREATE.AIOUT.x", "$JS.API.CONSUMER.CREATE.AIJOBS.x",
        "$JS.API.CONSUMER.CREATE.AIDEAD.x.ai.v1.dead.text.*.*", "$JS.API.CONSUMER.DELETE.AIJOBS.ai-workers-text",
        "$JS.API.DIRECT.GET.AIDEAD", "$SYS.REQ.SERVER.PING",
    ],
    "operator": ["ai.v1.req.text.teama", "ai.v1.ctl.cancel.teama.r1", "ai.v1.out.teama.r1", "_INBOX.teama.x"],
}  # fmt: skip
REFUSED_SUBSCRIBE = {
    "teama": [
        "_INBOX.teamb.>",
        "_INBOX.>",
        ">",
        "ai.v1.req.*.teama",
        "ai.v1.out.teamb.>",
        "ai.v1.out.teama.>",
        "$SYS.>",
    ],
    # Requests only in its queue group, and records only through its own consumers.
    "worker": ["_INBOX.teama.>", ">", "ai.v1.req.>", "ai.v1.ctl.>", "ai.v1.job.>", "ai.v1.out.>"],
    "operator": ["_INBOX.teama.>", "ai.v1.req.>", "ai.v1.out.>"],
}


def pairs(refused: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(user, subject) for user, subjects in refused.items() for subject in subjects]


@pytest.mark.parametrize(("user", "subject"), pairs(REFUSED_PUBLISH))
async def test_the_broker_refuses_to_publish(site: Secured, user: str, subject: str) -> None:
    async with site.party(user) as party:
        await party.nc.publish(subject, b"{}", reply=party.nc.new_inbox())
        await party.refused(f'Permissions Violation for Publish to "{subject}"')


@pytest.mark.parametrize(("user", "subject"), pairs(REFUSED_SUBSCRIBE))
async def test_the_broker_refuses_to_subscribe(site: Secured, user: str, subject: str) -> None:
    async with site.party(user) as party:
        await party.nc.subscribe(subject)
        await party.refused(f'Permissions Violation for Subscription to "{subject}"')


@pytest.mark.parametrize("user", ["worker", "operator", "teama"])
@pytest.mark.parametrize("way", ["publish", "subscribe"])
async def test_the_page_on_rights_lists_the_samples(user: str, way: str) -> None:
    page = (ROOT / "docs" / "rights.md").read_text(encoding="utf-8")
    table = page.partition(f"| {user}: {way} |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, flags=re.MULTILINE)
    assert [right for row in rows for right in row.strip("`").split("`, `")] == rights(user, way)


async def test_the_doctor_finds_worker_and_operator_well(site: Secured) -> None:
    port = str(site.worker.http_port)
    worker = await site.command("worker", "doctor", WORKER_JOBS_PROVISION="off", WORKER_HTTP_PORT=port)
    assert worker.status == 0, worker.out.decode()
    assert "AIJOBS/ai-workers-image are there" in worker.out.decode()
    assert "are not for this user to ask" in worker.out.decode()
    operator = await site.command("operator", "doctor", WORKER_HTTP_PORT=port)
    assert operator.status == 0, operator.out.decode()
    assert "AIJOBS/ai-workers-image are there" in operator.out.decode()
    assert "1 answers" in operator.out.decode()


async def test_the_operator_tries_a_dead_letter_again(site: Secured) -> None:
    async with site.party("teama") as party:
        await submit(party.nc.jetstream(), "text", "[sim: status=503]", request_id="again", tenant="teama")
        assert (await whole(resume(party.nc, "again", tenant="teama"))).end is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while not (numbers := await letters_of(site, "again")):
                await asyncio.sleep(0.1)
        ran = await site.command("operator", "dead", "retry", str(numbers[0]), "--yes")
        assert (ran.status, ran.out) == (0, b"submitted again again\n"), ran.err
        end = (await whole(resume(party.nc, "again", tenant="teama"))).end
        assert end is not None, "it runs once more: its old record is gone"


async def letters_of(site: Secured, request_id: str) -> list[int]:
    """The numbers of the dead letters of a job."""
    ran = await site.command("operator", "dead", "list", "--json")
    rows = [orjson.loads(line) for line in ran.out.splitlines()]
    return [row["number"] for row in rows if row["id"] == request_id]


@pytest.mark.parametrize("tenant", TENANTS)
async def test_a_tenant_asks_from_the_command_line(site: Secured, tenant: str) -> None:
    ran = await site.command(tenant, "ask", "[sim: words=2]", "--tenant", tenant)
    assert (ran.status, ran.out.decode()) == (0, "".join(words(2)) + "\n")


@pytest.mark.parametrize(
    "subject",
    [
        "ai.v1.req.text.teama", "ai.v1.ask.text.teama", "ai.v1.job.text.teama.r1", "ai.v1.ctl.cancel.teama.r1",
        "ai.v1.ctl.resume.teama", "ai.v1.out.teamb.r1", "ai.v1.int.cancel.teamb.r1", "ai.v1.dead.text.teamb.r1",
        "_INBOX.teama.x", "$SRV.INFO", "$JS.ACK.AIJOBS.ai-workers-text.1.1.1.1.0", "$SYS.REQ.SERVER.PING",
    ],
)  # fmt: skip
async def test_nobody_hears_what_an_account_did_not_import(site: Secured, subject: str) -> None:
    async with site.party("teamb") as party:
        with pytest.raises(NoRespondersError):
            await party.nc.request(subject, b"{}", timeout=WAIT_SECONDS)


@pytest.mark.parametrize(
    "call", ["INFO", "STREAM.INFO.AIJOBS", "STREAM.PURGE.AIOUT", "STREAM.MSG.GET.AIOUT", "CONSUMER.CREATE.AIOUT"]
)
async def test_an_account_has_no_jetstream(site: Secured, call: str) -> None:
    async with site.party("teamb") as party:
        answer = orjson.loads((await party.nc.request(f"$JS.API.{call}", b"", timeout=WAIT_SECONDS)).data)
        assert answer["error"]["description"] == "JetStream not enabled for account"


async def test_an_account_hears_nothing_of_another_tenant(site: Secured) -> None:
    async with site.party("teamb") as other, site.party("teama") as party:
        everything = await other.listen(">")
        inbox = party.nc.new_inbox()
        heard = await party.listen(inbox)
        await submit(party.nc.jetstream(), "text", "[sim: words=1]", request_id="mine", tenant="teama", reply_to=inbox)
        await until_ended(heard)
        await submit(party.nc.jetstream(), "text", "[sim: words=1]", request_id="mine-kept", tenant="teama")
        assert (await whole(resume(party.nc, "mine-kept", tenant="teama"))).text
        assert (await whole(stream(party.nc, "image", "[sim: bytes=9]", tenant="teama"))).images
        await settle(other.nc)
        assert everything == []


# Subjects at which the worker may publish by its rights, and which are not teama's to name.
ELSEWHERE = [
    "_INBOX.teamb.x",
    "_INBOX.worker.x",
    "ai.v1.out.teamb.x",
    "ai.v1.int.cancel.teamb.x",
    "$JS.API.STREAM.PURGE.AIOUT",
]


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
@pytest.mark.parametrize(
    "subject", ["ai.v1.req.text.teama", "ai.v1.ask.text.teama", "ai.v1.ctl.cancel.teama.r1", "ai.v1.ctl.resume.teama"]
)
async def test_the_worker_drops_a_request_whose_reply_subject_is_not_the_tenants(
    site: Secured, subject: str, elsewhere: str
) -> None:
    async with site.party("teama") as party, site.party("teamb") as victim:
        heard = await victim.listen("_INBOX.teamb.>")
        before = await stored_events(site)
        async with site.one_more_dropped():
            await party.nc.publish(subject, b'{"prompt": "x", "id": "r1"}', reply=elsewhere)
        await settle(victim.nc)
        assert heard == []
        assert await stored_events(site) == before
        assert party.refusals == []


async def test_a_job_whose_reply_to_is_not_the_tenants_is_given_up(site: Secured) -> None:
    elsewhere = ("_INBOX.teamb.x", "_INBOX.worker.x", "ai.v1.out.teamb.x", "$JS.API.STREAM.PURGE.AIOUT")
    ids = [re.sub(r"\W", "-", subject) for subject in elsewhere]
    async with site.party("teama") as party, site.party("teamb") as victim:
        heard = await victim.listen("_INBOX.teamb.>")
        js = party.nc.jetstream()
        for subject, request_id in zip(elsewhere, ids, strict=True):
            before = await stored_events(site)
            async with site.one_more_dropped():
                await submit(js, "text", "x", request_id=request_id, tenant="teama", reply_to=subject)
            await settle(victim.nc)
            assert heard == [], subject
            assert await stored_events(site) == before, subject
    assert {("teama", request_id, "invalid_request") for request_id in ids} <= set(await dead_letters(site))


async def test_the_cancel_of_a_queued_job_is_not_told_to_another_tenant(site: Secured) -> None:
    async with site.party("teama") as party, site.party("teamb") as victim:
        heard = await victim.listen("_INBOX.teamb.>")
        js = party.nc.jetstream()
        await submit(js, "text", LONG, request_id="before", tenant="teama")
        await first(resume(party.nc, "before", tenant="teama"))
        await submit(js, "text", "x", request_id="behind", tenant="teama", reply_to="_INBOX.teamb.x")
        assert await cancel(party.nc, "behind", tenant="teama")
        assert await cancel(party.nc, "before", tenant="teama")
        await whole(resume(party.nc, "before", tenant="teama"))
        await settle(victim.nc)
        assert heard == []


@pytest.mark.parametrize(("owner", "other"), [TENANTS, TENANTS[::-1]])
async def test_a_tenant_can_neither_cancel_nor_resume_anothers_job(site: Secured, owner: str, other: str) -> None:
    request_id = f"of-{owner}"
    async with site.party(owner) as party, site.party(other) as stranger:
        await submit(party.nc.jetstream(), "text", LONG, request_id=request_id, tenant=owner)
        await first(resume(party.nc, request_id, tenant=owner))
        # Under its own name it reaches the worker, which knows no such job of this tenant.
        assert not await cancel(stranger.nc, request_id, tenant=other)
        end = (await whole(resume(stranger.nc, request_id, tenant=other))).end
        assert end is not None
        assert end.type == "error"
        assert end.data.code == "invalid_request"
        # Under the owner's name it reaches nobody: REFUSED_PUBLISH, or no import.
        if other == "teamb":
            with pytest.raises(NoWorker):
                await cancel(stranger.nc, request_id, tenant=owner)
        assert await cancel(party.nc, request_id, tenant=owner), "it still ran"
        await whole(resume(party.nc, request_id, tenant=owner))


async def test_an_account_cannot_send_answers_to_another_tenants_inbox(site: Secured) -> None:
    """The reply subject that it names is one of its own account: the worker sees `_R_` alone."""
    async with site.party("teama") as victim, site.party("teamb") as party:
        heard = await victim.listen("_INBOX.teama.>")
        own = await party.listen("_INBOX.teama.x")
        await party.nc.publish("ai.v1.req.text.teamb", b"[sim: words=1]", reply="_INBOX.teama.x")
        await until_ended(own)
        await settle(victim.nc)
        assert heard == []


@pytest.mark.parametrize(
    "subject", ["ai.v1.ctl.cancel.teamb.target", "ai.v1.int.cancel.teamb.target", "ai.v1.out.teamb.target"]
)
async def test_the_brokers_acknowledgement_of_a_job_moves_nothing_of_another_tenants(
    site: Secured, subject: str
) -> None:
    """A user's job is acknowledged wherever it says, past all permissions: the worker takes it for nothing."""
    async with site.party("teama") as party, site.party("teamb") as victim:
        await submit_again(victim.nc.jetstream(), LONG, "target", "teamb")
        await first(resume(victim.nc, "target", tenant="teamb"))
        job = f"ai.v1.job.image.teama.{subject.split('.')[2]}"
        await party.nc.publish(job, b"[sim: bytes=9]", reply=subject)
        await whole(resume(party.nc, job.rpartition(".")[2], tenant="teama"))  # it was acknowledged before
        assert (await first(resume(victim.nc, "target", tenant="teamb"))).attempt == 1
        assert await cancel(victim.nc, "target", tenant="teamb"), "it still ran"
        assert (await whole(resume(victim.nc, "target", tenant="teamb"))).end is not None


async def test_a_job_from_an_account_is_acknowledged_in_that_account_alone(site: Secured) -> None:
    async with site.party("teama") as victim, site.party("teamb") as party:
        heard = await victim.listen("_INBOX.teama.>")
        own = await party.listen("_INBOX.teama.x")
        await party.nc.publish("ai.v1.job.image.teamb.acknowledged", b"[sim: bytes=9]", reply="_INBOX.teama.x")
        await whole(resume(party.nc, "acknowledged", tenant="teamb"))
        async with asyncio.timeout(WAIT_SECONDS):
            while not own:
                await asyncio.sleep(0.02)
        await settle(victim.nc)
        assert heard == []


async def test_a_client_without_a_certificate_does_not_get_in(site: Secured) -> None:
    with pytest.raises((ssl.SSLError, NatsError, OSError)):
        async with site.party("teama", certificate=None, connect_timeout=2):
            pass
    assert "client didn't provide a certificate" in "\n".join(site.log)


async def test_a_certificate_of_another_authority_does_not_get_in(site: Secured) -> None:
    trustme.CA().issue_cert("teama@example.org").private_key_and_cert_chain_pem.write_to_path(
        str(site.directory / "forged.pem")
    )
    (site.directory / "forged-key.pem").write_bytes((site.directory / "forged.pem").read_bytes())
    with pytest.raises((ssl.SSLError, NatsError, OSError)):
        async with site.party("teama", certificate="forged", connect_timeout=2):
            pass
    assert "certificate signed by unknown authority" in "\n".join(site.log)


async def test_a_key_that_the_broker_does_not_know_does_not_get_in(site: Secured) -> None:
    with pytest.raises(NatsError, match="Authorization Violation"):
        async with site.party("stranger", certificate="teama"):
            pass


async def until_ended(heard: list[Any]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not heard or heard[-1].data:
            await asyncio.sleep(0.02)


async def stored_events(site: Secured) -> int:
    """How many messages AIOUT holds, as the operator sees it."""
    async with site.party("operator") as party:
        return int((await party.nc.jetstream().stream_info("AIOUT")).state.messages)
