"""What a command says of a broker that is not there, or that does not let it do what it wants."""

from collections.abc import Callable

from tests.commands.test_commands import command
from tests.processes import NatsServer, free_port

# A user that may ask for nothing, and hears what it is told.
NARROW = 'authorization: { users: [ { user: u, password: p, permissions: { publish: "x", subscribe: "_INBOX.>" } } ] }'


async def test_a_broker_that_cannot_be_reached_is_named_and_its_password_is_not() -> None:
    port = free_port()
    ran = await command("provision", NATS_URL=f"nats://u:secret@127.0.0.1:{port}")
    assert ran.status == 3
    assert f"127.0.0.1:{port} cannot be reached: " in ran.err
    assert "secret" not in ran.err


async def test_a_login_that_is_refused_names_the_broker(own_nats_server: Callable[..., NatsServer]) -> None:
    server = own_nats_server(NARROW)
    ran = await command("provision", NATS_URL=server.url, NATS_USER="u", NATS_PASSWORD="wrong")
    assert ran.status == 3
    assert f"{server.url} cannot be reached: 'Authorization Violation'" in ran.err


async def test_a_right_that_is_missing_is_told_as_one(own_nats_server: Callable[..., NatsServer]) -> None:
    server = own_nats_server(NARROW)
    ran = await command("provision", NATS_URL=server.url, NATS_USER="u", NATS_PASSWORD="p")
    assert ran.status == 1
    assert f'{server.url} does not let this user do that: no right for publish to "$js.api.' in ran.err.lower()
