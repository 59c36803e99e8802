"""What lies between a call and its answer: redirects, headers, dead connections."""

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from yarl import URL

from aichats_worker.errors import BadResponse, Interrupted, Misconfigured, ProviderUnavailable, RateLimited
from aichats_worker.provider.http.route import Environment, Route, Timeouts
from aichats_worker.provider.http.upstream import as_url
from tests.provider.asking import ask, collect, make
from tests.provider.wire import CLOSE, HELLO, HOLD, Asked, delta, http, refused, sse, wire


async def test_headers_of_more_than_8_kib_are_taken() -> None:
    policy = "Content-Security-Policy: " + "default-src https://example.org; " * 1000
    async with wire(lambda _: [HELLO.replace(b"\r\n", b"\r\n" + policy.encode() + b"\r\n", 1)]) as server:
        provider = make("openai", server.url)
        assert (await collect(provider, ask("hi")))[0] == "Hello"
        await provider.close()


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_an_encoding_that_nobody_asked_for_is_decoded(name: str, pack: Any) -> None:
    _, _, body = HELLO.partition(b"\r\n\r\n")
    async with wire(lambda _: [http(pack(body), headers=[f"Content-Encoding: {name}"])]) as server:
        provider = make("openai", server.url)
        assert (await collect(provider, ask("hi")))[0] == "Hello"
        await provider.close()


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_a_packing_without_its_end_is_a_cut_though_http_ends_well(pack: Any) -> None:
    packed = pack(b"data: Hello\n\ndata:  there\n\n")[:-6]
    async with wire(lambda _: [http(packed, headers=["Content-Encoding: gzip"])]) as server:
        provider = make("aichats", server.url)
        with pytest.raises((Interrupted, ProviderUnavailable)):
            await collect(provider, ask("hi"))
        await provider.close()


async def test_a_bomb_does_not_hold_up_the_event_loop() -> None:
    bomb = http(gzip.compress(b"\n" * (1 << 26)), headers=["Content-Encoding: gzip"])  # 64 KiB are 20 s of reading
    async with wire(lambda _: [bomb]) as server:
        provider = make("openai", server.url)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await collect(provider, ask("hi"))
        await provider.close()


ENCODINGS = {"garbage": "gzip", "brotli": "br", "zstandard": "zstd", "several": "gzip, br", "nobody's": "x-own"}


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
async def test_a_body_that_cannot_be_read_does_not_hide_the_status(encoding: str) -> None:
    headers = [f"Content-Encoding: {encoding}", "Retry-After: 7"]
    refusal = http(b"\x00\x01 no such thing", status="429 Too Many Requests", headers=headers)
    async with wire(lambda _: [refusal]) as server:
        provider = make("openai", server.url)
        with pytest.raises(RateLimited) as told:
            await collect(provider, ask("hi"))
        assert told.value.retry_after_ms == 7000
        await provider.close()


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
async def test_an_answer_that_cannot_be_read_is_a_bad_one(encoding: str) -> None:
    packed = http(b"\x00\x01 no such thing", headers=[f"Content-Encoding: {encoding}"])
    async with wire(lambda _: [packed]) as server:
        provider = make("openai", server.url)
        with pytest.raises(BadResponse, match="Content-Encoding"):
            await collect(provider, ask("hi"))
        assert len(server.asked) == 1  # it would come the same way again
        await provider.close()


async def test_what_arrived_before_a_cut_is_read_though_the_cut_was_seen_first() -> None:
    head, _, body = sse(delta("Hel"), delta("lo"), delta(None, "stop")).partition(b"\r\n\r\n")
    sized = head.replace(b"Content-Length: ", b"Content-Length: 9") + b"\r\n\r\n"
    first, _, rest = body.replace(b"data: [DONE]\n\n", b"").partition(b"\n\n")
    gone = asyncio.Event()

    def answer(_: Asked) -> Iterator[Any]:
        yield from (sized + first + b"\n\n", 0.05, rest)
        gone.set()
        yield CLOSE

    async with wire(answer) as server:  # type: ignore[arg-type] # one part after the other
        provider = make("openai", server.url)
        items = provider.text(ask("hi"))
        text = await anext(items)
        await gone.wait()
        await asyncio.sleep(0.1)  # where the cut is not here yet, the test shows nothing and fails nothing
        assert [text, *[item async for item in items]][:-1] == ["Hel", "lo"]
        await provider.close()


async def test_a_redirect_at_the_same_origin_is_followed_with_its_method_and_body() -> None:
    def answer(asked: Asked) -> list[bytes]:
        moved = http(status="308 Permanent Redirect", headers=["Location: /v1/chat/completions/"])
        return [HELLO if asked.path.endswith("/") else moved]

    async with wire(answer) as server:
        provider = make("openai", server.url)
        assert (await collect(provider, ask("hi")))[0] == "Hello"
        first, second = server.asked
        assert (second.method, second.body) == ("POST", first.body)
        await provider.close()


@pytest.mark.parametrize(
    ("status", "where"),
    [("307 x", "https://example.org/v1"), ("302 x", "/v1/other"), ("308 x", ""), ("307 x", "/v1/chat/completions")],
)
async def test_any_other_redirect_is_the_operators_to_mend(status: str, where: str) -> None:
    async with wire(lambda _: [http(status=status, headers=[f"Location: {where}"])]) as server:
        provider = make("openai", server.url)
        with pytest.raises(Misconfigured, match=r"redirects.*OPENAI_BASE_URL"):
            await collect(provider, ask("hi"))
        await provider.close()


async def test_an_endless_redirect_ends() -> None:
    count = iter(range(100))
    async with wire(lambda _: [http(status="307 x", headers=[f"Location: /v1/{next(count)}"])]) as server:
        provider = make("openai", server.url)
        with pytest.raises(Misconfigured, match="redirects"):
            await collect(provider, ask("hi"))
        assert len(server.asked) < 10
        await provider.close()


async def test_connections_that_died_idle_cost_neither_a_failure_nor_a_wait() -> None:
    together = asyncio.Barrier(3)
    dead: set[int] = set()

    def answer(asked: Asked) -> list[Any]:
        number = len(server.asked)
        return [HELLO] if number <= 3 or number in dead else [CLOSE]

    async with wire(answer) as server:
        provider = make("openai", server.url)

        async def one() -> str:
            async with together:
                return (await collect(provider, ask("hi")))[0]

        assert await asyncio.gather(*[one() for _ in range(3)]) == ["Hello"] * 3
        dead.add(5)  # the fourth request meets a connection that closes, and goes out again on a new one at once
        assert (await collect(provider, ask("hi")))[0] == "Hello"
        assert len(server.asked) == 5
        await provider.close()


async def test_a_new_connection_that_closes_is_a_failure_and_is_not_asked_twice() -> None:
    async with wire(lambda _: [CLOSE]) as server:
        provider = make("openai", server.url)
        with pytest.raises(ProviderUnavailable):
            await collect(provider, ask("hi"))
        assert len(server.asked) == 1
        await provider.close()


@pytest.mark.parametrize("body", [[], [b'{"error"'], [b" ", 0.05] * 500], ids=["none", "a part", "drops of it"])
async def test_a_refusal_whose_body_never_comes_is_still_one(body: list[Any]) -> None:
    head = refused("429 Too Many Requests", ["Retry-After: 7"], message="x" * 1000).partition(b"\r\n\r\n")[0]
    async with wire(lambda _: [head + b"\r\n\r\n", *body, HOLD]) as server:
        provider = make("openai", server.url, timeouts=Timeouts(first_byte=30))
        async with asyncio.timeout(12):
            with pytest.raises(RateLimited):
                await collect(provider, ask("hi"))
        await provider.close()


def test_without_a_proxy_setting_the_environments_hold() -> None:
    route = Route(environment=Environment("http://p:3128", "localhost,.example.org,10.0.0.1"))
    assert route.proxy_for("https://api.openai.com/v1", None) == "http://p:3128"
    assert Route(environment=Environment("p:3128")).proxy_for("https://x/v1", None) == "http://p:3128"
    for url in ("https://a.example.org/", "https://localhost:8/", "https://10.0.0.1/", "http://plain.org/"):
        assert route.proxy_for(url, None) is None
    assert route.proxy_for("https://a.example.org/", "socks5://own:1") == "socks5://own:1"
    assert Route(proxy="http://set:1", environment=route.environment).proxy_for("https://x/", None) == "http://set:1"
    with pytest.raises(Misconfigured, match="HTTPS_PROXY"):
        Route(environment=Environment("ftp://p")).proxy_for("https://x/", None)


@pytest.mark.parametrize(
    "url", ["https://h/a%2Fb?sig=a%2B+b%20c%7E&x=;:@", "https://h/%E2%82%AC/'()*!", "https://h/a//b/../c?a"]
)
def test_a_signed_url_goes_out_byte_for_byte(url: str) -> None:
    assert str(as_url(url)) == url
    assert as_url("https://h/ü b") == URL("https://h/%C3%BC%20b")
