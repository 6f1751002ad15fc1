"""Where to train, at what size, and from which seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


def device() -> torch.device:
    """The GPU where there is one, else the CPU; among many processes, the GPU with this process's LOCAL_RANK.

    Apple's MPS is not used: it has no float64, in which schedules are evaluated.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def scale(cpu: T, gpu: T) -> T:
    """The first value on a CPU, the second on a GPU: the one switch for the sizes of a notebook."""
    return cpu if device().type == "cpu" else gpu


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block, such as the construction of a network, from `seed`, and restore torch's generators after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
