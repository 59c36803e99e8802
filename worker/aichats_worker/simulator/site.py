"""The simulated site: from a request to its answer, in both dialects."""

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import Final
from weakref import WeakSet

from aiohttp import web

from aichats_worker.simulator.aichats import AiChatsStream
from aichats_worker.simulator.answers import CUT, HOLD, words
from aichats_worker.simulator.asked import ImagesAsked, WrongRequest, chat_asked, images_asked
from aichats_worker.simulator.directives import Dialect, Directives, directives
from aichats_worker.simulator.images import FOLDER, Download, located
from aichats_worker.simulator.openai import ChatStream, models
from aichats_worker.simulator.received import Received, Tally
from aichats_worker.simulator.refusing import PAGES, refused, status_of
from aichats_worker.simulator.sending import EVENT_STREAM, NAME, SAYS, cut, send, send_shaped, told

MODELS: Final = ("gpt-4", "dall-e-3")
_AICHATS: Final = "/chat/send2/"
_CHAT, _IMAGES, _MODELS = "/chat/completions", "/images/generations", "/models"
_OPENAI: Final = ("/v1", "/openai/v1", "/openai/deployments/")
_HELLO: Final = (
    "This is the local simulator of aichats-worker. It is not ai-chats.org, and no model answers here.\n"
    f"POST to {_AICHATS}, /v1{_CHAT} or /v1{_IMAGES}; GET /v1{_MODELS}.\n"
)
_REFUSING: Final = {*PAGES, "azure-filter"}
_OTHER_HOST: Final = {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}


class Site:
    """Answers requests.

    Args:
        key: What calls of the OpenAI dialect must bring; None for none.
    """

    def __init__(self, key: str | None) -> None:
        self._key = key
        self._prompts, self._downloads = Tally(), Tally()
        self._serials = itertools.count()
        self._cut_next: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def answer(self, request: web.Request, received: Received) -> web.StreamResponse:
        """Answer one request."""
        if request.transport in self._cut_next:
            cut(request)
            return web.Response()
        if request.path.startswith(FOLDER):
            return await self._send_image(request, received)
        if request.path == _AICHATS and request.method == "POST":
            return await self._call(request, received, "aichats")
        if request.path.startswith(_OPENAI):
            return await self._openai(request, received)
        return web.Response(status=200 if request.path == "/" else 404, text=_HELLO, headers={SAYS: NAME})

    async def _openai(self, request: web.Request, received: Received) -> web.StreamResponse:
        if self._key is not None and received.key != self._key:
            return await _refuse(request, Directives(code="invalid_api_key"), "openai")
        if "/deployments/" in request.path and "api-version" not in request.query:
            return web.json_response(
                {"error": {"code": "404", "message": "Resource not found"}}, status=404, headers={SAYS: NAME}
            )
        if request.method == "POST" and request.path.endswith((_CHAT, _IMAGES)):
            return await self._call(request, received, "openai")
        if request.method == "GET" and request.path.endswith(_MODELS):
            return web.json_response(models(MODELS), headers={SAYS: NAME})
        return web.Response(status=404, text=_HELLO, headers={SAYS: NAME})

    async def _call(self, request: web.Request, received: Received, dialect: Dialect) -> web.StreamResponse:
        again = self._prompts.count((dialect, received.content)) if "times=" in received.content else 1
        wanted = directives(received.content, dialect, again)
        await asyncio.sleep(wanted.delay)
        if wanted.idle_cut and request.transport is not None:
            self._cut_next.add(request.transport)
        if wanted.answer == "cut":
            cut(request)
            return web.Response()
        if wanted.redirect and (wanted.redirect == "loop" or "redirected" not in request.query):
            return _redirect(request, wanted)
        if status_of(wanted) != 200 or wanted.answer in _REFUSING:
            return await _refuse(request, wanted, dialect)
        try:
            return await self._good(request, received, wanted, dialect)
        except WrongRequest as error:
            return web.json_response(error.body(), status=400, headers={SAYS: NAME})

    async def _good(
        self, request: web.Request, received: Received, wanted: Directives, dialect: Dialect
    ) -> web.StreamResponse:
        if dialect == "aichats":
            if received.asked.get("type") == "image":
                return await self._located(request, wanted, ImagesAsked("dalle"))
            said = [] if wanted.answer in ("none", "refusal") else words(wanted.words)
            parts = told(AiChatsStream(wanted), said, wanted, dialect)
            return await send_shaped(request, parts, wanted, headers=EVENT_STREAM)
        if request.path.endswith(_IMAGES):
            return await self._located(request, wanted, images_asked(received.body))
        asked = chat_asked(received.body)
        stream = ChatStream(wanted, asked)
        if not asked.stream or wanted.answer == "json":
            return await _send_json(request, wanted, stream.whole())
        return await send_shaped(request, told(stream, stream.pieces, wanted, dialect), wanted, headers=EVENT_STREAM)

    async def _located(self, request: web.Request, wanted: Directives, asked: ImagesAsked) -> web.StreamResponse:
        body = located(wanted, asked, str(request.url.origin()), next(self._serials))
        return await _send_json(request, wanted, body)

    async def _send_image(self, request: web.Request, received: Received) -> web.StreamResponse:
        download = Download.at(request.raw_path)
        if download is None:
            return _no_image(403)
        if download.key and (not received.key or self._key not in (None, received.key)):
            return _no_image(401)
        if download.redirects > 0:
            again = download.redirected().target()
            return web.Response(status=302, headers={"Location": again, SAYS: NAME})
        fails = not download.times or self._downloads.count(request.raw_path) <= download.times
        if fails and download.status > 200:
            return _no_image(download.status)
        data = download.content()
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
        at = max(download.cut_after, download.stall_after)
        if at < 0 or not fails:
            return await send(request, (data,), headers=headers)
        return await send(request, (data[:at], CUT if download.cut_after >= 0 else HOLD, data[at:]), headers=headers)


def _no_image(status: int) -> web.Response:
    return web.Response(status=status, text="no image\n", headers={SAYS: NAME})


def _redirect(request: web.Request, wanted: Directives) -> web.Response:
    origin = request.url.origin()
    if wanted.redirect == "other":
        origin = origin.with_host(_OTHER_HOST.get(origin.host or "", "localhost"))
    location = str(origin.join(request.rel_url.update_query(redirected=1)))
    return web.Response(status=wanted.status or 307, headers={"Location": location, SAYS: NAME})


async def _refuse(request: web.Request, wanted: Directives, dialect: Dialect) -> web.StreamResponse:
    headers, body = refused(wanted, dialect)
    status = wanted.status or (400 if wanted.answer == "azure-filter" else status_of(wanted))
    return await send_shaped(request, [body], wanted, status=status, headers=headers)


async def _send_json(request: web.Request, wanted: Directives, said: Mapping[str, object]) -> web.StreamResponse:
    headers = {"Content-Type": "application/json"}
    return await send_shaped(request, [json.dumps(said).encode()], wanted, headers=headers)
