"""The continuous-time bound: each term against a closed form or a naive twin, the whole against exact entropies."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from minidiff import continuous_bound, times
from minidiff.analytic import Empirical, Gaussian
from minidiff.bound import prior_kl
from minidiff.continuous_bound import diffusion_term, reconstruction_term, terms
from minidiff.learned_schedule import BandedVP, banded_density
from minidiff.process import VE, CosineVP, LinearVP, RectifiedFlow, SubVP

LEVELS = 17
NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(80))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
GAUSS = [torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(200)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def digits_like(*shape, seed=0):
    return torch.randint(LEVELS, shape, generator=gen(seed)).double() * 2 / (LEVELS - 1) - 1


def name(process):
    return type(process).__name__


@pytest.mark.parametrize("process", [LinearVP(), SubVP(), RectifiedFlow(), VE()], ids=name)
@pytest.mark.parametrize("t", [0.3, 0.9])
def test_the_prior_at_any_time_is_a_divergence(process, t):
    x0, time = normal(4, 3), torch.tensor(t, dtype=torch.float64)
    alpha, sigma = process.alpha(time), process.sigma(time)
    truth = kl_divergence(Normal(alpha * x0, sigma), Normal(torch.zeros_like(x0), (alpha**2 + sigma**2).sqrt()))
    torch.testing.assert_close(prior_kl(process, x0, t), truth.sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow(), VE()], ids=name)
def test_reconstruction_is_the_posterior_of_a_level(process):
    """A naive twin: the density of x_t under each level, normalised over the levels."""
    x0, eps, t = digits_like(5, 3), normal(5, 3), torch.linspace(0.05, 0.6, 5, dtype=torch.float64)
    got = reconstruction_term(process, x0, t, eps, LEVELS)
    for i in range(5):
        alpha, sigma = process.alpha(t[i]), process.sigma(t[i])
        total = 0.0
        for j in range(3):
            x = alpha * x0[i, j] + sigma * eps[i, j]
            density = [Normal(alpha * (-1 + 2 * k / 16), sigma).log_prob(x).exp() for k in range(LEVELS)]
            total -= float(torch.log(density[round(float(x0[i, j] + 1) * 8)] / sum(density)))
        assert float(got[i]) == pytest.approx(total, rel=1e-8, abs=1e-12)


def test_reconstruction_ends_at_nothing_and_at_the_uniform_code():
    x0, eps = digits_like(6, 2), normal(6, 2)
    sharp, blind = (reconstruction_term(RectifiedFlow(), x0, torch.tensor(t), eps, LEVELS) for t in (1e-3, 1.0))
    torch.testing.assert_close(sharp, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(blind, torch.full((6,), 2 * math.log(LEVELS), dtype=torch.float64))


@pytest.mark.parametrize("process", [LinearVP(), SubVP(), CosineVP(), RectifiedFlow()], ids=name)
def test_the_diffusion_term_is_the_information_of_gaussian_data(process):
    """½ log((1 + s² SNR_max)/(1 + s² SNR_min)) a coordinate, whatever the process, by quadrature over t and x."""
    s, (low, high) = 0.7, process.time(torch.tensor([2.0, -1.5], dtype=torch.float64)).tolist()
    oracle = Gaussian(process, torch.zeros(1, dtype=torch.float64), std=s)
    u, w = GAUSS
    t = ((high + low) + (high - low) * u) / 2
    x0, eps = torch.meshgrid(s * NODES, NODES, indexing="ij")
    law = times.uniform_density(low, high)
    total = 0.0
    for k in range(len(t)):
        n = x0.numel()
        each = diffusion_term(oracle, x0.reshape(n, 1), t[k].expand(n), eps.reshape(n, 1), density=law)
        total += float(w[k] / 2 * (WEIGHTS @ each.reshape(80, 80) @ WEIGHTS))
    truth = math.log((1 + s**2 * math.exp(4)) / (1 + s**2 * math.exp(-3))) / 2
    assert total == pytest.approx(truth, rel=1e-8)


def test_the_density_of_the_times_is_divided_out():
    """Two densities, one integral: the mean over 20,000 draws agrees within 5 standard errors."""
    process = LinearVP()
    oracle = Gaussian(process, torch.zeros(1, dtype=torch.float64), std=1.0)
    low, high = process.time(torch.tensor([2.0, -2.0], dtype=torch.float64)).tolist()
    x0, eps = normal(20_000, 1), normal(20_000, 1, seed=1)
    truth = math.log((1 + math.exp(4)) / (1 + math.exp(-4))) / 2
    for law in (banded_density(process, 2.0, -2.0), banded_density(process, 2.0, -2.0, (0.2, 0.5, 0.3))):
        drawn = diffusion_term(oracle, x0, law(len(x0), gen(3)), eps, density=law)
        assert abs(float(drawn.mean()) - truth) < 5 * float(drawn.std()) / len(x0) ** 0.5
    assert abs(low) < high


def test_without_a_density_times_are_uniform_on_the_whole_interval():
    D, process = Empirical(BandedVP(2.0, -2.0), digits_like(3, 2)), BandedVP(2.0, -2.0)
    x0, eps, t = digits_like(3, 2), normal(3, 2), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    error = (x0 - D(alpha * x0 + sigma * eps, t)).square().sum(1)
    snr = (2 * process.lam(t)).exp()  # SNR′ = 2 λ′ SNR with λ′ = −4
    torch.testing.assert_close(diffusion_term(D, x0, t, eps), 4 * snr * error, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("law", [None, "lam", "low discrepancy"])
def test_the_bound_of_one_pixel_lies_above_its_entropy(law):
    """Uniform on 17 levels, exact D: prior, reconstruction and diffusion add to log 17 but for the prior's end."""
    process = LinearVP()
    oracle = Empirical(process, torch.linspace(-1, 1, LEVELS, dtype=torch.float64)[:, None])
    x0 = torch.linspace(-1, 1, LEVELS, dtype=torch.float64)[:, None].repeat(2000, 1)
    low, high = (float(process.time(torch.tensor(lam, dtype=torch.float64))) for lam in (4.0, -4.0))
    density = {"lam": banded_density(process, 4.0, -4.0), None: None}.get(
        law, times.low_discrepancy(banded_density(process, 4.0, -4.0))
    )
    got = terms(oracle, x0, levels=LEVELS, low=low, high=high, density=density, generator=gen(0))
    total = got.prior + got.reconstruction + got.diffusion
    torch.testing.assert_close(got.total, total)
    error = float(total.std()) / len(x0) ** 0.5
    assert got.total.dtype == torch.float64 and got.total.shape == (len(x0),)
    # Both ends are so wide that what they lose is below 1e-3 nats.
    assert abs(float(total.mean()) - math.log(LEVELS)) < 4 * error + 1e-3


def test_one_generator_a_sample_and_a_condition():
    class Conditional:
        process, sigma_data, coupled = BandedVP(2.0, -2.0), 1.0, False

        def __call__(self, x, t, y):
            return x * 0.1 + y[:, None]

    x0, y = digits_like(3, 2), torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    call = {"levels": LEVELS, "low": 0.0, "high": 1.0, "y": y}
    first, again = (terms(Conditional(), x0, generator=[gen(i) for i in range(3)], **call) for _ in range(2))
    torch.testing.assert_close(first.total, again.total)
    other = terms(Conditional(), x0, generator=gen(0), **(call | {"y": y + 1}))
    assert not torch.allclose(first.diffusion, other.diffusion)


def whole(**changed):
    D = Empirical(LinearVP(), digits_like(3, 2))
    return terms(D, **({"x0": digits_like(3, 2), "levels": LEVELS, "low": 0.1, "high": 1.0} | changed))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: whole(x0=normal(3, 2)), ValueError, "x0 must lie on the 17 grey levels"),
        (lambda: whole(low=0.0), ValueError, "σ_t > 0"),
        (lambda: whole(low=0.7, high=0.3), ValueError, "low must be below high"),
        (lambda: whole(low=-0.1), ValueError, r"low must be a finite number in \[0.0, 1.0\], got -0.1"),
        (lambda: whole(density=times.uniform_density()), ValueError, "must draw times from 0.1 to 1.0"),
        (
            lambda: reconstruction_term(LinearVP(), digits_like(2, 2), torch.tensor([0.1, 1.2]), normal(2, 2), LEVELS),
            ValueError,
            r"t must lie in \[0, 1\]",
        ),
        (
            lambda: reconstruction_term(LinearVP(), digits_like(2, 2), torch.tensor(0.1), normal(2, 3), LEVELS),
            ValueError,
            "same shape",
        ),
        (
            lambda: diffusion_term(
                Empirical(LinearVP(), digits_like(3, 2)),
                digits_like(1, 2),
                torch.tensor([0.05]).double(),
                normal(1, 2),
                density=times.uniform_density(0.1, 1.0),
            ),
            ValueError,
            "the weight must be finite",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_module_is_documented():
    assert "SNR" in continuous_bound.__doc__
