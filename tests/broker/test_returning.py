"""The connection comes back: whatever the broker, a file or a callback does, and it says why it is away."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
import trustme
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from aichats_schemas import parse_event
from aichats_worker import login
from aichats_worker.app import App
from aichats_worker.broker.connecting import connect
from aichats_worker.broker.patches.subscribing import settle
from aichats_worker.settings import load_settings
from aichats_worker.simulator.answers import words
from aichats_worker.simulator.server import Simulator
from tests.broker.identities import Key, Operator
from tests.broker.pair import MakeServer, pair
from tests.conftest import SpawnWorker, StartWorker
from tests.direct.test_corridor import outcomes, until
from tests.link import linked
from tests.processes import NatsServer, free_port
from tests.requester import Exchange, ask, text_of, until_heard

REQ = "ai.v1.req.text.default"
SHORT = b"[sim: words=1]"
ANSWERED_SECONDS = 5.0


def users(*, password: str = "p", rights: str = "", limits: str = "") -> str:  # noqa: S107
    """A server with two users: the worker's, whom it may refuse, and a requester's."""
    worker = f"{{user: u, password: {password}{f', permissions: {rights}' if rights else ''}}}"
    account = f"A {{ jetstream: enabled, users: [{worker}, {{user: probe, password: p}}]\n {limits} }}"
    return f"server_name: s\naccounts {{ {account} }}\n"


def says(app: App, check: str) -> str:
    checks: dict[str, str] = app.health.ready()[1]["checks"]
    return checks[check]


@pytest.fixture
async def probe() -> AsyncIterator[Callable[[NatsServer], Any]]:
    """A requester's connection to a server with users."""
    clients: list[Client] = []

    async def connect(server: NatsServer, **options: Any) -> Client:
        options = {"user": "probe", "password": "p", "reconnect_time_wait": 0.1, "max_reconnect_attempts": -1} | options
        clients.append(await nats.connect(server.url, **options))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


async def served(nc: Client) -> bool:
    await until_heard(nc)
    return bool((await ask(nc, REQ, SHORT))[-1].type == "done")


async def test_a_broker_that_refuses_the_worker_is_asked_until_it_takes_it(
    own_nats_server: MakeServer, start_worker: StartWorker, probe: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_nats_server(users())
    app = await start_worker(nats_url=server.url, nats_user="u", nats_password="p")
    server.stop()
    server.configure(users(password="other"))
    server.start()
    await until(lambda: "authorization violation" in says(app, "broker").lower())
    await asyncio.sleep(2.5)  # some tries, which are said once
    assert not app.health.ready()[0]
    assert app.health.live()[0], "a wait mends it, a restart does not"
    said = [record for record in caplog.messages if "authorization violation" in record.lower()]
    assert len(said) <= 1
    server.configure(users())
    server.send(signal.SIGHUP)
    await until(lambda: app.health.ready()[0])
    assert await served(await probe(server))


@pytest.mark.parametrize("kind", ["nkey", "creds"])
@pytest.mark.parametrize("broken", ["empty", "missing"])
async def test_a_file_that_is_broken_for_a_moment_is_read_again(
    own_nats_server: MakeServer, start_worker: StartWorker, tmp_path: Path, kind: str, broken: str
) -> None:
    file, operator, key = tmp_path / "file", Operator(), Key("U")
    nkeys = f"server_name: s\nauthorization {{ users: [ {{nkey: {key.public}}} ] }}\n"
    server = own_nats_server(nkeys if kind == "nkey" else operator.config(), jetstream=False)
    good = key.seed if kind == "nkey" else operator.credentials()
    file.write_text(good)
    app = await start_worker(nats_url=server.url, **{f"nats_{kind}": str(file)})
    file.write_text("") if broken == "empty" else file.unlink()
    server.stop()
    server.start()
    await until(lambda: f"NATS_{kind.upper()}" in says(app, "broker"))
    file.write_text(good)
    await until(lambda: app.health.ready()[0])


async def test_a_rotated_seed_is_used_with_its_own_public_key(
    own_nats_server: MakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    file, keys = tmp_path / "seed", [Key("U"), Key("U")]
    config = [f"server_name: s\nauthorization {{ users: [ {{nkey: {key.public}}} ] }}\n" for key in keys]
    server = own_nats_server(config[0], jetstream=False)
    file.write_text(keys[0].seed)
    app = await start_worker(nats_url=server.url, nats_nkey=str(file))
    file.write_text(keys[1].seed)
    server.stop()
    server.configure(config[1])
    server.start()
    await until(lambda: app.broker.connection.stats["reconnects"] == 1)


async def test_renewed_certificates_are_used_at_the_next_connect(
    own_nats_server: MakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    def issue(ca: trustme.CA, name: str, who: str) -> None:
        issued = ca.issue_cert(who)
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}-key.pem"))

    def renew(ca: trustme.CA) -> None:
        ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        issue(ca, "server", "127.0.0.1")
        issue(ca, "client", "worker@example.org")

    renew(trustme.CA())
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server-key.pem", ca_file: "{tmp_path}/ca.pem"'
    server = own_nats_server(f"server_name: s\ntls {{ {files}, verify: true }}\n", jetstream=False)
    names = {"nats_ca": "ca.pem", "nats_cert": "client.pem", "nats_key": "client-key.pem"}
    app = await start_worker(nats_url=server.url, **{name: str(tmp_path / file) for name, file in names.items()})
    renew(trustme.CA())  # nothing of the old ones is good for the new server
    server.stop()
    server.start()
    await until(lambda: app.broker.connection.stats["reconnects"] == 1)


async def test_a_jwt_that_expires_costs_no_more_than_a_broker_restart(
    own_nats_server: MakeServer, start_worker: StartWorker, tmp_path: Path, probe: Any
) -> None:
    file, operator = tmp_path / "creds", Operator()
    server = own_nats_server(operator.config(), jetstream=False)
    file.write_text(operator.credentials(seconds=2))
    app = await start_worker(nats_url=server.url, nats_creds=str(file))
    file.write_text(operator.credentials())
    own = tmp_path / "own"
    own.write_text(operator.credentials())
    nc = await probe(server, user_credentials=str(own), user=None, password=None)
    exchange = await Exchange(nc).send(REQ, b"[sim: words=40 pause=0.1]")
    while (await exchange.next()).data:
        pass
    await until(lambda: outcomes(app) == {"done": 1.0})
    assert app.broker.connection.stats["reconnects"] == 1
    assert await served(nc)


async def test_credentials_of_a_url_hold_for_a_server_that_was_only_heard_of(
    own_nats_server: MakeServer, start_worker: StartWorker
) -> None:
    first, _ = pair(own_nats_server, 'authorization { users: [ {user: u, password: "p/q"} ] }')
    app = await start_worker(nats_url=first.url.replace("//", "//u:p%2Fq@"))
    await until(lambda: bool(app.broker.connection.discovered_servers))
    first.stop()
    await until(lambda: app.broker.connection.stats["reconnects"] == 1)


async def test_a_worker_moves_before_a_retiring_broker_throws_it_out_and_loses_no_event(
    own_nats_server: MakeServer, start_worker: StartWorker
) -> None:
    """A slow link: what the old broker sends to the worker is under way for a while, and so is the worker's leaving."""
    old, new = pair(own_nats_server, 'lame_duck_duration: "60s"\nlame_duck_grace_period: "30s"')
    nc = await nats.connect(new.url)
    async with linked(old.port) as link:
        app = await start_worker(nats_url=link.url, worker_drain_timeout_seconds=5)
        connection = app.broker.connection
        await until(lambda: any(url.port == new.port for url in connection.discovered_servers))
        await until_heard(nc)  # the new broker has to learn from the old one who listens there
        link.delay_seconds = 0.3
        under_way = await Exchange(nc).send(REQ, b"[sim: words=40 pause=0.1]")
        await under_way.event()
        old.send(signal.SIGUSR2)
        sent: list[Exchange] = []
        while connection.stats["reconnects"] == 0 and len(sent) < 400:
            sent.append(await Exchange(nc).send(REQ, SHORT))
            await asyncio.sleep(0.02)
        assert connection.connected_url is not None
        assert connection.connected_url.port == new.port
        assert await served(nc)
        assert text_of(await under_way.all()) == "".join(words(40))
        firsts = [asyncio.create_task(exchange.next()) for exchange in sent]
        answered, silent = await asyncio.wait(firsts, timeout=ANSWERED_SECONDS)
        # Without a worker, that is said. One that the new broker was just sending to the old one, while that heard that
        # the worker leaves, is thrown away by it: core NATS delivers at most once.
        assert {(first.result().headers or {}).get("Status", "answered") for first in answered} <= {"answered", "503"}
        assert len(silent) <= 1
        for first in silent:
            first.cancel()
    await nc.close()
    old.kill()  # it would take its time


async def test_a_subscription_limit_costs_no_stream_and_is_told_until_it_is_raised(
    own_nats_server: MakeServer, start_worker: StartWorker, probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aichats_worker.broker.watching.ASK_AGAIN_SECONDS", 0.5)
    server = own_nats_server(users(limits="limits { max_subscriptions: 40 }"))
    nc = await probe(server)
    app = await start_worker(nats_url=server.url, nats_user="u", nats_password="p")
    exchange = await Exchange(nc).send(REQ, b"[sim: words=20 pause=0.1]")
    await exchange.event()
    for n in range(40):
        await app.broker.connection.subscribe(f"ai.v1.int.more.{n}")
    await until(lambda: "limit of subscriptions" in says(app, "subscriptions"))
    assert not app.health.ready()[0]
    assert (await exchange.all())[-1].type == "done"
    assert app.broker.connection.stats["reconnects"] == 0
    server.configure(users())
    server.send(signal.SIGHUP)
    await until(lambda: app.health.ready()[0])


async def test_a_refused_subscription_is_told_until_its_right_is_given(
    own_nats_server: MakeServer, start_worker: StartWorker, probe: Any
) -> None:
    rights = '{ subscribe: ["_INBOX.>", "ai.v1.ctl.>", "ai.v1.int.>", "$SRV.>"] }'
    server = own_nats_server(users(rights=rights))
    app = await start_worker(nats_url=server.url, nats_user="u", nats_password="p")
    assert "ai.v1.req.text.*: the broker's rights refuse it" in says(app, "subscriptions")
    assert not app.health.ready()[0]
    server.configure(users())
    server.send(signal.SIGHUP)
    await until(lambda: app.health.ready()[0])
    assert await served(await probe(server))


RIGHTS = '{ subscribe: { deny: "ai.v1.req.image.*" } }'


async def test_a_refused_subscription_is_told_also_while_it_is_asked_for_again(
    own_nats_server: MakeServer, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aichats_worker.broker.watching.ASK_AGAIN_SECONDS", 0.0)
    server = own_nats_server(users(rights=RIGHTS))
    async with linked(server.port) as link:
        app = await start_worker(nats_url=link.url, nats_user="u", nats_password="p")
        assert not app.health.ready()[0]
        link.down.clear()
        await until(lambda: app.connection._asked != {})
        assert "ai.v1.req.image.*: the broker's rights refuse it" in says(app, "subscriptions")
        link.down.set()
        await until(lambda: app.connection._asked == {})
        assert not app.health.ready()[0]


async def test_a_worker_that_stops_asks_for_no_subscription_again(
    own_nats_server: MakeServer, start_worker: StartWorker, probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aichats_worker.broker.watching.ASK_AGAIN_SECONDS", 0.0)
    server = own_nats_server(users(rights=RIGHTS))
    nc = await probe(server)
    async with linked(server.port) as link:
        app = await start_worker(nats_url=link.url, nats_user="u", nats_password="p")
        assert app.connection.refused
        link.down.clear()  # the worker is leaving until it hears that it has left
        draining = asyncio.create_task(app.drain())
        await until(lambda: app.connection.closing)
        async with asyncio.timeout(5):
            await app.connection.look()  # whoever asks waits for the answer
        link.down.set()
        await draining
    with pytest.raises(NoRespondersError):
        await nc.request(REQ, SHORT, timeout=5)


async def test_a_full_worker_is_asked_for_no_slot_after_it_asked_for_its_subscriptions_again(
    own_nats_server: MakeServer, start_worker: StartWorker, probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aichats_worker.broker.watching.ASK_AGAIN_SECONDS", 0.0)
    server = own_nats_server(users(rights=RIGHTS))
    nc = await probe(server)
    app = await start_worker(nats_url=server.url, nats_user="u", nats_password="p", worker_concurrency_max=1)
    running = await Exchange(nc).send(REQ, b"[sim: words=2 pause=3]")
    await running.event()
    await app.connection.look()
    for room in app.handover._rooms.values():
        await room.update()
    await settle(app.broker.connection)
    with pytest.raises(NoRespondersError):
        await nc.request("ai.v1.int.room.text", b"", timeout=5)
    assert (await running.all())[-1].type == "done"


@pytest.mark.parametrize("how", ["of the account", "after a restart"])
async def test_images_are_split_by_the_limit_that_holds(
    own_nats_server: MakeServer, start_worker: StartWorker, probe: Any, how: str
) -> None:
    small = (
        users(limits="limits { max_payload: 65536 }") if how == "of the account" else "max_payload: 65536\n" + users()
    )
    server = own_nats_server(small if how == "of the account" else users())
    app = await start_worker(nats_url=server.url, nats_user="u", nats_password="p")
    if how == "after a restart":
        server.stop()
        server.configure(small)
        server.start()
    await until(lambda: app.broker.connection.max_payload == 65536 and app.health.ready()[0])
    nc = await probe(server)
    await until_heard(nc)
    events = await ask(nc, "ai.v1.req.image.default", b"[sim: bytes=300000]")
    assert [event.type for event in events] == ["image"] * 7 + ["done"]
    assert app.broker.connection.stats["reconnects"] == (how == "after a restart")


async def test_a_delta_that_waited_and_is_too_large_by_then_is_no_good_end(
    own_nats_server: MakeServer, start_worker: StartWorker, probe: Any, simulator: Simulator
) -> None:
    server = own_nats_server(users())
    app = await start_worker(nats_url=server.url, nats_user="u", nats_password="p")
    nc, connection = await probe(server), app.broker.connection
    simulator.script(1.5, b"data: " + b"x" * 100_000 + b"\n\n", b"event: trylimit\ndata: 9\n\n")
    await Exchange(nc).send(REQ, b"much")
    await simulator.received(1)
    server.kill()
    await until(lambda: not connection.is_connected and connection.pending_data_size > 100_000)
    server.configure("max_payload: 65536\n" + users())
    server.start()
    await until(lambda: bool(outcomes(app)))
    assert outcomes(app) == {"interrupted": 1}


@pytest.fixture
async def lowered(own_nats_server: MakeServer, start_worker: StartWorker, probe: Any) -> tuple[App, Client]:
    """A worker whose broker takes less in one message since a moment ago: nobody has told the worker."""
    server = own_nats_server(users())
    app = await start_worker(nats_url=server.url, nats_user="u", nats_password="p", worker_jobs=True)
    nc = await probe(server)
    await app.jobs_served()
    server.configure("max_payload: 65536\n" + users())
    server.send(signal.SIGHUP)
    await until(lambda: "Reloaded: max_payload" in server.log_path.read_text())
    assert app.broker.connection.max_payload == 1024 * 1024
    return app, nc


async def end(exchange: Exchange) -> str:
    """How a stream ends that may have a gap: the code of its error, or the type of its last event."""
    while (message := await exchange.next()).data:
        last: Any = parse_event(message.data)
    return str(last.data.code) if last.type == "error" else str(last.type)


async def test_an_image_that_a_lowered_limit_swallowed_is_told_and_the_next_one_is_whole(
    lowered: tuple[App, Client],
) -> None:
    app, nc = lowered
    subject = "ai.v1.req.image.default"
    assert await end(await Exchange(nc).send(subject, b"[sim: bytes=300000]")) == "interrupted"
    await until(lambda: outcomes(app, kind="image") == {"interrupted": 1.0})
    assert [event.type for event in await ask(nc, subject, b"[sim: bytes=300000]")] == ["image"] * 7 + ["done"]


async def test_a_delta_that_a_lowered_limit_swallowed_is_told(
    lowered: tuple[App, Client], simulator: Simulator
) -> None:
    app, nc = lowered
    simulator.script(b"data: " + b"x" * 100_000 + b"\n\n", b"event: trylimit\ndata: 9\n\n")
    assert await end(await Exchange(nc).send(REQ, b"much")) == "interrupted"
    await until(lambda: outcomes(app) == {"interrupted": 1.0})


async def test_a_result_that_a_lowered_limit_swallowed_is_too_large(lowered: tuple[App, Client]) -> None:
    app, nc = lowered
    (error,) = await ask(nc, "ai.v1.ask.image.default", b"[sim: bytes=300000]")
    assert (error.data.code, "65536" in error.data.message) == ("too_large", True)
    await until(lambda: outcomes(app, mode="ask", kind="image") == {"too_large": 1.0})


async def test_a_job_whose_image_a_lowered_limit_swallowed_is_run_again_in_smaller_parts(
    lowered: tuple[App, Client],
) -> None:
    app, nc = lowered
    await nc.jetstream().publish("ai.v1.job.image.default.r1", b"[sim: bytes=300000]")
    await until(lambda: outcomes(app, mode="job", kind="image") == {"interrupted": 1.0, "done": 1.0}, seconds=30)
    exchange = await Exchange(nc).send("ai.v1.ctl.resume.default", b'{"id":"r1"}')
    assert await end(exchange) == "done"
    events: list[Any] = [parse_event(message.data) for message in exchange.messages[:-1]]
    assert [event.type for event in events if event.attempt == 2] == ["status", *["image"] * 7, "done"]


async def test_a_reconnect_that_ended_is_begun_again(own_nats_server: MakeServer, start_worker: StartWorker) -> None:
    server = own_nats_server()
    app = await start_worker(nats_url=server.url)
    connection: Any = app.broker.connection
    server.stop()
    await until(lambda: connection._reconnection_task is not None)
    connection._reconnection_task.cancel()
    await until(lambda: bool(connection._reconnection_task.done()))
    server.start()
    await until(lambda: app.health.ready()[0])


@pytest.mark.parametrize("what", ["_reading_task", "_flusher_task", "_ping_interval_task"])
async def test_a_connection_whose_inside_has_ended_is_made_anew(
    own_nats_server: MakeServer, start_worker: StartWorker, what: str
) -> None:
    server = own_nats_server()
    app = await start_worker(nats_url=server.url)
    nc = await nats.connect(server.url)
    getattr(app.broker.connection, what).cancel()
    await until(lambda: app.broker.connection.stats["reconnects"] == 1 and app.health.ready()[0])
    assert await served(nc)
    await nc.close()


async def test_a_subscription_whose_callback_was_cancelled_hears_again(nc: Client, start_worker: StartWorker) -> None:
    app = await start_worker()
    heard: list[bytes] = []

    async def hear(message: Any) -> None:
        heard.append(message.data)
        if message.data == b"first":
            raise asyncio.CancelledError

    await app.broker.connection.subscribe("ai.v1.int.deaf", cb=hear)
    await settle(app.broker.connection)
    for body in (b"first", b"second"):
        await nc.publish("ai.v1.int.deaf", body)
    await until(lambda: heard == [b"first", b"second"])


async def test_what_fails_after_a_reconnect_costs_nothing(
    own_nats_server: MakeServer, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    server = own_nats_server()
    app = await start_worker(nats_url=server.url)
    monkeypatch.setattr(app.connection, "_on_reconnect", fail)
    for count in (1, 2):
        server.stop()
        server.start()
        await until(lambda count=count: app.broker.connection.stats["reconnects"] == count)
        await until(lambda: app.health.ready()[0])


async def test_an_error_of_the_brokers_alone_ends_nothing(
    own_nats_server: MakeServer, start_worker: StartWorker
) -> None:
    server = own_nats_server()
    async with linked(server.port) as link:
        app = await start_worker(nats_url=link.url)
        nc = await nats.connect(server.url)
        exchange = await Exchange(nc).send(REQ, b"[sim: words=10 pause=0.1]")
        await exchange.event()
        for word in (b"Invalid Subject", b"Maximum Subscriptions Exceeded", b"User Authentication Revoked"):
            link.inject(b"-ERR '" + word + b"'\r\n")
        assert (await exchange.all())[-1].type == "done"
        assert app.broker.connection.stats["reconnects"] == 0
        await nc.close()
        await app.drain()


async def test_a_connection_closed_for_good_fails_liveness(start_worker: StartWorker) -> None:
    app = await start_worker()
    assert app.health.live()[0]
    await app.broker.connection.close()
    live, body = app.health.live()
    assert not live
    assert "closed for good" in body["checks"]["connection"]
    assert not app.health.ready()[0]


async def test_a_broker_that_wants_tls_first_is_named_and_then_reached(
    own_nats_server: MakeServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = ca.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "s.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "k.pem"))
    tls = f'cert_file: "{tmp_path}/s.pem", key_file: "{tmp_path}/k.pem", handshake_first: true'
    server = own_nats_server(f"server_name: s\ntls {{ {tls} }}\n", jetstream=False)
    settings = {"nats_url": server.url, "nats_ca": str(tmp_path / "ca.pem")}
    with pytest.raises(NatsError, match="where it wants TLS first, set NATS_TLS_FIRST=on"):
        await connect(login.access(load_settings(**settings)))
    app = await start_worker(nats_tls_first=True, **settings)
    assert app.health.ready()[0]


async def test_a_worker_serves_over_websockets_and_comes_back(
    own_nats_server: MakeServer, start_worker: StartWorker
) -> None:
    port = free_port()
    server = own_nats_server(f'server_name: s\nwebsocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n')
    app = await start_worker(nats_url=f"ws://127.0.0.1:{port}")
    nc = await nats.connect(server.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1)
    for count in (1, 2):
        assert (await ask(nc, "ai.v1.req.image.default", b"[sim: bytes=3000000]"))[-1].type == "done"
        server.kill()
        server.start()
        await until(lambda count=count: app.broker.connection.stats["reconnects"] == count)
        await until(lambda: app.health.ready()[0] and nc.is_connected)
        await until_heard(nc)
    await nc.close()


async def test_a_broker_that_retires_loses_no_event_of_a_worker_that_can_go_elsewhere(
    own_nats_server: MakeServer, start_worker: StartWorker, probe: Any
) -> None:
    first, second = pair(own_nats_server, 'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"')
    app = await start_worker(nats_url=first.url)
    await until(lambda: bool(app.broker.connection.discovered_servers))
    nc = await nats.connect(second.url)
    await until_heard(nc)
    exchanges = [await Exchange(nc).send(REQ, b"[sim: words=1200 pause=0.003]") for _ in range(20)]
    for exchange in exchanges:
        await exchange.event()
    first.send(signal.SIGUSR2)
    for exchange in exchanges:
        events = await exchange.all()  # which checks that none is missing
        assert events[-1].type == "done"
        assert text_of(events)
    assert app.broker.connection.stats["reconnects"] == 1
    assert await served(nc)
    await nc.close()


async def test_a_broker_that_retires_and_has_no_other_is_told(
    own_nats_server: MakeServer, start_worker: StartWorker
) -> None:
    retiring = 'server_name: s\nlame_duck_duration: "30s"\nlame_duck_grace_period: "20s"\n'
    server = own_nats_server(retiring, jetstream=False)
    app = await start_worker(nats_url=server.url)
    server.send(signal.SIGUSR2)
    await until(lambda: "lame-duck" in says(app, "lame_duck"))
    assert app.health.ready()[0], "it serves as long as it can"
    assert app.broker.connection.stats["reconnects"] == 0
    server.kill()  # it would take its time


async def test_a_worker_that_is_back_is_ready_once_the_broker_has_its_subscriptions(
    own_nats_server: MakeServer, start_worker: StartWorker, probe: Any
) -> None:
    server = own_nats_server()
    async with linked(server.port) as link:
        app = await start_worker(nats_url=link.url)
        link.delay_seconds = 0.5
        link.cut()
        await until(lambda: not app.broker.connection.is_connected)
        await until(lambda: app.broker.connection.is_connected)
        assert not app.health.ready()[0], "its subscriptions are on their way"
        await until(lambda: app.health.ready()[0])
        link.delay_seconds = 0
        assert (await ask(await probe(server), REQ, SHORT))[-1].type == "done"


async def test_the_log_says_what_happened_to_the_connection_and_why(
    own_nats_server: MakeServer, spawn_worker: SpawnWorker
) -> None:
    server = own_nats_server()
    worker = await spawn_worker(NATS_URL=server.url, WORKER_JOBS="off")
    server.stop()
    await until(lambda: "broker not reached" in worker.log)
    await asyncio.sleep(3)  # some tries
    server.start()
    await until(lambda: "broker connected again" in worker.log)
    await worker.ready()
    lines = [line for line in worker.log.splitlines() if '"event": "broker' in line]
    assert [line.partition('"event": "')[2].partition('"')[0] for line in lines] == [
        "broker disconnected",
        "broker not reached",
        "broker connected again",
    ]
