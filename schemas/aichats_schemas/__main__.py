"""`python -m aichats_schemas DIRECTORY` writes the JSON Schemas of requests and events there."""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from aichats_schemas.events import StreamEvent
from aichats_schemas.requests import ImageRequest, TextRequest


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return each JSON Schema (draft 2020-12) by its file name."""
    adapters: dict[str, TypeAdapter[Any]] = {
        "text_request.json": TypeAdapter(TextRequest),
        "image_request.json": TypeAdapter(ImageRequest),
        "stream_event.json": TypeAdapter(StreamEvent),
    }
    return {name: adapter.json_schema() for name, adapter in adapters.items()}


def write(directory: Path) -> None:
    """Write the JSON Schemas, one file each."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, schema in json_schemas().items():
        (directory / name).write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
