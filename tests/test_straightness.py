"""Straightness: zero for lines at constant speed, the closed form for a Gaussian flow, invariances."""

import math

import pytest
import torch

from minidiff.analytic import Gaussian
from minidiff.metrics import straightness
from minidiff.process import RectifiedFlow
from minidiff.samplers import heun, path
from minidiff.times import uniform


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GRID = torch.tensor([1.0, 0.7, 0.35, 0.3, 0.0], dtype=torch.float64)


def test_a_line_at_constant_speed_is_straight():
    a, b = normal(3, 2, 2), normal(3, 2, 2, seed=1)
    line = a + GRID[:, None, None, None] * b
    torch.testing.assert_close(straightness(line, GRID), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-28)


def test_a_line_at_uneven_speed_is_not():
    """x = t² v on [0, 1]: ∫ (2t − 1)² dt = 1/3 of |v|²."""
    times, v = torch.linspace(0, 1, 2001, dtype=torch.float64), normal(1, 4)
    got = straightness(times[:, None, None] ** 2 * v, times)
    torch.testing.assert_close(got, v.square().mean(1) / 3, rtol=1e-6, atol=0)


def test_a_half_circle():
    """Radius 1 at constant speed π over unit time: π² − 2², over two coordinates."""
    times = uniform(4000)
    circle = torch.stack([(math.pi * times).cos(), (math.pi * times).sin()], 1)[:, None]
    assert float(straightness(circle, times)) == pytest.approx((math.pi**2 - 4) / 2, rel=1e-5)


def test_the_flow_of_a_gaussian():
    """s (2 − π/2) x_1² per coordinate for each path from x_1."""
    s, x = 1.6, normal(20, 3)
    D = Gaussian(RectifiedFlow(), torch.zeros(3, dtype=torch.float64), std=s)
    times = uniform(400)
    got = straightness(path(heun(D, x, times)), times)
    torch.testing.assert_close(got, s * (2 - math.pi / 2) * x.square().mean(1), rtol=1e-4, atol=0)


def test_invariances():
    states = normal(5, 3, 4)
    value = straightness(states, GRID)
    assert bool((value > 0).all()) and value.dtype == torch.float64
    torch.testing.assert_close(straightness(states.flip(0), GRID.flip(0)), value)
    torch.testing.assert_close(straightness(states + normal(3, 4, seed=2), GRID), value)
    torch.testing.assert_close(straightness(states + GRID[:, None, None] * normal(3, 4, seed=3), GRID), value)
    torch.testing.assert_close(straightness(3 * states, GRID), 9 * value)
    torch.testing.assert_close(straightness(states, GRID / 2), 2 * value)
    torch.testing.assert_close(straightness(states.reshape(5, 3, 2, 2).float(), GRID), value, rtol=1e-5, atol=1e-6)


def test_bad_arguments_are_named():
    states = torch.zeros(5, 3, 4)
    with pytest.raises(ValueError, match=r"with times \(n \+ 1,\), n ≥ 1, got \(5, 3, 4\) and \(4,\)"):
        straightness(states, GRID[:4])
    with pytest.raises(ValueError, match=r"path must be \(n \+ 1, B, \*D\)"):
        straightness(states[:, 0], GRID)
    with pytest.raises(ValueError, match="strictly increasing or strictly decreasing"):
        straightness(states, torch.tensor([0.0, 0.5, 0.4, 0.8, 1.0]))
    with pytest.raises(ValueError, match="path must be finite"):
        straightness(states / 0, GRID)
