"""A release's life on a real cluster, in order: installed, upgraded under load, evicted, uninstalled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.client import Client

from tests.cluster import objects
from tests.cluster.conftest import STEP_SECONDS, Cluster, StepFailed
from tests.requester import ask

# Several steps each; the first one pulls the images.
pytestmark = pytest.mark.timeout(4 * STEP_SECONDS)

# Ten seconds: shorter than WORKER_DRAIN_TIMEOUT_SECONDS, and far longer than the time from one pod to the next.
STREAM = b"[sim: words=100 pause=0.1] hello"
STREAMS_PER_SECOND = 5


@asynccontextmanager
async def load(nc: Client) -> AsyncIterator[list[asyncio.Task[list[Any]]]]:
    """Begin streams all the time, and wait for all of them at the end."""
    streams: list[asyncio.Task[list[Any]]] = []
    ending = asyncio.Event()

    async def begin() -> None:
        while not ending.is_set():
            streams.append(asyncio.create_task(ask(nc, "ai.v1.req.text.default", STREAM)))
            await asyncio.sleep(1 / STREAMS_PER_SECOND)

    beginning = asyncio.create_task(begin())
    try:
        await asyncio.sleep(2)  # some are in the middle before anything happens
        yield streams
        await asyncio.sleep(2)  # and some begin after it
    finally:
        ending.set()
        await beginning
        await asyncio.wait(streams, timeout=STEP_SECONDS)


def ends(streams: list[asyncio.Task[list[Any]]]) -> set[str]:
    """How the streams ended: the type of each final event, or an error's code."""
    finals = [stream.result()[-1] for stream in streams]
    return {final.data.code if final.type == "error" else final.type for final in finals}


def test_a_release_is_installed_and_answers(release: Cluster) -> None:
    assert len(release.workers()) == 2
    release.helm("test", objects.RELEASE, "--timeout", f"{STEP_SECONDS - 30}s")


async def test_an_upgrade_cuts_no_stream_and_refuses_none(release: Cluster, nc: Client) -> None:
    before = set(release.workers())
    async with load(nc) as streams:
        await asyncio.to_thread(release.upgrade, podAnnotations={"tests/upgraded": "yes"})
    assert ends(streams) == {"done"}
    assert before.isdisjoint(release.workers()), "the upgrade replaced no pod"


async def test_an_eviction_cuts_no_stream_and_a_second_one_has_to_wait(release: Cluster, nc: Client) -> None:
    def evict(pod: str) -> None:
        path = f"/api/v1/namespaces/{release.namespace}/pods/{pod}/eviction"
        release.kubectl("create", "--raw", path, "--filename", "-", given=objects.eviction(pod, release.namespace))

    first, second = release.workers()
    async with load(nc) as streams:
        await asyncio.to_thread(evict, first)
        with pytest.raises(StepFailed, match="disruption budget"):
            await asyncio.to_thread(evict, second)
    assert ends(streams) == {"done"}
    available = f"deployment/{objects.RELEASE}-aichats-worker"
    release.kubectl("wait", "--for=condition=Available", available, f"--timeout={STEP_SECONDS - 30}s")
    assert first not in release.workers()


async def test_what_is_uninstalled_ends_its_streams_and_leaves_nothing_behind(release: Cluster, nc: Client) -> None:
    streams = [asyncio.create_task(ask(nc, "ai.v1.req.text.default", STREAM)) for _ in range(20)]
    await asyncio.sleep(2)
    mine = ["--selector", f"app.kubernetes.io/instance={objects.RELEASE}"]
    await asyncio.to_thread(release.helm, "uninstall", objects.RELEASE, "--wait")
    # The simulator goes too, and has no drain: its streams are cut, and say so.
    await asyncio.wait(streams, timeout=STEP_SECONDS)
    assert ends(streams) <= {"done", "interrupted", "provider_unavailable", "shutting_down"}
    await asyncio.to_thread(release.kubectl, "wait", "--for=delete", "pod", *mine, f"--timeout={STEP_SECONDS - 30}s")
    kinds = "all,configmaps,secrets,serviceaccounts,poddisruptionbudgets,networkpolicies"
    assert release.kubectl("get", kinds, *mine, "--output", "name") == ""
