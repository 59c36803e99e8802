"""The AsyncAPI document as a page to read. Pure: what it shows is in the document alone."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aichats_worker.documents.html import Markup, joined, page, prose, table, tag

_WAYS: Final = {"receive": "you send", "send": "the worker publishes"}
_BOUNDS: Final = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "minLength": "{} characters or more",
    "maxLength": "up to {} characters",
    "minItems": "{} or more",
    "maxItems": "up to {}",
    "pattern": "`{}`",
}

_INT64: Final = (2**63 - 1, -(2**63) + 1)  # bounds of the format, and of no use to a reader


def render(document: Mapping[str, Any]) -> bytes:
    """Return the page of an AsyncAPI 3 document."""
    info, components = document["info"], document["components"]
    schemas = components["schemas"]
    reader = _Reader(document)
    head = (
        tag("h1", f"{info['title']} {info['version']}"),
        tag("p", prose(info["description"])),
        tag(
            "p",
            *("For AsyncAPI Studio and generators: ", tag("a", "JSON", href="asyncapi.json")),
            *(", ", tag("a", "YAML", href="asyncapi.yaml"), ". ", tag("a", "This worker", href="/"), "."),
        ),
        tag("nav", _contents("Subjects", document["operations"]), _contents("Schemas", schemas)),
    )
    operations = (reader.operation(name, operation) for name, operation in document["operations"].items())
    return page(f"{info['title']}: AsyncAPI", *head, *operations, *map(reader.schema, schemas))


def _contents(title: str, names: Mapping[str, Any]) -> Markup:
    entries = (tag("li", tag("a", name, href=f"#{name}")) for name in names)
    return joined(tag("h3", title), tag("ul", *entries))


def _heading(name: str, *more: str) -> Markup:
    return tag("h2", tag("a", name, href=f"#{name}"), *more, id=name)


def _link(reference: str) -> Markup:
    name = reference.rpartition("/")[2]
    return tag("a", tag("code", name), href=f"#{name}")


def _json(value: Any) -> Markup:
    return tag("pre", json.dumps(value, indent=2, ensure_ascii=False))


def _lines(events: list[Any]) -> Markup:
    lines = (json.dumps({"type": event["type"], **event}, ensure_ascii=False) for event in events)
    return tag("pre", "\n".join(lines))


class _Reader:
    """Follows the references of one document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._schemas = document["components"]["schemas"]

    def _at(self, reference: Mapping[str, str]) -> Any:
        found: Any = self._document
        for part in reference["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return found

    def operation(self, name: str, operation: Mapping[str, Any]) -> Markup:
        """Return what there is to know of one subject."""
        channel = self._at(operation["channel"])
        parameters = [
            (tag("code", each), prose(said["description"] + _one_of(said)))
            for each, said in channel.get("parameters", {}).items()
        ]
        parts = [
            _heading(name, " ", tag("span", _WAYS[operation["action"]], class_="way")),
            tag("p", tag("code", channel["address"]), class_="address"),
            tag("p", prose(channel["description"])),
            table(("Part of the subject", ""), parameters),
            *(self._message(message) for message in operation["messages"]),
        ]
        if (reply := operation.get("reply")) is not None:
            parts += self._reply(reply)
        return tag("section", *parts)

    def _reply(self, reply: Mapping[str, Any]) -> Iterator[Markup]:
        header = reply["address"]["location"].rpartition("/")[2]
        where = "the header `reply_to` names" if header == "reply_to" else "the request's own reply subject"
        yield tag("h3", "What comes back, to ", prose(where))
        yield tag("p", prose(self._at(reply["channel"])["description"]))
        yield from (self._message(message) for message in reply["messages"])

    def _message(self, reference: Mapping[str, str]) -> Markup:
        message = self._at(self._at(reference))
        headers = message.get("headers", {}).get("properties", {})
        rows = [(tag("code", name), prose(said["description"])) for name, said in headers.items()]
        payload = self._at(message["payload"])
        examples = [example["payload"] for example in message.get("examples", ())]
        return joined(
            table(("Header", ""), rows),
            tag("p", "Body: ", _link(message["payload"]["$ref"]), *_members(payload)),
            # Events in lines, as they come; each is described, and whole, where its schema is.
            *([_lines(examples)] if "oneOf" in payload else map(_json, examples)),
        )

    def schema(self, name: str) -> Markup:
        """Return what there is to know of one schema."""
        schema = self._schemas[name]
        required = schema.get("required", ())
        rows = [
            (
                tag("code", field),
                _type(said),
                "yes" if field in required or "const" in said else "",
                prose(said.get("description", "")),
            )
            for field, said in schema.get("properties", {}).items()
        ]
        codes = [
            (tag("code", each["code"]), str(each["number"]), "yes" if each["retryable"] else "no", each["fault"],
             prose(each["description"]))
            for each in schema.get("x-codes", ())
        ]  # fmt: skip
        return tag(
            "section",
            _heading(name),
            tag("p", prose(schema.get("description", "")), *_members(schema)),
            table(("Field", "Type", "Required", ""), rows),
            table(("Code", "Number", "Retryable", "Whose fault", "When"), codes),
            *(_json(example) for example in schema.get("examples", ())),
        )


def _members(schema: Mapping[str, Any]) -> Iterator[str]:
    """Give what a union is one of."""
    for number, member in enumerate(schema.get("oneOf", ())):
        yield ", " if number else " One of "
        yield _link(member["$ref"])


def _one_of(schema: Mapping[str, Any]) -> str:
    return f" One of {', '.join(f'`{value}`' for value in schema['enum'])}." if "enum" in schema else ""


def _type(schema: Mapping[str, Any]) -> Markup:
    if "$ref" in schema:
        return _link(schema["$ref"])
    if "const" in schema:
        return tag("code", json.dumps(schema["const"]))
    if "enum" in schema:
        return joined(*_between(", ", [tag("code", json.dumps(value)) for value in schema["enum"]]))
    if choices := [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]:
        return joined(*_between(" or ", [_type(each) for each in choices]))
    if schema.get("type") == "array":
        return joined("list of ", _type(schema.get("items", {})), *_bounds(schema))
    return joined(schema.get("type", "anything"), *_bounds(schema))


def _between(separator: str, parts: list[Markup]) -> Iterator[str]:
    for number, part in enumerate(parts):
        if number:
            yield separator
        yield part


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, sentence in _BOUNDS.items():
        if name in schema and schema[name] not in _INT64:
            yield ", "
            yield prose(sentence.format(schema[name]))
