"""The path error: closed forms, invariances, and the error of one exact step."""

import math

import pytest
import torch

from minidiff.analytic import Gaussian
from minidiff.metrics import path_error
from minidiff.process import TrigFlow
from minidiff.samplers import ddim, last
from minidiff.times import uniform


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_closed_form():
    x = normal(3, 2, 5)
    shift = torch.tensor([0.0, 1.0, -3.0])[:, None, None]
    torch.testing.assert_close(path_error(x + shift, x, 0.5), torch.tensor([0.0, 2.0, 6.0]).double())
    one = torch.zeros(1, 16)
    one[0, 3] = 2.0
    assert float(path_error(one, torch.zeros(1, 16))) == pytest.approx(0.5)


def test_ddim_on_a_gaussian_falls_short_by_the_product_of_cosines():
    """On N(0, s²) the exact flow in θ only turns, and N steps of DDIM in θ shrink by cosᴺ(π/2N)."""
    n, x = 6, normal(50, 4)
    D = Gaussian(TrigFlow(), torch.zeros(4, dtype=torch.float64), std=1.0)
    got = path_error(last(ddim(D, x, uniform(n))), x)
    short = 1 - math.cos(math.pi / 2 / n) ** n
    torch.testing.assert_close(got, short * x.square().mean(1).sqrt())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 4)), "alike, got"),
        ((torch.zeros(3), torch.zeros(3)), "alike, got"),
        ((torch.full((2, 3), math.nan), torch.zeros(2, 3)), "x must be finite"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), 0.0), "sigma_data"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        path_error(*arguments)
