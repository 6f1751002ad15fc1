"""One loop for every multistep method: x_t = scale · x_s + Σ_j w_j q_j + c z over the last values of a quantity q.

A method is its quantity (q = x̂_0 or ε̂), the rule for its weights, and the noise c if it is stochastic: `exponential`
has exact weights, `published` those of the literature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.state import Grid, State, add, combine, scalars

Quantity = Literal["x0", "eps"]
Rule = Callable[[Grid, int], tuple[float, ...]]  # the weights of step i, newest value first


@dataclass(frozen=True)
class Plan:
    """Everything a run needs: floats only. Step i goes from node i to node i + 1; weights are newest node first."""

    quantity: Quantity
    scale: list[float]
    predictor: list[tuple[float, ...]]
    corrector: list[tuple[float, ...]]  # the change of the weights by the new value of q, itself first; () is none
    noise: list[float] = field(default_factory=list)  # none for a deterministic method
    start: int = 0  # the first node inside the polynomials
    collocation: list[tuple[float, tuple[float, ...], tuple[float, ...]]] = field(default_factory=list)
    # per start-up node: scale, hold, weights


def transfer(grid: Grid, s: int, t: int, quantity: Quantity) -> float:
    """What is left of x_s when q = 0: σ_t/σ_s for q = x̂_0, α_t/α_s for q = ε̂.

    Raises ValueError for ε̂ at α_s = 0, where it does not determine x_t.
    """
    if quantity == "x0":
        return grid.sigma[t] / grid.sigma[s]
    refuse_pure_noise(grid)
    return grid.alpha[t] / grid.alpha[s]


def refuse_pure_noise(grid: Grid) -> None:
    """Raise ValueError where the grid starts at α = 0: there ε̂ does not determine x_t."""
    if grid.alpha[0] == 0:
        raise ValueError(
            f"a method in eps cannot start where α = 0, got t = {float(grid.times[0])}: start below 1, or use x0"
        )


def plan(grid: Grid, predictor: Rule, corrector: Rule | None = None, quantity: Quantity = "x0") -> Plan:
    """The weights of every step. The last step is not corrected: the new value would cost a call."""
    if quantity == "eps":
        refuse_pure_noise(grid)
    weights = [predictor(grid, i) for i in grid.steps]
    changes: list[tuple[float, ...]] = []
    for i, old in enumerate(weights):
        new = corrector(grid, i) if corrector and i + 1 < len(weights) else ()
        changes.append(tuple(a - b for a, b in zip(new, (0.0, *old), strict=True)) if new else ())
    return Plan(quantity, [transfer(grid, i, i + 1, quantity) for i in grid.steps], weights, changes)


def run(D: DenoiserLike, x: Tensor, grid: Grid, plan: Plan, generator: Generators = None) -> Iterator[State]:
    """The states of a multistep method. One call of D a step, and one more for each value of a collocated start."""
    times, steps = grid.times, len(grid.times) - 1
    scale = scalars(plan.scale, x)
    of_x0 = quantity_of(grid, x, plan.quantity)
    keep = max(map(len, plan.predictor))
    yield State(times[0], x, None)
    history: tuple[Tensor, ...] = ()
    correction: tuple[float, ...] = ()
    i, x0 = 0, None
    while i < steps:
        if i == plan.start and plan.collocation:
            later = range(i + 1, i + 1 + len(plan.collocation))
            path, predictions, values = _collocate(D, x, grid, i, plan)
            for n, y, x0 in zip(later, path, predictions, strict=False):
                yield State(times[n], y, x0)
            x, i, x0 = path[-1], later[-1], predictions[-1]
            if i == steps:
                return
            *values, value = values
            history = tuple(values[::-1])
        else:
            before, x0 = x0, D(x, times[i])
            value = of_x0(i, x, x0)
        if correction:
            x = add(x, correction, (value, *history))
            yield State(times[i], x, before)
        history = (value, *history)[:keep]
        x, correction = combine(scale[i], x, plan.predictor[i], history), plan.corrector[i]
        if plan.noise and plan.noise[i]:  # the corrector, a change of x, keeps the noise of its step
            x.add_(standard_normal(x.shape, generator, x.dtype, x.device), alpha=plan.noise[i])
        i += 1
        if not correction:
            yield State(times[i], x, x0)


def quantity_of(grid: Grid, x: Tensor, quantity: Quantity) -> Callable[[int, Tensor, Tensor], Tensor]:
    """The map (node, x, x̂_0) → q on a grid: x̂_0 itself, or ε̂ = (x − α x̂_0)/σ."""
    if quantity == "x0":
        return lambda i, x, x0: x0
    inverse = scalars([1 / sigma if sigma else 0.0 for sigma in grid.sigma], x)  # D is never asked at σ = 0
    return lambda i, x, x0: combine(inverse[i], x, (-grid.alpha[i] / grid.sigma[i],), (x0,))


def _collocate(
    D: DenoiserLike, x: Tensor, grid: Grid, i: int, plan: Plan
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """x at the nodes after i, x̂_0 and q at all of them: q held, integrated, re-evaluated once, integrated again."""
    scale = scalars([scale for scale, _, _ in plan.collocation], x)
    of_x0 = quantity_of(grid, x, plan.quantity)

    def evaluated(path: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        predictions = [D(y, grid.times[n]) for n, y in enumerate(path, start=i + 1)]
        return predictions, [of_x0(n, y, x0) for n, (y, x0) in enumerate(zip(path, predictions, strict=True), i + 1)]

    def integrated(values: list[Tensor]) -> list[Tensor]:
        newest_first = tuple(reversed(values))
        return [combine(s, x, w, newest_first) for s, (_, _, w) in zip(scale, plan.collocation, strict=True)]

    x0 = D(x, grid.times[i])
    value = of_x0(i, x, x0)
    held = [combine(s, x, hold, (value,)) for s, (_, hold, _) in zip(scale, plan.collocation, strict=True)]
    _, values = evaluated(held)
    predictions, values = evaluated(integrated([value, *values]))
    return integrated([value, *values]), [x0, *predictions], [value, *values]
