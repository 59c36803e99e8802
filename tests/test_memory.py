"""That memory is given back. A process of its own: how one allocates cannot be undone."""

import asyncio
import platform
import subprocess
import sys

import pytest

CHILD = """
import re
from pathlib import Path
from aichats_worker.service import give_memory_back

def resident_mib():
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

assert give_memory_back()
bytes(20 * 2**20)  # from here on glibc by itself would take such blocks from the heap
before, kept = resident_mib(), []
blocks = []
for _ in range(60):
    blocks.append(bytearray(b"x") * 2**20)
    kept.append(bytearray(1000))  # holds the heap's end where it is
blocks.clear()
print(resident_mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
async def test_large_blocks_go_back_to_the_system_once_they_are_freed() -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, stdout=subprocess.PIPE)
    output, _ = await child.communicate()
    assert int(output) < 5
