"""Samplers for inverse problems: exact laws on Gaussians, the exact posterior over a data set, costs, refusals."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from minidiff import times
from minidiff.affine_law import affine_law
from minidiff.analytic import Empirical, Gaussian
from minidiff.denoiser import Denoiser
from minidiff.inverse import (
    DPS,
    AveragePool,
    EmpiricalPosterior,
    Mask,
    Matrix,
    averaged_log_likelihood,
    dps_sampler,
    gaussian_log_likelihood,
    isotropic_variance,
    repaint,
    sdedit,
    surviving_kl,
    twisted,
)
from minidiff.metrics import CountCalls, frequencies, nearest_index, total_variation, total_variation_floor
from minidiff.process import LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, ddim, last, steered

F64 = torch.float64
VP = LinearVP()
MASK = Mask(torch.tensor([True, False]))


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=F64)


def pair(correlation):
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=F64)
    return Gaussian(VP, torch.zeros(2, dtype=F64), covariance)


# RePaint


@pytest.mark.parametrize(("repeats", "jump"), [(1, 1), (3, 1), (2, 4), (3, 10), (2, 50)])
def test_repaint_keeps_what_was_measured(repeats, jump):
    """To the bit, at n · repeats calls; the states go back up at the end of every stretch but the last time."""
    D, y, T = CountCalls(pair(0.8)), rand(5, 1), times.uniform(10)
    states = list(repaint(D, rand(5, 2), T, MASK, y, repeats=repeats, jump=jump, generator=gen()))
    assert torch.equal(MASK(states[-1].x), y)
    assert states[-1].t == 0
    assert D.calls == 10 * repeats
    stretches = math.ceil(10 / jump)
    assert sum(b.t > a.t for a, b in pairwise(states)) == stretches * (repeats - 1)


def test_repaint_noises_the_measurement_to_the_level_of_the_state():
    """20 000 rows: mean and standard deviation of what stands at the measured place, within five standard errors."""
    n, T = 20_000, times.uniform(4)
    states = list(repaint(pair(0.8), rand(n, 2), T, MASK, torch.full((n, 1), 0.7).double(), generator=gen()))
    for state in states[1:-1]:
        left = (state.x[:, 0] - 0.7 * float(VP.alpha(state.t))) / float(VP.sigma(state.t))
        assert abs(float(left.mean())) < 5 / n**0.5
        assert abs(float(left.std()) - 1) < 5 / (2 * n) ** 0.5


def test_repaint_goes_back_up_by_the_forward_process():
    """With a denoiser that ignores x, what comes back up has the law of the forward process: known mean, variance."""
    D = Gaussian(VP, torch.tensor([0.7, -0.4], dtype=F64), std=1e-4)
    T = times.uniform(4)
    states = list(
        repaint(D, rand(20_000, 2), T, MASK, torch.full((20_000, 1), 0.7).double(), repeats=2, generator=gen())
    )
    up = [b for a, b in pairwise(states) if b.t > a.t]
    for state in up:
        alpha, sigma = float(VP.alpha(state.t)), float(VP.sigma(state.t))
        torch.testing.assert_close(state.x.mean(0), alpha * D.mean, rtol=0, atol=5 * sigma / 20_000**0.5)
        torch.testing.assert_close(state.x.std(0), torch.full((2,), sigma).double(), rtol=0.03, atol=0)


@pytest.mark.parametrize("seed", range(2))
def test_repeats_bring_repaint_to_the_posterior(seed):
    """Correlation 0.9, measured 2: the mean of the other pixel should be 1.8; 8000 samples, standard error 0.006.

    Without correlation it is what `ancestral` makes of the prior in as many steps.
    """
    n, T = 8000, times.log_snr(VP, 20, r_max=80.0, r_min=0.01, zero=True)
    y, x = torch.full((n, 1), 2.0, dtype=F64), rand(n, 2, seed=seed)

    def law(correlation, repeats):
        made = last(repaint(pair(correlation), x, T, MASK, y, repeats=repeats, generator=gen(seed + 5)))[:, 1]
        return float(made.mean()), float(made.var())

    once, often = law(0.9, 1)[0], law(0.9, 20)[0]
    assert abs(once - 1.8) > 0.5
    assert abs(often - 1.8) < 0.1
    mean, variance = law(0.0, 1)
    assert abs(mean) < 5 / n**0.5
    assert abs(variance - float(last(ancestral(pair(0.0), x, T, generator=gen(3)))[:, 1].var())) < 0.1


# DPS as it is run


def test_dps_sampler_without_a_step_is_ancestral():
    T, x, y = times.uniform(6), rand(4, 2), rand(4, 1)
    made = last(dps_sampler(pair(0.5), x, T, MASK, y, step=0.0, generator=gen()))
    torch.testing.assert_close(made, last(ancestral(pair(0.5), x, T, generator=gen())))


def test_dps_sampler_by_hand():
    """One step: the gradient of |y − A x̂_0| for a Gaussian, whose D is G x with a symmetric G; and at y = A x̂_0."""
    D, x, y, T = CountCalls(pair(0.6)), rand(3, 2), rand(3, 1), torch.tensor([0.7, 0.0], dtype=F64)
    with torch.no_grad():
        x0 = pair(0.6)(x, T[0])
        made = last(dps_sampler(D, x, T, MASK, y, step=0.2))
    assert D.calls == 1
    gain = pair(0.6)(torch.eye(2, dtype=F64), T[0])
    direction = -torch.sign(y - x0[:, :1]) * gain[:1]
    torch.testing.assert_close(made, x0 - 0.2 * direction)
    torch.testing.assert_close(last(dps_sampler(D, x, T, MASK, x0[:, :1], step=0.2)), x0)


# Twisted SMC


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_twisted_is_the_chain_given_the_measurement(seed, threshold):
    """On a Gaussian the chain's end has the variance V of `affine_law`: p(y) = N(y; 0, V + s²), and the posterior.

    40 systems of 400 particles, five standard errors between systems.
    """
    D, T, s, measured = Gaussian(VP, torch.zeros(1, dtype=F64), std=0.6), times.uniform(20), 0.6, 0.8
    chain = affine_law(lambda x, g: last(ancestral(D, x, T, generator=g)), 20).variance(1.0)
    y = torch.full((16_000, 1), measured, dtype=F64)
    x = rand(40, 400, 1, seed=seed)
    likelihood = gaussian_log_likelihood(lambda x: x, y, s)
    made = twisted(D, x, T, likelihood, threshold=threshold, generator=gen(seed + 20))
    z = made.log_normaliser.exp()
    exact = math.exp(-(measured**2) / (2 * (chain + s**2))) / math.sqrt(2 * math.pi * (chain + s**2))
    assert abs(float(z.mean()) - exact) < 5 * float(z.std()) / 40**0.5
    w = made.log_weights.softmax(1)
    means = (w * made.x[..., 0]).sum(1)
    gain = chain / (chain + s**2)
    assert abs(float(means.mean()) - gain * measured) < 5 * float(means.std()) / 40**0.5 + 0.005
    spread = (w * (made.x[..., 0] - gain * measured).square()).sum(1)
    assert abs(float(spread.mean()) - gain * s**2) < 5 * float(spread.std()) / 40**0.5 + 0.005
    assert (int(made.resampled.min()) >= 19) == (threshold == 1.0)


def test_the_normaliser_is_unbiased_for_few_particles_and_any_operator():
    """E Ẑ = E p(y | x_end) under the chain, also for x² measured; 4000 systems of 2."""
    D, T = Gaussian(VP, torch.zeros(1, dtype=F64), std=0.6), times.uniform(8)
    y = torch.full((8000, 1), 0.5, dtype=F64)
    likelihood = gaussian_log_likelihood(torch.square, y, 0.4)
    z = twisted(D, rand(4000, 2, 1), T, likelihood, generator=gen(1)).log_normaliser.exp()
    plain = likelihood(last(ancestral(D, rand(8000, 1, seed=2), T, generator=gen(3)))).exp()
    error = math.hypot(float(z.std()) / 4000**0.5, float(plain.std()) / 8000**0.5)
    assert abs(float(z.mean() - plain.mean())) < 5 * error


def test_the_perfect_twist_leaves_nothing_to_weigh():
    """On N(0, v) the isotropic average is p(y | x_t) itself: the scatter of log Ẑ goes as the steps shrink.

    Its mean is the chain's log p(y), N(0, V + s²) with V of `affine_law`: five standard errors of 20 systems.
    `steered`, at the same calls, scatters far more; so does DPS's own twist where s is small.
    """
    D, s = Gaussian(VP, torch.zeros(1, dtype=F64), std=0.6), 0.2
    y, x, A = torch.full((500, 1), 1.2, dtype=F64), rand(20, 25, 1), Matrix(torch.ones(1, 1))
    likelihood = gaussian_log_likelihood(A, y, s)
    twist = averaged_log_likelihood(A, y, s, isotropic_variance(D))

    def scatter(method, n, **options):
        T = times.log_snr(VP, n, r_max=80.0, r_min=0.01, zero=True)
        counted = CountCalls(D)
        found = method(counted, x, T, likelihood, threshold=0.5, generator=gen(), **options).log_normaliser
        assert counted.calls == n + 1 or counted.calls == n
        total = affine_law(lambda x, g: last(ancestral(D, x, T, generator=g)), n).variance(1.0) + s**2
        exact = -(1.2**2) / (2 * total) - math.log(2 * math.pi * total) / 2
        return float(found.std()), abs(float(found.mean()) - exact)

    coarse, fine = (scatter(twisted, n, log_twist=twist) for n in (40, 320))
    assert fine[0] < coarse[0] / 2
    assert fine[1] < 5 * fine[0] / 20**0.5 + fine[0] ** 2  # the logarithm of a mean lies half a variance below
    assert 5 * coarse[0] < scatter(steered, 40)[0]
    assert 5 * coarse[0] < scatter(twisted, 40)[0]


def test_twisted_without_information_is_steered_without_a_reward():
    """No likelihood to speak of: the ancestral chain, with the same draws as `steered`."""
    D, T, x = pair(0.5), times.uniform(6), rand(2, 5, 2)
    made = twisted(D, x, T, gaussian_log_likelihood(MASK, rand(10, 1), 1e8), generator=gen())
    plain = steered(D, x, T, lambda x: x[:, 0], strength=0.0, generator=gen())
    torch.testing.assert_close(made.x, plain.x)
    assert float(made.log_weights.std()) < 1e-9


# The exact posterior over a small data set


@pytest.mark.parametrize("seed", range(2))
def test_total_variation_to_the_exact_posterior(seed):
    """Twelve points, one linear measurement: the exact denoiser reaches the floor, SMC nearly, DPS does not.

    2000 samples: the floor is 0.021, and a score scatters about its mean by less than 1/(2√2000) = 0.011.
    """
    points, A, s, n = rand(12, 2, seed=11), Matrix(torch.tensor([[1.0, 0.3]])), 0.3, 2000
    prior, y = Empirical(VP, points), torch.full((n, 1), 0.4, dtype=F64)
    T = times.log_snr(VP, 60, r_max=80.0, r_min=0.02)
    x = rand(n, 2, seed=seed)
    exact = EmpiricalPosterior(prior, A, y, s)
    law = exact.log_weights[0].exp()
    floor = total_variation_floor(law, n)

    def distance(D):
        return float(total_variation(frequencies(last(ancestral(D, x, T, generator=gen(seed + 5))), points), law))

    assert distance(exact) < floor + 4 * 0.5 / n**0.5
    assert distance(DPS(prior, A, y, s)) > floor + 8 * 0.5 / n**0.5
    made = twisted(
        prior, rand(20, 400, 2, seed=seed), T, gaussian_log_likelihood(A, y[:1].expand(8000, 1), s), generator=gen(seed)
    )
    weights = (made.log_weights.softmax(1) * (made.log_normaliser.softmax(0))[:, None]).flatten()
    found = weights.new_zeros(12).index_add(0, nearest_index(made.x.flatten(0, 1), points), weights)
    assert float(total_variation(found, law)) < 0.12


# SDEdit and purification


@pytest.mark.parametrize("t", [0.3, 0.6])
def test_sdedit_on_a_gaussian(t):
    """The mean is ϱ g, the variance v (1 − ϱ²), ϱ = α² v/(α² v + σ²): 20 000 samples, 300 steps."""
    v, n = 0.7, 20_000
    D = Gaussian(VP, torch.zeros(1, dtype=F64), std=math.sqrt(v))
    T = VP.time(torch.linspace(float(VP.lam(torch.tensor(t).double())), 5.0, 301, dtype=F64))
    counted = CountCalls(D)
    made = sdedit(counted, torch.full((n, 1), 1.5, dtype=F64), T, generator=gen(2))
    assert counted.calls == 300
    alpha, sigma = float(VP.alpha(T[0])), float(VP.sigma(T[0]))
    kept = alpha**2 * v / (alpha**2 * v + sigma**2)
    expected = v * (1 - kept**2)
    assert abs(float(made.mean()) - kept * 1.5) < 5 * math.sqrt(expected / n) + 0.01
    assert float(made.var()) == pytest.approx(expected, rel=0.05)


def test_sdedit_by_another_method_starts_at_the_noised_guide():
    D, guide, T = pair(0.3), rand(4, 2), torch.tensor([0.5, 0.2, 0.0], dtype=F64)
    made = sdedit(D, guide, T, method=ddim, generator=gen())
    x = VP.noise(guide, T[0], torch.randn(4, 2, generator=gen(), dtype=F64))
    torch.testing.assert_close(made, last(ddim(D, x, T)))


def test_what_survives_of_an_attack():
    """KL of two Gaussians, by torch; decreasing in t; infinite at σ = 0."""
    delta = rand(3, 4)
    t = torch.tensor([0.1, 0.4, 0.9], dtype=F64)
    alpha, sigma = VP.alpha(t)[:, None], VP.sigma(t)[:, None].expand(3, 4)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(alpha * delta, sigma), normal(0 * delta, sigma)).sum(1)
    torch.testing.assert_close(surviving_kl(VP, delta, t), kl)
    with pytest.raises(ValueError, match="infinite where σ = 0"):
        surviving_kl(VP, delta, torch.zeros((), dtype=F64))


def test_refusals():
    D, x, y, T = pair(0.5), rand(4, 2), rand(4, 1), times.uniform(4)
    coupled = Denoiser(nn.Identity(), RectifiedFlow(), "velocity", coupled=True)
    flow = Gaussian(RectifiedFlow(), torch.zeros(2, dtype=F64), std=1.0)
    likelihood = gaussian_log_likelihood(MASK, y, 0.3)
    for call, error, message in (
        (lambda: repaint(coupled, x, T, MASK, y), ValueError, "independent noise"),
        (lambda: repaint(D, x, T, AveragePool((1, 2, 2), 2), y), TypeError, "needs a Mask, got AveragePool"),
        (lambda: repaint(D, x, T, Mask(torch.ones(3) > 0), y), ValueError, r"x must have shape \(B, 3\)"),
        (lambda: repaint(D, x, T, MASK, y[:2]), ValueError, "one measurement a sample"),
        (lambda: repaint(D, x, T, MASK, y, repeats=0), ValueError, "repeats must be at least 1"),
        (lambda: repaint(D, x, T, MASK, y, jump=0), ValueError, "jump must be at least 1"),
        (lambda: dps_sampler(coupled, x, T, MASK, y), ValueError, "independent noise"),
        (lambda: dps_sampler(D, x, T, MASK, y, step=-1.0), ValueError, "step must be"),
        (lambda: dps_sampler(D, x, T, MASK, y[:2]), ValueError, "one measurement a sample"),
        (lambda: dps_sampler(D, x, T, MASK, y / 0), ValueError, "y must be finite"),
        (lambda: twisted(coupled, x[None], T, likelihood), ValueError, "independent noise"),
        (lambda: twisted(D, x, T, likelihood), ValueError, r"x must be \(S, K, \*D\)"),
        (lambda: twisted(D, x[None], T, likelihood, threshold=2.0), ValueError, "threshold must be"),
        (lambda: twisted(D, x[None], T, lambda x: x), ValueError, "one value a row"),
        (lambda: twisted(D, x[None], T, lambda x: x[:, 0] / 0), ValueError, "the log-likelihood must be finite"),
        (lambda: twisted(flow, x[None], T, likelihood), ValueError, "got α = 0"),
        (lambda: gaussian_log_likelihood(MASK, y, -0.3), ValueError, "s must be"),
        (lambda: sdedit(D, x, T[:1]), ValueError, "times"),
    ):
        with pytest.raises(error, match=message):
            call()
