"""The classical Runge–Kutta rule, with which tests follow a differential equation that is written beside them.

`minidiff.ode.runge_kutta` is for times in [0, 1] and is itself under test; this one is for any variable.
"""

import itertools

import torch


def even(start, stop, steps):
    """start … stop in even steps, as floats."""
    return torch.linspace(start, stop, steps + 1, dtype=torch.float64).tolist()


def rk4(slope, y, grid):
    """y at the end of the grid, from y at its beginning, with dy/dt = slope(t, y)."""
    for s, t in itertools.pairwise(grid):
        h, middle = t - s, (s + t) / 2
        k1 = slope(s, y)
        k2 = slope(middle, y + h / 2 * k1)
        k3 = slope(middle, y + h / 2 * k2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(t, y + h * k3))
    return y
