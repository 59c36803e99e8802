"""The worker under the least rights that it needs, with streams and consumers that somebody else made."""

import asyncio
from collections.abc import Callable

import nats
import orjson
from nats.errors import TimeoutError as NatsTimeoutError

from client import Answer, cancel, resume
from schemas import Subjects
from tests.conftest import StartWorker
from tests.processes import NatsServer
from tests.test_jobs import WAIT_SECONDS, Broker
from worker.simulated import words
from worker.simulator import Simulator
from worker.streams import Provisioner

# docs/rights.md lists the same.
CONFIG = """
authorization {
  users = [
    { user: operator, password: operator }
    { user: worker, password: worker, permissions: {
        publish: [
          "_INBOX.>", "_R_.>", "ai.v1.out.>", "ai.v1.dead.>", "ai.v1.int.>"
          "$JS.ACK.AIJOBS.>"
          "$JS.API.CONSUMER.INFO.AIJOBS.*", "$JS.API.CONSUMER.MSG.NEXT.AIJOBS.*"
          "$JS.API.STREAM.MSG.GET.AIJOBS", "$JS.API.STREAM.MSG.DELETE.AIJOBS"
          "$JS.API.STREAM.MSG.GET.AIOUT", "$JS.API.DIRECT.GET.AIOUT", "$JS.API.DIRECT.GET.AIOUT.>"
          "$JS.API.STREAM.PURGE.AIOUT"
        ]
        subscribe: [
          "ai.v1.req.> ai-workers", "ai.v1.ask.> ai-workers", "ai.v1.ctl.> ai-workers", "ai.v1.int.>", "ai.v1.out.>"
          "_INBOX.worker.>"
          "$SRV.PING", "$SRV.PING.>", "$SRV.INFO", "$SRV.INFO.>", "$SRV.STATS", "$SRV.STATS.>"
          "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.AIJOBS.* ai-workers"
        ]
    } }
    { user: requester, password: requester, permissions: {
        publish: [
          "ai.v1.req.*.t", "ai.v1.ask.*.t", "ai.v1.job.*.t.*", "ai.v1.ctl.cancel.t.*", "ai.v1.ctl.resume.t"
        ]
        subscribe: ["_INBOX.t.>"]
    } }
  ]
}
"""


async def test_requests_jobs_cancel_resume_and_dead_letters_work_with_the_least_rights(
    own_nats_server: Callable[..., NatsServer], start_worker: StartWorker, simulator: Simulator
) -> None:
    server = own_nats_server(CONFIG)
    operator = await nats.connect(server.url, user="operator", password="operator")
    js = operator.jetstream()
    await Provisioner(js, Subjects(), ack_wait_seconds=2, max_deliver=2).apply()
    app = await start_worker(
        nats_url=server.url,
        nats_user="worker",
        nats_password="worker",
        nats_inbox_prefix="_INBOX.worker",
        worker_jobs=True,
        worker_jobs_provision=False,
        worker_ack_wait_seconds=2,
        worker_max_deliver=2,
        worker_concurrency_max=1,
        worker_strict_tenant_inbox=True,
        worker_retry_base_seconds=0.05,
        worker_retry_max_seconds=0.1,
        aichats_calls_max=1,
    )
    async with asyncio.timeout(WAIT_SECONDS):
        while app.jobs is None:
            await asyncio.sleep(0.01)
    nc = await nats.connect(server.url, user="requester", password="requester", inbox_prefix="_INBOX.t")
    seen = Broker(server, operator)

    answer = orjson.loads((await nc.request("ai.v1.ask.text.t", b"[sim: words=2]", timeout=10)).data)
    assert answer["data"]["text"] == "".join(words(2))

    requester = Broker(server, nc)
    await requester.submit("[sim: words=3 pause=0.3]", "first")
    await requester.submit("never", "second")
    assert await cancel(nc, "second", tenant="t")
    whole = Answer()
    async for event in resume(nc, "first", tenant="t"):
        whole.add(event)
    assert whole.text == "".join(words(3))
    await requester.submit("[sim: status=503]", "third")
    await seen.removed()
    assert [letter["Ai-Dead-Code"] for letter in await seen.dead()] == ["provider_unavailable"]
    assert "never" not in [request.content for request in simulator.requests]

    try:
        await nc.jetstream(timeout=0.5).stream_info("AIJOBS")
    except NatsTimeoutError:
        refused = True
    else:
        refused = False
    assert refused, "a requester may not use the JetStream API"
    await nc.close()
    await operator.close()
