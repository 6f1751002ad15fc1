"""What the tests of many chapters need to evaluate and compare the two sides of an equation."""

import math

import numpy as np
import pytest
import torch

F64 = torch.float64
SEEDS = pytest.mark.parametrize("seed", range(3))
LINE = torch.linspace(-14, 14, 5601, dtype=F64)


def equal(left, right, rtol=1e-9, atol=1e-11):
    left, right = (torch.as_tensor(side, dtype=F64) for side in (left, right))
    torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


def gen(seed):
    return torch.Generator().manual_seed(seed)


def normals(seed, *shape):
    """Draws from N(0, 1)."""
    return torch.randn(shape, generator=gen(seed), dtype=F64)


def numbers(seed, count, low=0.2, high=1.5):
    """Draws from [low, high], as floats."""
    return (low + (high - low) * torch.rand(count, generator=gen(seed), dtype=F64)).tolist()


def normal(x, mean, variance):
    """The density of N(mean, variance) at x."""
    variance = torch.as_tensor(variance, dtype=F64)
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / torch.sqrt(2 * math.pi * variance)


def integral(values, x=LINE):
    """∫ over the line, by the trapezoidal rule: exact to rounding for a smooth function that is 0 at both ends."""
    return torch.trapezoid(values, x, dim=-1)


def hermite(n):
    """Nodes and weights with Σ w f(node) = E f(z), z ~ N(0, 1), for polynomials of degree < 2n."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(n))
    return nodes, weights / weights.sum()


def rate(f, t):
    """df/dt by forward differentiation."""
    return torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]


def mmse_of_two_points(snr):
    """E(x_0 − D)² for data ±1: 1 − E tanh²(SNR + √SNR z)."""
    root, (nodes, weights) = snr.sqrt()[..., None], hermite(90)
    return 1 - (torch.tanh(root * (root + nodes)) ** 2 * weights).sum(-1)
