"""Giving memory back: what an image or a long answer took is the system's again once it has gone out."""

import ctypes
from typing import Final

# glibc's mallopt(3). Setting the threshold also keeps glibc from raising it to the largest block that was ever freed,
# after which images come from the heap and leave holes there: 13 MiB in five minutes of `make soak`, 2 with this.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
MMAP_THRESHOLD_BYTES: Final = 256 * 1024
ARENAS_MAX: Final = 2  # threads hash images, and each would get a heap of its own


def give_memory_back() -> bool:
    """Set how this process allocates. False where the C library is not glibc: there it stays as it is."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES) and mallopt(_M_ARENA_MAX, ARENAS_MAX))
