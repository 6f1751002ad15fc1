"""The samplers of the benchmark, each with its grid and the number of steps that a budget of calls buys."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from minidiff import samplers, times
from minidiff.denoiser import DenoiserLike
from minidiff.metrics import CountCalls
from minidiff.process import Process
from minidiff.samplers import State

FAR = 80.0  # r at which grids begin that cannot begin at α = 0, as in EDM
NEAR = 0.002  # r from which they step to 0
Generator = torch.Generator | None
Steps = Callable[[DenoiserLike, Tensor, Tensor, Generator], Iterator[State]]
GridOf = Callable[[Process, int], Tensor]


@dataclass(frozen=True)
class Contender:
    """A sampler on a grid: `method` runs along `grid(process, n)`, with n = `steps(calls)`; without a grid it is ours.

    stochastic: it draws noise, so it has no path to compare. steps returns 0 where a budget is too small. spectrum: the
    denoiser's own angle is heeded, if it has one.
    """

    name: str
    grid: GridOf | None
    method: Steps
    steps: Callable[[int], int] = lambda calls: calls
    stochastic: bool = False
    spectrum: bool = True


@dataclass(frozen=True)
class Run:
    """What a contender made: samples (B, *D), the calls that it took, and whether it began at t = 1 itself."""

    x: Tensor
    calls: int
    from_one: bool


@torch.no_grad()
def run(contender: Contender, D: DenoiserLike, eps: Tensor, calls: int, generator: Generator = None) -> Run:
    """Sample with a budget of calls from the noise eps (B, *D) of unit variance: x = σ_s ε at the grid's first time s.

    Raises ValueError for a budget that is too small for the contender.
    """
    counted = CountCalls(D)
    if not contender.spectrum:
        counted.angle = None
    if contender.grid is None:
        return Run(samplers.sample(counted, eps, calls), counted.calls, True)
    if (steps := contender.steps(calls)) < 1:
        raise ValueError(f"{contender.name} makes no step with {calls} calls")
    grid = contender.grid(D.process, steps)
    x = eps * float(D.process.sigma(grid[0]))
    return Run(samplers.last(contender.method(counted, x, grid, generator)), counted.calls, float(grid[0]) == 1)


def calls_made(contender: Contender, D: DenoiserLike, shape: tuple[int, ...], calls: int) -> int:
    """The calls that a budget leads to, 0 if it is too small; found by a run on one sample of a trivial denoiser."""
    if contender.grid is not None and contender.steps(calls) < 1:
        return 0
    return run(contender, _Zero(D), torch.zeros(1, *shape), calls, torch.Generator().manual_seed(0)).calls


class _Zero:
    """D = 0, with the process of another denoiser."""

    def __init__(self, D: DenoiserLike) -> None:
        self.process, self.sigma_data, self.coupled = D.process, D.sigma_data, D.coupled

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


def log_snr(process: Process, n: int, far: float = FAR, near: float = NEAR) -> Tensor:
    """Uniform in λ from r = far to near, then a step to σ = 0."""
    return times.log_snr(process, n, r_max=far, r_min=near, zero=True) if n > 1 else whole(process)


def karras(process: Process, n: int) -> Tensor:
    """EDM's grid, from r = 80 to 0.002 with ρ = 7, then a step to σ = 0."""
    return times.karras(process, n, r_max=FAR, r_min=NEAR, zero=True) if n > 1 else whole(process)


def whole(process: Process) -> Tensor:
    """One step from r = 80 to σ = 0."""
    return torch.stack([process.time(torch.tensor(-math.log(FAR), dtype=torch.float64)), torch.tensor(0.0).double()])


def uniform(process: Process, n: int) -> Tensor:
    """Equal steps in t from 1 to 0."""
    return times.uniform(n)


def uniform_below_one(process: Process, n: int) -> Tensor:
    """Equal steps in t from r = 80 to 0."""
    return times.uniform(n, start=float(whole(process)[0]))


def _plain(method: Callable[..., Iterator[State]], **options: object) -> Steps:
    return lambda D, x, grid, generator: method(D, x, grid, **options)


def _noisy(method: Callable[..., Iterator[State]], **options: object) -> Steps:
    return lambda D, x, grid, generator: method(D, x, grid, generator=generator, **options)


def two_a_step(calls: int) -> int:
    """n steps to σ = 0 at two calls each, one in the last: 2 n − 1 calls."""
    return (calls + 1) // 2


def three_a_step(calls: int) -> int:
    """n steps to σ = 0 at three calls each, one in the last: 3 n − 2 calls."""
    return (calls + 2) // 3


def _restart(D: DenoiserLike, x: Tensor, grid: Tensor, generator: Generator) -> Iterator[State]:
    """Heun with one restart from r = 1, over a quarter of the steps, back to the grid's time nearest to r = 0.1."""
    lam = D.process.lam(grid)
    bottom = int((lam - math.log(10)).abs().argmin())
    inside = times.log_snr(D.process, restarted(len(grid) - 1), r_max=1.0, r_min=math.exp(-float(lam[bottom])))
    inside[-1] = grid[bottom]
    return samplers.restart(D, x, grid, interval=inside, method=samplers.edm, generator=generator)


def restarted(steps: int) -> int:
    """Steps inside the restart beside the `steps` of the main grid."""
    return max(1, steps // 3)


def _with_restart(calls: int) -> int:
    """The most steps n with 2 n − 1 + 2 · restarted(n) calls; 0 below six, where the grid has no place to restart."""
    fitting = [n for n in range(6, calls) if 2 * n - 1 + 2 * restarted(n) <= calls]
    return fitting[-1] if fitting else 0


def contenders() -> list[Contender]:
    """Every sampler with a fixed number of calls a step, deterministic ones first; names are unique.

    Adaptive, parallel and speculative samplers, and those that choose between samples, are measured where they are
    derived: a budget of calls does not describe their cost. A `cut` grid runs from r = 20 to 0.06 instead.
    """
    few = partial(log_snr, far=20.0, near=0.06)
    s = samplers
    return [
        Contender("minidiff.sample", None, _plain(s.euler)),
        Contender("minidiff.sample, σ_data alone", None, _plain(s.euler), spectrum=False),
        Contender("Euler, uniform t", uniform, _plain(s.euler)),
        Contender("Heun, Karras", karras, _plain(s.edm), two_a_step),
        Contender("DDIM, log-SNR", log_snr, _plain(s.ddim)),
        Contender("DPM++2M, log-SNR", log_snr, _plain(s.dpmpp_2m)),
        Contender("DPM++2M, log-SNR, cut", few, _plain(s.dpmpp_2m)),
        Contender("DPM++2M, Karras", karras, _plain(s.dpmpp_2m)),
        Contender("DPM++2M, uniform t", uniform, _plain(s.dpmpp_2m)),
        Contender("DPM++3M released", log_snr, _plain(s.dpmpp_3m, second_difference="released", collocate=False)),
        Contender("DPM++3M corrected", log_snr, _plain(s.dpmpp_3m, collocate=False)),
        Contender("UniPC-2", log_snr, _plain(s.unipc, order=2)),
        Contender("UniPC-3", log_snr, _plain(s.unipc, order=3)),
        Contender("DEIS tAB3", log_snr, _plain(s.deis, order=3, collocate=False)),
        Contender("PNDM", uniform_below_one, _plain(s.pndm)),
        Contender("Exponential, order 3", log_snr, _plain(s.exponential, order=3, corrector=True, collocate=False)),
        Contender("Heun, uniform t", uniform, _plain(s.heun), two_a_step),
        Contender("DPM-Solver-2", log_snr, _plain(s.dpm_solver, order=2), two_a_step),
        Contender("DPM-Solver-3", log_snr, _plain(s.dpm_solver, order=3), three_a_step),
        Contender("DPM++2S", log_snr, _plain(s.dpmpp_2s), two_a_step),
        Contender("BDIA, log-SNR", log_snr, _plain(s.bdia)),
        Contender("Ancestral", uniform, _noisy(s.ancestral), stochastic=True),
        Contender("DDIM, η = 0.5", uniform, _noisy(s.ddim, eta=0.5), stochastic=True),
        Contender("Euler–Maruyama", uniform_below_one, _noisy(s.euler_maruyama), stochastic=True),
        Contender("SA-Solver, τ = 1", log_snr, _noisy(s.sa_solver), stochastic=True),
        Contender("SDE-DPM++2M", log_snr, _noisy(s.dpmpp_2m_sde), stochastic=True),
        Contender("Predictor–corrector", log_snr, _noisy(s.predictor_corrector), two_a_step, stochastic=True),
        Contender("Heun, Karras, churn 10", karras, _noisy(s.edm, churn=10.0), two_a_step, stochastic=True),
        Contender("Heun, Karras, restart", karras, _restart, _with_restart, stochastic=True),
    ]
