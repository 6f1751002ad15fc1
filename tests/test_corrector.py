"""Weighted particles against the exact law of the finite chains, and of what CFG does not sample."""

import itertools
import math

import pytest
import torch
from test_guidance import Centred

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.conditional import LabelledMixture
from minidiff.denoiser import Denoiser
from minidiff.guidance import autoguidance, cfg, corrected, rescaled
from minidiff.metrics import CountCalls
from minidiff.nets.mlp import MLP
from minidiff.process import LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, last, sample

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(process, mean, std):
    return Gaussian(process, torch.tensor([mean], dtype=F64), std=std)


def chains(process, grid, laws, powers):
    """Mean, variance and log mass at the end of Π_j (path density of chain j)^power_j, from the joint precision.

    Chain j starts at N(0, α² + σ²) and its step s → t is q(x_t | x_s, x_0) at x_0 = D(x_s), from Bayes's rule here:
    precision 1/σ_t² + β²/v with β = α_s/α_t and v = σ_s² − β² σ_t².
    """
    n = len(grid)
    precision, pull, constant = torch.zeros(n, n, dtype=F64), torch.zeros(n, dtype=F64), 0.0
    alpha, sigma = process.alpha(grid).tolist(), process.sigma(grid).tolist()
    start = alpha[0] ** 2 + sigma[0] ** 2
    for (mean, std), power in zip(laws, powers, strict=True):
        precision[0, 0] += power / start
        constant -= power * math.log(start) / 2
        for i in range(n - 1):
            ratio = alpha[i] / alpha[i + 1]
            v = sigma[i] ** 2 - ratio**2 * sigma[i + 1] ** 2
            kernel = 1 / (1 / sigma[i + 1] ** 2 + ratio**2 / v)  # its variance
            gain = alpha[i] * std**2 / (alpha[i] ** 2 * std**2 + sigma[i] ** 2)
            reveal = kernel * alpha[i + 1] / sigma[i + 1] ** 2  # the mean is reveal · D + kernel (ratio/v) x_s
            slope = reveal * gain + kernel * ratio / v
            offset = reveal * (mean - gain * alpha[i] * mean)
            step = torch.zeros(n, dtype=F64)
            step[i + 1], step[i] = 1, -slope
            precision += power / kernel * step[:, None] * step
            pull += power / kernel * offset * step
            constant -= power * (math.log(kernel) + offset**2 / kernel) / 2
    covariance = torch.linalg.inv(precision)
    mass = constant + float(pull @ covariance @ pull) / 2 - float(torch.logdet(precision)) / 2
    return float((covariance @ pull)[-1]), float(covariance[-1, -1]), mass


def noised(process, grid, law):
    """The law of x at the end of the grid."""
    alpha, sigma = float(process.alpha(grid[-1])), float(process.sigma(grid[-1]))
    return alpha * law[0], alpha**2 * law[1] ** 2 + sigma**2


def sharpened(one, zero, w):
    """Mean, variance and log mass of N(m_1, v_1)^w N(m_0, v_0)^{1−w}."""
    (m1, v1), (m0, v0) = one, zero
    v = 1 / (w / v1 + (1 - w) / v0)
    m = v * (w * m1 / v1 + (1 - w) * m0 / v0)
    mass = (m**2 / v - w * m1**2 / v1 - (1 - w) * m0**2 / v0 + math.log(v / (v1**w * v0 ** (1 - w)))) / 2
    return m, v, mass


def moments(made):
    """Mean and second moment of each system, (S,)."""
    shares = made.log_weights.softmax(1)[..., None]
    return (shares * made.x).sum((1, 2)), (shares * made.x.square()).sum((1, 2))


def close(values, exact, slack=0.0):
    """Whether the mean over systems is exact within 4.5 of its standard errors."""
    return abs(float(values.mean()) - exact) < 4.5 * float(values.std()) / math.sqrt(len(values)) + slack


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()], ids=str)
def test_the_product_of_path_densities_ends_in_the_sharpened_density(process):
    """Its exact law at the end approaches p_1^w p_0^{1−w} in mean, variance and mass, at order one in the step."""
    laws, w = ((0.5, 0.5), (0.0, 1.0)), 3.0
    errors = []
    for n in (200, 400, 800):
        grid = times.uniform(n, end=0.02)
        found = chains(process, grid, laws, (w, 1 - w))
        exact = sharpened(*(noised(process, grid, law) for law in laws), w)
        errors.append([abs(a - b) for a, b in zip(found, exact, strict=True)])
    for coarse, fine in itertools.pairwise(errors):
        for a, b in zip(coarse, fine, strict=True):
            assert b < 0.6 * a
    assert max(errors[-1]) < 0.05


@pytest.mark.parametrize("moved_by", [None, 1.0, 1.4, 0.0])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_particles_follow_the_exact_law(moved_by, threshold):
    """Whatever scale moves them; 60 systems of 300 particles, 12 steps, mass without bias."""
    process, w, laws = LinearVP(), 1.8, ((0.4, 0.7), (0.0, 1.0))
    grid = times.uniform(12, end=0.05)
    mean, variance, mass = chains(process, grid, laws, (w, 1 - w))
    guided = autoguidance(*(gaussian(process, *law) for law in laws), w)
    x = process.prior((60, 300, 1), gen(3), dtype=F64)
    made = corrected(guided, x, grid, moved_by=moved_by, threshold=threshold, generator=gen(4))
    first, second = moments(made)
    assert close(first, mean, 0.01)  # 0.01: the bias 1/K of a ratio
    assert close(second, variance + mean**2, 0.01)
    assert close(made.log_normaliser.exp(), math.exp(mass))
    assert (float(made.resampled.double().mean()) > 0) == (threshold > 0.5 or (threshold > 0 and moved_by == 0.0))


@pytest.mark.parametrize("seed", range(2))
def test_it_samples_what_cfg_does_not(seed):
    """c ~ N(0, ¾), s = ½, S = 1, w = 3: variance 0.1, where CFG's chain ends with 0.067 and its ODE with 0.016."""
    process, w, laws = RectifiedFlow(), 3.0, ((0.0, 0.5), (0.0, 1.0))
    D, grid = Centred(process), times.uniform(200, end=0.01)
    _, exact, _ = sharpened(*(noised(process, grid, law) for law in laws), w)
    _, variance, _ = chains(process, grid, laws, (w, 1 - w))
    assert variance == pytest.approx(exact, rel=0.05)
    x = process.prior((40, 250, 1), gen(seed), dtype=F64)
    guided = cfg(D, torch.zeros(10_000, dtype=F64), w)
    made = corrected(guided, x, grid, moved_by=1.0, generator=gen(seed + 10))
    assert close(moments(made)[1], variance, 0.01 * variance)
    plain = last(ancestral(guided, x.flatten(0, 1), grid, generator=gen(seed + 10)))
    assert float(plain.square().mean()) < 0.75 * exact
    assert float(sample(guided, x.flatten(0, 1), 40).square().mean()) < 0.2 * exact


def test_a_mixture_sharpened_on_a_grid():
    """p(x | y)^w p(x)^{1−w} for a class of two components beside another class, by sums over a grid; w = 3."""
    process, w = LinearVP(), 3.0
    means = torch.tensor([[-1.0], [1.0], [0.8]], dtype=F64)
    D = LabelledMixture(process, torch.tensor([2.0, 2, 4]), means, torch.tensor([0, 0, 1]), stds=0.5)
    t, grid = torch.tensor(0.03, dtype=F64), torch.linspace(-5, 5, 2001, dtype=F64)[:, None]
    log_p = w * D.classes[0].log_prob(grid, t) + (1 - w) * D.log_prob(grid, t)
    p, mass = log_p.softmax(0), float(log_p.exp().sum()) * 10 / 2000
    mean, square = float(p @ grid[:, 0]), float(p @ grid[:, 0].square())
    x = process.prior((40, 250, 1), gen(1), dtype=F64)
    guided = cfg(D, torch.zeros(10_000, dtype=torch.int64), w)
    nodes = times.log_snr(process, 200, r_max=140.0, r_min=math.exp(-float(process.lam(t))))
    made = corrected(guided, x, nodes, generator=gen(2))
    first, second = moments(made)
    assert close(first, mean, 0.02)  # 200 steps leave 2 % of the second moment and 4 % of the mass
    assert close(second, square, 0.03 * square)
    assert close(made.log_normaliser.exp(), mass, 0.05 * mass)
    assert float(sample(guided, x.flatten(0, 1), 40).square().mean()) > 1.2 * square


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_the_ends_are_one_chain_without_weights(w):
    process, grid = LinearVP(), times.uniform(10)
    D, others = gaussian(process, 0.3, 0.6), [gaussian(process, m, 1.0) for m in (0.0, 2.0)]
    x = process.prior((2, 5, 1), gen(), dtype=F64)
    made = [
        corrected(autoguidance(*((D, other) if w else (other, D)), w), x, grid, generator=gen(1)) for other in others
    ]
    assert torch.equal(made[0].x, made[1].x)
    for found in made:
        assert found.log_weights.abs().max() == 0
        assert found.log_normaliser.abs().max() == 0
        assert found.resampled.sum() == 0


def test_the_step_to_the_data_is_guided_by_w():
    """From t = 1 to σ = 0 in one step, x is x̂_0 under w whatever moves the particles, and has no weight."""
    guided = autoguidance(gaussian(RectifiedFlow(), 0.8, 0.5), gaussian(RectifiedFlow(), 0.0, 1.0), 2.5)
    x = torch.randn(2, 4, 1, generator=gen(), dtype=F64)
    made = corrected(guided, x, times.uniform(1), moved_by=1.0, generator=gen(1))
    torch.testing.assert_close(made.x, torch.full_like(x, 2.5 * 0.8))
    assert made.log_weights.abs().max() == 0


def test_two_calls_a_step_and_systems_of_their_own():
    process, grid = LinearVP(), times.uniform(7)
    D1, D0 = CountCalls(gaussian(process, 0.3, 0.6)), CountCalls(gaussian(process, 0.0, 1.0))
    guided = autoguidance(D1, D0, 2.5)
    x = process.prior((2, 6, 1), gen(), dtype=F64)
    both = corrected(guided, x, grid, moved_by=1.0, threshold=1.0, generator=[gen(1), gen(2)])
    assert (D1.calls, D0.calls) == (7, 7)
    one = corrected(guided, x[1:], grid, moved_by=1.0, threshold=1.0, generator=[gen(2)])
    torch.testing.assert_close(both.x[1:], one.x)
    torch.testing.assert_close(both.log_weights[1:], one.log_weights)
    assert both.resampled.tolist()[1] == one.resampled.tolist()[0] > 0


def test_pictures_and_single_precision():
    D = Denoiser(MLP(12, 8, 1, classes=3), LinearVP(), "v")
    x = torch.randn(2, 3, 3, 2, 2, generator=gen())
    with torch.no_grad():
        made = corrected(cfg(D, torch.tensor([0, 0, 0, 2, 2, 2]), 2.0), x, times.uniform(4), generator=gen())
    assert made.x.shape == x.shape
    assert made.x.dtype == torch.float32
    assert bool(torch.isfinite(made.x).all())


def test_refusals():
    process, grid = LinearVP(), times.uniform(3)
    D1, D0 = gaussian(process, 0.0, 0.5), gaussian(process, 0.0, 1.0)
    net = MLP(1, 8, 1)
    coupled = Denoiser(net, RectifiedFlow(), "velocity", coupled=True)
    guided, x = autoguidance(D1, D0, 2.0), torch.zeros(2, 3, 1, dtype=F64)
    for call, error, message in (
        (lambda: corrected(D1, x, grid), TypeError, "the Guided of cfg or autoguidance"),
        (lambda: corrected(autoguidance(D1, D0, 2.0, (0.1, 2.0)), x, grid), ValueError, "no interval"),
        (lambda: corrected(autoguidance(D1, D0, torch.ones(6)), x, grid), ValueError, "one number w at all times"),
        (lambda: corrected(rescaled(guided), x, grid), ValueError, "no rescaling"),
        (lambda: corrected(autoguidance(coupled, coupled, 2.0), x, grid), ValueError, "independent noise"),
        (lambda: corrected(guided, x[0], grid), ValueError, r"x must be \(S, K, \*D\)"),
        (lambda: corrected(guided, x, grid, threshold=2.0), ValueError, "threshold must be"),
        (lambda: corrected(guided, x, grid, moved_by=math.nan), ValueError, "moved_by must be"),
        (lambda: corrected(guided, x, grid.float()), (TypeError, ValueError), "times"),
    ):
        with pytest.raises(error, match=message):
            call()
