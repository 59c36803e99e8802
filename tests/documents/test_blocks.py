"""Each code block of the README and of docs is run as it stands, or says why it is not."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from aichats_schemas.events import parse_event
from aichats_schemas.requests import ImageRequest, TextRequest
from aichats_worker.simulator.server import Simulator
from tests.conftest import StartWorker
from tests.documents.blocks import PAGES, RUN, Block, blocks_of, named
from tests.jobs.test_jobs import serving_jobs
from tests.processes import ROOT, NatsServer, free_port

PAGE_TIMEOUT_SECONDS = 240.0  # on a machine that does other things
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUNNING = [page for page in PAGES if any(block.is_run for block in blocks_of(page))]
BEGIN = "=== block at line"
REQUEST: TypeAdapter[TextRequest | ImageRequest] = TypeAdapter(TextRequest | ImageRequest)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page's blocks run: in one shell, one after the other, in a folder of their own.

    Attributes:
        folder: Which one.
        changed: What of the code is another thing here, and which.
    """

    folder: Path
    changed: dict[str, str]

    def script(self, blocks: list[Block]) -> str:
        """All blocks as one script; what it started ends with it."""
        lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
        for block in blocks:
            lines += [f"echo; echo '{BEGIN} {block.line}'", self._command(block)]
        return "\n".join(lines)

    def _command(self, block: Block) -> str:
        code = block.code
        for shown, here in self.changed.items():
            code = code.replace(shown, here)
        if block.language == "sh":
            return code
        script = self.folder / f"block-{block.line}.py"
        script.write_text(code)
        return f"python {script.name}"

    async def run(self, blocks: list[Block], nats_url: str) -> str:
        """Run them; what they printed."""
        (self.folder / "docs").symlink_to(ROOT / "docs")
        tools = self.folder / "bin"
        tools.mkdir()
        (tools / "nats").write_text(
            f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.documents.nats_cli "$@"\n'
        )
        (tools / "nats").chmod(0o755)
        path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", self.script(blocks),
            cwd=self.folder, env=os.environ | {"PATH": path, "NATS_URL": nats_url},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PAGE_TIMEOUT_SECONDS):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()  # bash ends what it has started
                await process.wait()
        assert process.returncode == 0, out.decode()
        return out.decode()


@pytest.mark.slow("a page is run whole, one command after the other")
@pytest.mark.timeout(PAGE_TIMEOUT_SECONDS + 60)
@pytest.mark.parametrize("page", RUNNING, ids=named)
async def test_every_block_that_is_run_does_what_its_page_says(
    page: Path,
    own_nats_server: Callable[..., NatsServer],
    start_worker: StartWorker,
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    server, port = own_nats_server(), free_port()
    await serving_jobs(
        await start_worker(nats_url=server.url, worker_jobs=True, worker_http_host="127.0.0.1", worker_http_port=port)
    )
    changed = {
        "nats://127.0.0.1:4222": server.url,
        "http://127.0.0.1:8000": simulator.url,
        "http://127.0.0.1:8080": f"http://127.0.0.1:{port}",
        # The same answer, at once.
        **{prompt: f"[sim: pause=0] {prompt}" for prompt in ("Say hi", "Tell me about yourself", "A poem")},
    } | {taken: str(free_port()) for taken in ("4333", "8111")}
    blocks = [block for block in blocks_of(page) if block.is_run]
    printed = await Place(tmp_path, changed).run(blocks, server.url)
    for block, part in zip(blocks, printed.split(BEGIN)[1:], strict=True):
        if block.fate == "prints":
            assert block.words in part, f"{block} printed:\n{part}"


def test_every_block_is_run_or_says_why_not() -> None:
    assert len(BLOCKS) > 30
    for block in BLOCKS:
        assert block.fate in (None, "prints", "part of", "tested by", "not run"), f"{block}: {block.fate}"
        if block.fate is None:
            assert block.language in (*RUN, "json"), f"{block} has no mark: see tests/documents/blocks.py"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_fence_hides_from_this(page: Path) -> None:
    assert len(re.findall(r"^\s*(```|~~~)", page.read_text("utf-8"), flags=re.MULTILINE)) == 2 * len(blocks_of(page))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.fate == "part of"], ids=str)
def test_what_is_part_of_a_file_stands_there(block: Block) -> None:
    assert block.code in (ROOT / block.words).read_text("utf-8")
    tests = (ROOT / "tests" / "examples" / "test_examples.py").read_text("utf-8")
    assert block.words.startswith("examples/")
    assert Path(block.words).name in tests or Path(block.words).suffix == ".html"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.fate == "tested by"], ids=str)
def test_a_test_that_is_named_reads_the_page(block: Block) -> None:
    test = (ROOT / block.words).read_text("utf-8")
    assert block.page.name in test or block.page.stem in test, f"{block}: {block.words} does not name {block.page.name}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "json" and not block.fate], ids=str)
def test_json_is_an_event_or_a_request(block: Block) -> None:
    for line in block.code.splitlines():
        body = json.loads(line)
        if "type" in body:
            parse_event(line.encode())
        else:
            REQUEST.validate_python(body)
