"""Do several things at once, each by one thread of torch, so that none changes another's bits.

How a sum is split over threads decides how it is rounded. What would be gained by more threads in
one thing is gained by more things at once.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def map_one_thread_each(
    function: Callable[[T], R], things: Iterable[T], *, num_threads: int
) -> list[R]:
    """``function`` of each of ``things``, in their order; so many at a time."""
    own_threads = torch.get_num_threads()
    try:
        # torch keeps the number for each thread.
        with ThreadPoolExecutor(
            num_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as executor:
            return list(executor.map(function, things))
    finally:
        torch.set_num_threads(own_threads)
