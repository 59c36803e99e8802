import asyncio
import json
import signal
import struct
import zlib

import aiohttp  # noqa: TID251 - the simulator is looked at from outside
import pytest

from aichats_worker.provider.door import Door, DoorPolicy
from aichats_worker.provider.doors import Doors
from aichats_worker.simulator.answers import image, words
from aichats_worker.simulator.directives import directives
from aichats_worker.simulator.server import CUT, Simulator, serve
from tests.commands.test_commands import RUN_TIMEOUT_SECONDS, finished, start
from tests.processes import free_port
from tests.provider.asking import ask, collect, make


def chat(prompt: str, kind: str = "chat") -> bytes:
    return json.dumps(
        {"type": kind, "messagesHistory": [{"from": "you", "content": prompt}]}, separators=(",", ":")
    ).encode()


async def test_it_says_what_it_is(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    async with http.get(simulator.url) as answer:
        assert "not ai-chats.org" in await answer.text()
    for path in ("/", "/nowhere", "/images/0.png", "/v1/models"):
        async with http.get(simulator.url + path) as answer:
            assert answer.headers["x-simulator"] == "aichats-worker"
    async with http.post(f"{simulator.url}/chat/send2/", data=chat("[sim: answer=html status=500]")) as answer:
        assert (answer.status, answer.headers["x-simulator"]) == (500, "aichats-worker")


async def test_it_speaks_the_sites_dialect(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{simulator.url}/chat/send2/", data=chat("[sim: words=3 pause=0 tries=7]")) as answer:
        assert answer.content_type == "text/event-stream"
        assert await answer.read() == b"data: Hello\n\ndata:  from\n\ndata:  the\n\nevent: trylimit\ndata: 7\n\n"


async def test_it_answers_any_prompt_and_quotes_none_of_it(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{simulator.url}/chat/send2/", data=chat("[sim: pause=0] <script>")) as answer:
        text = await answer.text()
    assert "script>" not in text
    assert "[sim" not in text
    assert len(text.split("data: ")) > 20


async def test_it_says_where_an_image_is(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{simulator.url}/chat/send2/", data=chat("[sim: bytes=4000 type=jpeg]", "image")) as answer:
        url = (await answer.json())["data"][0]["url"]
    async with http.get(url) as answer:
        assert await answer.read() == image("jpeg", 4000)


async def test_an_image_is_where_the_simulator_was_asked(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    """It may listen on 0.0.0.0, which is nobody's address."""
    asked = f"http://localhost:{simulator.port}"
    async with http.post(f"{asked}/chat/send2/", data=chat("[sim: bytes=4000]", "image")) as answer:
        assert (await answer.json())["data"][0]["url"].startswith(f"{asked}/images/")


async def test_a_script_is_played_byte_for_byte(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    simulator.script(b"one", b"two", status=418, headers={"X-Test": "yes"})
    async with http.post(f"{simulator.url}/chat/send2/", data=chat("hi")) as answer:
        assert (answer.status, answer.headers["x-test"], await answer.read()) == (418, "yes", b"onetwo")
    simulator.script(b"half", 0.01, CUT)
    with pytest.raises(aiohttp.ClientPayloadError):
        async with http.post(f"{simulator.url}/chat/send2/", data=chat("hi")) as answer:
            await answer.read()


async def test_it_keeps_a_log_of_what_it_was_asked(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    async with http.post(
        f"{simulator.url}/chat/send2/?x=1", data=chat("[sim: words=1]"), headers={"Cookie": "a=b"}
    ) as answer:
        await answer.read()
    (request,) = simulator.requests
    assert (request.method, request.path, request.content) == ("POST", "/chat/send2/?x=1", "[sim: words=1]")
    assert request.headers["cookie"] == "a=b"
    assert request.ended.is_set()
    assert not request.closed_early
    assert simulator.connections_open == 1


async def test_it_counts_who_goes_early(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    answer = await http.post(f"{simulator.url}/chat/send2/", data=chat("[sim: stall-after=1]"))
    answer.close()
    await simulator.requests[0].ended.wait()
    assert simulator.closed_early == 1


async def test_the_site_answers_what_is_no_json_too(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    for body in (b"", b"null", b"[]", b'"x"', b"{", b"[" * 100_000, b'{"messages":[]}'):
        async with http.post(f"{simulator.url}/chat/send2/", data=body) as answer:
            answer.close()
            assert answer.status == 200


async def test_serve_runs_until_it_is_cancelled() -> None:
    started: asyncio.Future[Simulator] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(0, started=started.set_result))
    simulator = await started
    _, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.close()
    await writer.wait_closed()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(OSError):  # noqa: PT011 - refused, in the words of the platform
        await asyncio.open_connection("127.0.0.1", simulator.port)


async def test_sigterm_lets_an_answer_end_and_takes_no_new_one() -> None:
    port = free_port()
    process = await start("simulator", "--port", str(port))
    assert process.stdout is not None
    async with asyncio.timeout(RUN_TIMEOUT_SECONDS), aiohttp.ClientSession() as http:
        await process.stdout.readline()
        answer = await http.post(f"http://127.0.0.1:{port}/chat/send2/", data=chat("[sim: words=10 pause=0.1]"))
        assert await answer.content.readany() == b"data: Hello\n\n"
        process.send_signal(signal.SIGTERM)
        while await reachable(port):
            await asyncio.sleep(0.01)
        assert (await answer.read()).endswith(b"event: trylimit\ndata: 29\n\n")
        ran = await finished(process)
    assert (ran.status, ran.err) == (0, "")


async def test_an_answer_without_end_is_not_waited_for_for_ever(
    simulator: Simulator, http: aiohttp.ClientSession
) -> None:
    answer = await http.post(f"{simulator.url}/chat/send2/", data=chat("[sim: stall-after=1]"))
    async with asyncio.timeout(5):
        await simulator.drain(0.05)
        await simulator.close()
    answer.close()
    assert simulator.closed_early == 1


async def test_a_long_run_forgets_what_it_was_asked_first(http: aiohttp.ClientSession) -> None:
    simulator = Simulator(kept_max=2)
    await simulator.start(0, "127.0.0.1", None)
    async with simulator:
        for number in range(5):
            async with http.post(f"{simulator.url}/chat/send2/", data=chat(f"[sim: words=1] {number}")) as answer:
                await answer.read()
        assert [request.content[-1] for request in simulator.requests] == ["3", "4"]


async def test_one_simulator_can_show_a_failover(simulator: Simulator) -> None:
    both = Doors([Door(make(kind, simulator.url), DoorPolicy(calls_max=1)) for kind in ("aichats", "openai")])
    text, finish = await collect(both, ask("[sim: only=aichats status=503] [sim: words=1]"))
    await both.close()
    assert (text, finish.provider) == ("Hello", "openai")
    assert [request.path for request in simulator.requests] == ["/chat/send2/", "/v1/chat/completions"]


async def reachable(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def test_directives_are_read_from_anywhere_and_what_is_wrong_is_ignored() -> None:
    found = directives("draw [sim: words=3 nonsense=1 pause=x] a cat [sim: cut-after=2 sized] [sim:")
    assert (found.words, found.pause, found.cut_after, found.sized) == (3, 0.05, 2, True)


def test_seconds_may_be_fractions() -> None:
    found = directives("[sim: delay=2.5 pause=0.25]")
    assert (found.delay, found.pause) == (2.5, 0.25)


def test_the_usual_text_is_the_words_joined() -> None:
    assert "".join(words(0)).startswith("Hello from the local simulator")
    assert len(words(200)) == 200


@pytest.mark.parametrize("size", [0, 5000, 5001, 1_000_000])
def test_a_png_is_valid_to_the_last_chunk(size: int) -> None:
    data = image("png", size)
    assert not size or len(data) == size
    at, kinds, pixels = 8, [], b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        kinds.append(kind)
        pixels += zlib.decompress(body) if kind == b"IDAT" else b""
        at += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    assert len(pixels) == 256 * (1 + 256 * 3)
