import asyncio
import subprocess
import sys

from aichats_worker.simulator.server import Simulator

IMAGE_BYTES = 10 * 1024 * 1024
CHILD = """
import asyncio, re, sys
from pathlib import Path
from aichats_worker.provider import ChatMessage, Picture, Question
from aichats_worker.provider.aichats.site import AiChats

async def main():
    provider = AiChats(url=sys.argv[1])
    question = Question((ChatMessage(role="user", content=f"[sim: bytes={sys.argv[2]}]"),), "default", float("inf"))
    async def draw():
        return [item async for item in provider.images(question) if isinstance(item, Picture)][0]
    pictures = await asyncio.gather(*[draw() for _ in range(20)])
    await provider.close()
    # Not getrusage: its peak begins at that of the process which started this one.
    peak_kib = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(sum(len(picture.data) for picture in pictures), peak_kib)

asyncio.run(main())
"""


async def test_twenty_images_of_ten_mebibytes_at_once_stay_under_500_mebibytes(simulator: Simulator) -> None:
    command = [sys.executable, "-c", CHILD, simulator.url, str(IMAGE_BYTES)]
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await child.communicate()
    received, peak_kib = map(int, output.split())
    assert received == 20 * IMAGE_BYTES
    assert peak_kib < 500 * 1024
