"""Divergences against traces of Jacobians, densities along the flow against closed forms, dequantisation."""

import math

import pytest
import torch
from torch import nn

from minidiff import likelihood, times
from minidiff.analytic import Empirical, Gaussian, GaussianMixture
from minidiff.denoiser import Denoiser
from minidiff.likelihood import dequantise, dequantised_bits, divergence, log_prob, transport
from minidiff.noise import probes as draw
from minidiff.process import VE, CosineVP, LinearVP, RectifiedFlow

F64 = torch.float64
MEAN = torch.tensor([0.3, -1.0], dtype=F64)
COVARIANCE = torch.tensor([[1.2, 0.5], [0.5, 0.7]], dtype=F64)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rising(process, n, first=1e-2, r_max=None):
    least = float((-process.lam(torch.tensor(first, dtype=F64))).exp())
    return times.cosine_angle(process, n, r_max=r_max or math.inf, r_min=least).flip(0)


def field(x):
    return torch.stack([x[:, 0] ** 2 * x[:, 1], torch.sin(x[:, 1] * x[:, 2]), x.prod(1)], 1)


# ---- divergence ----------------------------------------------------------------------------------------------------


def test_divergence_is_the_trace_of_the_jacobian():
    x = torch.randn(6, 3, generator=gen(), dtype=F64)
    v, trace = divergence(field, x)
    torch.testing.assert_close(v, field(x))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: field(row[None])[0]))(x)
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=1, dim2=2).sum(1))
    assert not v.requires_grad
    assert not trace.requires_grad


def test_divergence_of_images():
    x = torch.randn(4, 2, 3, 3, generator=gen(), dtype=F64)
    torch.testing.assert_close(divergence(lambda x: x**3 / 3, x)[1], x.square().flatten(1).sum(1))


def test_divergence_works_under_no_grad_and_of_constant_or_partly_constant_fields():
    x = torch.randn(4, 3, generator=gen(), dtype=F64)
    with torch.no_grad():
        torch.testing.assert_close(divergence(lambda x: x * x, x)[1], 2 * x.sum(1))
    assert divergence(torch.ones_like, x)[1].tolist() == [0.0] * 4
    weight = torch.ones(3, dtype=F64, requires_grad=True)
    assert divergence(lambda x: weight.expand(4, 3), x)[1].tolist() == [0.0] * 4


def test_all_sign_vectors_give_the_exact_trace():
    x = torch.randn(2, 3, generator=gen(), dtype=F64)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 3)
    probes = signs[:, None].expand(8, 2, 3)
    torch.testing.assert_close(divergence(field, x, probes)[1], divergence(field, x)[1])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_with_the_stated_variance(distribution, seed):
    matrix = torch.randn(5, 5, generator=gen(seed), dtype=F64)
    x, n = torch.randn(20_000, 5, generator=gen(seed), dtype=F64), 20_000
    probes = draw(x, 1, distribution=distribution, generator=gen(seed + 10))
    _, estimates = divergence(lambda x: x @ matrix.mT, x, probes)
    symmetric = (matrix + matrix.mT) / 2
    variance = 2 * float(symmetric.square().sum())
    if distribution == "rademacher":
        variance -= 2 * float(symmetric.diagonal().square().sum())
    assert abs(float(estimates.mean()) - float(matrix.trace())) < 5 * math.sqrt(variance / n)
    assert float(estimates.var()) == pytest.approx(variance, rel=0.1)


def test_probes():
    x = torch.zeros(3, 2, 2)
    z = draw(x, 5, generator=gen())
    assert z.shape == (5, 3, 2, 2)
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    own = draw(x, 5, generator=[gen(1), gen(2), gen(3)])
    torch.testing.assert_close(own[:, 1:2], draw(x[1:2], 5, generator=[gen(2)]))
    assert draw(x[:1], 4000, distribution="gaussian", generator=gen()).std() == pytest.approx(1, abs=0.05)


def test_refusals_of_divergence():
    x = torch.zeros(3, 2, dtype=F64)
    for call, error, message in (
        (lambda: divergence(lambda x: x[:, :1], x), ValueError, r"field\(x\) and x must have the same shape"),
        (lambda: divergence(lambda x: x, x, torch.ones(1, 3, 3)), ValueError, r"probes must have shape \(P, 3, 2\)"),
        (lambda: divergence(lambda x: x, x.long()), TypeError, "x must be a floating-point tensor"),
        (lambda: draw(x, 0), ValueError, "count must be at least 1"),
        (lambda: draw(x, 1, distribution="uniform"), ValueError, "distribution must be"),
        (lambda: draw(x.long(), 1), TypeError, "x must be a floating-point tensor"),
    ):
        with pytest.raises(error, match=message):
            call()


# ---- the density along the flow -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("process", "atol"), [(CosineVP(), 1e-6), (RectifiedFlow(), 1e-6), (LinearVP(), 1e-3)])
def test_gaussian_likelihood(process, atol):
    """With the law of x_1 as the prior, what is left is the error of RK4."""
    D, T = Gaussian(process, MEAN, COVARIANCE), rising(process, 50)
    x = torch.randn(4, 2, generator=gen(), dtype=F64)
    found = log_prob(D, x, T, prior=lambda x: D.log_prob(x, T[-1]))
    torch.testing.assert_close(found, D.log_prob(x, T[0]), rtol=0, atol=atol)
    assert found.dtype == F64


@pytest.mark.parametrize("method", ["rk4", "heun"])
def test_mixture_likelihood(method):
    weights, means = torch.tensor([0.6, 0.4], dtype=F64), torch.tensor([[1.0, 0.5], [-1, 0]], dtype=F64)
    D = GaussianMixture(RectifiedFlow(), weights, means, stds=0.4)
    x, T = D.sample(20, gen()), rising(D.process, 60)
    torch.testing.assert_close(log_prob(D, x, T, method=method), D.log_prob(x, T[0]), rtol=0, atol=1e-3)


def test_both_directions_agree_and_log_ratios_add_up():
    D = Gaussian(CosineVP(), MEAN, COVARIANCE)
    x, T = torch.randn(4, 2, generator=gen(), dtype=F64), rising(D.process, 50, 0.1)
    there = transport(D, x, T)
    back = transport(D, there.x, T.flip(0))
    torch.testing.assert_close(back.x, x, rtol=0, atol=1e-6)
    torch.testing.assert_close(back.log_ratio, -there.log_ratio, rtol=0, atol=1e-6)
    first = transport(D, x, T[:21])
    second = transport(D, first.x, T[20:])
    torch.testing.assert_close(first.log_ratio + second.log_ratio, there.log_ratio)
    exact = D.log_prob(x, T[0]) - D.log_prob(there.x, T[-1])
    torch.testing.assert_close(there.log_ratio, exact, rtol=0, atol=1e-6)


def test_any_shape_of_data():
    """Three pixels of an image are three coordinates of a vector."""
    process = RectifiedFlow()
    points = torch.randn(5, 3, generator=gen(), dtype=F64)
    flat, image = Empirical(process, points), Empirical(process, points.reshape(5, 1, 3, 1))
    x, T = 0.5 * points + 0.5, rising(process, 20, 0.5)
    torch.testing.assert_close(log_prob(image, x.reshape(5, 1, 3, 1), T), log_prob(flat, x, T))


def test_the_default_prior_is_that_of_the_process():
    D = Gaussian(VE(0.1, 20.0), torch.zeros(3, dtype=F64), std=1.0)  # α² c² + σ² = α² + σ² for unit variance
    x, T = torch.randn(4, 3, generator=gen(), dtype=F64), rising(D.process, 100, 0.0)
    torch.testing.assert_close(log_prob(D, x, T), D.log_prob(x, T[0]), rtol=0, atol=1e-4)


def test_hutchinson_likelihood_averages_to_the_exact_one():
    D = Gaussian(CosineVP(), MEAN, COVARIANCE)
    x, T = torch.zeros(1, 2, dtype=F64).expand(4000, 2), rising(D.process, 10, 0.1)
    exact = log_prob(D, x[:1], T)
    estimates = log_prob(D, x, T, probes=draw(x, 1, distribution="gaussian", generator=gen(1)))
    assert abs(float(estimates.mean() - exact)) < 5 * float(estimates.std()) / 4000**0.5


class Halves(nn.Module):
    """The velocity −x/2 and nothing else: p_1(x_1) grows by e^{d/4} from t = ½ to 1."""

    def forward(self, x, t, y):
        return -x / 2


def test_a_coupled_network_has_a_likelihood():
    D = Denoiser(Halves(), RectifiedFlow(), "velocity", coupled=True)
    x, T = torch.randn(3, 1, 2, 2, generator=gen()), times.uniform(20, end=0.5).flip(0)
    end, log_ratio = transport(D, x, T)
    torch.testing.assert_close(end, x * math.exp(-0.25))
    torch.testing.assert_close(log_ratio, torch.full((3,), -4 * 0.25, dtype=F64), rtol=1e-5, atol=1e-5)
    assert all(p.grad is None for p in D.parameters())


def test_refusals_of_log_prob():
    D, T = Gaussian(CosineVP(), MEAN, COVARIANCE), torch.tensor([0.1, 0.5, 1.0], dtype=F64)
    x = torch.zeros(3, 2, dtype=F64)
    for call, error, message in (
        (lambda: log_prob(D, x, T.flip(0)), ValueError, "must rise from the data to the noise"),
        (lambda: log_prob(D, x, T[:2]), ValueError, "without a prior the times must end at 1"),
        (lambda: log_prob(D, x, T - 0.1), ValueError, "needs σ > 0"),
        (lambda: transport(D, x, T, method="rk5"), ValueError, "method must be among"),
        (lambda: transport(D, x, T, probes=torch.ones(1, 2, 2)), ValueError, "probes must have shape"),
    ):
        with pytest.raises(error, match=message):
            call()


# ---- dequantisation -------------------------------------------------------------------------------------------------


def test_dequantised_levels_fill_their_bins():
    levels = 5
    x0 = (-1 + 2 * torch.arange(levels, dtype=F64) / (levels - 1))[:, None].expand(levels, 20_000)
    u = dequantise(x0, levels, gen()) - x0
    assert float(u.abs().max()) <= 1 / (levels - 1)
    assert float(u.mean()) == pytest.approx(0, abs=1e-2)
    assert float(u.square().mean()) == pytest.approx((2 / (levels - 1)) ** 2 / 12, rel=0.02)


def test_each_sample_may_have_its_own_generator():
    x0 = torch.zeros(3, 1, 2, 2)
    rows = dequantise(x0, 17, [gen(1), gen(2), gen(3)])
    torch.testing.assert_close(rows[1:2], dequantise(x0[:1], 17, [gen(2)]))
    with pytest.raises(ValueError, match="one generator a sample needed: got 2 for a batch of 3"):
        dequantise(x0, 17, [gen(1), gen(2)])


def test_the_uniform_code_costs_log2_of_the_levels():
    levels, d = 17, 3
    log_density = torch.tensor(-d * math.log(levels * 2 / (levels - 1)), dtype=F64)
    assert float(dequantised_bits(log_density, d, levels)) == pytest.approx(math.log2(levels))


def test_dequantised_bits_bound_the_discrete_likelihood():
    levels, width = 9, 0.25
    x0 = -1 + 2 * torch.arange(levels, dtype=F64) / (levels - 1)
    normal = torch.distributions.Normal(torch.tensor(0.1, dtype=F64), 0.3)
    mass = normal.cdf(x0 + width / 2) - normal.cdf(x0 - width / 2)
    u = torch.linspace(-width / 2, width / 2, 2001, dtype=F64)
    mean = dequantised_bits(normal.log_prob(x0[:, None] + u).mean(1), 1, levels)
    assert (mean >= -mass.log2() - 1e-9).all()
    assert float((mean + mass.log2()).max()) > 1e-3


def test_refusals_of_dequantisation():
    with pytest.raises(ValueError, match="levels must be at least 2"):
        dequantise(torch.zeros(1, 2), 1)
    with pytest.raises(TypeError, match="x0 must be a floating-point tensor"):
        dequantise(torch.zeros(1, 2).long(), 3)
    with pytest.raises(ValueError, match="dimensions must be at least 1"):
        likelihood.dequantised_bits(torch.zeros(1), 0, 3)
