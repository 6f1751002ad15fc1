"""Problems with a known answer for samplers: exact mixtures, their start points, and the solution of their equation.

All are posed in the coordinates y = x/α, r = σ/α that every process shares: a process with α = 1 whose r runs up to
that of the process at its t = 1. Errors are path errors, `minidiff.metrics.path_error`, and their median over starts.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.analytic import GaussianMixture
from minidiff.bench import results
from minidiff.extras import require
from minidiff.metrics import path_error
from minidiff.process import EDM

R_MAX = {"VP-linear": 157.40728, "VP-cosine": 20291.17, "EDM": 80.0}  # the thousand-step tables, and EDM's own
BUDGETS = (5, 8, 10, 15, 20, 40, 80)
F64 = torch.float64


class Problem(NamedTuple):
    """A mixture, its exact denoiser D, and starts y (B, d) at t = 1."""

    name: str
    D: GaussianMixture
    y: Tensor

    @property
    def r_max(self) -> float:
        """r at t = 1."""
        return float(self.D.process.sigma(torch.ones((), dtype=F64)))

    def with_scale(self, factor: float) -> Problem:
        """The same problem, whose denoiser says that its data are `factor` times as wide as they are."""
        D = GaussianMixture(self.D.process, self.D.weights, self.D.means, stds=self.D.variances[:, 0].sqrt())
        D.sigma_data = factor * self.D.sigma_data
        return Problem(f"{self.name}, σ_data × {factor:g}", D, self.y)


def _mixture(dim: int) -> tuple[Tensor, Tensor, float]:
    """Weights, means and the common standard deviation: eight Gaussians on a ring, or ten anywhere in `dim`."""
    if dim == 2:
        angle = torch.arange(8, dtype=F64) * (2 * math.pi / 8)
        means, std = 0.68 * torch.stack([torch.cos(angle), torch.sin(angle)], 1), 0.12
    else:
        means, std = 0.46 * torch.randn(10, dim, generator=torch.Generator().manual_seed(0), dtype=F64), 0.2
    weights = torch.linspace(1, 2, len(means), dtype=F64)
    weights = weights / weights.sum()
    means = means - weights @ means
    spread = math.sqrt(float(weights @ means.square().mean(1)) + std**2)
    return weights, means * (0.5 / spread), std * 0.5 / spread


def six() -> list[Problem]:
    """The ring in the plane and the ten Gaussians in 64 dimensions, each from three starts; data std 0.5."""
    made = []
    for process, r_max in R_MAX.items():
        for dim in (2, 64):
            weights, means, std = _mixture(dim)
            noise = torch.randn(256, dim, generator=torch.Generator().manual_seed(1), dtype=F64)
            D = GaussianMixture(EDM(sigma_max=r_max), weights, means, stds=std)
            made.append(Problem(f"{dim}-D {process}", D, noise * math.sqrt(r_max**2 + 0.25)))
    return made


def other(seed: int) -> Problem:
    """A mixture drawn at random: 2 to 20 components in 2 to 64 dimensions, of one width or of several.

    Components are 0.1 to 0.9 times (and where widths differ, 0.3 to 1.3 times that) as wide as the scatter of their
    centres; every third data set has a spread between 0.1 and 10 instead of 0.5, and every fourth is off centre.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> float:
        return float(torch.rand((), generator=generator, dtype=F64))

    dim, components = (2, 3, 8, 16, 64)[seed % 5], 2 + int(19 * uniform())
    spread = 10 ** (2 * uniform() - 1) if seed % 3 == 0 else 0.5
    width = 0.1 + 0.8 * uniform()
    means = torch.randn(components, dim, generator=generator, dtype=F64)
    weights = torch.rand(components, generator=generator, dtype=F64) + 0.1
    weights = weights / weights.sum()
    if seed % 4:
        means = means - weights @ means
    stds = width * torch.ones(components, dtype=F64)
    if not seed % 2:
        stds = width * (0.3 + torch.rand(components, generator=generator, dtype=F64))
    r_max = (R_MAX["VP-linear"], R_MAX["EDM"], R_MAX["VP-cosine"], 50.0)[seed % 4] * spread / 0.5
    unit = spread / GaussianMixture(EDM(), weights, means, stds=stds).sigma_data
    process = EDM(sigma_min=0.004 * spread, sigma_max=r_max)
    D = GaussianMixture(process, weights, means * unit, stds=stds * unit)
    y = torch.randn(64, dim, generator=generator, dtype=F64) * math.hypot(r_max, D.sigma_data)
    return Problem(f"{components} in {dim}-D, width {width:.2f}, spread {spread:.2f}, r_max {r_max:.0f}", D, y)


def solution(problem: Problem, rtol: float = 1e-9) -> Tensor:
    """Where the probability-flow equation leads from y as r → 0, by SciPy's DOP853; (B, d).

    In the angle θ = arctan(r/σ_d) and z = y cos θ it reads dz/dθ = (z cos θ − D)/sin θ, which has no singularity:
    at θ = 0 its right side is 0.
    """
    D, shape = problem.D, problem.y.shape
    free = GaussianMixture(_Free(), D.weights, D.means, stds=D.variances[:, 0].sqrt())
    first = math.atan(problem.r_max / D.sigma_data)

    def rate(theta: float, flat: object) -> object:
        z = torch.from_numpy(flat).reshape(shape)
        if theta < 1e-12:
            return torch.zeros_like(z).flatten().numpy()
        r = D.sigma_data * math.tan(theta)
        x0 = free(z / math.cos(theta), torch.tensor(r / (1 + r), dtype=F64))
        return ((z * math.cos(theta) - x0) / math.sin(theta)).flatten().numpy()

    start = (problem.y * math.cos(first)).flatten().numpy()
    solve = require("scipy.integrate").solve_ivp
    end = solve(rate, (first, 0.0), start, "DOP853", rtol=rtol, atol=rtol / 100).y[:, -1]
    return torch.from_numpy(end).reshape(shape)


class _Free(EDM):
    """α = 1 and r = t/(1 − t): every r from 0 up."""

    def sigma(self, t: Tensor) -> Tensor:
        """t/(1 − t)."""
        return t / (1 - t)

    def lam(self, t: Tensor) -> Tensor:
        """−log σ."""
        return -self.sigma(t).log()


def error(problem: Problem, x: Tensor, exact: Tensor) -> float:
    """The median path error over the starts."""
    return float(path_error(x, exact, problem.D.sigma_data).median())


def errors(problem: Problem, exact: Tensor, method: Callable[[Problem, int], Tensor]) -> list[float]:
    """The errors of method(problem, calls) at every budget."""
    return [error(problem, method(problem, n), exact) for n in BUDGETS]


@functools.cache
def bar() -> dict[str, tuple[float, ...]]:
    """The least error of all peers at every budget, by problem: `book/results/solver_bar.csv`."""
    with (results.folder() / "solver_bar.csv").open(encoding="utf-8") as file:
        return {row["problem"]: tuple(float(row[f"nfe{n}"]) for n in BUDGETS) for row in csv.DictReader(file)}


def geometric_mean(values: list[float]) -> float:
    """exp of the mean logarithm."""
    return math.exp(sum(map(math.log, values)) / len(values))
