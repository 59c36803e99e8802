"""The AsyncAPI document: FastStream makes it of subscribers and publishers; what it cannot say is added here."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson
from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI

from aichats_schemas import __version__
from aichats_schemas.subjects import SERVICE, Subjects
from aichats_worker.documents.channels import PARAMETERS, AnswerChannel, Channel, channels
from aichats_worker.documents.page import render
from aichats_worker.errors import WorkerError

ABOUT: Final = (
    "Streams text and images from ai-chats.org to each request's own reply subject, over NATS. A request is JSON, or "
    "plain UTF-8 text, which is then the prompt. Every answer is a series of events, `done`, `result` or `error` the "
    "last one; a client ignores event types and fields that it does not know."
)
_CODES: Final = "ErrorCode"


class Contract:
    """What may be sent to this worker, and what it sends: the wire contract as AsyncAPI.

    Args:
        broker: FastStream's, with the subscribers of core requests.
        subjects: Below the worker's prefix.
        jobs: Whether jobs are served.
    """

    def __init__(self, broker: NatsBroker, subjects: Subjects, *, jobs: bool) -> None:
        self.broker = broker
        self._channels = tuple(channels(subjects, jobs=jobs))
        # What FastStream does not serve, it only describes: this broker is never started.
        described = NatsBroker(broker.specification.url, apply_types=False)
        for channel in self._channels:
            _declare(described, channel)
        self.specification = AsyncAPI(broker, described, title=SERVICE, version=__version__, description=ABOUT)

    def document(self) -> dict[str, Any]:
        """Return the document, ready for JSON and YAML."""
        document: dict[str, Any] = self.specification.to_specification().to_jsonable()
        for channel in self._channels:
            _complete(document, channel)
        document["components"]["schemas"][_CODES] |= {"x-codes": list(_codes())}
        self._order(document)
        return document

    def _order(self, document: dict[str, Any]) -> None:
        """FastStream keeps its subscribers in sets: the same document each time, for whoever compares two of them."""
        order = [name for channel in self._channels for name in (channel.name, _answer_of(channel))]
        for part in ("channels", "operations"):
            document[part] = {name: document[part][name] for name in order if name in document[part]}
        components = document["components"]
        for part, described in components.items():
            components[part] = dict(sorted(described.items()))


def _as_json(document: Mapping[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _as_yaml(document: Mapping[str, Any]) -> bytes:
    import yaml  # noqa: PLC0415 - a megabyte, for whoever asks for it in YAML

    written: bytes = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, encoding="utf-8", width=120)
    return written


WRITERS: Final[Mapping[str, Callable[[Mapping[str, Any]], bytes]]] = {
    "json": _as_json,
    "yaml": _as_yaml,
    "html": render,
}


def _declare(broker: NatsBroker, channel: Channel) -> None:
    if channel.answer is None:
        broker.publisher(channel.subject, schema=channel.schema, title=channel.name, description=channel.says)
        return
    if not channel.served:

        async def handle(body: object) -> None:
            """Nobody calls it."""

        handle.__annotations__["body"] = channel.schema
        broker.subscriber(channel.subject, no_reply=True, title=channel.name, description=channel.says)(handle)
    broker.publisher(
        channel.name,  # stands in for every requester's inbox, until _complete()
        schema=channel.answer.schema,
        title=_answer_of(channel),
        description=channel.answer.says,
    )


def _answer_of(channel: Channel) -> str:
    return f"{channel.name}-reply"


def _complete(document: dict[str, Any], channel: Channel) -> None:
    """Add what FastStream has no words for: parameters, headers, examples, and that an answer belongs to a request."""
    described = document["channels"][channel.name]
    for parameter in channel.parameters:
        described["address"] = described["address"].replace("*", f"{{{parameter}}}", 1)
    described["parameters"] = {name: dict(PARAMETERS[name]) for name in channel.parameters}
    _tell(document, channel.name, channel.headers)
    if channel.answer is not None:
        _connect(document, channel, channel.answer)
        _tell(document, _answer_of(channel), channel.answer.headers)


def _connect(document: dict[str, Any], channel: Channel, answer: AnswerChannel) -> None:
    """Make of two operations one that is answered, at an address that only its message knows."""
    name = _answer_of(channel)
    sent = document["operations"].pop(name)
    document["operations"][channel.name]["reply"] = {
        "address": {"location": answer.location},
        "channel": sent["channel"],
        "messages": sent["messages"],
    }
    described = document["channels"][name]
    described["address"] = None
    del described["bindings"]


def _tell(document: dict[str, Any], channel: str, headers: Mapping[str, str]) -> None:
    components = document["components"]
    for reference in document["channels"][channel]["messages"].values():
        message = components["messages"][reference["$ref"].rpartition("/")[2]]
        if "correlation_id" not in headers:
            message.pop("correlationId", None)  # FastStream gives one to all
        if headers:
            told = {name: {"type": "string", "description": says} for name, says in headers.items()}
            message["headers"] = {"type": "object", "properties": told}
        if examples := [{"payload": payload} for payload in _examples(components["schemas"], message["payload"])]:
            message["examples"] = examples


def _examples(schemas: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Any]:
    """Give a schema's own examples; of a union all of its members'."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    yield from schema.get("examples", ())
    for member in schema.get("oneOf", ()):
        yield from _examples(schemas, member)


def _codes() -> Iterator[dict[str, Any]]:
    for error in WorkerError.__subclasses__():
        if "code" in vars(error):
            yield {
                "code": str(error.code),
                "number": error.number,
                "retryable": error.retryable,
                "fault": error.fault,
                "description": (error.__doc__ or "").partition("\n")[0],
            }
