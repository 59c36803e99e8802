"""Ask the worker from Python: reads a reply by the contract's rules. Needs `aichats_schemas` and nats-py alone."""

from aichats_client.answer import Answer, IncompleteAnswer, collect
from aichats_client.stream import ClientError, Gap, NoWorker, Stalled, ask, cancel, resume, stream, submit

__all__ = [
    "Answer",
    "ClientError",
    "Gap",
    "IncompleteAnswer",
    "NoWorker",
    "Stalled",
    "ask",
    "cancel",
    "collect",
    "resume",
    "stream",
    "submit",
]
