"""KEDA's own arithmetic, on what a real nats-server says of real jobs."""

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig

from tests.chart.conftest import Render, the
from tests.processes import NatsServer

SEEN_TIMEOUT_SECONDS = 20


def replicas(trigger: dict[str, str]) -> int:
    """As KEDA's nats-jetstream scaler and the HorizontalPodAutoscaler behind it reckon."""
    url = f"http://{trigger['natsServerMonitoringEndpoint']}/jsz?acc={trigger['account']}&consumers=true&config=true"
    with urlopen(url) as answer:
        accounts = json.load(answer)["account_details"]
    (account,) = [each for each in accounts if each["name"] == trigger["account"]]
    (stream,) = [each for each in account["stream_detail"] if each["name"] == trigger["stream"]]
    (consumer,) = [each for each in stream["consumer_detail"] if each["name"] == trigger["consumer"]]
    lag = consumer["num_pending"] + consumer["num_ack_pending"]
    return math.ceil(lag / int(trigger["lagThreshold"])) if lag > int(trigger["activationLagThreshold"]) else 0


async def becomes(wanted: int, trigger: dict[str, str]) -> None:
    """Wait for what KEDA would see: a consumer's numbers change a moment after the server has acknowledged."""
    found = None
    try:
        async with asyncio.timeout(SEEN_TIMEOUT_SECONDS):
            while (found := await asyncio.to_thread(replicas, trigger)) != wanted:
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{found} replicas, not {wanted}")


@pytest.mark.parametrize("kind", ["text", "image"])
async def test_keda_sees_jobs_that_wait_and_jobs_that_run(
    render: Render, own_nats_server: Callable[..., NatsServer], kind: str
) -> None:
    server = own_nats_server()
    values = {
        "scaling": {"mode": "keda", "keda": {"monitoringEndpoint": f"127.0.0.1:{server.monitor_port}"}},
        "settings": {"WORKER_CONCURRENCY_MAX": 20, "WORKER_IMAGE_CONCURRENCY_MAX": 4},
    }
    triggers = the(render(values), "ScaledObject")["spec"]["triggers"]
    (trigger,) = [each["metadata"] for each in triggers if each["name"] == f"{kind}-jobs"]
    threshold = {"text": 15, "image": 3}[kind]  # 75 % of the slots
    assert trigger["lagThreshold"] == str(threshold)

    async with await nats.connect(server.url) as nc:
        js = nc.jetstream()
        await js.add_stream(StreamConfig("AIJOBS", subjects=["ai.v1.job.*.*.*"], retention=RetentionPolicy.WORK_QUEUE))
        for each in ("text", "image"):
            await js.add_consumer(
                "AIJOBS",
                ConsumerConfig(
                    f"ai-workers-{each}", ack_policy=AckPolicy.EXPLICIT, filter_subject=f"ai.v1.job.{each}.*.*"
                ),
            )
        await becomes(0, trigger)

        for number in range(2 * threshold + 1):
            await js.publish(f"ai.v1.job.{kind}.default.r{number}", b"hi")
        await becomes(3, trigger)

        pull = await js.pull_subscribe_bind(f"ai-workers-{kind}", "AIJOBS")
        running = await pull.fetch(threshold + 1)
        await becomes(3, trigger)  # a job that runs still needs its worker

        for message in running:
            await message.ack_sync()
        await becomes(1, trigger)


@pytest.mark.parametrize(
    ("slots", "percent", "threshold"), [(256, 75, "192"), (8, 75, "6"), (1, 75, "1"), (100, 100, "100")]
)
def test_the_threshold_is_a_share_of_the_slots(render: Render, slots: int, percent: int, threshold: str) -> None:
    values: dict[str, Any] = {
        "scaling": {"mode": "keda", "keda": {"slotsPercent": percent}},
        "settings": {"WORKER_CONCURRENCY_MAX": slots, "WORKER_IMAGE_CONCURRENCY_MAX": slots},
    }
    triggers = the(render(values), "ScaledObject")["spec"]["triggers"]
    assert [each["metadata"]["lagThreshold"] for each in triggers] == [threshold, threshold]


def test_everything_in_a_trigger_is_text(render: Render) -> None:
    values = {"scaling": {"mode": "keda", "keda": {"activationLag": 10_000_000, "account": "1e3"}}}
    for trigger in the(render(values), "ScaledObject")["spec"]["triggers"]:
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert trigger["metadata"]["activationLagThreshold"] == "10000000"
        assert trigger["metadata"]["account"] == "1e3"
