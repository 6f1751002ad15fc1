"""Parallel in time: all steps of a trajectory at once, swept until they agree with the sequential answer.

A trajectory is x_{n+1} = F_n(x_n), one step after the other. Guess all of it, and sweep:

    x_{n+1} ← F_n(x_n) + G_n(x_n^new) − G_n(x_n)        n = 0, 1, …

F is the step that is wanted, evaluated at the old states and hence at all n at once; G is cheap and is carried along
in sequence. G_n(x) = x is Picard's iteration (ParaDiGMS, Shih et al. 2023); G_n(x) = a_n x carries the linear part of
DDIM's step exactly; G a coarse solver is parareal (Lions et al. 2001; SRDS, Selvam et al. 2024). Whatever G is, the
first k states are exact after k sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import Combined, DenoiserLike
from minidiff.samplers.rows import stacked
from minidiff.samplers.state import Grid, State, begin, last

Method = Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]]
Cheap = Literal["linear", "identity"]


class Sweep(NamedTuple):
    """A guess at the trajectory and what it has cost: path (n + 1, B, *D), and counts since the start.

    settled: states 0 … settled no longer change. depth: calls of D that had to wait for one another. calls: all calls
    of D, each on a batch of B.
    """

    path: Tensor
    settled: int
    depth: int
    calls: int

    @property
    def x(self) -> Tensor:
        """The last state, (B, *D)."""
        return self.path[-1]


def ddim_coefficients(grid: Grid) -> tuple[list[float], list[float]]:
    """a and b of DDIM's step x_t = a x_s + b x̂_0: a = σ_t/σ_s, b = α_t − a α_s; one a step."""
    a = [grid.sigma[i + 1] / grid.sigma[i] for i in grid.steps]
    return a, [grid.alpha[i + 1] - a[i] * grid.alpha[i] for i in grid.steps]


class _Fine:
    """F_i at several nodes i at once, and the calls that it took: DDIM's step, or any one-step method's."""

    def __init__(self, D: DenoiserLike, times: Tensor, grid: Grid, method: Method | None) -> None:
        self.D, self.times, self.grid, self.method = D, times, grid, method
        self.a, self.b = ddim_coefficients(grid)
        self.depth = self.calls = 0

    def __call__(self, x: Tensor, nodes: Sequence[int]) -> Tensor:
        """One step of x[w] (B, *D) from node nodes[w], for every w; (W, B, *D)."""
        if self.method is None:
            x0 = stacked(self.D, x, tuple(self.grid.times[i] for i in nodes))
            self.spend(1, len(nodes))
            shape = (-1, *[1] * (x.ndim - 1))
            a, b = (x.new_tensor([of[i] for i in nodes]).reshape(shape) for of in (self.a, self.b))
            return a * x + b * x0.to(x.dtype)
        counted = _Counted(self.D)
        ends = [last(self.method(counted, x[w], self.times[i : i + 2])) for w, i in enumerate(nodes)]
        self.spend(-(-counted.calls // len(nodes)), counted.calls)
        return torch.stack(ends)

    def spend(self, depth: int, calls: int) -> None:
        """Add to the counts."""
        self.depth += depth
        self.calls += calls


class _Counted(Combined):
    """D, counting its calls."""

    def __init__(self, D: DenoiserLike) -> None:
        super().__init__(D)
        self.D, self.calls = D, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """One call."""
        self.calls += 1
        return self.D(x, t)


def picard(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    window: int | None = None,
    tolerance: float = 1e-2,
    cheap: Cheap = "linear",
    method: Method | None = None,
) -> Iterator[Sweep]:
    """Picard's iteration on a window of steps that slides along the trajectory (ParaDiGMS, Shih et al. 2023, alg. 1).

    Each sweep takes the next `window` steps (all, if None) from the states as they are, in one call of D on window·B
    rows, and then carries what has changed along by G_n(x) = a_n x with a_n = σ_t/σ_s ("linear"), or G_n(x) = x
    ("identity", as published). A state is settled when those before it changed by at most tolerance · σ_data, root
    mean square over the coordinates, in every sample of the batch; the window then slides on. With tolerance 0 the
    path is that of the sequential method after at most n sweeps, and with window 1 in exactly n.

    The states are in float32 or better. The step is DDIM's, or that of any deterministic one-step `method`, such as
    `heun`, called for each step apart. x: (B, *D) at times[0]; times: float64 (n + 1,). The first Sweep is the guess
    without a call, x carried along by G; the last has settled = n. Raises what `begin` raises, and ValueError for
    window < 1, tolerance < 0, unknown cheap.
    """
    grid = begin(D, x, times)
    if window is not None:
        arguments.positive_integer("window", window)
    arguments.real("tolerance", tolerance, 0.0)
    if cheap not in get_args(Cheap):
        raise ValueError(f"cheap must be among {get_args(Cheap)}, got {cheap!r}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    fine = _Fine(D, times, grid, method)
    slopes = fine.a if cheap == "linear" else [1.0 for _ in grid.steps]
    return _picard(x, fine, slopes, len(grid.steps) if window is None else window, tolerance * D.sigma_data)


def _picard(x: Tensor, fine: _Fine, slopes: list[float], window: int, tolerance: float) -> Iterator[Sweep]:
    path = [x]
    for slope in slopes:
        path.append(slope * path[-1])
    first, n = 0, len(slopes)
    yield Sweep(torch.stack(path), 0, 0, 0)
    while first < n:
        stop = min(first + window, n)
        ends = fine(torch.stack(path[first:stop]), range(first, stop))
        new = path[: first + 1]
        for i in range(first, n):
            # Beyond the window the old guess is kept and shifted along.
            end = ends[i - first] if i < stop else path[i + 1]
            new.append(end + slopes[i] * (new[i] - path[i]))
        first = _settled(path, new, first, stop, tolerance)
        path = new
        yield Sweep(torch.stack(path), first, fine.depth, fine.calls)


def _settled(old: list[Tensor], new: list[Tensor], first: int, stop: int, tolerance: float) -> int:
    """The last state that is final: the one after `first`, and each further one whose predecessor did not change."""
    reached = first + 1
    while reached < stop:
        change = (new[reached] - old[reached]).flatten(1).square().mean(1).sqrt()
        if not bool((change <= tolerance).all()):  # so that NaN is never settled
            break
        reached += 1
    return reached


def parareal(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    blocks: int,
    tolerance: float = 1e-2,
    method: Method | None = None,
) -> Iterator[Sweep]:
    """Parareal: K blocks of n/K steps, all blocks at once, corrected by one coarse step a block (Selvam et al. 2024).

    F runs the n/K steps of a block, G is a single DDIM step over the whole block. The coarse trajectory is the first
    guess, K calls in sequence. A sweep runs F on all unsettled blocks at once and corrects by G in sequence:
    n/K + K − 1 − (blocks settled) calls deep. After K sweeps the states at the ends of the blocks are those of the
    sequential method; they are settled earlier as in `picard`.

    path has the K + 1 states at the ends of the blocks, times[:: n // K]. Arguments and errors as in `picard`;
    ValueError unless blocks divides n.
    """
    grid = begin(D, x, times)
    arguments.positive_integer("blocks", blocks)
    arguments.real("tolerance", tolerance, 0.0)
    if len(grid.steps) % blocks:
        raise ValueError(f"blocks must divide the number of steps, {len(grid.steps)}, got {blocks}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    length = len(grid.steps) // blocks
    ends = times[::length]
    coarse = _Fine(D, ends, Grid.of(D.process, ends), None)
    return _parareal(x, _Fine(D, times, grid, method), coarse, blocks, length, tolerance * D.sigma_data)


def _parareal(x: Tensor, fine: _Fine, coarse: _Fine, blocks: int, length: int, tolerance: float) -> Iterator[Sweep]:
    def cheap(x: Tensor, k: int) -> Tensor:
        return coarse(x[None], [k])[0]

    path, guess = [x], []
    for k in range(blocks):
        guess.append(cheap(path[k], k))
        path.append(guess[k])
    first = 0
    yield Sweep(torch.stack(path), 0, coarse.depth, coarse.calls)
    while first < blocks:
        ends = torch.stack(path[first:blocks])
        for j in range(length):
            ends = fine(ends, [k * length + j for k in range(first, blocks)])
        new = [*path[: first + 1], ends[0]]
        for k in range(first + 1, blocks):
            before, guess[k] = guess[k], cheap(new[k], k)
            new.append(ends[k - first] + guess[k] - before)
        first = _settled(path, new, first, blocks, tolerance)
        path = new
        yield Sweep(torch.stack(path), first, fine.depth + coarse.depth, fine.calls + coarse.calls)
