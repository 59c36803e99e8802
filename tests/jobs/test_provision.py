"""The streams and consumers: made in an order that loses nothing, brought up to date, never at the price of data."""

import asyncio
from collections.abc import AsyncIterator, Callable

import nats
import pytest
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from aichats_worker.broker.bus import Bus
from aichats_worker.commands.operating import provision
from aichats_worker.jobs.letters import DeadLetters
from aichats_worker.jobs.provision import ProvisionRefused
from aichats_worker.jobs.streams import Choices
from aichats_worker.jobs.wanted import CLOSED_MAX_BYTES
from aichats_worker.settings import load_settings
from aichats_worker.simulator.server import Simulator
from tests.commands.test_commands import command, typed
from tests.conftest import StartWorker
from tests.jobs.provisioned import WAIT_SECONDS, api, below, bus, config, job, provisioner, server, submit
from tests.processes import NatsServer, free_port

__all__ = ["bus", "server"]

DAY_NS = 86_400 * 10**9


async def held(bus: Bus, stream: str = "AIJOBS") -> int:
    return int((await bus.js.stream_info(stream)).state.messages)


async def test_everything_is_made_once_and_then_there_is_nothing_to_change(bus: Bus) -> None:
    assert [str(change) for change in await provisioner(bus).apply()] == [
        "AIOUT: make it",
        "AIDEAD: make it",
        "AIJOBS: make it",
        "AIJOBS/ai-workers-text: make it",
        "AIJOBS/ai-workers-image: make it",
    ]
    assert await provisioner(bus).apply() == []
    jobs = await config(bus, "AIJOBS")
    assert (jobs["retention"], jobs["max_msgs_per_subject"], jobs["max_bytes"]) == ("workqueue", 1, 1024**3)
    assert (await config(bus, "AIOUT"))["max_age"] == 900 * 10**9
    assert (await config(bus, "AIDEAD"))["max_age"] == 30 * DAY_NS
    consumer = await config(bus, "AIJOBS.ai-workers-text")
    assert (consumer["max_deliver"], consumer["ack_wait"]) == (-1, 30 * 10**9)


async def test_many_may_provision_at_once(bus: Bus) -> None:
    await asyncio.gather(*(provisioner(bus, ack_wait_seconds=10 + number).apply() for number in range(8)))
    assert (await provisioner(bus).look()).changes == []
    assert (await config(bus, "AIJOBS"))["max_bytes"] == 1024**3


async def test_two_prefixes_work_side_by_side_in_one_account(bus: Bus) -> None:
    stage = below(bus, "stage.v1")
    await provisioner(bus).apply()
    await submit(bus, "of-ours")
    await provisioner(stage).apply()
    await submit(stage, "of-theirs")
    assert (await provisioner(bus).look()).changes == []
    assert (await provisioner(stage).look()).changes == []
    assert (await held(bus, "AIJOBS"), await held(bus, "AIJOBS_stage_v1")) == (1, 1)


@pytest.mark.parametrize("theirs", [["a.b.job.*.*.*"], ["a_b.job.text.*.*", "a.b.more"]])
async def test_a_stream_with_subjects_of_another_prefix_is_refused_and_left_as_it_is(
    bus: Bus, theirs: list[str]
) -> None:
    """The names of `a.b` and `a_b` are the same."""
    await bus.js.add_stream(name="AIJOBS_a_b", subjects=theirs)
    before = await config(bus, "AIJOBS_a_b")
    with pytest.raises(ProvisionRefused, match=r"AIJOBS_a_b: subjects .* the stream is somebody else's"):
        await provisioner(below(bus, "a_b")).apply()
    assert await config(bus, "AIJOBS_a_b") == before
    with pytest.raises(NotFoundError):
        await bus.js.stream_info("AIOUT_a_b")


async def test_subjects_that_another_stream_has_are_refused_with_a_way_out(bus: Bus) -> None:
    await bus.js.add_stream(name="EVERYTHING", subjects=["ai.v1.>"])
    with pytest.raises(ProvisionRefused, match=r"AIOUT: subjects overlap with an existing stream; .* delete the other"):
        await provisioner(bus).apply()


async def test_what_fails_half_way_leaves_a_queue_that_refuses_jobs(
    own_nats_server: Callable[..., NatsServer],
) -> None:
    """Three streams and one consumer fit into this account: image jobs would wait for ever."""
    limited = own_nats_server("""
        accounts { A { users: [{user: a, password: a}], jetstream: {max_consumers: 1} } }
        no_auth_user: a
    """)
    nc = await nats.connect(limited.url)
    bus = Bus(nc, nc.jetstream())
    for _ in range(2):
        with pytest.raises(ProvisionRefused, match="AIJOBS/ai-workers-image: maximum consumers limit reached"):
            await provisioner(bus).apply()
        with pytest.raises(APIError, match="maximum bytes exceeded"):
            await submit(bus, "r1")
    assert (await config(bus, "AIJOBS"))["max_bytes"] == CLOSED_MAX_BYTES
    await bus.js.delete_consumer("AIJOBS", "ai-workers-text")
    await nc.close()


async def test_whoever_comes_after_one_that_failed_half_way_opens_the_queue(bus: Bus) -> None:
    await provisioner(bus).apply()
    await bus.js.delete_consumer("AIJOBS", "ai-workers-image")
    await api(bus, "STREAM.UPDATE.AIJOBS", await config(bus, "AIJOBS") | {"max_bytes": CLOSED_MAX_BYTES})
    await provisioner(bus, jobs_max_bytes=10_000).apply()
    await submit(bus, "r1")
    assert (await config(bus, "AIJOBS"))["max_bytes"] == 10_000


async def test_a_broker_with_a_small_disk_says_which_options_help(own_nats_server: Callable[..., NatsServer]) -> None:
    small = own_nats_server("jetstream { max_file_store: 100MB }")
    nc = await nats.connect(small.url)
    bus = Bus(nc, nc.jetstream())
    with pytest.raises(ProvisionRefused) as caught:
        await provisioner(bus).apply()
    assert str(caught.value) == (
        "AIOUT: insufficient storage resources available; `aichats-worker provision` takes --jobs-max-bytes, "
        "--results-max-bytes and --dead-max-bytes"
    )
    sizes = ["--jobs-max-bytes", "30000000", "--results-max-bytes", "30000000", "--dead-max-bytes", "30000000"]
    assert (await command("provision", *sizes, "--server", small.url)).status == 0
    assert await provisioner(bus).apply() == [], "a worker that starts leaves them so"
    await nc.close()


async def test_a_worker_that_starts_leaves_the_ack_wait_of_a_consumer_as_it_is(bus: Bus) -> None:
    await provisioner(bus, ack_wait_seconds=30).apply()
    assert await provisioner(bus, ack_wait_seconds=2).apply() == []
    assert (await config(bus, "AIJOBS.ai-workers-text"))["ack_wait"] == 30 * 10**9


async def test_an_operator_changes_the_ack_wait(bus: Bus, server: NatsServer) -> None:
    await provisioner(bus).apply()
    ran = await command("provision", "--ack-wait", "45s", "--server", server.url)
    assert ran.out == (
        b"AIJOBS/ai-workers-text: ack_wait 30 s -> 45 s\nAIJOBS/ai-workers-image: ack_wait 30 s -> 45 s\n"
    )
    assert (await config(bus, "AIJOBS.ai-workers-image"))["ack_wait"] == 45 * 10**9


async def test_what_we_do_not_name_stays_as_it_is_even_what_nats_py_does_not_know(bus: Bus) -> None:
    await provisioner(bus).apply()
    own = {"description": "the operator's own words", "metadata": {"owner": "ops"}}
    stream = await config(bus, "AIJOBS") | own | {"max_age": DAY_NS, "allow_msg_ttl": True, "max_msgs": 7}
    await api(bus, "STREAM.UPDATE.AIJOBS", stream)
    consumer = await config(bus, "AIJOBS.ai-workers-text") | own | {"max_deliver": 5, "sample_freq": "100"}
    subject = "CONSUMER.CREATE.AIJOBS.ai-workers-text.ai.v1.job.text.*.*"
    await api(bus, subject, {"stream_name": "AIJOBS", "config": consumer, "action": "update"})
    await api(bus, "CONSUMER.PAUSE.AIJOBS.ai-workers-text", {"pause_until": "2099-01-01T00:00:00Z"})

    assert sorted(map(str, await provisioner(bus).apply())) == [
        "AIJOBS/ai-workers-text: max_deliver 5 -> -1",
        "AIJOBS: max_age 86400 s -> 0 s",
    ]
    stream, consumer = await config(bus, "AIJOBS"), await config(bus, "AIJOBS.ai-workers-text")
    assert (stream["description"], stream["metadata"]["owner"]) == ("the operator's own words", "ops")
    assert (stream["allow_msg_ttl"], stream["max_msgs"]) == (True, 7)
    assert (consumer["description"], consumer["metadata"]["owner"]) == ("the operator's own words", "ops")
    assert (consumer["sample_freq"], consumer["pause_until"]) == ("100", "2099-01-01T00:00:00Z")


@pytest.mark.parametrize(("timeout", "seconds"), [(60, 900), (600, 900), (3600, 5400)])
async def test_a_record_is_kept_for_15_minutes_and_longer_than_its_job_may_take(
    bus: Bus, timeout: float, seconds: int
) -> None:
    changes = await provisioner(bus, timeout_seconds_max=timeout).apply()
    assert (await config(bus, "AIOUT"))["max_age"] == seconds * 10**9
    longer = " (a record must outlive its job, which may take 3600 s: it is kept for 5400 s)"
    assert str(changes[0]) == f"AIOUT: make it{longer if timeout == 3600 else ''}"


async def test_the_age_of_records_is_raised_and_never_lowered(bus: Bus) -> None:
    """Workers with other settings, and operators who keep more, do not undo each other."""
    await provisioner(bus).apply()
    (change,) = await provisioner(bus, timeout_seconds_max=1200).apply()
    assert str(change).startswith("AIOUT: max_age 900 s -> 1800 s (a record must outlive its job")
    assert await provisioner(bus, timeout_seconds_max=600).apply() == []
    assert (await config(bus, "AIOUT"))["max_age"] == 1800 * 10**9


async def test_a_stream_that_would_have_to_be_made_anew_is_refused_and_nothing_is_changed(bus: Bus) -> None:
    await bus.js.add_stream(
        StreamConfig(
            name="AIJOBS", subjects=["ai.v1.job.>"], retention=RetentionPolicy.LIMITS, storage=StorageType.FILE
        )
    )
    with pytest.raises(ProvisionRefused, match="retention limits -> workqueue"):
        await provisioner(bus).apply()
    with pytest.raises(NotFoundError):
        await bus.js.stream_info("AIOUT")


async def test_a_limit_below_what_is_held_is_refused(bus: Bus) -> None:
    await provisioner(bus, jobs_max=10).apply()
    for number in range(3):
        await submit(bus, f"r{number}")
    with pytest.raises(ProvisionRefused, match="it holds 3 messages now, some of which would be lost"):
        await provisioner(bus, jobs_max=2).apply()
    with pytest.raises(ProvisionRefused, match="bytes now, some of which would be lost"):
        await provisioner(bus, jobs_max_bytes=20).apply()
    assert await held(bus) == 3


async def test_an_age_below_that_of_the_oldest_letter_is_refused(bus: Bus) -> None:
    await provisioner(bus).apply()
    await bus.js.publish("ai.v1.dead.text.t.r1", b"")
    letter = await bus.js.get_msg("AIDEAD", seq=1)
    assert letter.time is not None
    await asyncio.sleep(0.2)  # it has an age: nothing tells of that
    with pytest.raises(ProvisionRefused, match=r"AIDEAD: max_age 2592000 s -> 0.1 s \(refused: its oldest message"):
        await provisioner(bus, dead_max_age_seconds=0.1).apply()
    await provisioner(bus, dead_max_age_seconds=600).apply()
    assert (await config(bus, "AIDEAD"))["duplicate_window"] == 600 * 10**9, "the broker takes none above the age"


async def test_a_full_queue_refuses_the_submitter(bus: Bus) -> None:
    await provisioner(bus, jobs_max=2).apply()
    await submit(bus, "r1")
    await submit(bus, "r2")
    with pytest.raises(APIError, match="maximum messages exceeded"):
        await submit(bus, "r3")


async def test_a_message_id_of_another_tenant_makes_no_job_vanish(bus: Bus) -> None:
    """The broker's window for message ids is the stream's, over all tenants."""
    await provisioner(bus).apply()
    await submit(bus, "x", tenant="other", **{"Nats-Msg-Id": "victim.invoice-7"})
    await submit(bus, "invoice-7", tenant="victim")
    assert await held(bus) == 2, "whoever leaves the id out, as the contract says, is out of reach"
    async with asyncio.timeout(10):  # and whoever sends one is so after the shortest window that a broker has
        while await held(bus) < 3:
            await submit(bus, "invoice-8", tenant="victim", **{"Nats-Msg-Id": "victim.invoice-7"})
            await asyncio.sleep(0.02)


async def test_provision_says_what_it_does_and_dry_run_does_nothing(bus: Bus, server: NatsServer) -> None:
    settings = load_settings(nats_url=server.url)
    would = await provision(settings, Choices(), dry_run=True)
    assert len(would) == 5
    with pytest.raises(NotFoundError):
        await bus.js.stream_info("AIJOBS")
    assert await provision(settings, Choices(), dry_run=False) == would
    assert await provision(settings, Choices(), dry_run=False) == []
    await bus.js.add_consumer("AIDEAD", ConsumerConfig(durable_name="someone-elses"))
    ran = await command("provision", "--jobs-max", "5", "--dead-max-age", "90d", "--server", server.url)
    assert ran.out == b"AIDEAD: max_age 2592000 s -> 7776000 s\nAIJOBS: max_msgs 100000 -> 5\n"
    assert await provision(settings, Choices(), dry_run=False) == [], "what is not named stays"


def test_a_duration_without_a_unit_is_wrong_usage(server: NatsServer) -> None:
    ran = typed("provision", "--dead-max-age", "90", "--server", server.url)
    assert (ran.status, ran.out) == (2, b"")


async def test_more_replicas_than_servers_are_refused_with_a_sentence(bus: Bus) -> None:
    with pytest.raises(ProvisionRefused, match=r"^AIOUT: replicas > 1 not supported in non-clustered mode"):
        await provisioner(bus, replicas=3).apply()


@pytest.fixture
async def far(own_nats_server: Callable[..., NatsServer]) -> AsyncIterator[Bus]:
    """Connected to a leaf node without JetStream, whose hub has it in the domain `hub`."""
    port = free_port()
    own_nats_server(f'server_name: hub\njetstream {{ domain: hub }}\nleafnodes {{ listen: "127.0.0.1:{port}" }}')
    remote = f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{port}" }}] }}'
    leaf = own_nats_server(f"server_name: leaf\n{remote}", jetstream=False)
    nc = await nats.connect(leaf.url)
    found = Bus(nc, nc.jetstream(domain="hub", timeout=1), domain="hub")
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                await found.js.account_info()
                break
            except NatsError:
                await asyncio.sleep(0.05)
    yield found
    await nc.close()


async def test_streams_in_another_domain_are_provisioned_over_a_leaf(far: Bus) -> None:
    assert len(await provisioner(far).apply()) == 5
    assert await provisioner(far).apply() == []


async def test_dead_letters_in_another_domain_are_written_read_and_tried_again(far: Bus) -> None:
    await provisioner(far).apply()
    letters = DeadLetters(far)
    await letters.write(job(), stream_seq=1, code="internal", reason="why", attempts=1)
    (letter,) = [letter async for letter in letters.all()]
    await letters.retry(letter)
    assert await held(far) == 1
    assert [letter async for letter in letters.all()] == []


async def test_a_worker_serves_the_jobs_of_another_domain(
    far: Bus, start_worker: StartWorker, simulator: Simulator
) -> None:
    url = far.nc.connected_url
    assert url is not None
    app = await start_worker(nats_url=f"nats://{url.netloc}", nats_js_domain="hub", worker_jobs=True)
    async with asyncio.timeout(WAIT_SECONDS):
        while app.jobs is None:
            await asyncio.sleep(0.02)
    await far.js.publish("ai.v1.job.text.t.r1", b"[sim: words=1]")
    async with asyncio.timeout(WAIT_SECONDS):
        while await held(far):
            await asyncio.sleep(0.05)
    assert [request.content for request in simulator.requests] == ["[sim: words=1]"]
