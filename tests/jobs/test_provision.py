"""The streams: made, brought up to date, never at the price of data; and what operators do with dead letters."""

import json
from collections.abc import Callable

import nats
import pytest
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from aichats_schemas import Subjects
from aichats_worker.jobs.provision import Limits, Provisioner, ProvisionRefused
from aichats_worker.simulator.server import Simulator
from tests.commands.test_commands import command
from tests.jobs.test_jobs import Broker, StartJobs, broker, start_jobs
from tests.processes import NatsServer

__all__ = ["broker", "start_jobs"]


def provisioner(broker: Broker, limits: Limits | None = None, *, ack_wait_seconds: float = 30) -> Provisioner:
    return Provisioner(broker.js, Subjects(), ack_wait_seconds=ack_wait_seconds, limits=limits)


async def test_everything_is_made_once_and_then_there_is_nothing_to_change(broker: Broker) -> None:
    made = await provisioner(broker).apply()
    assert sorted(map(str, made)) == [
        "AIDEAD: make it",
        "AIJOBS/ai-workers-image: make it",
        "AIJOBS/ai-workers-text: make it",
        "AIJOBS: make it",
        "AIOUT: make it",
    ]
    assert await provisioner(broker).apply() == []
    jobs = (await broker.js.stream_info("AIJOBS")).config
    assert (jobs.retention, jobs.max_msgs_per_subject) == (RetentionPolicy.WORK_QUEUE, 1)
    assert (await broker.js.stream_info("AIOUT")).config.max_age == 900


async def test_a_consumer_is_brought_up_to_date(broker: Broker) -> None:
    await provisioner(broker).apply()
    changes = await provisioner(broker, ack_wait_seconds=7).apply()
    assert sorted(map(str, changes)) == [
        "AIJOBS/ai-workers-image: ack_wait 30.0 -> 7",
        "AIJOBS/ai-workers-text: ack_wait 30.0 -> 7",
    ]
    assert (await broker.js.consumer_info("AIJOBS", "ai-workers-text")).config.ack_wait == 7


async def test_what_we_do_not_name_stays_as_it_is(broker: Broker) -> None:
    await provisioner(broker).apply()
    config = (await broker.js.stream_info("AIOUT")).config
    await broker.js.update_stream(config.evolve(description="the operator's own words", max_age=3600))
    await provisioner(broker).apply()
    config = (await broker.js.stream_info("AIOUT")).config
    assert (config.description, config.max_age) == ("the operator's own words", 900)


async def test_a_change_that_would_lose_data_is_refused_and_nothing_is_changed(broker: Broker) -> None:
    await broker.js.add_stream(
        StreamConfig(
            name="AIJOBS", subjects=["ai.v1.job.>"], retention=RetentionPolicy.LIMITS, storage=StorageType.FILE
        )
    )
    with pytest.raises(ProvisionRefused, match="retention limits -> workqueue"):
        await provisioner(broker).apply()
    with pytest.raises(NotFoundError):
        await broker.js.stream_info("AIOUT")


async def test_a_limit_below_what_is_held_is_refused(broker: Broker) -> None:
    await provisioner(broker, Limits(jobs_max=10)).apply()
    for number in range(3):
        await broker.submit("hi", f"r{number}")
    with pytest.raises(ProvisionRefused, match="holds 3 now"):
        await provisioner(broker, Limits(jobs_max=2)).apply()
    assert await broker.jobs_left() == 3


async def test_a_full_queue_refuses_the_submitter(broker: Broker) -> None:
    await provisioner(broker, Limits(jobs_max=2)).apply()
    await broker.submit("hi", "r1")
    await broker.submit("hi", "r2")
    with pytest.raises(APIError, match="maximum messages exceeded"):
        await broker.submit("hi", "r3")


async def test_a_worker_leaves_the_limits_that_an_operator_set(broker: Broker, start_jobs: StartJobs) -> None:
    await provisioner(broker, Limits(jobs_max=7)).apply()
    await start_jobs(worker_ack_wait_seconds=30)
    assert (await broker.js.stream_info("AIJOBS")).config.max_msgs == 7


async def test_without_provisioning_drift_is_one_sentence(
    broker: Broker, start_jobs: StartJobs, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    await provisioner(broker).apply()
    await start_jobs(worker_jobs_provision=False, worker_ack_wait_seconds=9)
    said = capsys.readouterr()
    assert "the streams differ from what this worker expects: " in said.out + said.err + caplog.text
    assert (await broker.js.consumer_info("AIJOBS", "ai-workers-text")).config.ack_wait == 30


async def test_provision_says_what_it_does_and_dry_run_does_nothing(broker: Broker) -> None:
    url = broker.server.url
    dry = await command("provision", "--dry-run", "--server", url)
    assert (dry.status, dry.out.decode().count("make it")) == (0, 5)
    with pytest.raises(NotFoundError):
        await broker.js.stream_info("AIJOBS")
    assert (await command("provision", "--server", url)).out == dry.out
    assert (await command("provision", "--server", url)).out == b"nothing to change\n"
    await broker.js.add_consumer("AIDEAD", ConsumerConfig(durable_name="someone-elses"))
    assert (await command("provision", "--jobs-max", "5", "--server", url)).out == b"AIJOBS: max_msgs 100000 -> 5\n"


async def test_dead_letters_are_listed_shown_tried_again_and_dropped(
    broker: Broker, start_jobs: StartJobs, simulator: Simulator
) -> None:
    url = broker.server.url
    await start_jobs(worker_attempts_max=1)
    for number in range(2):
        simulator.script(b"no", status=503)
        await broker.js.publish(f"ai.v1.job.text.t.r{number}", b"[sim: words=1]", headers={"correlation_id": "c7"})
        await broker.end()
    await broker.removed()
    rows = [json.loads(line) for line in (await command("dead", "list", "--json", "--server", url)).out.splitlines()]
    assert [(row["number"], row["id"], row["code"]) for row in rows] == [
        (1, "r0", "provider_unavailable"),
        (2, "r1", "provider_unavailable"),
    ]
    assert "r0" in (await command("dead", "list", "--server", url)).out.decode()
    shown = json.loads((await command("dead", "show", "1", "--server", url)).out)
    assert (shown["body"], shown["attempts"], shown["headers"]["correlation_id"]) == ("[sim: words=1]", 1, "c7")
    assert (await command("dead", "retry", "1", "--server", url, stdin=b"n\n")).status == 1, "not without a yes"
    assert (await command("dead", "retry", "1", "--yes", "--server", url)).out == b"submitted r0 again\n"
    assert (await broker.end())[-1].type == "done"
    assert (await command("dead", "drop", "2", "--yes", "--server", url)).out == b"dropped r1\n"
    assert await broker.dead() == []
    gone = await command("dead", "show", "2", "--server", url)
    assert (gone.status, gone.err) == (1, "there is no dead letter 2; `aichats-worker dead list` shows them\n")


async def test_a_job_as_large_as_the_broker_allows_still_gets_its_dead_letter(
    own_nats_server: Callable[..., NatsServer], start_jobs: StartJobs
) -> None:
    server = own_nats_server("max_payload: 65536")
    nc = await nats.connect(server.url)
    big = Broker(server, nc)
    await nc.subscribe("ai.v1.out.>", cb=big.heard.put)
    await start_jobs(nats_url=server.url)
    await big.js.publish("ai.v1.job.text.t.r1", b"{" + b" " * 65535)
    (error,) = await big.end()
    assert error.data.code == "invalid_request"
    await big.removed()
    (letter,) = await big.dead()
    assert "65536 bytes does not fit" in letter["Ai-Dead-Reason"]
    await nc.close()
