"""A sampler that can be run backwards exactly, whatever the denoiser: two states, one of which is never evaluated."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.samplers.inversion import begin_either, ddim_map, refuse_clean_start
from minidiff.samplers.state import Grid, State, combine, scalars


def bdia(
    D: DenoiserLike, x: Tensor, times: Tensor, *, gamma: float = 1.0, second: Tensor | None = None
) -> Iterator[State]:
    """BDIA (Zhang et al. 2023): x_{i+1} = Φ_{i→i+1}(x_i) + γ (x_{i−1} − Φ_{i→i−1}(x_i)), Φ the DDIM step.

    One prediction D(x_i) serves both steps Φ, onwards and back to where we came from; how far the second misses
    x_{i−1} corrects the first. Solved for x_{i−1} it is the same formula with 1/γ for γ: so, with rising times, the
    same function runs the sampler backwards, up to rounding, from its last two states. γ = 1 is the leapfrog rule, of
    order 2 on smooth grids; γ < 1 has order 1 with (1 − γ)/(1 + γ) of DDIM's error. It damps the second solution that
    every two-step rule carries by γ a step; run backwards that solution grows by 1/γ a step instead.

    x: (B, *D) at times[0], second: the state at times[1], by default the DDIM step (rising: DDIM inversion). Times fall
    (sampling) or rise (inversion), float64 (n + 1,). n calls of D for n steps, n − 1 with `second`. State.x0 is the D
    that made the step. To undo a run with states (…, y, z) along T: bdia(D, z, T.flip(0), gamma=γ, second=y). Raises
    what `begin` raises, and ValueError unless 0 < γ ≤ 1, for `second` of another shape, and for times that rise from
    σ = 0 without it.
    """
    arguments.real("gamma", gamma, 1e-6, 1.0)
    grid = begin_either(D, x, times)
    if second is not None:
        arguments.finite("second", second)
        arguments.same_shape("x", x, "second", second)
    else:
        refuse_clean_start(grid)
    rising = grid.times[0] < grid.times[-1]
    return _bdia(D, x, grid, 1 / gamma if rising else gamma, second)


def _bdia(D: DenoiserLike, x: Tensor, grid: Grid, gamma: float, second: Tensor | None) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    before, x0 = x, None
    if second is None:
        a, b = ddim_map(grid, 0, 1)
        x0 = D(x, grid.times[0])
        x = combine(scalars([a], x)[0], x, (b,), (x0,))
    else:
        x = second
    yield State(grid.times[1], x, x0)
    for i in grid.steps[1:]:
        (a, b), (a_back, b_back) = ddim_map(grid, i, i + 1), ddim_map(grid, i, i - 1)
        x0 = D(x, grid.times[i])
        scale = scalars([a - gamma * a_back], x)[0]
        before, x = x, combine(scale, x, (b - gamma * b_back, gamma), (x0, before))
        yield State(grid.times[i + 1], x, x0)
