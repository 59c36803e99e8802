"""`aichats-worker dev`: a broker, a provider and a worker on this machine that stay up, to try things on."""

import asyncio
import shlex
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import structlog
from rich.console import Console
from rich.text import Text

from aichats_worker.app import App
from aichats_worker.commands.ending import Refused
from aichats_worker.settings import Settings, load_settings, settings_without_environment
from aichats_worker.simulator.broker import NoServer, embedded_nats_server
from aichats_worker.simulator.server import start_simulator
from aichats_worker.urls import masked_url

Source = Literal["simulator", "aichats", "openai"]

NATS_PORT: Final = 4222
JOBS_TIMEOUT_SECONDS: Final = 30.0
HTTP_PORT: Final = 8080
PORTS_TRIED: Final = 100
# What a command in another terminal cannot know of what runs here. Keys and models are in the environment, or default.
PLACES: Final = ("nats_url", "aichats_url", "openai_base_url", "worker_providers", "worker_http_port")
WELL: Final = ("done", "handed_over", "gone", "cancelled")


@dataclass(frozen=True, slots=True)
class Playground:
    """What runs.

    Attributes:
        provider: Who answers: the simulator, ai-chats.org itself, or an OpenAI-compatible server.
        base_url: Of that server; None for what OPENAI_BASE_URL says.
    """

    provider: Source = "simulator"
    base_url: str | None = None

    async def run(self, console: Console) -> None:
        """Run all of it until this is cancelled; nothing is left behind.

        Raises:
            aichats_worker.simulator.broker.NoServer: There is no nats-server.
            SettingsError: The environment is wrong.
        """
        async with AsyncExitStack() as stack:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="aichats-dev-")))
            url, nth = await _broker(stack, directory)
            simulator = await stack.enter_async_context(await start_simulator())
            # Two that start at once have two brokers, and so begin to look at two ports.
            settings = self._settings(url, simulator.url, free_port(HTTP_PORT + nth))
            # The level of configure_logging would hold requests that end well back.
            shown = structlog.make_filtering_bound_logger("info")
            structlog.configure(processors=[_Shown(console)], wrapper_class=shown)
            app = App(settings)
            stack.push_async_callback(app.drain)
            await app.start()
            async with asyncio.timeout(JOBS_TIMEOUT_SECONDS):
                await app.jobs_served()  # what is printed next can be typed at once
            console.print(welcome(settings, self._described(settings)), markup=False, soft_wrap=True)
            await asyncio.Event().wait()

    def _settings(self, url: str, simulator_url: str, http_port: int) -> Settings:
        here: dict[str, Any] = {
            "nats_url": url,
            "worker_http_host": "127.0.0.1",
            "worker_http_port": http_port,
            "worker_drain_timeout_seconds": 2,
        }
        if self.provider == "simulator":
            return settings_without_environment(**simulated(simulator_url), **here)
        # Keys, models and proxies are the environment's; the broker is ours, and who we are there as well.
        names = ("creds", "nkey", "user", "password", "token", "ca", "cert", "key")
        here |= {f"nats_{name}": None for name in names} | {"worker_providers": self.provider}
        return load_settings(**here | ({"openai_base_url": self.base_url} if self.base_url else {}))

    def _described(self, settings: Settings) -> str:
        return {
            "simulator": f"{settings.aichats_url}  (a local simulator, not ai-chats.org)",
            "aichats": masked_url(settings.aichats_url),
            "openai": masked_url(settings.openai_base_url),
        }[self.provider]


def simulated(simulator_url: str) -> dict[str, str]:
    """Return settings with which the simulator is two providers: so one can fail, and the other honours options."""
    return {
        "aichats_url": simulator_url,
        "openai_base_url": f"{simulator_url}/v1",
        "worker_providers": "aichats,openai",
    }


async def _broker(stack: AsyncExitStack, directory: Path) -> tuple[str, int]:
    """Start a broker on the first port that is free. Returns its URL, and how many ports were passed over."""
    for _ in range(PORTS_TRIED):
        port = free_port(NATS_PORT)
        try:
            url = await stack.enter_async_context(embedded_nats_server(directory, port=port))
        except NoServer:
            if free_port(NATS_PORT) == port:  # it was not for the port
                raise
        else:
            return url, port - NATS_PORT
    raise Refused(f"port after port from {NATS_PORT} on was taken a moment before")


def free_port(first: int) -> int:
    """Return the first port from `first` on that nobody listens on here.

    Raises:
        Refused: There is none within PORTS_TRIED.
    """
    for port in range(first, first + PORTS_TRIED):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Refused(f"ports {first} to {first + PORTS_TRIED - 1} are all taken")


def welcome(settings: Settings, provider: str) -> str:
    """Return what is printed first: where all is, and lines to copy."""
    url, page = settings.nats_url, f"http://127.0.0.1:{settings.worker_http_port}"
    server = "" if url == "nats://127.0.0.1:4222" else f" -s {url}"
    failover = ""
    if len(settings.providers) > 1:  # these are the simulator's, which does what a prompt says
        prompt = "[sim: only=aichats status=503] aichats fails, and openai answers"
        failover = f"  aichats-worker ask{server} '{prompt}' --json | tail -1\n"
    return f"""\
nats-server   {url}  (with JetStream)
provider      {provider}
worker        {page}

Try it, in another terminal:

  aichats-worker ask{server} 'Say hi'
  aichats-worker submit{server} --id order-7 'Say hi' && aichats-worker result{server} order-7
  nats{server} req ai.v1.req.text.default 'Say hi' --wait-for-empty --raw --reply-timeout=5s
{failover}  python -c "from aichats_client import sync; print(sync.ask('Say hi', servers='{url}'))"
  curl {page}/readyz {page}/docs/asyncapi.json
  {_places(settings)}aichats-worker doctor

Requests as they come (Ctrl-C ends all, and leaves nothing):
"""


def _places(settings: Settings) -> str:
    """Return what leads another command to what runs here, as a shell takes it; defaults are left out."""
    here, plain = settings.masked(), settings_without_environment().masked()
    changed = [name for name in map(str.upper, PLACES) if here[name] != plain[name]]
    return "".join(f"{name}={shlex.quote(here[name])} " for name in changed)


class _Shown:
    """The end of structlog's chain: requests become lines on the console, and so does what is wrong."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, _: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        if event["event"] == "request ended":
            self._console.print(_request(event), soft_wrap=True)
        elif level not in ("info", "debug"):
            says = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("event", "level"))
            self._console.print(Text(f"{event['event']} {says}", "yellow"), soft_wrap=True)
        raise structlog.DropEvent


def _request(event: Mapping[str, Any]) -> Text:
    outcome = event["outcome"]
    attempt = f" (attempt {event['attempt']})" if event["attempt"] > 1 else ""
    line = (
        f"{event['mode']:<4} {event['kind']:<6} {event['tenant'] or '-':<12} {event['id']:<33} "
        f"{event['seconds']:8.2f} s  {outcome}{attempt}"
    )
    return Text(line, "" if outcome in WELL else "red")
