"""What a sample costs: calls of the denoiser, CPU seconds and wall seconds."""

from __future__ import annotations

import time
from types import TracebackType

import torch
from torch import Tensor

from minidiff.denoiser import Combined, DenoiserLike


class CountCalls(Combined):
    """A denoiser that counts its evaluations (NFE) in `calls`, and otherwise is the one it wraps."""

    def __init__(self, D: DenoiserLike) -> None:
        super().__init__(D)
        self.D = D
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 of the wrapped denoiser, counted once whatever the batch size."""
        self.calls += 1
        return self.D(x, t)


class Timer:
    """`with Timer() as timer:` measures the block: `timer.cpu` seconds of this process, `timer.wall` seconds.

    CPU time with one thread is what to compare on a shared machine; wall time counts on an idle one. Work
    queued on a GPU is waited for at both ends.
    """

    def __init__(self) -> None:
        self.cpu = 0.0
        self.wall = 0.0

    def __enter__(self) -> Timer:
        _wait_for_gpu()
        self._start = time.process_time(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _wait_for_gpu()
        self.cpu = time.process_time() - self._start[0]
        self.wall = time.perf_counter() - self._start[1]


def _wait_for_gpu() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
