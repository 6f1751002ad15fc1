"""The discrete variational bound: each term against torch.distributions, the sum against exact entropies."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from minidiff import times
from minidiff.analytic import Empirical
from minidiff.bound import bits_per_dim, discretised_log_prob, prior_kl, vlb, vlb_term
from minidiff.process import EDM, VE, CosineVP, LinearVP, RectifiedFlow, SubVP, Tabulated, TrigFlow

BETAS = torch.linspace(0.01, 0.3, 20, dtype=torch.float64)
CHAIN = Tabulated(tuple(BETAS.tolist()))
GRID = times.uniform(20)
LEVELS = 17


def name(process):
    return type(process).__name__


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def digits_like(*shape, seed=0, levels=LEVELS):
    return torch.randint(levels, shape, generator=gen(seed)).double() * 2 / (levels - 1) - 1


def shrinking(process):
    """Some wrong denoiser, so that every term is alive."""

    class Shrinking:
        def __call__(self, x, t, *y):
            return 0.5 * torch.tanh(x) + (0.1 * y[0][:, None] if y else 0)

    D = Shrinking()
    D.process = process
    return D


def ddpm(n, x0, x0_hat, eps):
    """Ho et al. 2020, eq. 6–7, in β and ᾱ as printed: the posterior q and the model p of step n, and x_n."""
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - BETAS).cumprod(0)])
    beta, now, before = BETAS[n - 1], alpha_bar[n], alpha_bar[n - 1]

    def mean(x0, x):
        return before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x

    x = now.sqrt() * x0 + (1 - now).sqrt() * eps
    x0_hat = x0_hat(x)
    beta_tilde = (1 - before) / (1 - now) * beta
    return SimpleNamespace(q=mean(x0, x), p=mean(x0_hat, x), beta=beta, beta_tilde=beta_tilde, x0_hat=x0_hat)


@pytest.mark.parametrize("v", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [2, 3, 10, 20])
def test_transitions_are_ddpms_divergences(n, v):
    x0, eps, D = digits_like(5, 3), normal(5, 3), shrinking(CHAIN)
    step = ddpm(n, x0, lambda x: D(x, None), eps)
    variance = (v * step.beta.log() + (1 - v) * step.beta_tilde.log()).exp()
    truth = kl_divergence(Normal(step.q, step.beta_tilde.sqrt()), Normal(step.p, variance.sqrt())).sum(1)
    got = vlb_term(D, x0, torch.full((5,), n), eps, GRID, levels=LEVELS, variance=v)
    torch.testing.assert_close(got, truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("v", [0.0, 0.3, 1.0])
def test_decoder_is_the_mass_of_the_bin(v):
    """n = 1: the model's Gaussian has mean x̂_0 and, β̃_1 being 0, its variance interpolates β_1 and β̃_2."""
    x0, eps, D = digits_like(50, 3), normal(50, 3), shrinking(CHAIN)
    first, second = (ddpm(n, x0, lambda x: D(x, None), eps) for n in (1, 2))
    torch.testing.assert_close(first.p, first.x0_hat)
    std = (v * first.beta.log() + (1 - v) * second.beta_tilde.log()).div(2).exp()
    got = vlb_term(D, x0, torch.ones(50, dtype=torch.int64), eps, GRID, levels=LEVELS, variance=v)
    truth = -discretised_log_prob(x0, first.x0_hat, std, LEVELS).sum(1)
    torch.testing.assert_close(got, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", [LinearVP(), SubVP(), CosineVP(), TrigFlow(0.5), RectifiedFlow()], ids=name)
def test_posterior_variance_makes_the_divergence_a_difference_of_snrs(process):
    """KL = ½ (SNR_t − SNR_s) |x_0 − x̂_0|² for any process (Kingma et al. 2021, eq. 14), SNR_s = 0 included."""
    x0, eps, D = digits_like(20, 3), normal(20, 3), shrinking(process)
    n = torch.arange(1, 21)[1:]
    x0, eps, grid = x0[1:], eps[1:], times.uniform(20).flip(0)
    ratio = (process.alpha(grid) / process.sigma(grid)) ** 2
    error = (x0 - D(process.noise(x0, grid[n], eps), None)).square().sum(1)
    got = vlb_term(D, x0, n, eps, times.uniform(20), levels=LEVELS)
    torch.testing.assert_close(got, (ratio[n - 1] - ratio[n]) / 2 * error, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process", [LinearVP(), SubVP(), CosineVP(), TrigFlow(0.5), VE(), EDM()], ids=name)
def test_prior_is_the_divergence_from_the_samplers_start(process):
    one, x0 = torch.ones((), dtype=torch.float64), normal(4, 2, 3)
    alpha, sigma = process.alpha(one), process.sigma(one)
    truth = kl_divergence(Normal(alpha * x0, sigma), Normal(torch.zeros_like(x0), (alpha**2 + sigma**2).sqrt()))
    torch.testing.assert_close(prior_kl(process, x0), truth.sum((1, 2)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("std", [1e-3, 0.1, 3.0])
def test_masses_of_all_levels_sum_to_one(levels, std):
    x0 = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    mean = torch.linspace(-3, 3, 25, dtype=torch.float64).expand(levels, 25)
    total = discretised_log_prob(x0.expand(levels, 25), mean, std, levels).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(25, dtype=torch.float64), rtol=0, atol=1e-12)


def test_masses_are_differences_of_normal_distribution_functions():
    """Open at both edges; and 40 standard deviations out, where the plain difference is 0, the tail's asymptote."""
    x0 = torch.linspace(-1, 1, 5, dtype=torch.float64)
    law, edges = Normal(torch.tensor(0.2).double(), 0.4), torch.tensor([-0.75, -0.25, 0.25, 0.75], dtype=torch.float64)
    inner = law.cdf(edges)
    masses = torch.cat([inner[:1], inner.diff(), 1 - inner[-1:]])
    torch.testing.assert_close(
        discretised_log_prob(x0, torch.full((5,), 0.2), 0.4, 5), masses.log(), rtol=1e-6, atol=1e-7
    )
    z = 40.0  # log Φ(−z) = −z²/2 − log(z √2π) + log(1 − 1/z² + …)
    tail = -(z**2) / 2 - math.log(z * math.sqrt(2 * math.pi)) + math.log(1 - z**-2 + 3 * z**-4)
    for sign in (-1.0, 1.0):
        mean = torch.tensor([sign * (z * 0.01 + 0.25)], dtype=torch.float64)  # the middle bin ends 40 std away
        got = discretised_log_prob(torch.zeros(1).double(), mean, 0.01, 5)
        assert float(got) == pytest.approx(tail, rel=1e-8)


@pytest.mark.parametrize("v", [0.0, 1.0])
def test_one_known_image_costs_nothing(v):
    """A data set of one point: D is exact, transitions with β̃ vanish, with β they are its known divergence."""
    x0 = digits_like(1, 1, 2, 2)
    terms = vlb(Empirical(CHAIN, x0), x0, GRID, levels=LEVELS, variance=v, generator=gen(1))
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - BETAS).cumprod(0)])
    ratio = ((1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]))[1:]  # β̃_n/β_n
    truth = v * 4 / 2 * (ratio - 1 - ratio.log())
    assert terms.shape == (1, 21) and terms.dtype == torch.float64
    torch.testing.assert_close(terms[0, 1:-1], truth, rtol=1e-7, atol=1e-9)
    std = (BETAS[0] if v else (1 - alpha_bar[1]) / (1 - alpha_bar[2]) * BETAS[1]).sqrt()
    torch.testing.assert_close(terms[0, 0], -discretised_log_prob(x0, x0, std, LEVELS).sum())
    torch.testing.assert_close(terms[0, -1], prior_kl(CHAIN, x0)[0])


def expected_bound(process, grid, variance):
    """The bound for one pixel uniform on the grey levels under its exact denoiser, by Gauss–Hermite quadrature."""
    levels = torch.linspace(-1, 1, LEVELS, dtype=torch.float64)[:, None]
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(120))
    weights = (weights / weights.sum()).repeat(LEVELS) / LEVELS
    x0, eps = levels.repeat_interleave(120, 0), nodes.repeat(LEVELS)[:, None]
    oracle = Empirical(process, levels)
    steps = [
        vlb_term(oracle, x0, torch.full((len(x0),), n), eps, grid, levels=LEVELS, variance=variance)
        for n in range(1, len(grid))
    ]
    return float(weights @ (sum(steps) + prior_kl(process, x0)))


@pytest.mark.parametrize("variance", [0.0, 1.0])
def test_the_bound_exceeds_the_entropy_by_a_term_in_one_over_the_steps(variance):
    """Uniform on 17 levels has entropy log 17: no bound is below it, and with exact D the excess falls as 1/T."""
    excess = [
        expected_bound(LinearVP(), times.log_snr(LinearVP(), n, r_max=1e3, r_min=0.01, zero=True), variance)
        - math.log(LEVELS)
        for n in (40, 160, 640)
    ]
    assert min(excess) > 0
    assert excess[1] / excess[2] == pytest.approx(4, rel=0.1)
    assert excess[2] < 0.06


@pytest.mark.parametrize("process", [CHAIN, RectifiedFlow()], ids=name)
def test_vlb_is_the_sum_of_its_terms(process):
    """All terms with one generator are the single terms with its draws in the order n = 1…T."""
    x0, D, y = digits_like(3, 2), shrinking(process), torch.tensor([0, 1, 2])
    terms = vlb(D, x0, GRID, levels=LEVELS, variance=0.5, y=y, generator=gen(5))
    g = gen(5)
    for n in range(1, 21):
        eps = torch.randn(3, 2, generator=g, dtype=torch.float64)
        term = vlb_term(D, x0, torch.full((3,), n), eps, GRID, levels=LEVELS, variance=0.5, y=y)
        torch.testing.assert_close(terms[:, n - 1], term, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms[:, 20], prior_kl(process, x0))
    assert not torch.equal(terms, vlb(D, x0, GRID, levels=LEVELS, variance=0.5, generator=gen(5)))  # y matters


def test_the_whole_bound_is_computed_without_gradients_and_one_term_with():
    x0, gain = digits_like(2, 3), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    class Learned:
        process = CHAIN

        def __call__(self, x, t):
            return gain * x

    D = Learned()
    assert not vlb(D, x0, GRID, levels=LEVELS, generator=gen(1)).requires_grad
    assert vlb_term(D, x0, torch.tensor([1, 5]), normal(2, 3), GRID, levels=LEVELS).requires_grad


def test_the_best_variance_is_the_posteriors_plus_the_squared_error_of_the_mean():
    """The slope in v vanishes where s² = β̃ + (α_t (1 − ρ))² |x_0 − x̂_0|²/D, with one v for each step."""
    x0, eps, D, n = digits_like(1, 3), normal(1, 3), shrinking(CHAIN), 7
    step = ddpm(n, x0, lambda x: D(x, None), eps)
    best = step.beta_tilde + (step.q - step.p).square().mean()
    v = torch.full((20,), 0.5, dtype=torch.float64)
    v[n - 1] = (best / step.beta_tilde).log() / (step.beta / step.beta_tilde).log()
    v.requires_grad_()
    vlb_term(D, x0, torch.tensor([n]), eps, GRID, levels=LEVELS, variance=v).sum().backward()
    torch.testing.assert_close(v.grad, torch.zeros(20, dtype=torch.float64), rtol=0, atol=1e-9)


def test_one_step_and_float32():
    """T = 1 has a decoder and a prior only, the decoder with β_1; float32 data give float64 nats."""
    process = LinearVP()
    x0 = digits_like(4, 3).float()
    terms = vlb(shrinking(process), x0, times.uniform(1), levels=LEVELS, generator=gen(6))
    eps = torch.randn(4, 3, generator=gen(6))
    one = torch.ones(())
    x0_hat = shrinking(process)(process.noise(x0, one, eps), one)
    truth = -discretised_log_prob(x0, x0_hat, float(process.sigma(one)), LEVELS).sum(1)
    assert terms.dtype == torch.float64 and terms.shape == (4, 2)
    torch.testing.assert_close(terms[:, 0], truth, rtol=1e-5, atol=1e-5)


def test_bits_of_the_uniform_code():
    nats = torch.tensor(64 * math.log(17), dtype=torch.float64)
    assert float(bits_per_dim(nats, 64)) == pytest.approx(math.log2(17), rel=1e-12)
    assert round(float(bits_per_dim(nats, 64)), 3) == 4.087


def term(**changed):
    good = {"D": shrinking(CHAIN), "x0": digits_like(2, 3), "n": torch.tensor([1, 2]), "eps": normal(2, 3)}
    return vlb_term(**(good | {"times": GRID, "levels": LEVELS} | changed))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: term(x0=normal(2, 3)), ValueError, r"x0 must lie on the 17 grey levels −1 \+ 2k/16, got the value"),
        (lambda: term(x0=2 + digits_like(2, 3)), ValueError, "grey levels"),
        (lambda: term(x0=digits_like(2, 3) * math.nan), ValueError, "x0 must be finite"),
        (lambda: term(levels=1), ValueError, "levels must be at least 2, got 1"),
        (lambda: term(n=torch.tensor([0, 2])), ValueError, "n must lie in 1…20, got values from 0 to 2"),
        (lambda: term(n=torch.tensor([1, 21])), ValueError, "from 1 to 21"),
        (lambda: term(n=torch.tensor([1.0, 2.0])), ValueError, r"int64 of shape \(2,\), got torch.float32"),
        (lambda: term(n=torch.tensor([1])), ValueError, r"got torch.int64 of shape \(1,\)"),
        (lambda: term(eps=normal(2, 4)), ValueError, "same shape"),
        (lambda: term(variance=torch.zeros(3)), ValueError, r"shape \(20,\), got \(3,\)"),
        (lambda: term(times=times.uniform(4, end=0.1)), ValueError, "times from 1 to 0 .* got times from 1.0 to 0.1"),
        (lambda: term(times=times.uniform(4, start=0.9)), ValueError, "got times from 0.9 to 0.0"),
        (lambda: term(times=GRID.flip(0)), ValueError, "strictly decreasing"),
        (lambda: term(D=shrinking(VE())), ValueError, r"σ\(0\) = 0.01"),
        (lambda: vlb(shrinking(EDM()), digits_like(2, 3), GRID, levels=17), ValueError, r"σ\(0\) = 0.002"),
        (lambda: vlb(shrinking(CHAIN), normal(2, 3), GRID, levels=17), ValueError, "grey levels"),
        (lambda: bits_per_dim(torch.ones(1), 0), ValueError, "dimensions must be at least 1"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
