"""Sets how many threads the arithmetic takes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def use_threads(threads: int | None) -> None:
    """Makes torch take so many threads (None: as it likes), in this process, from now on. numpy's products take one.

    They are the codec's, and last 0.1 to 5 ms. Several threads end them sooner where cores have nothing else to do. Where
    another process wants a core they spin for each other, and a decode of 5 ms takes 60.
    """
    import numpy  # noqa: F401 (what is not loaded yet is not limited)
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def in_passing_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a thread that ends with it, and returns its result or raises its error.

    Each thread that computes with torch gets helper threads of GNU OpenMP, which live as long as it does. Where a process has
    more of them than cores, they no longer spin between two operations but sleep, and are woken some hundred times for each
    token: an answer's tokens took half as long again. So a node loads its model in a thread that ends.
    """
    with ThreadPoolExecutor(1, "loading") as executor:
        return executor.submit(work).result()
