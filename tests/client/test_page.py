"""The code of docs/python.md, run as it stands but for the server's address."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartWorker
from tests.examples.test_examples import WHOLE, output, start
from tests.jobs.test_jobs import serving_jobs
from tests.processes import ROOT, NatsServer

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(150)
async def test_every_block_runs(
    start_worker: StartWorker, own_nats_server: Callable[..., NatsServer], tmp_path: Path
) -> None:
    server = own_nats_server()
    await serving_jobs(await start_worker(nats_url=server.url, worker_jobs=True))
    assert len(BLOCKS) == PAGE.count("```") / 2
    for number, block in enumerate(BLOCKS):
        script = tmp_path / f"{number}.py"
        script.write_text(block.replace("nats://127.0.0.1:4222", server.url))
        assert WHOLE in await output(await start(sys.executable, script, cwd=tmp_path))
    assert (tmp_path / "cat.png").exists()
