"""The settings of providers, as the values that the rooms take."""

import json
import ssl
from pathlib import Path

import pytest
import trustme

from aichats_worker import wiring
from aichats_worker.provider.door import Door
from aichats_worker.provider.doors import Doors
from aichats_worker.settings import load_settings
from aichats_worker.simulator.server import start_simulator
from tests.provider.asking import ask, collect, draw
from tests.provider.wire import HELLO, Asked, http, wire

GIF = http(json.dumps({"data": [{"b64_json": "R0lGODlh"}]}).encode())


async def test_one_provider_has_a_door_and_several_have_one_each_in_their_order() -> None:
    one = wiring.provider(load_settings(worker_providers="openai"))
    both = wiring.provider(load_settings(worker_providers="openai,aichats"))
    assert isinstance(one, Door)
    assert isinstance(both, Doors)
    assert [door.name for door in both.doors] == ["openai", "aichats"]
    await one.close()
    await both.close()


async def test_images_come_from_their_own_server_where_one_is_named() -> None:
    def answer(asked: Asked) -> list[bytes]:
        return [GIF if "images" in asked.path else HELLO]

    async with wire(answer) as text, wire(answer) as images:
        shared = {"worker_providers": "openai", "openai_base_url": f"{text.url}/v1", "openai_api_key": "one"}
        for own in ({}, {"openai_image_base_url": f"{images.url}/i?v=1"}, {"openai_image_api_key": "two"}):
            provider = wiring.provider(load_settings(**shared, openai_headers="X-Title: t", **own))
            await collect(provider, ask("hi"))
            await draw(provider, ask("x"))
            await provider.close()
    asked = [(request.path, request.headers["authorization"]) for request in text.asked if "images" in request.path]
    assert asked == [("/v1/images/generations", "Bearer one"), ("/v1/images/generations", "Bearer two")]
    (elsewhere,) = images.asked
    assert (elsewhere.path, elsewhere.headers["authorization"]) == ("/i/images/generations?v=1", "Bearer one")
    assert elsewhere.headers["x-title"] == "t"


def test_the_environments_proxies_hold_where_no_setting_names_one() -> None:
    environment = {"HTTPS_PROXY": "http://p:1", "no_proxy": "localhost"}
    route = wiring.route(load_settings(), environment)
    assert route.proxy_for("https://api.openai.com/", None) == "http://p:1"
    assert route.proxy_for("https://localhost/", None) is None
    assert wiring.route(load_settings(provider_proxy="http://q:2"), environment).proxy == "http://q:2"


class Tls:
    """A server that asks for a certificate, and the files of a worker that has one; all of them renewed at will."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.serving.verify_mode = ssl.CERT_REQUIRED
        self.files = {f"provider_{name}": str(directory / f"{name}.pem") for name in ("ca", "cert", "key")}

    def renew(self) -> None:
        authority = trustme.CA()
        authority.issue_cert("127.0.0.1").configure_cert(self.serving)
        authority.configure_trust(self.serving)
        self.write("ca", authority.cert_pem)
        mine = authority.issue_cert("worker.example.org")
        self.write("cert", mine.cert_chain_pems[0])
        self.write("key", mine.private_key_pem)

    def write(self, name: str, pem: trustme.Blob) -> None:
        """As renewals do it: another file in the place of the old one."""
        pem.write_to_path(self.directory / "new")
        (self.directory / "new").rename(self.directory / f"{name}.pem")


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    made = Tls(tmp_path)
    made.renew()
    return made


async def test_a_private_authority_and_a_client_certificate_are_used_and_read_again(tls: Tls) -> None:
    async with await start_simulator(tls=tls.serving) as simulator:
        provider = wiring.provider(load_settings(aichats_url=simulator.url, **tls.files))
        for _ in range(2):
            assert (await collect(provider, ask("[sim: words=1 idle-close=0]")))[0] == "Hello"
            tls.renew()
        await provider.close()


async def test_a_renewal_that_is_not_complete_yet_leaves_the_old_files_in_force(tls: Tls) -> None:
    async with await start_simulator(tls=tls.serving) as simulator:
        provider = wiring.provider(load_settings(aichats_url=simulator.url, **tls.files))
        for name in ("cert", "ca"):
            tls.write(name, trustme.Blob(b"-----BEGIN"))
            assert (await collect(provider, ask("[sim: words=1 idle-close=0]")))[0] == "Hello"
        (tls.directory / "key.pem").unlink()
        assert (await collect(provider, ask("[sim: words=1 idle-close=0]")))[0] == "Hello"
        tls.renew()
        assert (await collect(provider, ask("[sim: words=1 idle-close=0]")))[0] == "Hello"
        await provider.close()
