"""The variational autoencoder: its KL against torch.distributions, its bound against an exact sum over codes."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from minidiff.bound import discretised_log_prob
from minidiff.families.vae import VAE, standard_kl


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, seed=0, shape=(1, 2, 2), levels=17):
    return torch.randint(levels, (n, *shape), generator=gen(seed)).float() * 2 / (levels - 1) - 1


def small(seed=0, latent=1, scale=1.0, **settings):
    torch.manual_seed(seed)
    vae = VAE((1, 2, 2), latent=latent, width=16, **settings).eval()
    with torch.no_grad():
        for p in vae.parameters():
            p.mul_(scale)
    return vae


def test_the_divergence_from_the_standard_normal():
    mean, std = torch.randn(2, 5, 3, generator=gen(1), dtype=torch.float64).unbind(0)
    std = std.exp()
    truth = kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), 1.0)).sum(1)
    torch.testing.assert_close(standard_kl(mean, std), truth)
    assert float(standard_kl(torch.zeros(1, 4), torch.ones(1, 4))) == 0


def exact_log_prob(vae, x):
    """log ∫ p(x | z) N(z; 0, 1) dz of a VAE with one latent variable, on a grid."""
    z = torch.linspace(-9, 9, 6001)[:, None]
    prior = Normal(0.0, 1.0).log_prob(z[:, 0].double())
    joint = torch.stack([vae.log_likelihood(x[i : i + 1].expand(len(z), 1, 2, 2), z) + prior for i in range(len(x))])
    return joint.logsumexp(1) + math.log(18 / 6000)


@pytest.mark.parametrize("seed", range(3))
def test_the_importance_weighted_bound_reaches_log_p(seed):
    """One latent variable: log p(x) by quadrature; K = 1 below it, K = 200 at it within 5 standard errors."""
    vae, x = small(seed, scale=1.2), images(6, seed)
    with torch.no_grad():
        truth = exact_log_prob(vae, x)
    draws = torch.stack([vae.log_prob(x, 1, gen(100 + i)) for i in range(60)])
    mean, error = draws.mean(), float(draws.mean(1).std()) / 60**0.5
    assert float(truth.mean() - mean) > -5 * error
    many = torch.stack([vae.log_prob(x, 200, gen(i)) for i in range(8)])
    spread = many.std(0)  # Jensen’s loss at K draws is about half the variance of the logarithm
    assert bool(((many.mean(0) - truth).abs() < 6 * spread / 8**0.5 + 2 * spread**2 + 0.02).all())


def test_the_weights_are_one_in_expectation_of_the_ratio():
    """E_q p(x, z)/q(z|x) = p(x): the mean of exp of single draws, within 5 standard errors."""
    vae, x = small(4, scale=1.5), images(1, 4)
    with torch.no_grad():
        truth = exact_log_prob(vae, x)[0].exp()
    ratio = vae.log_prob(x.expand(20_000, 1, 2, 2), 1, gen(0)).exp()
    assert abs(float(ratio.mean() - truth)) < 5 * float(ratio.std()) / 20_000**0.5


def test_the_two_parts_are_the_negative_elbo():
    """−ELBO = E_q [log q(z|x) − log p(x, z)], by quadrature over the one latent variable."""
    vae, x = small(1, scale=2.0), images(5, 1)
    with torch.no_grad():
        mean, std = vae.encode(x)
        nodes = torch.linspace(-8, 8, 161)
        weight = Normal(0.0, 1.0).log_prob(nodes.double()).exp() * (16 / 160)
        total, direct = 0.0, 0.0
        for eps, w in zip(nodes, weight, strict=True):
            e = eps.expand(5, 1)
            parts = vae(x, e)
            z = mean + std * e
            log_q = Normal(mean.double(), std.double()).log_prob(z.double()).sum(1)
            log_p = Normal(0.0, 1.0).log_prob(z.double()).sum(1) + vae.log_likelihood(x, z)
            total, direct = total + w * (parts.reconstruction + parts.kl), direct + w * (log_q - log_p)
    torch.testing.assert_close(total, direct, rtol=1e-5, atol=1e-5)


def test_probabilities_of_all_images_sum_to_one():
    """A VAE of one pixel with three levels: p(x | z) sums to 1 over the levels for every z."""
    torch.manual_seed(0)
    vae = VAE((1, 1, 1), latent=2, width=8, levels=3).eval()
    z = torch.randn(7, 2, generator=gen(1))
    levels = torch.tensor([-1.0, 0.0, 1.0])
    with torch.no_grad():
        total = sum(vae.log_likelihood(v.expand(7, 1, 1, 1), z).exp() for v in levels)
    torch.testing.assert_close(total, torch.ones(7, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_the_likelihood_is_that_of_the_discrete_bound():
    vae, x = small(2, latent=3), images(4, 2)
    z = torch.randn(4, 3, generator=gen(3))
    with torch.no_grad():
        mean, std = vae.decode(z)
        truth = discretised_log_prob(x, mean.double(), std.double(), 17).flatten(1).sum(1)
        torch.testing.assert_close(vae.log_likelihood(x, z), truth)
    assert mean.shape == (4, 1, 2, 2) and bool((std > 0).all())


def test_gradients_are_finite_far_from_the_data():
    vae = small(0, latent=2, scale=30.0)
    sum(vae(images(8), torch.randn(8, 2, generator=gen(0)))).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in vae.parameters())


def test_the_gradient_is_the_pathwise_one():
    """Reparametrised: the slope of the loss at fixed ε is its difference quotient in a parameter."""
    vae, x, eps = small(3, latent=2).double(), images(3, 3).double(), torch.randn(3, 2, generator=gen(1)).double()
    sum(vae(x, eps)).sum().backward()
    bias, h = vae.encoder[-1].bias, 1e-6
    slope = float(bias.grad[0])
    values = []
    with torch.no_grad():
        for step in (h, -2 * h):
            bias[0] += step
            values.append(float(sum(vae(x, eps)).sum()))
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_samples():
    vae = small(0, latent=2, scale=3.0)
    means, again = (vae.sample(5, gen(1)) for _ in range(2))
    assert means.shape == (5, 1, 2, 2) and torch.equal(means, again) and bool((means.abs() <= 1).all())
    drawn = vae.sample(500, gen(1), noise=True)
    on_levels = (drawn + 1) * 8
    torch.testing.assert_close(on_levels, on_levels.round())
    assert len(drawn.unique()) > 5


@pytest.mark.parametrize("seed", range(2))
def test_drawn_levels_have_the_probabilities_of_the_likelihood(seed):
    """One pixel: the shares of 20,000 draws against E_z p(x | z) from as many z, within 5 standard errors."""
    torch.manual_seed(seed)
    vae = VAE((1, 1, 1), latent=1, width=8, levels=5).eval()
    drawn = vae.sample(20_000, gen(seed), noise=True).flatten()
    z = torch.randn(20_000, 1, generator=gen(seed + 9))
    for value in torch.linspace(-1, 1, 5):
        with torch.no_grad():
            p = float(vae.log_likelihood(value.expand(len(z), 1, 1, 1), z).exp().mean())
        share = float(((drawn - value).abs() < 1e-3).double().mean())
        assert abs(share - p) < 5 * math.sqrt(2 * p * (1 - p) / 20_000) + 1e-4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: VAE(latent=0), ValueError, "latent must be at least 1"),
        (lambda: VAE(width=0), ValueError, "width must be at least 1"),
        (lambda: standard_kl(torch.zeros(2, 3), torch.ones(2, 1)), ValueError, "std and mean must have the same shape"),
        (lambda: VAE(levels=1), ValueError, "levels must be at least 2"),
        (lambda: VAE(dropout=1.0), ValueError, "dropout must be"),
        (lambda: small().encode(torch.zeros(2, 1, 3, 3)), ValueError, r"x must have shape \(B, 1, 2, 2\)"),
        (lambda: small().encode(torch.zeros(2, 1, 2, 2).long()), TypeError, "floating-point"),
        (lambda: small().decode(torch.zeros(2, 3)), ValueError, r"z must have shape \(B, 1\), got \(2, 3\)"),
        (lambda: small()(images(2), torch.zeros(2, 4)), ValueError, "same shape"),
        (lambda: small()(images(2) * 0.93, torch.zeros(2, 1)), ValueError, "grey levels"),
        (lambda: small().log_prob(images(2), 0), ValueError, "draws must be at least 1"),
        (lambda: small().sample(0), ValueError, "n must be at least 1"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
