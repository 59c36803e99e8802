"""The settings of providers, as the values that the rooms take."""

import json
import ssl
from pathlib import Path

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


async def test_a_private_authority_and_a_client_certificate_are_used(tmp_path: Path) -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(serving)
    serving.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine = authority.issue_cert("worker.example.org")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    files = {f"provider_{name}": str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    async with await start_simulator(tls=serving) as simulator:
        provider = wiring.provider(load_settings(aichats_url=simulator.url, **files))
        assert (await collect(provider, ask("[sim: words=1]")))[0] == "Hello"
        await provider.close()
