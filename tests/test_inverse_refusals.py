"""What every method for inverse problems says of a measurement, an operator or a noise that does not fit."""

import math

import pytest
import torch

from minidiff import times
from minidiff.analytic import Empirical, Gaussian
from minidiff.inverse import (
    DDNM,
    DPS,
    TMPD,
    EmpiricalPosterior,
    Mask,
    PiGDM,
    dps_sampler,
    gaussian_log_likelihood,
    repaint,
    twisted,
)
from minidiff.process import LinearVP
from minidiff.samplers import last

F64 = torch.float64
FLAT = Mask(torch.tensor([True, False, True]))
BY_LINE = times.uniform(4)


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=F64)


def prior():
    return Gaussian(LinearVP(), torch.zeros(3, dtype=F64), std=0.8)


def at_once(method):
    """The method as one call (D, A, y, s, x)."""
    return lambda D, A, y, s, x: method(D, A, y, s)(x, torch.tensor(0.5, dtype=F64))


def particles(D, A, y, s, x):
    return twisted(D, x[None], BY_LINE, gaussian_log_likelihood(A, y, s))


EVERY = {
    "DPS": at_once(DPS),
    "PiGDM": at_once(PiGDM),
    "TMPD": at_once(TMPD),
    "TMPD rows": at_once(lambda D, A, y, s: TMPD(D, A, y, s, covariance="rows")),
    "DDNM": at_once(lambda D, A, y, s: DDNM(D, A, y)),
    "exact": at_once(lambda D, A, y, s: EmpiricalPosterior(Empirical(D.process, rand(9, 3)), A, y, s)),
    "repaint": lambda D, A, y, s, x: last(repaint(D, x, BY_LINE, A, y)),
    "dps_sampler": lambda D, A, y, s, x: last(dps_sampler(D, x, BY_LINE, A, y)),
    "twisted": particles,
}


def without(*names):
    return pytest.mark.parametrize("method", [f for name, f in EVERY.items() if name not in names])


@without()
def test_a_mask_for_other_images_is_refused(method):
    wide = Mask(torch.tensor([[True, False, True]]))
    with pytest.raises(ValueError, match=r"x must have shape \(B, 1, 3\), got \([49], 3\)"):
        method(prior(), wide, rand(4, 2), 0.3, rand(4, 3))


@without()
@pytest.mark.parametrize("rows", [1, 3])
def test_measurements_of_another_batch_are_refused(method, rows):
    with pytest.raises(ValueError, match=f"one measurement a sample, got {rows} for x"):
        method(prior(), FLAT, rand(rows, 2), 0.3, rand(4, 3))


@without()
@pytest.mark.parametrize("shape", [(4, 3), (2,), ()])
def test_measurements_of_another_shape_are_refused(method, shape):
    with pytest.raises(ValueError, match=r"must have (the same )?shape|one measurement a sample, got|y be"):
        method(prior(), FLAT, torch.zeros(shape, dtype=F64), 0.3, rand(4, 3))


@without()
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_measurement_that_is_not_finite_is_refused(method, bad):
    y = rand(4, 2)
    y[1, 0] = bad
    with pytest.raises(ValueError, match="y must be finite, got NaN or infinity"):
        method(prior(), FLAT, y, 0.3, rand(4, 3))


@without()
def test_a_measurement_of_integers_is_refused(method):
    with pytest.raises(TypeError, match="y must be a floating-point tensor"):
        method(prior(), FLAT, torch.ones(4, 2, dtype=torch.int64), 0.3, rand(4, 3))


@pytest.mark.parametrize("s", [0.0, -0.1, math.nan, math.inf])
@without("PiGDM", "DDNM", "exact", "repaint", "dps_sampler")
def test_a_noise_that_divides_must_be_positive(method, s):
    with pytest.raises(ValueError, match="s must be a finite number in"):
        method(prior(), FLAT, rand(4, 2), s, rand(4, 3))


def test_without_noise_what_divides_by_a_width_is_finite():
    """s = 0 is the pseudo-inverse for ΠGDM, and the nearest point for the exact posterior."""
    for name in ("PiGDM", "exact"):
        assert EVERY[name](prior(), FLAT, rand(4, 2), 0.0, rand(4, 3)).isfinite().all()


@without("DPS", "exact", "dps_sampler", "twisted")
def test_a_function_is_no_linear_operator(method):
    with pytest.raises(TypeError, match=r"assumes a linear operator and needs a LinearOperator, got|needs a Mask, got"):
        method(prior(), lambda x: x[:, :2] ** 2, rand(4, 2), 0.3, rand(4, 3))
