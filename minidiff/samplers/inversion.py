"""DDIM inversion: from data back to the noise that would have led there. Times rise here."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.samplers.state import Grid, State, begin, combine, scalars


def ddim_map(grid: Grid, i: int, j: int) -> tuple[float, float]:
    """(a, b) of the DDIM step x_j = a x_i + b D(x_i) from node i to any node j: a = σ_j/σ_i, b = α_j − a α_i."""
    a = grid.sigma[j] / grid.sigma[i]
    return a, grid.alpha[j] - a * grid.alpha[i]


def begin_either(D: DenoiserLike, x: Tensor, times: Tensor) -> Grid:
    """`begin` for times that fall or rise."""
    if isinstance(times, Tensor) and times.ndim == 1 and len(times) > 1 and times[0] < times[-1]:
        begin(D, x, times.flip(0))
        return Grid.of(D.process, times)
    return begin(D, x, times)


def refuse_clean_start(grid: Grid) -> None:
    """Raise ValueError where the first time has σ = 0: there x̂_0 says nothing about the noise."""
    if grid.sigma[0] == 0:
        raise ValueError(
            f"at σ = 0 the prediction x̂_0 does not tell which noise to add, got times[0] = {float(grid.times[0])}: "
            "begin at a small t > 0"
        )


def invert(D: DenoiserLike, x: Tensor, times: Tensor, *, iterations: int = 0) -> Iterator[State]:
    """From data to noise along rising times: x_s = a x_t + b D, a = σ_s/σ_t and b = α_s − a α_t, for t < s.

    This is the DDIM step s → t solved for x_s. Exact is D = D(x_s, s), which is not known yet. iterations = 0 takes
    D(x_t, t), the other end (Dhariwal & Nichol 2021; Song et al. 2021, section 4.3): its round trip with `ddim` is
    wrong by O(h) in all. iterations = k > 0 then puts D of its own result in, k times (a fixed point: Pan et al. 2023),
    which approaches the exact inverse of `ddim` where each step is short enough to contract, and diverges elsewhere.

    n steps make n calls of D, or 1 + k n: only the first guess needs a call of its own, later ones begin with the value
    that ended the step before. State.x0 is the D that made the step. x: (B, *D) at times[0]; times: float64 (n + 1,),
    rising. D may be coupled. Raises what `begin` raises, and ValueError for falling times, for iterations < 0, and for
    σ = 0 at times[0].
    """
    arguments.positive_integer("iterations", iterations, 0)
    grid = begin_either(D, x, times)
    if grid.times[0] > grid.times[-1]:
        raise ValueError("times must rise from the data to the noise, got a falling grid: pass times.flip(0)")
    refuse_clean_start(grid)
    return _invert(D, x, grid, iterations)


def _invert(D: DenoiserLike, x: Tensor, grid: Grid, iterations: int) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    maps = [ddim_map(grid, i, i + 1) for i in grid.steps]
    scale = scalars([a for a, _ in maps], x)
    x0 = None
    for i in grid.steps:
        s = grid.times[i + 1]
        if x0 is None or not iterations:
            x0 = D(x, grid.times[i])
        above = combine(scale[i], x, (maps[i][1],), (x0,))
        for _ in range(iterations):
            x0 = D(above, s)
            above = combine(scale[i], x, (maps[i][1],), (x0,))
        x = above
        yield State(s, x, x0)


def slerp(a: Tensor, b: Tensor, w: Tensor | float) -> Tensor:
    """The point at the fraction w of the arc from a to b, both (B, *D): row by row, w a number or (B,).

    (sin((1 − w) φ) a + sin(w φ) b)/sin φ with φ the angle between the rows (Shoemake 1985). Between two draws of
    standard noise it keeps their length, which a straight line does not. Where the rows are parallel it is a straight
    line. Raises ValueError for unequal shapes.
    """
    arguments.finite("a", a)
    arguments.same_shape("a", a, "b", b)
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    lengths = flat_a.norm(dim=1) * flat_b.norm(dim=1)
    cosine = ((flat_a * flat_b).sum(1) / lengths.clamp(min=1e-300)).clamp(-1, 1)
    phi = torch.arccos(cosine)
    w = torch.as_tensor(w, dtype=torch.float64, device=a.device).expand(phi.shape)
    sine = phi.sin()
    parallel = sine < 1e-9
    safe = torch.where(parallel, 1.0, sine)
    of_a = torch.where(parallel, 1 - w, ((1 - w) * phi).sin() / safe)
    of_b = torch.where(parallel, w, (w * phi).sin() / safe)
    return arguments.along(of_a, a) * a + arguments.along(of_b, b) * b
