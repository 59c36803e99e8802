"""A web server that turns a text stream into server-sent events, and a page that shows it as it comes."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from aichats_client import Client, ClientError

AI = web.AppKey("ai", Client)
PAGE = Path(__file__).with_name("page.html")


async def page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE)


async def answer(request: web.Request) -> web.StreamResponse:
    """Stream an answer. A browser that leaves stops it: the write fails, and the block is left."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    try:
        async with request.app[AI].text(request.query.get("prompt") or "Say hi") as pieces:
            async for piece in pieces:
                await response.write(event("piece", piece))
        await response.write(event("done", ""))
    except ClientError as error:
        await response.write(event("failed", str(error)))
    except ConnectionResetError:
        pass
    return response


def event(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()  # as JSON: a piece may hold line ends


async def connected(app: web.Application) -> AsyncIterator[None]:
    async with Client(os.environ.get("NATS_URL")) as app[AI]:
        yield


def made() -> web.Application:
    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/answer", answer)])
    app.cleanup_ctx.append(connected)
    return app


if __name__ == "__main__":
    web.run_app(made(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
