"""Ask the worker from Python: reads a reply by the contract's rules. Needs `schemas` and nats-py alone."""

from client.answer import Answer, IncompleteAnswer, collect
from client.stream import ClientError, Gap, NoWorker, Stalled, ask, cancel, resume, stream, submit

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
