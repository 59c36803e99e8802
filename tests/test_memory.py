"""That memory is given back. A process of its own: how one allocates cannot be undone."""

import asyncio
import platform
import subprocess
import sys

import pytest

CHILD = """
import re
from pathlib import Path
from aichats_worker.memory import give_back, keep_what_is_used_again

def resident_mib():
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

assert keep_what_is_used_again()
before, kept = resident_mib(), []
blocks = []
for _ in range(60):
    blocks.append(bytearray(b"x") * 2**20)
    kept.append(bytearray(1000))  # holds the heap's end where it is
blocks.clear()
give_back()
print(resident_mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
async def test_blocks_in_the_middle_of_the_heap_go_back_to_the_system() -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, stdout=subprocess.PIPE)
    output, _ = await child.communicate()
    assert int(output) < 5
