"""Calls and images through real small proxies."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import trustme
from yarl import URL

from aichats_worker.errors import BadResponse, DeadlineExceeded, ProviderUnavailable, WorkerError
from aichats_worker.provider.http.route import Timeouts
from aichats_worker.provider.http.sessions import SESSIONS_MAX
from aichats_worker.provider.http.upstream import Request, Upstream
from aichats_worker.simulator.server import Simulator, start_simulator
from tests.provider.asking import ask, collect, draw, make
from tests.provider.http.proxies import Proxy, running

SCHEMES = ("http", "https", "socks5", "socks5h")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as one:
        yield one


class Site:
    """A simulator behind TLS or not, and what is needed to trust it and the https proxy."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1", "localhost", "site.example.org").configure_cert(self.serving)
        self.trusting = ssl.create_default_context()
        self.authority.configure_trust(self.trusting)


async def start_proxy(stack: AsyncExitStack, site: Site, scheme: str, proxy: Proxy) -> str:
    kind = "socks" if scheme.startswith("socks") else "http"
    await stack.enter_async_context(running(proxy, kind, site.serving if scheme == "https" else None))
    credentials = "us%40er:p%3Aw@" if proxy.auth else ""
    return f"{scheme}://{credentials}127.0.0.1:{proxy.port}"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("auth", ["", "us@er:p:w"], ids=["open", "credentials"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_text_and_image_go_through_the_proxy(stack: AsyncExitStack, scheme: str, auth: str, tls: bool) -> None:
    if ":" in auth.partition(":")[2] and scheme in ("http", "https"):
        auth = auth.replace("@", "")  # compared as one string there; both forms are covered by socks
    site = Site()
    simulator = await stack.enter_async_context(await start_simulator(tls=site.serving if tls else None))
    proxy = Proxy(auth=auth)
    url = await start_proxy(stack, site, scheme, proxy)
    url = url.replace("us%40er", "user") if "@" not in auth else url
    provider = make("aichats", simulator.url, proxy=url, tls=site.trusting)
    stack.push_async_callback(provider.close)
    assert (await collect(provider, ask("[sim: words=1]")))[0] == "Hello"
    assert (await draw(provider, ask("a cat"))).mime == "image/png"
    assert set(proxy.targets) == {("127.0.0.1", simulator.port)}


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_requests_own_proxy_wins_over_the_operators(
    stack: AsyncExitStack, simulator: Simulator, scheme: str
) -> None:
    site = Site()
    operators, own = Proxy(), Proxy()
    provider = make(
        "aichats", simulator.url, proxy=await start_proxy(stack, site, "http", operators), tls=site.trusting
    )
    stack.push_async_callback(provider.close)
    url = await start_proxy(stack, site, scheme, own)
    await collect(provider, ask("[sim: words=1]", proxy=url))
    await draw(provider, ask("a cat", proxy=url))
    assert own.targets
    assert not operators.targets


async def test_socks5_resolves_here_and_socks5h_at_the_proxy(stack: AsyncExitStack, simulator: Simulator) -> None:
    site = Site()
    there = Proxy(names={"site.example.org": "127.0.0.1"})
    provider = make("aichats", f"http://site.example.org:{simulator.port}")
    stack.push_async_callback(provider.close)
    url = await start_proxy(stack, site, "socks5h", there)
    await collect(provider, ask("[sim: words=1]", proxy=url))
    assert there.targets == [("site.example.org", simulator.port)]
    with pytest.raises(ProviderUnavailable, match="DNS"):
        await collect(provider, ask("hi", proxy=url.replace("socks5h", "socks5")))
    local = make("aichats", f"http://localhost:{simulator.port}")
    stack.push_async_callback(local.close)
    await collect(local, ask("[sim: words=1]", proxy=url.replace("socks5h", "socks5")))
    assert there.targets[-1] in (("127.0.0.1", simulator.port), ("::1", simulator.port))


async def test_tls_checks_the_name_although_socks5_resolved_it_here(stack: AsyncExitStack) -> None:
    site = Site()
    simulator = await stack.enter_async_context(await start_simulator(tls=site.serving))
    proxy = Proxy()
    url = await start_proxy(stack, site, "socks5", proxy)
    provider = make("aichats", f"https://localhost:{simulator.port}", proxy=url, tls=site.trusting)
    stack.push_async_callback(provider.close)
    assert (await collect(provider, ask("[sim: words=1]")))[0] == "Hello"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_proxy_that_demands_other_credentials_is_named(stack: AsyncExitStack, scheme: str, tls: bool) -> None:
    site = Site()
    simulator = await stack.enter_async_context(await start_simulator(tls=site.serving if tls else None))
    proxy = Proxy(auth="us@er:other")
    provider = make("aichats", simulator.url, proxy=await start_proxy(stack, site, scheme, proxy), tls=site.trusting)
    stack.push_async_callback(provider.close)
    with pytest.raises(ProviderUnavailable, match="proxy") as caught:
        await collect(provider, ask("hi"))
    assert "us@er" not in caught.value.message
    assert not proxy.targets


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
@pytest.mark.parametrize(
    "refuse",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"\x05\xff",
        b"\x05",
        b"\x05\x63",
        b"\x04\x00",
        b"\x05\x00",
    ],
)
async def test_a_proxy_that_refuses_or_talks_nonsense_is_no_defect_of_ours(
    stack: AsyncExitStack, scheme: str, refuse: bytes
) -> None:
    site = Site()
    simulator = await stack.enter_async_context(await start_simulator(tls=site.serving))
    url = await start_proxy(stack, site, scheme, Proxy(refuse=refuse))
    provider = make("aichats", simulator.url, proxy=url, tls=site.trusting)
    stack.push_async_callback(provider.close)
    with pytest.raises(WorkerError) as caught:
        await collect(provider, ask("hi"))
    assert type(caught.value) in (ProviderUnavailable, BadResponse)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_is_not_there_is_named(scheme: str, simulator: Simulator) -> None:
    provider = make("aichats", simulator.url, proxy=f"{scheme}://us:er@127.0.0.1:1")
    with pytest.raises(ProviderUnavailable, match="proxy"):
        await collect(provider, ask("hi"))
    await provider.close()


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_never_answers_is_a_connect_deadline(stack: AsyncExitStack, scheme: str) -> None:
    site = Site()
    proxy = Proxy(silent=True)
    url = await start_proxy(stack, site, scheme, proxy)
    provider = make("aichats", "https://127.0.0.1:1", proxy=url, timeouts=Timeouts(connect=0.1))
    stack.push_async_callback(provider.close)
    with pytest.raises(DeadlineExceeded, match="connect"):
        await collect(provider, ask("hi"))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_image_at_a_private_address_is_refused_through_a_proxy_too(
    stack: AsyncExitStack, simulator: Simulator, scheme: str
) -> None:
    site = Site()
    other = await stack.enter_async_context(await start_simulator())
    proxy = Proxy()
    url = await start_proxy(stack, site, scheme, proxy)
    provider = make("aichats", simulator.url, proxy=url, tls=site.trusting)
    stack.push_async_callback(provider.close)
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(BadResponse, match="not public"):
            await draw(provider, ask(f"[sim: image-url=http://{host}:{other.port}/images/0.png]"))
    assert other.requests == []


async def test_the_sessions_of_requests_own_proxies_are_bounded(stack: AsyncExitStack, simulator: Simulator) -> None:
    site = Site()
    proxy = Proxy()
    url = await start_proxy(stack, site, "socks5", proxy)
    provider = make("aichats", simulator.url)
    stack.push_async_callback(provider.close)
    for i in range(SESSIONS_MAX + 3):
        await collect(provider, ask("[sim: words=1]", proxy=url.replace("//", f"//user{i}:x@")))
    assert len(provider._upstream._sessions._lines) == SESSIONS_MAX
    assert len(proxy.targets) == SESSIONS_MAX + 3


async def test_more_proxies_at_once_than_are_kept_disturb_no_call(simulator: Simulator) -> None:
    upstream = Upstream()
    async with running(Proxy(), "socks") as proxy:

        async def called(number: int) -> int:
            url = f"socks5://user{number}:secret@127.0.0.1:{proxy.port}"
            with await upstream.call(Request("GET", URL(f"{simulator.url}/"), {}, proxy=url)) as answer:
                return answer.status

        for start in range(0, 4 * SESSIONS_MAX, 2 * SESSIONS_MAX):
            numbers = range(start, start + 2 * SESSIONS_MAX)
            assert await asyncio.gather(*map(called, numbers)) == [200] * len(numbers)
        await upstream.close()
