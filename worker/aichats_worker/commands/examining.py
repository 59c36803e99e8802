"""What the doctor looks at from outside: the broker with its streams and workers, and each provider."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from aichats_schemas.subjects import KINDS, SERVICE, Subjects
from aichats_worker import login, wiring
from aichats_worker.broker.bus import Bus
from aichats_worker.broker.connecting import NotReached, connect
from aichats_worker.commands.findings import Finding
from aichats_worker.errors import WorkerError
from aichats_worker.jobs.provision import Look, Provisioner
from aichats_worker.jobs.streams import consumer_name
from aichats_worker.provider.http.route import Route
from aichats_worker.provider.openai.site import Server
from aichats_worker.provider.reach import listed_models, reach
from aichats_worker.settings import Settings
from aichats_worker.urls import masked_url, masked_urls

FIRST_WORKER_WAIT_SECONDS = 2.0
WORKERS_WAIT_SECONDS = 0.3  # from the first on: nobody says how many there are
JETSTREAM_TIMEOUT_SECONDS = 2.0


async def broker_findings(settings: Settings) -> list[Finding]:
    """Look at the broker, the streams and consumers of jobs, what waits there, and the workers that answer."""
    where = masked_urls(settings.nats_url)
    try:
        nc = await connect(login.access(settings))
    except NotReached as error:
        return [Finding("nats", False, f"{where} does not answer ({error}): start a server or set NATS_URL")]
    try:
        started = time.perf_counter()
        await nc.flush()
        milliseconds = (time.perf_counter() - started) * 1000
        release = nc.connected_server_version
        version = f"{release.major}.{release.minor}.{release.patch}"
        says = f"{where} answers in {milliseconds:.1f} ms: nats-server {version}, max_payload {nc.max_payload} bytes"
        return [Finding("nats", True, says), *await _jobs(nc, settings), await _workers(nc)]
    finally:
        await nc.close()


async def _jobs(nc: Client, settings: Settings) -> list[Finding]:
    if not settings.worker_jobs:
        return [Finding("jobs", True, "are off (WORKER_JOBS)")]
    js = nc.jetstream(domain=settings.nats_js_domain, timeout=JETSTREAM_TIMEOUT_SECONDS)
    subjects = Subjects(settings.worker_subject_prefix)
    bus = Bus(nc, js, subjects, domain=settings.nats_js_domain)
    provisioner = Provisioner(
        bus,
        timeout_seconds_max=settings.worker_timeout_seconds_max,
        ack_wait_seconds=settings.worker_ack_wait_seconds,
    )
    try:
        async with asyncio.timeout(JETSTREAM_TIMEOUT_SECONDS):
            look = await provisioner.look()
    except (NatsError, TimeoutError):
        if not settings.worker_jobs_provision and await _may_serve_jobs(bus):
            return [Finding("jobs", True, "have their consumers; the streams are not for this user to look at")]
        return [Finding("jobs", False, "need JetStream, which is off or not for this user; or set WORKER_JOBS=off")]
    return [_provisioned(look), _waiting(look, subjects)]


def _provisioned(look: Look) -> Finding:
    """Say whether the three streams and two consumers are there, and as they should be."""
    if look.missing:
        return Finding("streams", False, f"lack {', '.join(look.missing)}: `aichats-worker provision` makes them")
    if look.refused:
        return Finding("streams", False, "; ".join(map(str, look.refused)))
    if look.paused:
        return Finding("streams", False, f"jobs wait: {'; '.join(look.paused)}")
    return Finding("streams", True, f"{', '.join(look.infos)} are there")


def _waiting(look: Look, subjects: Subjects) -> Finding:
    def messages(stream: str) -> int:
        info = look.infos.get(stream) or {}
        return int(info.get("state", {}).get("messages", 0))

    dead = messages(subjects.dead_stream)
    says = f"{messages(subjects.jobs_stream)} wait or run, {dead} dead letters"
    return Finding("jobs", True, f"{says}; `aichats-worker dead list` shows them" if dead else says)


async def _may_serve_jobs(bus: Bus) -> bool:
    """Look at what a worker with the least rights may see (docs/rights.md)."""
    try:
        for kind in KINDS:
            await bus.js.consumer_info(bus.subjects.jobs_stream, consumer_name(kind))
    except NatsError:
        return False
    return True


async def _workers(nc: Client) -> Finding:
    inbox, found = nc.new_inbox(), list[bool]()
    subject = f"$SRV.PING.{SERVICE}"

    async def hear(message: Any) -> None:
        found.append(bool(message.data))  # empty where the broker says that there is nobody

    def refused() -> bool:
        return f'violation for publish to "{subject.lower()}"' in str(nc.last_error).lower()

    await nc.subscribe(inbox, cb=hear)
    await nc.publish(subject, b"", reply=inbox)
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_WORKER_WAIT_SECONDS):
            while not found and not refused():  # noqa: ASYNC110 - of a refusal no event tells
                await asyncio.sleep(0.02)
    if any(found):
        await asyncio.sleep(WORKERS_WAIT_SECONDS)
    if refused():
        return Finding("workers", True, "are not for this user to ask")
    if not any(found):
        return Finding("workers", False, "none answers: `aichats-worker run` starts one")
    return Finding("workers", True, f"{sum(found)} answer" if sum(found) != 1 else "1 answers")


async def provider_findings(settings: Settings) -> list[Finding]:
    """Look at each provider in WORKER_PROVIDERS: whether it answers, takes the key, and has the models."""
    route, looks = wiring.route(settings), []
    for name, url in wiring.provider_urls(settings).items():
        if name != "openai":
            looks.append(_site(name, url, route))
            continue
        server, images = wiring.openai_server(settings), wiring.openai_image_server(settings)
        looks.append(_server("openai", server, settings.text_models, "OPENAI_TEXT_MODELS", route))
        # Few servers of text make images: where nothing is said of images, nobody is waiting for them.
        if images != server or "openai_image_models" in settings.model_fields_set:
            looks.append(_server("images", images, settings.image_models, "OPENAI_IMAGE_MODELS", route))
    return list(await asyncio.gather(*looks))


async def _site(name: str, url: str, route: Route) -> Finding:
    shown = masked_url(url)
    try:
        status = await reach(url, route)
    except WorkerError as error:
        return Finding(name, False, f"{shown} does not answer: {error.message}")
    return Finding(name, True, f"{shown} answers (status {status} for its front page)")


async def _server(name: str, server: Server, wanted: Mapping[str, str], setting: str, route: Route) -> Finding:
    shown = masked_url(server.base_url)
    try:
        status, models = await listed_models(server.at("/models"), server.credentials, route)
    except WorkerError as error:
        return Finding(name, False, f"{shown} does not answer: {error.message}")
    if status in (401, 403):
        return Finding(name, False, f"{shown} refuses the key (status {status}): set {server.key_setting}")
    if status != 200 or not models:
        return Finding(name, True, f"{shown} answers (status {status}), and lists no models")
    lacking = sorted(set(wanted.values()) - models)
    if lacking:
        return Finding(name, False, f"{shown} takes the key, and has no model {', '.join(lacking)}: {setting} names it")
    return Finding(name, True, f"{shown} takes the key, and has {', '.join(wanted.values())}")
