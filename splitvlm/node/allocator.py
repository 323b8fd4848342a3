"""Sets how the C library's allocator keeps what a node frees. Nodes run for months: memory that is free has to go back.

glibc gives each thread an arena of its own, up to eight for each core, and what one of them keeps no other can use; and the
size from which an allocation gets a mapping of its own, which goes back whole, rises with what is freed. Under a mixed load a
cloud node's resident memory went on growing although what it used did not. Here both are fixed: two arenas are enough for
threads that compute in C far more than they allocate, and what takes 16 MiB is mapped. Smaller tensors are not, for the kernel
clears each page of a mapping, which prefills and towers wait for.

Other allocators (musl's, macOS's, one that is preloaded) are left as they are, and what the user set by the environment counts.
Names and numbers are those of glibc's malloc.h and of mallopt(3).
"""

from __future__ import annotations

import ctypes
import os
import platform

MIB = 2**20
_OPTIONS = {
    "MALLOC_ARENA_MAX": (-8, 2),
    "MALLOC_MMAP_THRESHOLD_": (-3, 16 * MIB),
    "MALLOC_TRIM_THRESHOLD_": (-1, 32 * MIB),  # twice the size above, as glibc has it where that rises by itself
}
"""By the variable that sets it in a process' environment: the number that mallopt knows it by, and its value here."""

ENVIRONMENT = {name: str(value) for name, (_, value) in _OPTIONS.items()}
"""The environment of a process whose threads are there before our first line: Ray's."""


def give_memory_back() -> None:
    """Sets the allocator's options for this process. Call it before there are threads; it does nothing without glibc."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for name, (number, value) in _OPTIONS.items():
        if name not in os.environ:
            libc.mallopt(number, value)
