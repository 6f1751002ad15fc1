"""Measured orders of convergence on an exact mixture: λ in [−2, 1.5], N = 40…320, median error of 64 starts, float64.

The reference is not one of our methods: SciPy's DOP853 on dy/dλ = D − y with y = x/α.
"""

import functools
import math

import pytest
import torch
from processes import FORMULAS, name
from scipy.integrate import solve_ivp

from minidiff.analytic import GaussianMixture
from minidiff.process import EDM, CosineVP, LinearVP
from minidiff.samplers import ddim, euler, exponential, heun, path

F64 = torch.float64
LAM = (-2.0, 1.5)
STEPS = (40, 80, 160, 320)


def mixture(process):
    angle = torch.arange(5, dtype=F64) * 2 * math.pi / 5
    weights = torch.tensor([1.0, 2.0, 1.5, 0.7, 1.0], dtype=F64)
    return GaussianMixture(process, weights / weights.sum(), torch.stack([angle.cos(), angle.sin()], 1), stds=0.3)


@functools.cache
def reference():
    """Starts y (64, 2) at λ = −2 and the solution at λ = 1.5, both in the coordinates y = x/α all processes share."""
    D = mixture(EDM())  # α = 1
    r = math.exp(-LAM[0])
    y = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=F64) * math.hypot(1, r)

    def rate(lam, flat):
        state = torch.from_numpy(flat).reshape(64, 2)
        t = D.process.time(torch.tensor(lam, dtype=F64))
        return (D(state, t) - state).flatten().numpy()

    solution = solve_ivp(rate, LAM, y.flatten().numpy(), "DOP853", rtol=1e-12, atol=1e-13)
    return y, torch.from_numpy(solution.y[:, -1]).reshape(64, 2)


def slope(method, process, variable="lam"):
    """The order measured from N = 40 to N = 320, on the grid uniform in λ or in t between the same two λ."""
    y, exact = reference()
    D = mixture(process)
    ends = process.time(torch.tensor(LAM, dtype=F64))
    errors = []
    for n in STEPS:
        if variable == "lam":
            times = process.time(torch.linspace(*LAM, n + 1, dtype=F64))
        else:
            times = torch.linspace(float(ends[0]), float(ends[1]), n + 1, dtype=F64)
        x = path(method(D, process.alpha(times[0]) * y, times))[-1]
        errors.append(float((x / process.alpha(times[-1]) - exact).norm(dim=1).median()))
    return math.log2(errors[0] / errors[-1]) / math.log2(STEPS[-1] / STEPS[0])


def has_order(measured, nominal):
    return nominal - 0.15 <= measured < nominal + 0.85


@pytest.mark.parametrize(("method", "order"), [(euler, 1), (heun, 2)], ids=["euler", "heun"])
@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_order_of_the_methods_in_t(process, method, order):
    assert has_order(slope(method, process, "t"), order)


@pytest.mark.parametrize("variable", ["lam", "cos"])
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_order_of_the_multistep_methods(order, corrector, variable):
    def method(D, x, times):
        return exponential(D, x, times, order=order, corrector=corrector, variable=variable)

    assert has_order(slope(method, LinearVP()), order + corrector)


def test_order_of_ddim():
    assert has_order(slope(ddim, LinearVP()), 1)


@pytest.mark.parametrize("process", [p for p in FORMULAS if p != LinearVP()], ids=name)
def test_methods_in_lam_are_the_same_for_every_process(process):
    """x/α at equal λ does not depend on the process, so one order says it for all."""
    y, _ = reference()
    lam = torch.linspace(*LAM, 21, dtype=F64)

    def in_common_coordinates(process, **options):
        times = process.time(lam)
        alpha = process.alpha(times)
        return path(exponential(mixture(process), alpha[0] * y, times, **options)) / alpha[:, None, None]

    for options in ({"order": 1}, {"order": 3}, {"order": 4, "corrector": True}, {"order": 4, "variable": "cos"}):
        ours, first = in_common_coordinates(process, **options), in_common_coordinates(LinearVP(), **options)
        torch.testing.assert_close(ours, first, rtol=0, atol=1e-10)


def test_a_ramped_start_would_lose_the_order():
    """Without collocation the first steps are of order 1 and 2: order 3 then measures 2, so the test above can fail."""
    from minidiff.samplers.exponential import solve
    from minidiff.samplers.state import begin

    def ramped(D, x, times):
        return solve(D, x, begin(D, x, times), order=3, variable="lam", corrector=False, collocate=False)

    assert has_order(slope(ramped, LinearVP()), 2)


def test_an_infinite_start_costs_one_first_order_step():
    """From α = 0 a polynomial in λ leaves the first node out; in cos θ it keeps it. Both end finite and close."""
    process = CosineVP()
    D = mixture(process)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    inside = process.time(torch.linspace(-4, 3, 200, dtype=F64))
    times = torch.cat([torch.ones(1, dtype=F64), inside])
    ends = [
        path(exponential(D, x, times, order=3, variable=variable, corrector=True))[-1] for variable in ("lam", "cos")
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=2e-4)
