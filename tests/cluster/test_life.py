"""A release's life on a real cluster, in order: installed, upgraded under load, scaled, evicted, uninstalled."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from nats.aio.client import Client

from aichats_client import resume, submit
from tests.cluster import objects
from tests.cluster.conftest import STEP_SECONDS, Cluster, StepFailed
from tests.requester import ask

# Several steps each; the first one pulls the images.
pytestmark = pytest.mark.timeout(5 * STEP_SECONDS)

# Ten seconds: shorter than WORKER_DRAIN_TIMEOUT_SECONDS, and far longer than the time from one pod to the next.
STREAM = b"[sim: words=100 pause=0.1] hello"
STREAMS_PER_SECOND = 5


@dataclass
class Load:
    """What was begun: streams of core requests, and jobs by their ids."""

    nc: Client
    streams: list[asyncio.Task[list[Any]]] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)

    async def begin(self, ending: asyncio.Event) -> None:
        """Begin both all the time, half as many jobs as streams."""
        while not ending.is_set():
            self.streams.append(asyncio.create_task(ask(self.nc, "ai.v1.req.text.default", STREAM)))
            if len(self.streams) % 2:
                job = f"job-{secrets.token_hex(8)}"
                await submit(self.nc.jetstream(), "text", STREAM.decode(), request_id=job)
                self.jobs.append(job)
            await asyncio.sleep(1 / STREAMS_PER_SECOND)

    async def ends(self) -> set[str]:
        """How all of it ended: the type of each final event, or an error's code."""
        await asyncio.wait(self.streams, timeout=STEP_SECONDS)
        finals = [stream.result()[-1] for stream in self.streams]
        async with asyncio.timeout(STEP_SECONDS):
            finals += [[event async for event in resume(self.nc, job)][-1] for job in self.jobs]
        return {final.data.code if final.type == "error" else final.type for final in finals}


@asynccontextmanager
async def load(nc: Client) -> AsyncIterator[Load]:
    """Begin streams and jobs before, while and after something happens."""
    running, ending = Load(nc), asyncio.Event()
    beginning = asyncio.create_task(running.begin(ending))
    try:
        await asyncio.sleep(2)  # some are in the middle before anything happens
        yield running
        await asyncio.sleep(2)  # and some begin after it
    finally:
        ending.set()
        await beginning


def test_a_release_is_installed_and_answers(release: Cluster) -> None:
    assert len(release.workers()) == 2
    release.helm("test", objects.RELEASE, "--timeout", f"{STEP_SECONDS - 30}s")


def test_a_hook_that_fails_says_why(release: Cluster) -> None:
    with pytest.raises(StepFailed, match="NATS_URL must be servers such as"):
        release.upgrade(settings={"NATS_URL": "nats://:4222"})


async def test_an_upgrade_of_every_pod_cuts_no_stream_and_loses_no_job(release: Cluster, nc: Client) -> None:
    before = set(release.workers())
    annotations = {"tests/upgraded": "yes"}
    async with load(nc) as running:
        # The simulator's too: it stands for a provider, whose answers are not cut either.
        await asyncio.to_thread(release.upgrade, podAnnotations=annotations, smallPods={"annotations": annotations})
    assert await running.ends() == {"done"}
    assert before.isdisjoint(release.workers()), "the upgrade replaced no pod"


async def test_another_image_cuts_no_stream_and_loses_no_job(release: Cluster, nc: Client) -> None:
    image = os.environ.get("K8S_TEST_NEXT_IMAGE")
    if not image:
        pytest.skip("K8S_TEST_NEXT_IMAGE is not set: it names an image to upgrade to, another tag of the same will do")
    before = set(release.workers())
    async with load(nc) as running:
        await asyncio.to_thread(release.upgrade, image)
    assert await running.ends() == {"done"}
    assert before.isdisjoint(release.workers()), "the upgrade replaced no pod"


def test_a_secret_that_changed_replaces_the_workers_with_the_next_upgrade(release: Cluster) -> None:
    seen = []
    for value in ("one", "one", "two"):
        release.kubectl("apply", "--filename", "-", given=objects.secret(value))
        release.upgrade(secrets={"AICHATS_COOKIE": objects.COOKIE})
        seen.append(set(release.workers()))
    assert seen[0] == seen[1], "an upgrade that changes nothing replaced pods"
    assert seen[1].isdisjoint(seen[2]), "the upgrade replaced no pod"


def test_an_autoscaler_that_takes_over_finds_the_workers_that_were_there(release: Cluster) -> None:
    release.upgrade(scaling={"replicas": 3})
    before = set(release.workers())
    for _ in ("taken over", "and upgraded after that"):
        release.upgrade(scaling={"mode": "hpa", "minReplicas": 2, "maxReplicas": 5})
        assert set(release.workers()) == before
    # An autoscaler is off at 0, so it is not handed over.
    release.upgrade(scaling={"replicas": 0})
    release.upgrade(scaling={"mode": "hpa", "minReplicas": 2, "maxReplicas": 5})
    assert len(release.workers()) == 2
    release.upgrade()


async def test_an_eviction_cuts_no_stream_and_a_second_one_has_to_wait(release: Cluster, nc: Client) -> None:
    def evict(pod: str) -> None:
        path = f"/api/v1/namespaces/{release.namespace}/pods/{pod}/eviction"
        release.kubectl("create", "--raw", path, "--filename", "-", given=objects.eviction(pod, release.namespace))

    first, second = release.workers()
    async with load(nc) as running:
        await asyncio.to_thread(evict, first)
        with pytest.raises(StepFailed, match="disruption budget"):
            await asyncio.to_thread(evict, second)
    assert await running.ends() == {"done"}
    available = f"deployment/{objects.RELEASE}-aichats-worker"
    release.kubectl("wait", "--for=condition=Available", available, f"--timeout={STEP_SECONDS - 30}s")
    assert first not in release.workers()


async def test_what_is_uninstalled_ends_its_streams_and_leaves_nothing_behind(release: Cluster, nc: Client) -> None:
    running = Load(nc, [asyncio.create_task(ask(nc, "ai.v1.req.text.default", STREAM)) for _ in range(20)])
    await asyncio.sleep(2)
    mine = ["--selector", f"app.kubernetes.io/instance={objects.RELEASE}"]
    await asyncio.to_thread(release.helm, "uninstall", objects.RELEASE, "--wait")
    # The simulator goes too: who asks it again finds nobody, and says so.
    assert await running.ends() <= {"done", "interrupted", "provider_unavailable", "shutting_down"}
    await asyncio.to_thread(release.kubectl, "wait", "--for=delete", "pod", *mine, f"--timeout={STEP_SECONDS - 30}s")
    kinds = "all,configmaps,secrets,serviceaccounts,poddisruptionbudgets,networkpolicies"
    assert release.kubectl("get", kinds, *mine, "--output", "name") == ""
