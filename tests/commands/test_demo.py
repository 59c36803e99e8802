"""`make demo`, which is `aichats-worker demo`: the first thing that a visitor does."""

import asyncio
import re
import signal
from pathlib import Path

import pytest

from aichats_worker.simulator.answers import words
from tests.commands.test_commands import RUN_TIMEOUT_SECONDS, finished, start
from tests.processes import ROOT


def processes_of(marker: str) -> list[str]:
    """The command lines that name a directory of the demo."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        found += [line] if marker in line else []
    return found


async def test_the_demo_shows_a_text_and_an_image_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ran = await finished(await start("demo", cwd=tmp_path, TMPDIR=str(tmp_path)))
    out = ran.out.decode()
    assert ran.status == 0, ran.err
    assert "".join(words(0)) in out
    assert "not ai-chats.org" in out
    image = Path(re.findall(r"^(/.*\.png)$", out, flags=re.MULTILINE)[0])
    assert image.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [image]
    assert processes_of(str(tmp_path)) == []
    assert as_shown(out) in as_shown((ROOT / "README.md").read_text("utf-8")), "the README shows another output"


def as_shown(output: str) -> str:
    """The output without what differs each time: numbers, and where the image is."""
    return re.sub(r"\d+", "0", re.sub(r"^\S+/demo-image", "…/demo-image", output.strip(), flags=re.MULTILINE))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_demo_cleans_up_when_it_is_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    process = await start("demo", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert process.stdout is not None
    async with asyncio.timeout(RUN_TIMEOUT_SECONDS):
        seen = b""
        while b"Hello" not in seen:
            seen += await process.stdout.read(64)
        assert processes_of(str(tmp_path)), "the server runs now"
        process.send_signal(number)
        ran = await finished(process)
    assert ran.status == 130
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []
    assert processes_of(str(tmp_path)) == []


async def test_a_real_broker_in_the_environment_is_not_touched(tmp_path: Path) -> None:
    ran = await finished(
        await start("demo", cwd=tmp_path, NATS_URL="nats://127.0.0.1:1", AICHATS_URL="http://127.0.0.1:1")
    )
    assert ran.status == 0, ran.err
