"""The effective weight: what a loss asks for, whatever its clock."""

import math
from functools import partial

import pytest
import torch

from minidiff import objectives, times
from minidiff.objectives import effective_weight
from minidiff.process import EDM, CosineVP, LinearVP, RectifiedFlow, Shifted, SigmoidVP, SNRShifted

LAM = torch.linspace(-3, 3, 25, dtype=torch.float64)
UNIFORM = times.uniform_density()


@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow(), SigmoidVP(), EDM()], ids=str)
@pytest.mark.parametrize("weight", [objectives.elbo, objectives.likelihood])
def test_likelihood_is_one_on_every_schedule(process, weight):
    """−½ dSNR/dt has the effective weight 1 under uniform times, whatever the schedule."""
    torch.testing.assert_close(effective_weight(weight, UNIFORM, process, LAM), torch.ones_like(LAM))


@pytest.mark.parametrize(
    ("weight", "density", "process"),
    [
        (objectives.simple, UNIFORM, CosineVP()),
        (objectives.velocity, times.logit_normal_density(0.3, 0.8), Shifted(RectifiedFlow(), 2.0)),
        (partial(objectives.edm, sigma_data=0.5), times.log_normal_density(EDM()), EDM()),
        (objectives.v, times.uniform_density(0.1, 0.9), SNRShifted(CosineVP(), 4.0)),
    ],
)
def test_it_is_the_weight_of_the_mean_loss(weight, density, process):
    """E_t w(t) e(λ_t) by quadrature over t is ∫ ω(λ) e(λ) e^{2λ} dλ, for an error e of x_0."""

    def error(lam):
        return torch.exp(-((lam - 0.2) ** 2))

    t = torch.linspace(0.1 + 1e-9, 0.9 - 1e-9, 20_001, dtype=torch.float64)
    left = torch.trapezoid(density.pdf(t) * weight(process, t) * error(process.lam(t)), t)
    lam = torch.linspace(*process.lam(t[[-1, 0]]).tolist(), 20_001, dtype=torch.float64)
    right = torch.trapezoid(effective_weight(weight, density, process, lam) * (2 * lam).exp() * error(lam), lam)
    assert float(left) == pytest.approx(float(right), rel=1e-4)


def test_a_change_of_clock_changes_nothing_where_the_weight_takes_it_back():
    """p(λ) of a shifted clock times w/p is w: the ratio of two effective weights is the ratio of the densities."""
    plain, shifted = RectifiedFlow(), Shifted(RectifiedFlow(), 3.0)
    ratio = effective_weight(objectives.snr, UNIFORM, shifted, LAM) / effective_weight(
        objectives.snr, UNIFORM, plain, LAM
    )
    densities = UNIFORM.pdf_lam(shifted, shifted.time(LAM)) / UNIFORM.pdf_lam(plain, plain.time(LAM))
    torch.testing.assert_close(ratio, densities)


def test_dtype_and_shape_follow_lam():
    got = effective_weight(objectives.v, UNIFORM, CosineVP(), torch.zeros(2, 3))
    assert got.shape == (2, 3) and got.dtype == torch.float32
    assert float(got[0, 0]) == pytest.approx(2 / math.pi, rel=0.02)  # 2e^{−λ}/π at s = 0


@pytest.mark.parametrize(
    ("lam", "error", "message"),
    [
        (torch.tensor([0, 1]), TypeError, "lam must be a floating-point tensor, got torch.int64"),
        (torch.tensor([0.0, math.inf]), ValueError, "lam must be finite"),
        (torch.tensor([0.0, 9.0]), ValueError, r"inside \(-4.38\d*, 6.2\d*\), .* got values from 0 to 9"),
    ],
)
def test_bad_arguments_are_named(lam, error, message):
    with pytest.raises(error, match=message):
        effective_weight(objectives.v, UNIFORM, EDM(), lam)
