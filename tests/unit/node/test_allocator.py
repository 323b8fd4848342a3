"""A node's threads share few arenas of glibc's allocator, and what is large goes back to the system whole."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest

from splitvlm.node.allocator import ENVIRONMENT

ARENAS = int(ENVIRONMENT["MALLOC_ARENA_MAX"])
TENSOR_BYTES = 24 * 2**20
ALLOCATE = """
import ctypes, tempfile, threading
from splitvlm.node.allocator import give_memory_back
{first}
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
everybody = threading.Barrier(8)

def allocate():
    everybody.wait()  # all threads live at once
    libc.malloc(ctypes.c_size_t(100))
    everybody.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(TENSOR_BYTES))))
libc.malloc(ctypes.c_size_t(TENSOR_BYTES))
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(open(file.name).read())
""".replace("TENSOR_BYTES", str(TENSOR_BYTES))
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")


def malloc_info(first: str = "", **environment: str) -> str:
    """Returns what the allocator says after eight threads have used it, and a tensor was allocated, freed, allocated again."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    program = ALLOCATE.format(first=first)
    done = subprocess.run([sys.executable, "-c", program], env=plain | environment, check=True, capture_output=True)
    return done.stdout.decode()


def arenas(information: str) -> int:
    return information.count("<heap nr=")


def is_mapped(information: str) -> bool:
    mapped = re.search(r'<total type="mmap" count="\d+" size="(\d+)"/>', information)
    assert mapped is not None
    return int(mapped[1]) >= TENSOR_BYTES


def test_by_itself_glibc_has_many_arenas_and_keeps_what_was_freed() -> None:
    information = malloc_info()
    assert arenas(information) > ARENAS
    assert not is_mapped(information)


def test_a_node_has_few_arenas_and_maps_what_is_large() -> None:
    information = malloc_info("give_memory_back()")
    assert arenas(information) == ARENAS
    assert is_mapped(information)


def test_a_process_that_ray_starts_is_alike() -> None:
    information = malloc_info(**ENVIRONMENT)
    assert arenas(information) == ARENAS
    assert is_mapped(information)


def test_the_user_s_own_number_counts() -> None:
    assert arenas(malloc_info("give_memory_back()", MALLOC_ARENA_MAX="3")) == 3
