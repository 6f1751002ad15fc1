"""The solution with which a sampler's end is compared: the same network's own, by a fine run and checked by another."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from minidiff import times
from minidiff.bench.contenders import FAR
from minidiff.denoiser import DenoiserLike
from minidiff.process import Process
from minidiff.samplers import exponential, heun, last

Start = Literal["one", "far"]
CLOSE = 0.001  # r of the last time above σ = 0


def fine_grid(process: Process, n: int, start: Start) -> Tensor:
    """n steps: from t = 1 ("one") or from r = 80 ("far"), uniform in λ, down to r = 0.001 and then to σ = 0."""
    if start == "far":
        return times.log_snr(process, n, r_max=FAR, r_min=CLOSE, zero=True)
    inner = times.log_snr(process, n - 1, r_max=4 * FAR, r_min=CLOSE, zero=True)
    return torch.cat([inner.new_ones(1), inner])


@torch.no_grad()
def solution(D: DenoiserLike, eps: Tensor, start: Start, calls: int) -> Tensor:
    """Where the probability-flow equation of D takes x = σ_s ε, by `calls` calls: D a cubic of cos θ, corrected."""
    grid = fine_grid(D.process, calls, start)
    x = eps * float(D.process.sigma(grid[0]))
    return last(exponential(D, x, grid, order=3, variable="cos", corrector=True, collocate=False))


@torch.no_grad()
def other_solution(D: DenoiserLike, eps: Tensor, start: Start, calls: int) -> Tensor:
    """The same by a method that shares nothing with it: Heun's in t, with 2 n − 1 ≤ calls."""
    grid = fine_grid(D.process, (calls + 1) // 2, start)
    return last(heun(D, eps * float(D.process.sigma(grid[0])), grid))
