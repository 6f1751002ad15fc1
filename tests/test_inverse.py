"""Posterior denoisers against exact posteriors: Bayes on densities, Gaussian identities, limits, costs, refusals."""

import math

import pytest
import torch
from scipy.special import dawsn
from torch import nn

from minidiff import times
from minidiff.analytic import Empirical, Gaussian, GaussianMixture
from minidiff.denoiser import Denoiser
from minidiff.inverse import (
    DDNM,
    DPS,
    TMPD,
    EmpiricalPosterior,
    Mask,
    Matrix,
    PiGDM,
    at_prediction,
    averaged_log_likelihood,
    dps_gaussian,
    empirical_log_weights,
    gaussian_log_likelihood,
    isotropic_variance,
    linear_gaussian,
    tmpd_ref,
    tweedie,
)
from minidiff.metrics import CountCalls
from minidiff.process import EDM, VE, LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, ddim, heun, last

F64 = torch.float64
HALF = torch.tensor(0.5, dtype=F64)
PROCESSES = pytest.mark.parametrize("process", [LinearVP(), VE(0.05, 20.0), RectifiedFlow()], ids=str)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=F64)


def leaning(process, components=3, d=3):
    """A mixture with full covariances; one component is a Gaussian."""
    root = rand(components, d, d, seed=4)
    covariances = 0.3 * root @ root.mT + 0.05 * torch.eye(d, dtype=F64)
    weights = torch.arange(1.0, components + 1, dtype=F64)
    return GaussianMixture(process, weights, rand(components, d, seed=5), covariances)


def plane(process, n=9):
    return Empirical(process, rand(n, 2, seed=11))


ROWS = Matrix(rand(2, 3, seed=6))
ROW = Matrix(rand(1, 3, seed=7))
NOTHING = Matrix(torch.zeros(2, 3))


class Counted(torch.autograd.Function):
    """The identity; counts how often a gradient comes through."""

    passes = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        Counted.passes += 1
        return g


class Watched(CountCalls):
    def __call__(self, x, t):
        return super().__call__(Counted.apply(x), t)


# The exact posteriors


@PROCESSES
@pytest.mark.parametrize("components", [1, 3])
def test_the_linear_gaussian_posterior_is_bayes(process, components):
    """log p(x | y) − log p(x) − log p(y | x) is the same at every x, and −log p(y) by the law of y."""
    prior, y, s = leaning(process, components), rand(2, seed=8), 0.4
    posterior = linear_gaussian(prior, ROWS, y, s)
    x, zero = rand(50, 3, seed=9), torch.zeros((), dtype=F64)
    if float(process.sigma(zero)) > 0:  # VE: take the density of clean data from another process
        prior, posterior = (GaussianMixture(LinearVP(), p.weights, p.means, cov(p)) for p in (prior, posterior))
    likelihood = gaussian_log_likelihood(ROWS, y.expand(50, 2), s)(x)
    constant = posterior.log_prob(x, zero) - prior.log_prob(x, zero) - likelihood
    parts = [
        torch.distributions.MultivariateNormal(ROWS.dense @ m, ROWS.dense @ c @ ROWS.dense.mT + s**2 * torch.eye(2))
        for m, c in zip(prior.means, cov(prior), strict=True)
    ]
    log_y = torch.logsumexp(torch.stack([p.log_prob(y) for p in parts]) + prior.weights.log(), 0)
    torch.testing.assert_close(constant, (-log_y).expand(50))


def cov(mixture):
    return (mixture.axes * mixture.variances[:, None]) @ mixture.axes.mT


def test_isotropic_components_and_the_limits():
    prior = GaussianMixture(LinearVP(), torch.ones(2), rand(2, 3), stds=torch.tensor([0.5, 1.0]))
    x, y = rand(4, 3), rand(2)
    for posterior in (linear_gaussian(prior, ROWS, y, 1e6), linear_gaussian(prior, NOTHING, y, 0.3)):
        torch.testing.assert_close(posterior(x, HALF), prior(x, HALF), rtol=1e-6, atol=1e-6)
    sharp = linear_gaussian(prior, ROWS, y, 1e-5)
    torch.testing.assert_close(ROWS(sharp.mean[None])[0], y, rtol=1e-4, atol=1e-4)


@PROCESSES
def test_the_empirical_posterior_is_bayes(process):
    """By a loop over the points, with an operator that is not linear; and Tweedie with the exact p(y | x_t)."""
    prior, s = plane(process), 0.5
    x, y = rand(4, 2, seed=1), rand(4, 1, seed=2)

    def A(x):
        return (x[:, :1] * x[:, 1:]).sin() + x[:, :1] ** 2

    D = EmpiricalPosterior(prior, A, y, s)
    alpha, sigma = float(process.alpha(HALF)), float(process.sigma(HALF))
    for b in range(4):
        logs = torch.stack(
            [
                -((x[b] - alpha * p).square().sum() / sigma**2 + (y[b] - A(p[None])[0]).square().sum() / s**2) / 2
                for p in prior.data
            ]
        )
        torch.testing.assert_close(D.weights(x, HALF)[b], logs.softmax(0))
        torch.testing.assert_close(D(x, HALF)[b], logs.softmax(0) @ prior.data)
    at = x.clone().requires_grad_()
    log_y = (prior.weights(at, HALF) * empirical_likelihood(prior, A, y, s)).sum(1).log()
    (gradient,) = torch.autograd.grad(log_y.sum(), at)
    torch.testing.assert_close(D(x, HALF), prior(x, HALF) + sigma**2 / alpha * gradient)


def empirical_likelihood(prior, A, y, s):
    return torch.stack([gaussian_log_likelihood(A, row.expand(len(prior.data), 1), s)(prior.data) for row in y]).exp()


@PROCESSES
def test_without_a_measurement_it_is_the_prior(process):
    prior, x, y = plane(process), rand(3, 2), rand(3, 1)
    for A, s in ((lambda x: 0 * x[:, :1], 0.1), (lambda x: x[:, :1], 1e7)):
        torch.testing.assert_close(EmpiricalPosterior(prior, A, y, s)(x, HALF), prior(x, HALF))


def test_the_mean_over_predictions_is_the_prior():
    """∫ p(y | x_t) E[x_0 | x_t, y] dy = E[x_0 | x_t], by quadrature over y."""
    prior, s = plane(LinearVP()), 0.4
    x = rand(1, 2)
    grid = torch.linspace(-8, 8, 1601, dtype=F64)[:, None]

    def A(x):
        return x[:, :1] ** 2 - x[:, 1:]

    D = EmpiricalPosterior(prior, A, grid, s)
    law = (prior.weights(x, HALF) * empirical_likelihood(prior, A, grid, s)).sum(1) * 0.01
    assert float(law.sum()) == pytest.approx(1, abs=1e-9)
    answers = D(x.expand(1601, 2), HALF)
    torch.testing.assert_close((law[:, None] * answers).sum(0), prior(x, HALF)[0], rtol=1e-8, atol=1e-8)


def test_the_ends_of_the_empirical_posterior():
    prior, y = plane(RectifiedFlow()), rand(3, 1)
    D = EmpiricalPosterior(prior, lambda x: x[:, :1], y, 0.3)
    mean = empirical_log_weights(prior, lambda x: x[:, :1], y, 0.3).exp() @ prior.data
    torch.testing.assert_close(D(rand(3, 2), torch.ones((), dtype=F64)), mean)
    torch.testing.assert_close(D(prior.data[:3] + 1e-3, torch.zeros((), dtype=F64)), prior.data[:3])
    t = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    x = rand(3, 2, seed=3)
    every = D(x, t)
    for i in range(3):
        torch.testing.assert_close(every[i], D(x, t[i])[i])


def test_the_noiseless_limit_and_exact_draws():
    prior = plane(LinearVP())
    y = prior.data[[2, 5], :1]
    log_weights = empirical_log_weights(prior, lambda x: x[:, :1], y, 0.0)
    assert log_weights.argmax(1).tolist() == [2, 5]
    assert log_weights.amax(1).tolist() == [0.0, 0.0]
    shared = empirical_log_weights(prior, lambda x: 0 * x, torch.zeros(1, 2, dtype=F64), 0.0)
    torch.testing.assert_close(shared.exp(), torch.full((1, 9), 1 / 9, dtype=F64))
    D = EmpiricalPosterior(prior, lambda x: x[:, :1], torch.full((20_000, 1), 0.3, dtype=F64), 0.5)
    drawn = D.sample(gen())
    p = D.log_weights[0].exp()
    for i in range(9):
        share = float((drawn == prior.data[i]).all(1).double().mean())
        assert abs(share - float(p[i])) < 5 * math.sqrt(0.25 / 20_000)


# The guided denoisers on Gaussian data


@PROCESSES
@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_tmpd_is_exact_for_gaussian_data(process, t):
    prior, y, t = leaning(process, 1), rand(2, seed=8), torch.tensor(t, dtype=F64)
    x = float(process.sigma(t)) * rand(5, 3)
    exact = linear_gaussian(prior, ROWS, y, 0.3)(x, t)
    torch.testing.assert_close(TMPD(prior, ROWS, y.expand(5, 2), 0.3)(x, t), exact)


@PROCESSES
@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_pigdm_is_exact_for_isotropic_gaussian_data(process, t):
    prior, y, t = Gaussian(process, rand(3), std=0.7), rand(2, seed=8), torch.tensor(t, dtype=F64)
    x = float(process.sigma(t)) * rand(5, 3)
    exact = linear_gaussian(prior, ROWS, y, 0.3)(x, t)
    torch.testing.assert_close(PiGDM(prior, ROWS, y.expand(5, 2), 0.3)(x, t), exact)
    # Without noise: the limit of the exact posterior.
    near = linear_gaussian(prior, ROWS, y, 1e-6)(x, t)
    torch.testing.assert_close(PiGDM(prior, ROWS, y.expand(5, 2), 0.0)(x, t), near, rtol=1e-5, atol=1e-5)


@PROCESSES
@pytest.mark.parametrize("s", [0.1, 1.0])
def test_the_bias_of_each_guidance_in_closed_form(process, s):
    """One measured direction: DPS is 1 + R Var times the exact one, ΠGDM (s² + Var)/(s² + |a|² ϱ²) times."""
    prior, y, x = leaning(process, 1), rand(1, seed=8), rand(5, 3)
    exact = linear_gaussian(prior, ROW, y, s)(x, HALF) - prior(x, HALF)
    a = ROW.dense[0]
    variance = float(a @ prior.covariance(x, HALF)[0] @ a)
    dps = DPS(prior, ROW, y.expand(5, 1), s)(x, HALF) - prior(x, HALF)
    torch.testing.assert_close(dps, (1 + variance / s**2) * exact)
    rho2 = 0.37
    pigdm = PiGDM(prior, ROW, y.expand(5, 1), s, variance=lambda t: torch.full_like(t, rho2))
    ratio = (s**2 + variance) / (s**2 + float(a @ a) * rho2)
    torch.testing.assert_close(pigdm(x, HALF) - prior(x, HALF), ratio * exact)


def test_pigdm_is_the_gradient_of_its_log_likelihood():
    """By autograd through D, in float64; and the log-likelihood is the Gaussian's, but for a function of t."""
    prior, x, y = leaning(LinearVP()), rand(4, 3), rand(4, 2)
    variance = isotropic_variance(prior)
    likelihood = averaged_log_likelihood(ROWS, y, 0.4, variance)
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(likelihood(prior(at, HALF), HALF).sum(), at)
    alpha, sigma = float(prior.process.alpha(HALF)), float(prior.process.sigma(HALF))
    torch.testing.assert_close(
        PiGDM(prior, ROWS, y, 0.4)(x, HALF) - prior(x, HALF), sigma**2 / alpha * gradient, rtol=1e-9, atol=1e-10
    )
    spread = float(variance(HALF)) * ROWS.dense @ ROWS.dense.mT + 0.16 * torch.eye(2)
    law = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), spread)
    difference = likelihood(x, HALF) - law.log_prob(y - ROWS(x))
    torch.testing.assert_close(difference, difference[:1].expand(4))


def test_without_a_spread_pigdm_is_dps():
    prior, x, y = leaning(LinearVP()), rand(4, 3), rand(4, 2)
    zero = PiGDM(prior, ROWS, y, 0.4, variance=torch.zeros_like)
    torch.testing.assert_close(zero(x, HALF), DPS(prior, ROWS, y, 0.4)(x, HALF))


@PROCESSES
@pytest.mark.parametrize("covariance", ["full", "rows"])
def test_tmpd_and_its_naive_twin(process, covariance):
    """On a mixture, whole; by rows where A C Aᵀ is diagonal, since the coordinates are independent."""
    prior, A = leaning(process), ROWS
    if covariance == "rows":
        prior = Gaussian(process, rand(3), torch.diag(torch.tensor([0.2, 1.0, 2.0], dtype=F64)))
        A = Mask(torch.tensor([True, False, True]))
    x, y = rand(4, 3), rand(4, 2)
    fast = TMPD(prior, A, y, 0.3, covariance=covariance)(x, HALF)
    torch.testing.assert_close(fast, tmpd_ref(prior, A, y, 0.3, x, HALF))


def test_tmpd_by_rows_is_its_formula():
    prior, x, y = leaning(LinearVP()), rand(4, 3), rand(4, 2)
    C = prior.covariance(x, HALF)
    sums = (ROWS.dense @ C @ ROWS.dense.mT).sum(2).clamp(min=0)
    x0 = prior(x, HALF)
    step = ((y - ROWS(x0)) / (sums + 0.09)) @ ROWS.dense
    expected = x0 + torch.einsum("bij,bj->bi", C, step)
    torch.testing.assert_close(TMPD(prior, ROWS, y, 0.3, covariance="rows")(x, HALF), expected)


def test_tmpd_by_rows_takes_a_negative_sum_for_nothing():
    """Coordinates so opposed that one row of the covariance sums to less than 0: there s² alone is left."""
    covariance = torch.tensor([[0.2, -0.4], [-0.4, 1.0]], dtype=F64)
    prior, x, y, A = Gaussian(LinearVP(), rand(2), covariance), rand(4, 2), rand(4, 2, seed=3), Matrix(torch.eye(2))
    early = torch.tensor(0.9, dtype=F64)
    C = prior.covariance(x, early)
    assert float(C[0, 0].sum()) < -0.1
    step = (y - prior(x, early)) / torch.stack([torch.tensor(0.09), C[0, 1].sum() + 0.09])
    expected = prior(x, early) + step @ C[0]
    torch.testing.assert_close(TMPD(prior, A, y, 0.3, covariance="rows")(x, early), expected, rtol=1e-6, atol=1e-6)


GUIDED = {
    "DPS": (DPS, 1),
    "PiGDM": (PiGDM, 1),
    "TMPD": (TMPD, 2),
    "TMPD rows": (lambda D, A, y, s: TMPD(D, A, y, s, covariance="rows"), 2),
    "DDNM": (lambda D, A, y, s: DDNM(D, A, y), 0),
}


@pytest.mark.parametrize(("method", "passes"), GUIDED.values(), ids=GUIDED)
def test_calls_and_passes(method, passes):
    """One call of D; the backward passes of the docstrings; attributes forwarded; no gradient in the answer."""
    D = Watched(leaning(LinearVP()))
    made = method(D, ROWS, rand(4, 2), 0.3)
    Counted.passes = 0
    answer = made(rand(4, 3), HALF)
    assert (D.calls, Counted.passes) == (1, passes)
    assert not answer.requires_grad
    assert (made.process, made.sigma_data, made.coupled, made.angle) == (D.process, D.sigma_data, False, D.angle)


@PROCESSES
@pytest.mark.parametrize("method", [m for m, _ in GUIDED.values()], ids=GUIDED)
def test_nothing_measured_leaves_the_prior(process, method):
    prior, x, y = leaning(process), rand(4, 3), rand(4, 2)
    torch.testing.assert_close(method(prior, NOTHING, y, 0.3)(x, HALF), prior(x, HALF))


@pytest.mark.parametrize("name", ["DPS", "PiGDM", "TMPD", "TMPD rows"])
def test_much_noise_leaves_the_prior(name):
    prior, x, y = leaning(LinearVP()), rand(4, 3), rand(4, 2)
    torch.testing.assert_close(GUIDED[name][0](prior, ROWS, y, 1e6)(x, HALF), prior(x, HALF))


@pytest.mark.parametrize("name", ["DPS", "PiGDM", "TMPD", "TMPD rows"])
def test_a_time_for_each_row(name):
    prior, x, y = leaning(LinearVP()), rand(3, 3), rand(3, 2)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    every = GUIDED[name][0](prior, ROWS, y, 0.3)(x, t)
    for i in range(3):
        one = GUIDED[name][0](prior, ROWS, y[i : i + 1], 0.3)(x[i : i + 1], t[i])
        torch.testing.assert_close(every[i : i + 1], one)


def test_tweedie_is_the_covariance():
    prior, x, v = leaning(RectifiedFlow()), rand(4, 3), rand(4, 3, seed=2)
    x0, product = tweedie(prior, x, HALF)
    torch.testing.assert_close(x0, prior(x, HALF))
    torch.testing.assert_close(product(v), torch.einsum("bij,bj->bi", prior.covariance(x, HALF), v))


def test_a_gradient_through_an_operator_that_is_not_linear():
    """DPS = x̂_0 + Cov ∇ log p(y | A(x̂_0)), the gradient by hand for A(x) = |x|²."""
    prior, x, y = leaning(LinearVP()), rand(4, 3), rand(4, 1)
    made = DPS(prior, lambda x: x.square().sum(1, keepdim=True), y, 0.7)(x, HALF)
    x0 = prior(x, HALF)
    gradient = (y - x0.square().sum(1, keepdim=True)) / 0.49 * 2 * x0
    torch.testing.assert_close(made, x0 + torch.einsum("bij,bj->bi", prior.covariance(x, HALF), gradient))


def test_works_without_gradients_around_it():
    prior, x, y = plane(LinearVP()), rand(4, 2), rand(4, 1)
    A = Matrix(torch.tensor([[1.0, 0.5]]))
    with torch.no_grad():
        inside = PiGDM(prior, A, y, 0.3)(x, HALF)
    torch.testing.assert_close(inside, PiGDM(prior, A, y, 0.3)(x, HALF))
    assert inside.isfinite().all()


# What a sampler makes of them


@pytest.mark.parametrize("ratio", [0.3, 2.0, 8.0])
@pytest.mark.parametrize("process", [EDM(0.0005, 500.0), LinearVP(0.0001, 30)], ids=str)
def test_the_law_of_dps_on_a_gaussian(process, ratio):
    """The flow is affine: from two starts, its gain and its variance, against Dawson's integral and e^{−ρ}.

    A start at r = 400 in the place of ∞ costs the gain a share of √v/400 = 0.0022.
    """
    v, a = 0.8, 1.5
    s = a * math.sqrt(v / ratio)
    prior = Gaussian(process, torch.zeros(1, dtype=F64), std=math.sqrt(v))
    y = torch.full((2, 1), 0.9, dtype=F64)
    T = times.log_snr(process, 400, r_max=400.0, r_min=1e-3)
    start = torch.tensor([[0.0], [1.0]], dtype=F64)
    end = last(heun(DPS(prior, Matrix(torch.tensor([[a]])), y, s), start, T)) / float(process.alpha(T[-1]))
    gain, variance = dps_gaussian(ratio)
    alpha, sigma = float(process.alpha(T[0])), float(process.sigma(T[0]))
    assert float(end[0]) == pytest.approx(gain * 0.9 / a, rel=4e-3)
    slope = float(end[1] - end[0])
    assert slope**2 * (alpha**2 * v + sigma**2) == pytest.approx(variance * v, rel=1e-2)
    assert variance < 1 / (1 + ratio)


def test_the_law_of_dps_in_its_limits():
    gain, variance = dps_gaussian(1e-4)
    assert gain == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-3)
    assert variance == pytest.approx(1 / (1 + 1e-4), rel=1e-7)
    assert dps_gaussian(0.0) == (0.0, 1.0)
    assert dps_gaussian(40.0)[0] == pytest.approx(1 + 1 / 40, rel=5e-3)  # 2zF(z) → 1 + 1/2z²: past the measurement
    for ratio in (999.0, 1001.0, 1e5, 1e8):
        assert dps_gaussian(ratio)[0] == pytest.approx(
            2 * math.sqrt(ratio / 2) * dawsn(math.sqrt(ratio / 2)), rel=1e-11
        )


@pytest.mark.parametrize("seed", range(2))
def test_exact_denoisers_sample_the_posterior(seed):
    """TMPD on a Gaussian through `ancestral`: mean and covariance of p(x_0 | y); 4000 samples, five standard errors."""
    prior, y, n = leaning(LinearVP(), 1), rand(2, seed=8), 4000
    T = times.log_snr(LinearVP(), 100, r_max=80.0, r_min=0.01)
    x = LinearVP().prior((n, 3), gen(seed), F64)
    made = last(ancestral(TMPD(prior, ROWS, y.expand(n, 2), 0.5), x, T, generator=gen(seed + 10)))
    exact = linear_gaussian(prior, ROWS, y, 0.5)
    assert float((made.mean(0) - exact.mean).abs().max()) < 5 * float(exact.variances.max()) ** 0.5 / n**0.5 + 0.03
    torch.testing.assert_close(made.T.cov(), cov(exact)[0], rtol=0, atol=0.1 * float(exact.variances.max()) + 0.01)


def test_ddnm_keeps_what_was_measured():
    prior = leaning(LinearVP())
    x, y = LinearVP().prior((50, 3), gen(), F64), rand(50, 2)
    T = times.uniform(10)
    mask = Mask(torch.tensor([True, False, True]))
    assert torch.equal(mask(last(ancestral(DDNM(prior, mask, y), x, T, generator=gen()))), y)
    assert torch.equal(mask(last(ddim(DDNM(prior, mask, y), x, T))), y)
    torch.testing.assert_close(ROWS(last(ddim(DDNM(prior, ROWS, y), x, T))), y)


def test_ddnm_is_exact_where_the_unmeasured_part_is_independent():
    """And biased where it is not: a correlation of 0.9 with the measured pixel does not all arrive."""
    mask, y = Mask(torch.tensor([True, False])), torch.full((2, 1), 2.0, dtype=F64)
    T = times.log_snr(LinearVP(), 300, r_max=80.0, r_min=1e-3)
    start = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=F64)

    def unmeasured(correlation):
        covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=F64)
        prior = Gaussian(LinearVP(), torch.zeros(2, dtype=F64), covariance)
        end = last(ddim(DDNM(prior, mask, y), start, T))[:, 1]
        return float(end[0]), float(end[1] - end[0])  # the mean over starts, and the gain of the start

    assert unmeasured(0.0) == pytest.approx((0.0, 1.0), abs=0.02)
    mean, _ = unmeasured(0.9)
    assert abs(mean - 1.8) > 0.05


# Refusals


def test_refusals():
    prior, x, y = leaning(LinearVP()), rand(4, 3), rand(4, 2)
    coupled = Denoiser(nn.Identity(), RectifiedFlow(), "velocity", coupled=True)
    flow = leaning(RectifiedFlow())
    one, zero = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
    points = plane(LinearVP())

    def shorter(x, t):
        return prior(x, t)[:1]

    shorter.process, shorter.sigma_data, shorter.coupled = prior.process, 1.0, False
    for call, error, message in (
        (lambda: DPS(coupled, ROWS, y, 0.3), ValueError, "DPS needs Tweedie's formula"),
        (lambda: PiGDM(coupled, ROWS, y, 0.3), ValueError, "PiGDM needs Tweedie's formula"),
        (lambda: TMPD(coupled, ROWS, y, 0.3), ValueError, "TMPD needs Tweedie's formula"),
        (lambda: DPS(prior, ROWS, y, -1.0), ValueError, "s must be"),
        (lambda: DPS(prior, ROWS, y, 0.0), ValueError, "s must be"),
        (lambda: PiGDM(prior, ROWS, y, -0.1), ValueError, "s must be"),
        (lambda: TMPD(prior, ROWS, y, -0.1), ValueError, "s must be"),
        (lambda: PiGDM(prior, lambda x: x**2, y, 0.3), TypeError, "PiGDM assumes a linear operator"),
        (lambda: TMPD(prior, lambda x: x**2, y, 0.3), TypeError, "TMPD assumes a linear operator"),
        (lambda: DDNM(prior, lambda x: x**2, y), TypeError, "DDNM assumes a linear operator"),
        (lambda: averaged_log_likelihood(torch.sin, y, 0.3, lambda t: t), TypeError, "assumes a linear operator"),
        (lambda: TMPD(prior, ROWS, y, 0.3, covariance="diagonal"), ValueError, "covariance must be"),
        (lambda: DPS(prior, ROWS, y[:3], 0.3)(x, HALF), ValueError, "one measurement a sample, got 3"),
        (lambda: PiGDM(prior, ROWS, y[:3], 0.3)(x, HALF), ValueError, "one measurement a sample, got 3"),
        (lambda: TMPD(prior, ROWS, y[:3], 0.3)(x, HALF), ValueError, "one measurement a sample, got 3"),
        (lambda: DDNM(prior, ROWS, y[:3])(x, HALF), ValueError, "one measurement a sample, got 3"),
        (lambda: DPS(prior, ROWS, y[:, :1], 0.3)(x, HALF), ValueError, r"A\(x\) and y must have the same shape"),
        (lambda: PiGDM(prior, ROWS, y, 0.0, variance=torch.zeros_like)(x, HALF), ValueError, "> 0 where s = 0"),
        (lambda: PiGDM(prior, ROWS, y, 0.3, variance=lambda t: -t)(x, HALF), ValueError, "variance must be ≥ 0"),
        (lambda: PiGDM(prior, ROWS, y, 0.3, variance=0.1)(x, HALF), TypeError, "variance must be a function of t"),
        (lambda: PiGDM(prior, ROWS, y, 0.3, variance=lambda t: x)(x, HALF), ValueError, r"must have shape \(\) or"),
        (lambda: at_prediction(prior, x, HALF, lambda x: x.sum()), ValueError, "one value a row"),
        (lambda: at_prediction(prior, x, HALF, lambda x: (x[:, 0] - 9).log()), ValueError, "must be finite"),
        (lambda: DPS(flow, ROWS, y, 0.3)(x, one), ValueError, "got α = 0"),
        (lambda: DPS(flow, ROWS, y, 0.3)(x, zero), ValueError, "got σ = 0"),
        (lambda: tweedie(shorter, x, HALF), ValueError, "D must return"),
        (lambda: linear_gaussian(prior, torch.sin, y[0], 0.3), TypeError, "linear_gaussian assumes a linear operator"),
        (lambda: linear_gaussian(prior, ROWS, y[0], 0.0), ValueError, "s must be"),
        (lambda: linear_gaussian(prior, ROWS, y[0, :1], 0.3), ValueError, "y must have shape"),
        (lambda: linear_gaussian(prior, Matrix(torch.ones(1, 2)), y[0, :1], 0.3), ValueError, "A must act on"),
        (lambda: linear_gaussian(points, ROWS, y[0], 0.3), TypeError, "needs a Gaussian mixture as prior, got Emp"),
        (lambda: empirical_log_weights(prior, ROWS, y, 0.3), TypeError, "a finite data set as prior"),
        (lambda: empirical_log_weights(points, torch.log, y, 0.3), ValueError, r"A\(data\) must be finite"),
        (lambda: empirical_log_weights(points, lambda x: x, y, -0.3), ValueError, "s must be"),
        (lambda: empirical_log_weights(points, lambda x: x[:, :1], y, 0.3), ValueError, "A must map the data"),
        (lambda: EmpiricalPosterior(points, lambda x: x, y, 0.3)(x, HALF), ValueError, "x must hold samples"),
        (lambda: EmpiricalPosterior(points, lambda x: x, y, 0.3)(x[:3, :2], HALF), ValueError, "one measurement"),
        (lambda: dps_gaussian(-1.0), ValueError, "ratio must be"),
    ):
        with pytest.raises(error, match=message):
            call()
