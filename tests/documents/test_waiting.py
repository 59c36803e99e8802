"""What the documents say of `nats req`: its waiting rule, replayed with a model that thinks between its words."""

import json
import re

from nats.aio.client import Client

from aichats_worker.app import App
from tests.documents.nats_cli import duration, replies
from tests.processes import ROOT

SLOW = b"[sim: words=4 pause=1.2]"  # longer than the 300 ms that `nats req` waits by itself, and than a keep-alive
LINE = re.compile(r"nats req (\S+) .* --wait-for-empty --raw --reply-timeout=(\S+)")


async def types_of(nc: Client, subject: str, reply_timeout: float) -> list[str]:
    heard = await replies(nc, subject, SLOW, timeout=5, reply_timeout=reply_timeout, to_the_empty_one=True)
    return [json.loads(data)["type"] for data in heard]


async def test_the_readmes_line_reads_a_slow_answer_to_its_end(nc: Client, worker: App) -> None:
    found = LINE.search((ROOT / "README.md").read_text("utf-8"))
    assert found
    types = await types_of(nc, found[1], duration(found[2]))
    assert types[-1] == "done"
    assert types.count("response") == 4


async def test_without_a_reply_timeout_nats_req_cuts_it_short(nc: Client, worker: App) -> None:
    assert "done" not in await types_of(nc, "ai.v1.req.text.default", 0.3)
