"""The parts of the chart that are made from others; `make chart-docs` writes them.

values.schema.json takes its settings and secrets from worker.settings, README.md its tables from there and from
values.yaml.
"""

import json
import re
from pathlib import Path
from typing import Any

from aichats_worker.settings import Settings

CHART = Path(__file__).parent.parent.parent / "helm"
# The chart computes with these, so Helm must know them.
REQUIRED = (
    "WORKER_SUBJECT_PREFIX",
    "WORKER_CONCURRENCY_MAX",
    "WORKER_IMAGE_CONCURRENCY_MAX",
    "WORKER_DRAIN_TIMEOUT_SECONDS",
    "WORKER_HTTP_PORT",
    "WORKER_JOBS",
)
_KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength")


def secret_names() -> set[str]:
    """The settings that are secret: never a value, always a key of a Secret."""
    return {name.upper() for name, field in Settings.model_json_schema()["properties"].items() if _is_secret(field)}


def settings_schema() -> dict[str, dict[str, Any]]:
    """The JSON schema of every setting by its variable's name, with the bounds of worker.settings."""
    return {name.upper(): _property(field) for name, field in Settings.model_json_schema()["properties"].items()}


def values_schema() -> str:
    """values.schema.json as it should be."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    settings = settings_schema()
    properties = schema["properties"]
    plain = {name: bounds for name, bounds in settings.items() if name not in secret_names()}
    properties["settings"] |= {"properties": plain, "required": list(REQUIRED)}
    secrets = {name: {"$ref": "#/$defs/secretKey"} for name in settings}
    properties["secrets"]["properties"] = secrets
    for own in ("provision", "test"):
        properties[own]["properties"]["settings"]["properties"] = _own(plain)
        properties[own]["properties"]["secrets"]["properties"] = _own(secrets)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def readme() -> str:
    """README.md as it should be: both tables between their marks."""
    text = (CHART / "README.md").read_text()
    text = _between(text, "values", "| Value | Default | Meaning |", _value_rows())
    return _between(text, "settings", "| Setting | Default | Meaning |", _setting_rows())


def _own(names: dict[str, Any]) -> dict[str, Any]:
    """What a pod beside the workers may have of its own: who it is at NATS. The server is the workers'."""
    return {name: schema for name, schema in names.items() if name.startswith("NATS_") and name != "NATS_URL"}


def _is_secret(field: dict[str, Any]) -> bool:
    return any(kind.get("format") == "password" for kind in field.get("anyOf", [field]))


def _property(field: dict[str, Any]) -> dict[str, Any]:
    kinds = field.get("anyOf", [field])
    schema = next(kind for kind in kinds if kind.get("type") != "null")
    kept: dict[str, Any] = {key: schema[key] for key in _KEPT if key in schema}
    if kept.get("type") == "boolean":
        return {"enum": [True, False, "on", "off"]}
    return kept


def _setting_rows() -> list[str]:
    defaults = Settings.model_construct().masked()
    return [
        _row(name.upper(), defaults[name.upper()], field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def _value_rows() -> list[str]:
    rows, path, comment = [], [""], ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line.lstrip().startswith("#"):
            comment = line.strip("# ")
        elif match := re.fullmatch(r"( *)([\w-]+):(?: (.*))?", line):
            indent, key, default = match.groups()
            path = [*path[: len(indent) // 2], key]
            # The settings have a table of their own; `resources` is Kubernetes's.
            if (path[0] not in ("settings", "resources") or len(path) == 1) and (default or comment):
                rows.append(_row(".".join(path), default, comment))
            comment = ""
        else:
            comment = ""
    return rows


def _row(name: str, default: str | None, meaning: str) -> str:
    return f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |"


def _between(text: str, mark: str, head: str, rows: list[str]) -> str:
    begin, end = f"<!-- {mark}: written by make chart-docs -->", f"<!-- end of {mark} -->"
    before, rest = text.split(begin)
    table = "\n".join([head, "| --- | --- | --- |", *rows])
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(values_schema())
    (CHART / "README.md").write_text(readme())
