"""What a command says of a broker that is not there, or that does not let it do what it wants."""

import socket
from collections.abc import Callable
from pathlib import Path

import trustme

from tests.commands.test_commands import typed
from tests.processes import NatsServer, free_port

# A user that may ask for nothing, and hears what it is told.
NARROW = 'authorization: { users: [ { user: u, password: p, permissions: { publish: "x", subscribe: "_INBOX.>" } } ] }'


def test_a_broker_that_cannot_be_reached_is_named_and_its_password_is_not() -> None:
    port = free_port()
    ran = typed("provision", NATS_URL=f"nats://u:secret@127.0.0.1:{port}")
    assert ran.status == 3
    assert f"127.0.0.1:{port} cannot be reached: the connection is refused: nobody listens there" in ran.err
    assert "secret" not in ran.err


def test_a_login_that_is_refused_names_the_broker(own_nats_server: Callable[..., NatsServer]) -> None:
    server = own_nats_server(NARROW)
    ran = typed("provision", NATS_URL=server.url, NATS_USER="u", NATS_PASSWORD="wrong")
    assert ran.status == 3
    assert f"{server.url} cannot be reached: it refuses the login (Authorization Violation)" in ran.err


def test_a_name_that_nobody_knows_is_told_as_one() -> None:
    ran = typed("doctor", NATS_URL="nats://nowhere.invalid:4222")
    assert "nowhere.invalid:4222 does not answer (its name cannot be resolved)" in ran.out.decode()


def test_a_certificate_that_is_not_trusted_is_told_as_one(
    own_nats_server: Callable[..., NatsServer], tmp_path: Path
) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    tls = f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}'
    server = own_nats_server(f"server_name: s\n{tls}\n", jetstream=False)
    ran = typed("provision", NATS_URL=server.url)
    assert ran.status == 3
    assert "cannot be reached: TLS: its certificate is not trusted; check NATS_CA" in ran.err


def test_a_server_that_says_nothing_is_told_as_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ran = typed("provision", NATS_URL=f"nats://127.0.0.1:{silent.getsockname()[1]}")
    assert ran.status == 3
    assert "cannot be reached: no answer within 5 s" in ran.err


def test_a_right_that_is_missing_is_told_as_one(own_nats_server: Callable[..., NatsServer]) -> None:
    server = own_nats_server(NARROW)
    ran = typed("provision", NATS_URL=server.url, NATS_USER="u", NATS_PASSWORD="p")
    assert ran.status == 1
    assert f'{server.url} does not let this user do that: no right for publish to "$js.api.' in ran.err.lower()
