"""`aichats-worker chat`: a conversation, and the file that it is kept in."""

import json
from pathlib import Path

from aichats_worker.app import App
from aichats_worker.simulator.server import Simulator
from tests.commands.test_commands import command
from tests.processes import NatsServer


async def test_a_conversation_goes_on_from_its_file(
    worker: App, nats_server: NatsServer, simulator: Simulator, tmp_path: Path
) -> None:
    history = tmp_path / "trip.jsonl"
    chat = ("chat", "--history", str(history), "-s", nats_server.url)
    first = await command(*chat, "--system", "be brief", stdin=b"[sim: words=1] one\n\n[sim: words=2] two\n")
    assert (first.status, first.out) == (0, b"Hello\nHello from\n")
    assert [json.loads(line)["role"] for line in history.read_text().splitlines()] == [
        *("system", "user", "assistant", "user", "assistant")
    ]
    second = await command(*chat, stdin=b"[sim: words=1] three")
    assert second.out == b"Hello\n"
    asked = simulator.requests[-1].content
    assert all(word in asked for word in ("be brief", "one", "Hello from", "three"))


async def test_what_fails_is_not_kept(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    history = tmp_path / "trip.jsonl"
    ran = await command("chat", "--history", str(history), "-s", nats_server.url, stdin=b"[sim: status=404]\n")
    assert ran.status == 1
    assert not history.exists()


async def test_a_file_that_is_no_conversation_is_wrong_usage(tmp_path: Path) -> None:
    history = tmp_path / "trip.jsonl"
    history.write_text('{"role": "user", "content": "hi"}\nnonsense\n')
    ran = await command("chat", "--history", str(history), stdin=b"hi\n")
    assert ran.status == 2
    assert f"{history}:2: " in ran.err
