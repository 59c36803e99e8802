"""One provider of all that are named."""

from collections.abc import Sequence

from aichats_worker.provider import OpenedProvider
from aichats_worker.provider.door import Door, DoorPolicy, Guarded
from aichats_worker.provider.doors import Doors


def open_provider(providers: Sequence[Guarded], policy: DoorPolicy) -> OpenedProvider:
    """Put each provider behind a door of its own, and make one of them, which asks them in this order.

    Nothing is connected before the first call; it must be made in a running event loop's thread and closed there.
    """
    doors = [Door(provider, policy) for provider in providers]
    return doors[0] if len(doors) == 1 else Doors(doors)
