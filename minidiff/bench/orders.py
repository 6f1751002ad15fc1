"""Measured orders of convergence of every deterministic sampler, the table of the solver chapters (1 CPU-minute).

python -m minidiff.bench orders

Exact denoiser of a five-component mixture in the plane, float64, λ from −2 to 1.5 in N = 40, 80, 160, 320 equal steps
(in λ, or in t for the classical methods), median error of 64 starts. The reference is none of our methods: SciPy's
DOP853 on dy/dλ = D − y with y = x/α. The tests of the orders call `slope`, and so does the stored table.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minidiff.analytic import GaussianMixture
from minidiff.bench import results
from minidiff.extras import require
from minidiff.process import EDM, LinearVP, Process
from minidiff.samplers import last
from minidiff.samplers.catalogue import METHODS, Sampler

LAM = (-2.0, 1.5)
STEPS = (40, 80, 160, 320)
STARTS = 64
COMMAND = "python -m minidiff.bench orders"


def mixture(process: Process) -> GaussianMixture:
    """Five Gaussians of standard deviation 0.3 on the unit circle, with unequal weights."""
    angle = torch.arange(5, dtype=torch.float64) * 2 * math.pi / 5
    weights = torch.tensor([1.0, 2.0, 1.5, 0.7, 1.0], dtype=torch.float64)
    return GaussianMixture(process, weights / weights.sum(), torch.stack([angle.cos(), angle.sin()], 1), stds=0.3)


@functools.cache
def reference() -> tuple[Tensor, Tensor]:
    """Starts y (64, 2) at λ = −2 and the solution at λ = 1.5, both in the coordinates y = x/α all processes share."""
    D = mixture(EDM())  # α = 1
    r = math.exp(-LAM[0])
    y = torch.randn(STARTS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * math.hypot(1, r)

    def rate(lam: float, flat) -> object:  # noqa: ANN001 - NumPy is not imported here
        state = torch.from_numpy(flat).reshape(STARTS, 2)
        t = D.process.time(torch.tensor(lam, dtype=torch.float64))
        return (D(state, t) - state).flatten().numpy()

    solve = require("scipy.integrate").solve_ivp
    solution = solve(rate, LAM, y.flatten().numpy(), "DOP853", rtol=1e-12, atol=1e-13)
    return y, torch.from_numpy(solution.y[:, -1]).reshape(STARTS, 2)


def errors(method: Sampler, process: Process, grid: str = "lam", steps: Sequence[int] = STEPS) -> list[float]:
    """The median error in y = x/α for each number of steps, equal in λ ("lam") or in t ("t") between the same two λ."""
    y, exact = reference()
    D = mixture(process)
    ends = process.time(torch.tensor(LAM, dtype=torch.float64))
    found = []
    for n in steps:
        if grid == "lam":
            times = process.time(torch.linspace(*LAM, n + 1, dtype=torch.float64))
        else:
            times = torch.linspace(float(ends[0]), float(ends[1]), n + 1, dtype=torch.float64)
        x = last(method(D, process.alpha(times[0]) * y, times))
        found.append(float((x / process.alpha(times[-1]) - exact).norm(dim=1).median()))
    return found


def slope(method: Sampler, process: Process, grid: str = "lam") -> float:
    """The order measured between the fewest and the most steps: −d log error / d log N."""
    few, *_, many = errors(method, process, grid)
    return math.log2(few / many) / math.log2(STEPS[-1] / STEPS[0])


def has_order(measured: float, nominal: int) -> bool:
    """Whether a measured order is the nominal one: at most 0.15 below it, and not the next one."""
    return nominal - 0.15 <= measured < nominal + 0.85


def table() -> list[dict[str, object]]:
    """A row for every method of the catalogue on `LinearVP`: its choices, its nominal and its measured order."""
    rows = []
    for name, method in METHODS.items():
        found = errors(method.run, LinearVP(), method.grid)
        choices = {key: getattr(method, key) for key in ("quantity", "variable", "nodes", "weights", "order")}
        measured = math.log2(found[0] / found[-1]) / math.log2(STEPS[-1] / STEPS[0])
        rows.append({"method": name, **choices, "measured": measured, "errors": found})
    return rows


def main(argv: Sequence[str]) -> None:
    """Measure and store `book/results/orders.json`. Raises ValueError for any argument."""
    if argv:
        raise ValueError(f"no arguments are known, got {list(argv)}")
    rows = table()
    for row in rows:
        print(f"{row['method']:36} {row['order']}  {row['measured']:.2f}")
    results.save("orders", {"steps": STEPS, "lam": LAM, "starts": STARTS, "table": rows}, COMMAND)
