"""`aichats-worker dev`: what a visitor does after the demo."""

import asyncio
import json
import re
import shlex
import signal
import socket
from pathlib import Path

import pytest

from aichats_client import BadResponseError, Client
from aichats_worker import wiring
from aichats_worker.commands.dev import simulated, welcome
from aichats_worker.settings import settings_without_environment
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.commands.test_commands import RUN_TIMEOUT_SECONDS, command, finished, start
from tests.commands.test_demo import processes_of
from tests.processes import ROOT


class Dev:
    """The process, and what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen = ""

    async def until(self, pattern: str) -> None:
        """Read until there is something that matches."""
        assert self.process.stdout is not None
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            while not re.search(pattern, self.seen):
                chunk = await self.process.stdout.read(4096)
                assert chunk, self.seen
                self.seen += chunk.decode()

    async def url(self) -> str:
        await self.until("Ctrl-C ends all")
        return str(re.findall(r"nats://[0-9.:]+", self.seen)[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_it_stays_up_shows_requests_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """1. It starts. 2. A text, a job and an error are asked for. 3. Each is one line. 4. Ctrl-C. 5. Nothing is left."""
    dev = Dev(await start("dev", cwd=tmp_path, TMPDIR=str(tmp_path), NATS_URL="nats://127.0.0.1:1"))
    try:
        async with Client(await dev.url(), tenant="team-a") as ai:
            assert await ai.ask("[sim: words=2 pause=0]") == "".join(words(2))
            await dev.until(r" done\n")
            with pytest.raises(BadResponseError):
                await ai.ask("[sim: answer=html]")
            await dev.until(r"bad_response\n")
            async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
                await (await ai.submit("text", "[sim: words=1]", id="order-8")).result()
            await dev.until(r"\njob .* order-8 .*done\n")
        lines = [line for line in dev.seen.splitlines() if "team-a" in line]
        assert [line.split()[0] for line in lines] == ["req", "req", "job"]
        assert processes_of(str(tmp_path)), "the server runs now"
    finally:
        dev.process.send_signal(number)
        ran = await finished(dev.process)
    assert ran.status == 130
    assert ran.err == ""
    assert list(tmp_path.iterdir()) == []
    assert processes_of(str(tmp_path)) == []


async def test_what_it_prints_to_copy_works_and_a_port_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dev = Dev(await start("dev", cwd=tmp_path))
        try:
            await dev.url()
            copied = [line.strip() for line in dev.seen.splitlines() if line.startswith("  aichats-worker ")]
            asked = copied[0].replace("'Say hi'", "[sim:words=1]").split()[1:]
            assert (await command(*asked)).out == b"Hello\n"
            failing = next(line for line in copied if "status=503" in line).removesuffix(" | tail -1")
            ran = await command(*shlex.split(failing)[1:])
            assert json.loads(ran.out.splitlines()[-1])["data"]["provider"]["name"] == "openai"
            await dev.until(r"provider failed .*provider=aichats")
            page = re.findall(r"curl (\S+)/readyz", dev.seen)[0]
            assert page.startswith("http://127.0.0.1:")
        finally:
            dev.process.send_signal(signal.SIGINT)
            await finished(dev.process)


async def test_the_doctor_finds_all_well_with_the_line_that_is_printed(tmp_path: Path) -> None:
    dev = Dev(await start("dev", cwd=tmp_path))
    try:
        await dev.url()
        line = next(line for line in dev.seen.splitlines() if line.endswith(" aichats-worker doctor"))
        variables = dict(word.split("=", 1) for word in shlex.split(line)[:-2])
        ran = await command("doctor", "--json", **variables)  # type: ignore[arg-type]
    finally:
        dev.process.send_signal(signal.SIGINT)
        await finished(dev.process)
    assert ran.status == 0, ran.out.decode()
    found = {finding["name"]: finding["says"] for finding in json.loads(ran.out)["findings"]}
    assert {"aichats", "openai", "port"} <= found.keys()
    assert "has a worker" in found["port"]


async def test_the_simulators_second_provider_honours_options_makes_images_and_stands_in(tmp_path: Path) -> None:
    dev = Dev(await start("dev", cwd=tmp_path))
    try:
        async with Client(await dev.url()) as ai:
            plain = await ai.complete("text", "[sim: words=1]")
            optional = await ai.complete("text", "[sim: words=5 pause=0]", max_tokens=2)
            images = await ai.complete("image", "[sim: type=png]", n=2)
            failing = await ai.complete("text", "[sim: only=aichats status=503] [sim: words=1]")
    finally:
        dev.process.send_signal(signal.SIGINT)
        await finished(dev.process)
    who = [(each.done.provider or {})["name"] for each in (plain, optional, images, failing)]
    assert who == ["aichats", "openai", "openai", "openai"]
    assert (optional.text, optional.done.finish_reason) == ("".join(words(2)), "length")
    assert len(images.images) == 2


def test_the_models_that_are_announced_first_are_the_defaults() -> None:
    offers = wiring.provider(settings_without_environment(**simulated("http://127.0.0.1:1"))).offers
    assert {kind: list(models) for kind, models in offers.items()} == {"text": ["gpt-4"], "image": ["dalle"]}


async def test_two_that_start_at_once_have_ports_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    devs = [Dev(await start("dev", cwd=cwd)) for cwd in (tmp_path, tmp_path / "a")]
    try:
        shown = [re.findall(r"(?:nats|http)://127.0.0.1:(\d+)", await dev.url() + dev.seen) for dev in devs]
        assert not set(shown[0]) & set(shown[1])
    finally:
        for dev in devs:
            dev.process.send_signal(signal.SIGINT)
        for dev in devs:
            await finished(dev.process)


async def test_a_real_server_can_be_asked_through_it(tmp_path: Path, simulator: Simulator) -> None:
    base_url = f"{simulator.url}/v1"
    asked = f"{base_url}?key=s3cret"
    dev = Dev(await start("dev", "--provider", "openai", "--base-url", asked, cwd=tmp_path, OPENAI_API_KEY="k3y"))
    try:
        async with Client(await dev.url()) as ai:
            assert await ai.ask("[sim: words=1]") == "Hello"
        assert base_url in dev.seen
        assert "s3cret" not in dev.seen
        assert simulator.requests[0].headers["authorization"] == "Bearer k3y"
    finally:
        dev.process.send_signal(signal.SIGINT)
        await finished(dev.process)


def test_the_readme_shows_what_it_prints() -> None:
    simulator_url = "http://127.0.0.1:41235"
    settings = settings_without_environment(**simulated(simulator_url))
    shown = welcome(settings, f"{simulator_url}  (a local simulator, not ai-chats.org)")
    assert shown in (ROOT / "README.md").read_text("utf-8")
