"""Two brokers in a cluster, without JetStream."""

from collections.abc import Callable

from tests.processes import NatsServer, free_port

MakeServer = Callable[..., NatsServer]


def route(mine: int, other: int) -> str:
    """What a server's configuration says of a cluster with one other."""
    return f'cluster {{ name: c, listen: "127.0.0.1:{mine}", routes: ["nats://127.0.0.1:{other}"] }}\n'


def pair(start: MakeServer, first: str = "", second: str | None = None) -> tuple[NatsServer, NatsServer]:
    """Start two, each with lines of its own; the second has the first one's where none are given."""
    ports = free_port(), free_port()
    a = start(f"server_name: a\n{first}\n{route(*ports)}", jetstream=False)
    b = start(f"server_name: b\n{first if second is None else second}\n{route(*reversed(ports))}", jetstream=False)
    return a, b
