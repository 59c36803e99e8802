"""What a start does without is there all the same when it is wanted."""

import subprocess
import sys

import pytest

from tests.processes import ROOT

TIMEOUT_SECONDS = 60
# A connection that is refused: all is imported that is needed up to there.
COMMAND = """
import sys
from aichats_worker.__main__ import main
sys.argv = ["aichats-worker", "ask", "--server", "nats://127.0.0.1:1", "hi"]
try:
    main()
except SystemExit as ended:
    print(ended.code)
of_a_worker = {"aiohttp.client", "faststream", "prometheus_client", "structlog", "yarl"}
of_a_worker |= {"aichats_worker.wiring", "aichats_worker.app"}
print(*sorted(of_a_worker & set(sys.modules)))
"""
# A port that is taken: all is imported that is needed up to there.
WORKER = """
import os, socket, sys
from aichats_worker.__main__ import main
with socket.create_server(("127.0.0.1", 0)) as taken:
    os.environ |= {"WORKER_HTTP_HOST": "127.0.0.1", "WORKER_HTTP_PORT": str(taken.getsockname()[1])}
    sys.argv = ["aichats-worker", "run"]
    try:
        main()
    except SystemExit as ended:
        print(ended.code)
needless = {"typer", "rich", "nkeys", "nacl", "aiohttp_socks", "python_socks", "aichats_client", "yaml"}
needless |= {"opentelemetry.sdk", "aiohttp.web", "aichats_worker.simulator"}
print(*(name for name in sorted(needless & set(sys.modules)) if "__file__" in vars(sys.modules[name])))
"""
LATER = """
import sys
from aichats_worker.starting import import_when_used
import_when_used("aiohttp")
from nats.aio import transport
assert "aiohttp.client" not in sys.modules
session = transport.aiohttp.ClientSession
import aiohttp, aiohttp.web
from aiohttp import web
assert session is aiohttp.ClientSession
assert web is aiohttp.web is sys.modules["aiohttp.web"]
"""
HIDDEN = """
import sys
from aichats_worker.starting import hidden
with hidden("rich"):
    import structlog
    assert not [name for name in sys.modules if name.startswith("rich.")]
import rich.console
with hidden("rich"):
    import rich.console
"""
COLLECTING = """
import gc
from aichats_worker.starting import begin, begun
begin()
assert not gc.isenabled()
begun()
kept = gc.get_freeze_count()
assert gc.isenabled() and kept
made = [[] for _ in range(1000)]
begun()
assert gc.get_freeze_count() <= kept, "what is made later is collected"
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, timeout=TIMEOUT_SECONDS, check=False, capture_output=True, text=True
    )


def test_a_command_starts_without_what_only_a_worker_needs() -> None:
    """Or each `ask` would wait for it."""
    done = run(COMMAND)
    assert (done.returncode, done.stdout) == (0, "3\n\n"), done.stderr


def test_a_worker_has_not_imported_what_it_may_never_need() -> None:
    """Or it would hold five megabytes more for as long as it runs."""
    done = run(WORKER)
    assert (done.returncode, done.stdout) == (0, "2\n\n"), done.stderr


@pytest.mark.parametrize("code", [LATER, HIDDEN, COLLECTING], ids=["later", "hidden", "collecting"])
def test_it_is_there_when_it_is_wanted(code: str) -> None:
    done = run(code)
    assert done.returncode == 0, done.stderr
