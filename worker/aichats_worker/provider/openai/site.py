"""Any server that speaks the OpenAI-compatible HTTP API: vLLM, Ollama, LiteLLM and the like."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import orjson

from aichats_worker.errors import InvalidRequest
from aichats_worker.provider import Finish, Picture, Question
from aichats_worker.provider.circuit import Circuit
from aichats_worker.provider.deltas import deltas
from aichats_worker.provider.http.upstream import Answer, Timeouts, Upstream
from aichats_worker.provider.images import IMAGE_MAX_BYTES, IMAGE_MEMORY_MAX_BYTES, Images
from aichats_worker.provider.lines import STRAY_MAX_BYTES, Lines

USER_AGENT: Final = "aichats-worker"


class OpenAIDecoder:
    """Decodes a stream of chat completion chunks; streams.Decoder says what it is used for.

    Attributes:
        ended: `[DONE]` was read, an error, or too much that is no answer.
        stray: What is no chunk, at most STRAY_MAX_BYTES of it.
        broke_off: No chunk has said yet why the answer ended, and `[DONE]` was not read.
    """

    def __init__(self) -> None:
        self.ended = False
        self.stray = bytearray()
        self.broke_off = True
        self._lines = Lines()
        self._finish_reason = "stop"

    def feed(self, data: bytes) -> str:
        """Return the text of all chunks that `data` completes, joined.

        Raises:
            LineTooLong: A line passed the limit.
        """
        return "".join([self._delta(line) for line in self._lines.feed(data)])

    def finish(self) -> str:
        """Complete the last line: the body ended as HTTP says it should. After a cut, do not call it."""
        return self._delta(self._lines.rest())

    def end(self) -> Finish:
        """Return the finish reason."""
        return Finish(finish_reason=self._finish_reason)

    def nothing(self) -> None:
        """This dialect has no words of its own for it."""

    def _delta(self, line: bytes) -> str:
        if self.ended or not line or line.startswith((b":", b"event:", b"id:", b"retry:")):
            return ""
        if not line.startswith(b"data:"):
            return self._strange(line)
        value = line[5:].strip()
        if value == b"[DONE]":
            self.ended, self.broke_off = True, False
            return ""
        try:
            return self._content(orjson.loads(value))
        except (ValueError, TypeError, AttributeError, LookupError):
            self.ended = self.broke_off = True
            return self._strange(value)

    def _content(self, chunk: Any) -> str:
        if "error" in chunk:
            raise ValueError
        if not chunk["choices"]:  # the chunk with the usage
            return ""
        choice = chunk["choices"][0]
        if choice.get("finish_reason"):
            self._finish_reason, self.broke_off = str(choice["finish_reason"]), False
        content = choice["delta"].get("content") or ""
        if not isinstance(content, str):
            raise TypeError
        return content

    def _strange(self, line: bytes) -> str:
        self.stray += (line + b"\n")[: STRAY_MAX_BYTES - len(self.stray)]
        self.ended = self.ended or len(self.stray) == STRAY_MAX_BYTES
        return ""


class OpenAI:
    """Asks an OpenAI-compatible server.

    Args:
        base_url: Up to and with the version, e.g. http://127.0.0.1:11434/v1.
        api_key: Sent as a bearer token; never to an image's host.
        text_model: What the server calls the model for text.
        image_model: What it calls the model for images.
        proxy: http(s):// or socks5(h)://, for the call and the image.
        timeouts: The phases of each call's deadline.
        image_max_bytes: A larger image is too_large.
        image_memory_max_bytes: For all images that are being fetched at once.
        image_allow_private: Images also from addresses that are not public.
        tls: A context for a private certificate authority; None for the system's.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None = None,
        text_model: str = "gpt-4",
        image_model: str = "dall-e-3",
        proxy: str | None = None,
        timeouts: Timeouts | None = None,
        image_max_bytes: int = IMAGE_MAX_BYTES,
        image_memory_max_bytes: int = IMAGE_MEMORY_MAX_BYTES,
        image_allow_private: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.circuit = Circuit()
        self._base_url = base_url.rstrip("/")
        self._text_model = text_model
        self._image_model = image_model
        self._upstream = Upstream(proxy=proxy, timeouts=timeouts, tls=tls)
        self._images = Images(
            self._upstream,
            origin=self._base_url,
            user_agent=USER_AGENT,
            max_bytes=image_max_bytes,
            memory_max_bytes=image_memory_max_bytes,
            allow_private=image_allow_private,
        )
        self._headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    @property
    def working(self) -> bool:
        """False while the circuit is open."""
        return self.circuit.working

    async def text(self, question: Question) -> AsyncGenerator[str | Finish, None]:
        """Yield text as it arrives, all that one read of the socket completes at once, and one Finish at the end."""
        messages = [{"role": message.role, "content": message.content} for message in question.messages]
        asked = {"model": self._text_model, "messages": messages, "stream": True}
        with await self._send("/chat/completions", asked, question.proxy) as answer:
            async with aclosing(deltas(answer, OpenAIDecoder())) as items:
                async for item in items:
                    yield item

    async def image(self, question: Question) -> Picture:
        """Make one image of the last message."""
        asked = {"model": self._image_model, "prompt": question.messages[-1].content, "n": 1}
        async with self._images.room():
            with await self._send("/images/generations", asked, question.proxy) as answer:
                return await self._images.from_answer(answer, question.proxy)

    async def close(self) -> None:
        """Close all connections."""
        await self._upstream.close()

    async def _send(self, path: str, asked: dict[str, Any], proxy: str | None) -> Answer:
        try:
            body = orjson.dumps(asked)
        except TypeError:
            raise InvalidRequest("the messages must be valid Unicode: there is half a surrogate pair") from None
        return await self._upstream.call("POST", self._base_url + path, headers=self._headers, body=body, proxy=proxy)
