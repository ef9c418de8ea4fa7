"""Work that is done side by side, in processes of one thread."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from examples.images.base import diffusers


def ready() -> None:
    """Prepare a process: one thread, and diffusers can be imported."""
    torch.set_num_threads(1)
    diffusers()


def side_by_side(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], processes: int
) -> None:
    """Call a function with each of these arguments, in this process or in some at once.

    What it returns stays there: it leaves its results in files.
    """
    if processes == 1:
        for call in calls:
            function(*call)
        return
    with ProcessPoolExecutor(
        min(processes, len(calls)), mp_context=get_context("spawn"), initializer=ready
    ) as pool:
        for job in [pool.submit(function, *call) for call in calls]:
            job.result()
