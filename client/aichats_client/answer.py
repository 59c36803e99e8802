"""A whole answer out of events."""

import hashlib
from base64 import b64decode
from binascii import Error as Base64Error
from bisect import bisect
from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from aichats_client.errors import IncompleteAnswer
from aichats_schemas.events import Done, Error, ImageData, Result, StreamEvent


@dataclass
class Answer:
    """What the events of one request came to.

    Attributes:
        text: The pieces of text, joined.
        images: Whole images by their index, checked against their size and hash.
        mimes: The media type of each image.
        end: The final event; None where the stream was cut.
        reasoning: The model's, where it was asked for; no part of the text.
    """

    text: str = field(default="", repr=False)
    images: list[bytes] = field(default_factory=list, repr=False)
    mimes: list[str] = field(default_factory=list)
    end: Done | Result | Error | None = None
    reasoning: str = field(default="", repr=False)
    _attempt: int = 0
    _parts: dict[int, list[ImageData]] = field(default_factory=dict, repr=False)
    _indexes: list[int] = field(default_factory=list)

    def add(self, event: StreamEvent) -> None:
        """Take in one event. One of a higher attempt replaces all that was collected.

        Raises:
            IncompleteAnswer: An image's parts do not join to what they say they are.
        """
        if event.attempt > self._attempt:
            self.text, self.reasoning = "", ""
            self.images, self.mimes, self._indexes, self._parts = [], [], [], {}
            self._attempt = event.attempt
        if event.type == "response":
            self.text += event.data
        elif event.type == "reasoning":
            self.reasoning += event.data
        elif event.type == "image":
            self._add_part(event.data)
        elif isinstance(event, Done | Result | Error):
            self.end = event

    def _add_part(self, part: ImageData) -> None:
        parts = self._parts.setdefault(part.index, [])
        parts.append(part)
        if len(parts) < part.parts:
            return
        try:
            data = b"".join(b64decode(each.b64, validate=True) for each in sorted(parts, key=lambda p: p.part))
        except Base64Error:
            raise IncompleteAnswer(f"image {part.index}: a part is not base64") from None
        if len(data) != part.bytes or hashlib.sha256(data).hexdigest() != part.sha256:
            raise IncompleteAnswer(f"image {part.index}: its parts do not join to its size and hash")
        place = bisect(self._indexes, part.index)
        self._indexes.insert(place, part.index)
        self.images.insert(place, data)
        self.mimes.insert(place, part.mime)
        parts.clear()  # an image is kept once


async def collect(events: AsyncIterable[StreamEvent]) -> Answer:
    """Read events to their end.

    Raises:
        IncompleteAnswer: An image's parts do not join to what they say they are.
    """
    answer = Answer()
    async for event in events:
        answer.add(event)
    return answer
