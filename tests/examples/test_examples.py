"""The examples, run as they stand."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest
from nats.aio.client import Client as NatsClient
from nats.errors import NoRespondersError

from aichats_worker.app import App
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.examples import browser
from tests.jobs.test_jobs import serving_jobs
from tests.processes import ROOT, NatsServer, free_port, output_of

RUN_TIMEOUT_SECONDS = 90.0
INSTALL_TIMEOUT_SECONDS = 60.0
EXAMPLES = ROOT / "examples"
DEBIANS_GO = Path("/usr/share/gocode")
WHOLE = "".join(words(0))


async def start(*command: str | Path, cwd: Path, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=cwd,
        env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def output(process: asyncio.subprocess.Process, status: int = 0) -> str:
    out, _ = await output_of(process, RUN_TIMEOUT_SECONDS)
    assert process.returncode == status, out.decode()
    return out.decode()


async def ran(name: str, *arguments: str, cwd: Path, server: NatsServer, status: int = 0) -> str:
    process = await start(sys.executable, EXAMPLES / name, *arguments, cwd=cwd, NATS_URL=server.url)
    return await output(process, status)


@asynccontextmanager
async def running(name: str, cwd: Path, **environment: str) -> AsyncIterator[None]:
    process = await start(sys.executable, EXAMPLES / name, cwd=cwd, **environment)
    try:
        yield
    finally:
        process.terminate()
        await process.communicate()


async def test_a_text_on_the_terminal(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    assert await ran("stream_to_terminal.py", "[sim: pause=0] hi", cwd=tmp_path, server=nats_server) == f"{WHOLE}\n"
    failed = await ran("stream_to_terminal.py", "[sim: answer=html]", cwd=tmp_path, server=nats_server, status=1)
    assert failed.startswith("\nbad_response: ")


async def test_an_image_in_a_file(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    assert await ran("image_to_file.py", "a cat", "cat", cwd=tmp_path, server=nats_server) == "cat.png\n"
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")


async def test_fifty_images_and_again(
    start_worker: StartWorker, own_nats_server: Callable[..., NatsServer], simulator: Simulator, tmp_path: Path
) -> None:
    server = own_nats_server()
    await serving_jobs(await start_worker(nats_url=server.url, worker_jobs=True))
    assert "50 images in album" in await ran("fifty_images.py", cwd=tmp_path, server=server)
    assert len(list((tmp_path / "album").glob("album-*.png"))) == 50
    calls = len([one for one in simulator.requests if one.method == "POST"])
    assert calls == 50
    (tmp_path / "album" / "album-7.png").unlink()
    assert "50 images in album" in await ran("fifty_images.py", cwd=tmp_path, server=server)


async def test_a_faststream_service(
    worker: App, nats_server: NatsServer, nc: NatsClient, simulator: Simulator, tmp_path: Path
) -> None:
    async with (
        running("faststream_service.py", tmp_path, NATS_URL=nats_server.url),
        asyncio.timeout(RUN_TIMEOUT_SECONDS),
    ):
        while True:
            try:
                answer = await nc.request("summaries", b"[sim: pause=0] a long text", timeout=20)
                break
            except NoRespondersError:
                await asyncio.sleep(0.1)
    assert orjson.loads(answer.data) == {"summary": WHOLE}
    assert "Summarise in one sentence" in simulator.requests[0].content


async def listening(url: str) -> None:
    async with asyncio.timeout(RUN_TIMEOUT_SECONDS), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)


async def test_server_sent_events(worker: App, nats_server: NatsServer, simulator: Simulator, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with running("browser/server.py", tmp_path, NATS_URL=nats_server.url, PORT=str(port)):
        await listening(url)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/answer", params={"prompt": "[sim: words=2 pause=0]"}) as answer:
                assert answer.content_type == "text/event-stream"
                text = await answer.text()
            assert text.startswith('event: piece\ndata: "Hello')
            assert text.endswith('event: done\ndata: ""\n\n')
            async with session.get(f"{url}/answer", params={"prompt": "[sim: answer=html]"}) as answer:
                assert "event: failed\n" in await answer.text()
            async with session.get(f"{url}/answer", params={"prompt": "[sim: words=500 pause=0.05]"}) as answer:
                await answer.content.readline()
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            await (await simulator.received(3)).ended.wait()
    assert simulator.requests[2].closed_early, "a browser that leaves stops the answer"


async def test_node(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("node and npm are not installed here")
    for name in ("package.json", "ask.js"):
        shutil.copy(EXAMPLES / "node" / name, tmp_path)
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            [npm, "install", "--silent", "--no-audit", "--no-fund"],
            cwd=tmp_path,
            timeout=INSTALL_TIMEOUT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install nats.js within {INSTALL_TIMEOUT_SECONDS:g} s")
    if done.returncode != 0:
        pytest.skip("npm cannot install nats.js here")
    process = await start(node, "ask.js", "[sim: pause=0]", cwd=tmp_path, NATS_URL=nats_server.url)
    assert await output(process) == f"{WHOLE}\n"
    process = await start(node, "ask.js", "[sim: answer=html]", cwd=tmp_path, NATS_URL=nats_server.url)
    assert await output(process, status=1)


async def test_go(worker: App, nats_server: NatsServer, tmp_path: Path) -> None:
    go = shutil.which("go")
    if not go:
        pytest.skip("go is not installed here")
    program = tmp_path / "ask"
    # Debian has nats.go as a package of sources; elsewhere it comes as a module.
    packaged = DEBIANS_GO / "src" / "github.com" / "nats-io" / "nats.go"
    environment = {"GO111MODULE": "off", "GOPATH": str(DEBIANS_GO)} if packaged.exists() else {"GOFLAGS": "-mod=mod"}
    building = await start(
        go, "build", "-o", program, "ask.go", cwd=EXAMPLES / "go", GOCACHE=str(tmp_path / "cache"), **environment
    )
    try:
        await output(building)
    except (AssertionError, TimeoutError):
        pytest.skip("go cannot have nats.go here")
    process = await start(program, "[sim: pause=0]", cwd=tmp_path, NATS_URL=nats_server.url)
    assert await output(process) == f"{WHOLE}\n"
    process = await start(program, "[sim: answer=html]", cwd=tmp_path, NATS_URL=nats_server.url)
    assert "bad_response" in await output(process, status=1)


async def test_a_page_shows_the_stream_as_it_comes(
    worker: App, nats_server: NatsServer, simulator: Simulator, tmp_path: Path
) -> None:
    """1. A real browser opens the page. 2. Ask is pressed. 3. Half of it is there. 4. All of it. 5. A failure."""
    chromium = browser.executable()
    if chromium is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    async with running("browser/server.py", tmp_path, NATS_URL=nats_server.url, PORT=str(port)):
        await listening(url)
        async with browser.opened(chromium, tmp_path / "profile", url) as page:
            await ask(page, "[sim: words=20 pause=0.1]")
            await shown(page, "answer.textContent.length > 20 && answer.className === ''")
            await shown(page, "answer.className === 'done'")
            assert await page.value("answer.textContent") == "".join(words(20))
            await ask(page, "[sim: answer=html]")
            await shown(page, "answer.className === 'failed'")
            assert (await page.value("answer.textContent")).startswith("bad_response")
            await ask(page, "[sim: words=500 pause=0.05]")
            await shown(page, "answer.textContent.length > 20")
        async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
            await (await simulator.received(3)).ended.wait()
    assert simulator.requests[2].closed_early, "the browser was closed"


async def ask(page: browser.Page, prompt: str) -> None:
    await shown(page, "document.readyState === 'complete' && document.getElementById('prompt') !== null")
    await page.value(f"document.getElementById('prompt').value = {orjson.dumps(prompt).decode()}")
    await page.value("document.querySelector('button').click()")


async def shown(page: browser.Page, condition: str) -> None:
    async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
        while not await page.value(condition):
            await asyncio.sleep(0.02)
