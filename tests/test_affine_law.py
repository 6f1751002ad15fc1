"""The exact law of an affine sampler, read from its own runs."""

import math

import pytest
import torch

from minidiff.affine_law import affine_law
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.process import LinearVP
from minidiff.samplers import ancestral, euler_maruyama, last

F64 = torch.float64


def grid(n):
    return LinearVP().time(torch.linspace(-2.0, 1.5, n + 1, dtype=F64))


def test_gain_and_weights_of_a_known_map():
    def run(x, generator):
        for scale, noise in ((0.5, 2.0), (-3.0, 0.1)):
            x = scale * x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype) + 1.0
        return x - (-3.0 + 1.0)

    law = affine_law(run, 4)  # more than it draws
    assert law.gain == pytest.approx(-1.5, rel=1e-12)
    torch.testing.assert_close(law.noise, torch.tensor([-6.0, 0.1, 0.0, 0.0], dtype=F64), rtol=0, atol=1e-12)
    assert law.variance(2.0) == pytest.approx(2.25 * 2 + 36.01)


def test_the_recursion_of_euler_maruyama():
    """V_t = (1 − h k)² V_s + h τ² g², step by step."""
    process, c, tau, T = LinearVP(), 0.6, 0.7, grid(12)
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=c)
    v = (process.alpha(T) * c) ** 2 + process.sigma(T) ** 2
    V = 1.3
    for n, h in enumerate(-T.diff()):
        k = process.f(T)[n] + (1 + tau**2) * process.g2(T)[n] / (2 * v[n])
        V = float((1 - h * k) ** 2 * V + h * tau**2 * process.g2(T)[n])
    law = affine_law(lambda x, g: last(euler_maruyama(D, x, T, tau=tau, generator=g)), 12, seed=3)
    assert law.variance(1.3) == pytest.approx(V, rel=1e-10)


def test_what_is_refused():
    bent = GaussianMixture(LinearVP(), torch.ones(2), torch.tensor([[-1.0], [1.0]], dtype=F64), stds=0.3)
    with pytest.raises(ValueError, match="no affine function"):
        affine_law(lambda x, g: last(ancestral(bent, x, grid(5), generator=g)), 5)
    line = Gaussian(LinearVP(), torch.zeros(1, dtype=F64), std=0.6)
    with pytest.raises(ValueError, match=r"affine function of the start and 3 draws"):
        affine_law(lambda x, g: last(ancestral(line, x, grid(5), generator=g)), 3)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        affine_law(lambda x, g: x, 0)
    with pytest.raises(ValueError, match="a row for each of x"):
        affine_law(lambda x, g: x[:2], 2)
    with pytest.raises(ValueError, match="must be finite"):
        affine_law(lambda x, g: x * math.nan, 1)
