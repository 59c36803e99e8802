from contextlib import suppress

from prometheus_client import CollectorRegistry

from aichats_worker.errors import WorkerError
from aichats_worker.provider.door import Door, DoorPolicy
from aichats_worker.provider.doors import Doors
from aichats_worker.provider.metrics import ProviderMetrics
from aichats_worker.simulator.server import Simulator
from tests.provider.asking import ask, collect, make


async def test_each_provider_shows_its_circuits_and_how_its_calls_ended(simulator: Simulator) -> None:
    doors = Doors([Door(make(kind, simulator.url), DoorPolicy(calls_max=1)) for kind in ("aichats", "openai")])
    registry = CollectorRegistry()
    registry.register(ProviderMetrics(doors))
    await collect(doors, ask("[sim: words=1]"))
    with suppress(WorkerError):
        await collect(doors, ask("[sim: answer=challenge]"))

    def value(name: str, provider: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"provider": provider, "kind": "text", **labels})

    assert value("aichats_provider_circuit_closed", "aichats") == 0
    assert value("aichats_provider_calls_total", "aichats", outcome="answered") == 1
    assert value("aichats_provider_calls_total", "aichats", outcome="challenge") == 1
    assert value("aichats_provider_calls_total", "openai", outcome="challenge") == 1
    assert value("aichats_provider_circuit_closed", "aichats") == 0
    await doors.close()
