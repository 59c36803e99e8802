import asyncio
import base64
import socket
from collections.abc import AsyncIterator

import pytest

from aichats_worker.errors import (
    BadResponse,
    Interrupted,
    TooLarge,
    WorkerError,
)
from aichats_worker.provider.door import Door
from aichats_worker.provider.http.addresses import check_host, is_public
from aichats_worker.provider.http.route import Timeouts
from aichats_worker.simulator.answers import image
from aichats_worker.simulator.server import HOLD, Simulator, start_simulator
from tests.provider.asking import Asked, ask, draw, make


@pytest.fixture(params=["aichats", "openai"])
async def provider(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[Asked]:
    one = make(request.param, simulator.url, image_max_bytes=100_000)
    yield one
    await one.close()


def located(url: str) -> bytes:
    return b'{"data":[{"url":"%s"}]}' % url.encode()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "avif"])
async def test_the_media_type_is_read_from_the_images_own_bytes(provider: Asked, kind: str) -> None:
    picture = await draw(provider, ask(f"[sim: type={kind} bytes=5000]"))
    assert (picture.mime, picture.data) == (f"image/{kind}", image(kind, 5000))


@pytest.mark.parametrize("source", ["data", "b64"])
async def test_an_image_in_the_answer_itself_is_accepted(provider: Asked, simulator: Simulator, source: str) -> None:
    picture = await draw(provider, ask(f"[sim: source={source} bytes=5000]"))
    assert picture.data == image("png", 5000)
    assert len(simulator.requests) == 1


async def test_a_data_url_need_not_be_base64(provider: Asked, simulator: Simulator) -> None:
    simulator.script(located("data:image/gif,GIF89a%00"))
    assert (await draw(provider, ask("x"))).data == b"GIF89a\x00"


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("[sim: type=text]", BadResponse),
        ("[sim: image-status=404]", BadResponse),
        ("[sim: image-redirects=6]", BadResponse),
        ("[sim: bytes=100001]", TooLarge),
        ("[sim: bytes=100001 source=b64]", TooLarge),
        ("[sim: bytes=300000 source=data]", TooLarge),
        ("[sim: image-url=ftp://example.org/cat.png]", BadResponse),
        ("[sim: image-url=file:///etc/passwd]", BadResponse),
        ("[sim: image-url=/relative.png]", BadResponse),
        ("[sim: image-url=http://]", BadResponse),
        ("[sim: image-url=http://[::1]", BadResponse),
        ("[sim: image-url=http://example.org:99999/]", BadResponse),
        ("[sim: image-url=data:image/png;base64,?]", BadResponse),
    ],
)
async def test_what_is_no_image_to_be_had_has_its_code(provider: Asked, prompt: str, error: type[WorkerError]) -> None:
    with pytest.raises(WorkerError) as caught:
        await draw(provider, ask(prompt))
    assert type(caught.value) is error


async def test_a_too_large_image_names_the_limit_its_value_and_what_was_sent(provider: Asked) -> None:
    with pytest.raises(TooLarge, match=r"PROVIDER_IMAGE_MAX_BYTES is 100000.*100001"):
        await draw(provider, ask("[sim: bytes=100001]"))


async def test_an_image_of_unannounced_size_is_not_read_to_its_end(provider: Asked, simulator: Simulator) -> None:
    simulator.script(located(f"{simulator.url}/endless"))
    simulator.script(image("png", 0), *[bytes(50_000)] * 3, HOLD)
    with pytest.raises(TooLarge):
        await draw(provider, ask("x"))
    await simulator.requests[1].ended.wait()
    assert simulator.requests[1].closed_early


async def test_an_image_of_exactly_the_limit_is_given(provider: Asked) -> None:
    assert len((await draw(provider, ask("[sim: bytes=100000]"))).data) == 100_000


@pytest.mark.parametrize("body", [b"", b'{"data":[{}]}', b'{"data":[{"url":7}]}', b'{"data":{}}', b"[]", b"null", b"7"])
async def test_an_answer_without_an_image_is_a_bad_response(provider: Asked, simulator: Simulator, body: bytes) -> None:
    simulator.script(body)
    with pytest.raises(BadResponse):
        await draw(provider, ask("x"))


async def test_an_empty_image_is_a_bad_response(provider: Asked, simulator: Simulator) -> None:
    simulator.script(located(f"{simulator.url}/empty"))
    simulator.script()
    with pytest.raises(BadResponse, match="empty"):
        await draw(provider, ask("x"))


@pytest.mark.parametrize("fault", ["status=429", "status=500", "cut-after=100", "stall-after=100"])
async def test_an_image_that_was_made_is_fetched_again_until_the_deadline_and_never_made_again(
    simulator: Simulator, fault: str
) -> None:
    provider = Door(make("aichats", simulator.url, timeouts=Timeouts(stall=0.02)))
    deadline = asyncio.get_running_loop().time() + 0.6
    with pytest.raises(Interrupted, match="was made"):
        await draw(provider, ask(f"[sim: image-{fault}]", deadline=deadline))
    methods = [request.method for request in simulator.requests]
    assert methods.count("POST") == 1
    assert methods.count("GET") >= 2
    await provider.close()


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_passing_fault_of_an_images_host_costs_a_moment(simulator: Simulator, status: int) -> None:
    provider = make("openai", simulator.url)
    simulator.script(located(f"{simulator.url}/images/0.png"))
    simulator.script(b"not now", status=status)
    assert (await draw(provider, ask("x"))).mime == "image/png"
    assert [request.method for request in simulator.requests] == ["POST", "GET", "GET"]
    await provider.close()


async def test_cancelling_closes_the_images_connection(provider: Asked, simulator: Simulator) -> None:
    task = asyncio.create_task(draw(provider, ask("[sim: image-stall-after=100]")))
    await simulator.received(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await simulator.requests[1].ended.wait()
    assert simulator.requests[1].closed_early


async def test_five_redirects_are_followed(provider: Asked) -> None:
    assert (await draw(provider, ask("[sim: image-redirects=5]"))).mime == "image/png"


async def test_another_port_of_the_providers_host_is_not_the_providers_origin(
    provider: Asked, simulator: Simulator
) -> None:
    async with await start_simulator() as other:
        with pytest.raises(BadResponse, match="not public"):
            await draw(provider, ask(f"[sim: image-url={other.url}/images/0.png]"))
        simulator.script(located(f"{simulator.url}/moved"))
        simulator.script(status=302, headers={"Location": f"{other.url}/images/0.png"})
        with pytest.raises(BadResponse, match="not public"):
            await draw(provider, ask("x"))
        assert other.requests == []


async def test_private_addresses_are_allowed_where_the_operator_says_so_and_get_no_secrets(
    simulator: Simulator,
) -> None:
    async with await start_simulator() as other:
        for kind in ("aichats", "openai"):
            provider = make(kind, simulator.url, image_allow_private=True)
            await draw(provider, ask(f"[sim: image-url={other.url}/images/0.png]"))
            await provider.close()
        for request in other.requests:
            assert not {"cookie", "origin", "referer", "authorization"} & request.headers.keys()


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["::1", "127.0.0.1"], ["192.168.0.1", "10.0.0.1", "::1"]]
)
async def test_a_name_that_leads_to_private_addresses_is_refused_when_it_is_connected_to(
    provider: Asked, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        ends = [(address, 80, 0, 0) if ":" in address else (address, 80) for address in addresses]
        return [(family, socket.SOCK_STREAM, 6, "", end) for family, end in zip(families, ends, strict=True)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(BadResponse, match="not public"):
        await draw(provider, ask("[sim: image-url=http://rebind.example.org/cat.png]"))


NOT_PUBLIC = """
    0.0.0.0 127.0.0.1 127.9.9.9 10.0.0.1 172.16.0.1 192.168.0.1 169.254.169.254 100.64.0.1 198.18.0.1 192.0.2.1
    224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::7f00:1
    64:ff9b::a00:1 64:ff9b:1::1 2002:7f00:1:: 2001::1 fe80::1 fe80::1%eth0 fc00::1 fd12::1 ff02::1 ff0e::1 2001:db8::1
    nonsense
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "a.localhost", "db.internal", "2130706433", "127.1", "0x7f.1", "0x7f000001", "::1"],
)
def test_a_host_that_can_only_be_private_is_refused_before_a_proxy_could_resolve_it(host: str) -> None:
    with pytest.raises(BadResponse, match="not public"):
        check_host(host)


def test_an_ordinary_host_is_left_to_the_check_of_its_address() -> None:
    assert all(check_host(host) is None for host in ("example.org", "8.8.8.8", "2606:4700::1111", "a.b.c.net."))  # type: ignore[func-returns-value]


async def test_further_images_wait_for_room_in_memory(simulator: Simulator) -> None:
    provider = make("aichats", simulator.url, image_max_bytes=50_000, image_memory_max_bytes=100_000)
    waiting = [asyncio.create_task(draw(provider, ask("[sim: image-stall-after=100]"))) for _ in range(2)]
    await simulator.received(4)  # two questions, two images
    third = asyncio.create_task(draw(provider, ask("third")))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not any(request.content == "third" for request in simulator.requests)
    waiting[0].cancel()
    assert (await third).mime == "image/png"
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await provider.close()


async def test_a_png_of_the_simulator_is_valid_and_of_the_size_that_was_asked_for(provider: Asked) -> None:
    data = (await draw(provider, ask("[sim: bytes=90000]"))).data
    assert len(data) == 90_000
    assert base64.b16encode(data[-12:]) == b"0000000049454E44AE426082"
