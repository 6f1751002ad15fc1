"""RePaint: inpainting by overwriting the measured pixels of every state with their noised values, and going back up."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.inverse.image_operators import Mask
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.posterior import ancestral_steps
from minidiff.samplers.state import Grid, State, begin, refuse_coupled


def repaint(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    A: Mask,
    y: Tensor,
    *,
    repeats: int = 1,
    jump: int = 1,
    generator: Generators = None,
) -> Iterator[State]:
    """RePaint (Lugmayr et al. 2022, algorithm 1): ancestral steps, then x_t ← α_t y + σ_t ε at the measured places.

    The measured and the unmeasured pixels of such a state were drawn apart and do not fit. So each stretch of `jump`
    steps is done `repeats` times in all: from its end x goes back up by the forward process,
    x_s = (α_s/α_t) x_t + √(σ_s² − (α_s/α_t)² σ_t²) z, and down again, whereby D brings the two parts together. Even
    infinitely many repeats at one level are exact only as its r_s goes to 0, since D hears of y through noise. Where
    σ_t = 0 the measured pixels are y to the bit. Noise in y is not modelled. n · repeats calls of D on n steps (a last
    stretch may be shorter than `jump`), no gradients. Times of the states go up and down.

    x: (B, *D) at times[0]; y: (B, M). Raises what `begin` raises, TypeError unless A is a `Mask`, and ValueError for a
    coupled denoiser, a y that does not fit, and repeats or jump < 1.
    """
    refuse_coupled(D, "repaint")
    grid = begin(D, x, times)
    if not isinstance(A, Mask):
        raise TypeError(f"repaint overwrites pixels and needs a Mask, got {type(A).__name__}")
    arguments.positive_integer("repeats", repeats)
    arguments.positive_integer("jump", jump)
    A(x)
    A.check_measurement(y, x)
    return _repaint(D, x, grid, A, y.to(x), repeats, jump, generator)


def _repaint(
    D: DenoiserLike, x: Tensor, grid: Grid, A: Mask, y: Tensor, repeats: int, jump: int, generator: Generators
) -> Iterator[State]:
    yield State(grid.times[0], x, None)
    steps = ancestral_steps(grid)
    for start in range(0, len(steps), jump):
        stop = min(start + jump, len(steps))
        for again in range(repeats):
            if again:
                x = _back_up(x, grid, stop, start, generator)
                yield State(grid.times[start], x, None)
            for i in range(start, stop):
                a, b, c = steps[i]
                x0 = D(x, grid.times[i])
                x = a * x + b * x0
                seen = grid.alpha[i + 1] * y
                if c:  # one draw serves both: the measured places are overwritten
                    z = standard_normal(x.shape, generator, x.dtype, x.device)
                    x, seen = x + c * z, seen + grid.sigma[i + 1] * A(z)
                x = A.put(x, seen)
                yield State(grid.times[i + 1], x, x0)


def _back_up(x: Tensor, grid: Grid, low: int, high: int, generator: Generators) -> Tensor:
    """x at the node `low` noised by the forward process to the earlier node `high`."""
    ratio = grid.alpha[high] / grid.alpha[low]
    extra = math.sqrt(grid.sigma[high] ** 2 - (ratio * grid.sigma[low]) ** 2)
    return ratio * x + extra * standard_normal(x.shape, generator, x.dtype, x.device)
