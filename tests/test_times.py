"""Sampling grids and training densities against their defining equations."""

import itertools
import math

import numpy as np
import pytest
import torch
from processes import PROCESSES

from minidiff import times
from minidiff.process import EDM, VE, CosineVP, LinearVP, RectifiedFlow

OWN_SIGMA_ZERO = [p for p in PROCESSES if not isinstance(p, VE | EDM)]
VARIABLES = {
    "log_snr": (times.log_snr, torch.log),
    "karras": (times.karras, lambda r: r ** (1 / 7)),
    "cosine_angle": (times.cosine_angle, torch.atan),
}
DENSITIES = [
    times.uniform_density(),
    times.uniform_density(0.1, 0.7),
    times.log_normal_density(EDM(), -1.2, 1.2),
    times.log_normal_density(CosineVP(), 0.5, 1.0),
    times.log_normal_density(VE(), -4.0, 1.0),  # the lower end of VE cuts a quarter of the mass away
    times.logit_normal_density(),
    times.logit_normal_density(-0.5, 0.7),
    times.low_discrepancy(),
    times.low_discrepancy(times.logit_normal_density()),
]


def name(value):
    return str(value)[:40]


def r_of(process, t):
    return (-process.lam(t)).exp()


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7, 40])
@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_grid_is_uniform_in_its_variable_and_clipped_to_the_process(process, variable, n, zero):
    grid, of_r = VARIABLES[variable]
    t = grid(process, n, zero=zero)
    assert t.shape == (n + 1,) and t.dtype == torch.float64
    least, most = r_of(process, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    inside = t[:-1] if zero and least < 0.002 * (1 - 1e-12) else t
    r = r_of(process, inside)
    assert float(r[0]) == pytest.approx(min(80.0, most), rel=1e-9)
    if len(r) > 1:
        assert float(r[-1]) == pytest.approx(max(0.002, least), rel=1e-6)
        steps = of_r(r).diff()
        torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-6, atol=1e-8)
    if zero:
        assert float(t[-1]) == 0.0
    if most <= 80:
        assert float(t[0]) == 1.0


@pytest.mark.parametrize("n", [1, 5, 18])
def test_karras_grid_on_edm_is_uniform_time(n):
    """EDM's process is the Karras schedule run at unit speed, so its grid in time is the uniform one."""
    torch.testing.assert_close(times.karras(EDM(), n), times.uniform(n), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_grid_is_the_published_one(rho):
    """Karras et al. 2022, eq. 5, written as printed: σ_i for i < N, then 0."""
    n, low, high = 18, 0.002, 80.0
    t = times.karras(RectifiedFlow(), n, rho=rho, zero=True)
    printed = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    np.testing.assert_allclose(r_of(RectifiedFlow(), t).numpy(), [*printed, 0.0], rtol=1e-9)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize(("low", "high"), [(0.01, 50.0), (0.003, 70.0), (0.007, 30.0), (0.011, 7.0), (0.3, 1.7)])
def test_a_grid_over_the_whole_range_of_a_process_is_exactly_from_one_to_zero(variable, low, high):
    """σ = e^{−λ} is the asked-for r only up to rounding, above it or below; the times are exact."""
    for process in (VE(low, high), EDM(low, high)):
        t = VARIABLES[variable][0](process, 5, r_max=high, r_min=low)
        assert (float(t[0]), float(t[-1])) == (1.0, 0.0)


@pytest.mark.parametrize("process", OWN_SIGMA_ZERO, ids=name)
def test_cosine_angle_reaches_both_ends(process):
    t = times.cosine_angle(process, 9, sigma_data=0.7, r_max=math.inf, r_min=0.0)
    assert (float(t[0]), float(t[-1])) == (1.0, 0.0)
    steps = torch.atan(r_of(process, t) / 0.7).diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-6, atol=1e-8)


def test_gaussian_denoiser_is_the_cosine_of_the_angle():
    """What the grid is for: for data N(0, s²) the denoiser along the exact flow is proportional to cos θ."""
    process, s = CosineVP(), 0.6
    t = times.cosine_angle(process, 12, sigma_data=s, r_max=math.inf, r_min=0.0)
    alpha, sigma = process.alpha(t), process.sigma(t)
    variance = alpha**2 * s**2 + sigma**2
    x = 1.3 * variance.sqrt()  # the probability-flow path of one Gaussian
    D = alpha * s**2 / variance * x
    theta = torch.linspace(math.pi / 2, 0, 13, dtype=torch.float64)
    torch.testing.assert_close(D, 1.3 * s * theta.cos(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [1, 3, 10, 300, 1000])
def test_trailing_matches_diffusers(n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    t = times.trailing(n, 1000)
    assert ((t[:-1] * 1000).round().long() - 1).tolist() == scheduler.timesteps.tolist()
    assert (float(t[0]), float(t[-1])) == (1.0, 0.0)
    assert all(a > b for a, b in itertools.pairwise(t.tolist()))


def test_uniform_and_pairwise():
    t = times.uniform(4, start=0.9, end=0.1)
    np.testing.assert_allclose(t.numpy(), [0.9, 0.7, 0.5, 0.3, 0.1], rtol=1e-15)
    steps = [(float(s), float(t)) for s, t in times.pairwise(t)]
    assert steps == list(itertools.pairwise(t.tolist()))


f64 = torch.float64


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([1.0, 0.5], TypeError, "float64 tensor, got list"),
        (torch.tensor([1.0, 0.5]), TypeError, "float64 tensor, got torch.float32"),
        (torch.tensor([1.0, 0.5], dtype=f64, device="meta"), ValueError, "on the CPU .* got meta"),
        (torch.tensor(1.0, dtype=f64), ValueError, r"shape \(n \+ 1,\) .* got \(\)"),
        (torch.tensor([1.0], dtype=f64), ValueError, r"n ≥ 1 steps, got \(1,\)"),
        (torch.ones(2, 2, dtype=f64), ValueError, r"got \(2, 2\)"),
        (torch.tensor([1.0, math.nan], dtype=f64), ValueError, "finite"),
        (torch.tensor([1.5, 0.5], dtype=f64), ValueError, r"in \[0, 1\], got values from 0.5 to 1.5"),
        (torch.tensor([0.5, -0.1], dtype=f64), ValueError, "-0.1"),
        (torch.tensor([1.0, 0.5, 0.5], dtype=f64), ValueError, r"times\[1\] = 0.5 then 0.5"),
        (torch.tensor([0.0, 1.0], dtype=f64), ValueError, r"strictly decreasing, got times\[0\] = 0.0"),
    ],
)
def test_check_times_says_what_is_wrong(bad, error, message):
    with pytest.raises(error, match=message):
        times.check_times(bad)
    with pytest.raises(error, match=message):
        times.pairwise(bad)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: times.uniform(0), ValueError, "n must be at least 1, got 0"),
        (lambda: times.uniform(2.0), TypeError, "integer, got float"),
        (lambda: times.uniform(2, start=0.1, end=0.5), ValueError, "strictly decreasing"),
        (lambda: times.uniform(2, end=-0.1), ValueError, r"end must be .*\[0.0, 1.0\], got -0.1"),
        (lambda: times.trailing(11, 10), ValueError, "at most the chain's 10 steps, got 11"),
        (lambda: times.log_snr(LinearVP(), 3, r_min=0.0), ValueError, "0 < r < ∞ at both ends"),
        (lambda: times.log_snr(RectifiedFlow(), 3, r_max=math.inf), ValueError, "0 < r < ∞ .* got inf"),
        (lambda: times.karras(RectifiedFlow(), 3, r_max=math.inf), ValueError, "set r_max and r_min"),
        (lambda: times.karras(EDM(), 3, rho=0.0), ValueError, "rho"),
        (lambda: times.karras(EDM(), 3, r_max=0.1, r_min=0.2), ValueError, "r_min < r_max, got 0.1 and 0.2"),
        (lambda: times.log_snr(EDM(), 3, r_min=math.nan), ValueError, "r_min < r_max, got 80.0 and nan"),
        (lambda: times.karras(VE(), 3, r_max=0.005), ValueError, "must meet the range of r of VE"),
        (lambda: times.log_snr(EDM(), 0), ValueError, "n must be at least 1"),
        (lambda: times.cosine_angle(EDM(), 3, sigma_data=0.0), ValueError, "sigma_data"),
        (lambda: times.uniform_density(0.5, 0.5), ValueError, "low must be below high, got 0.5 and 0.5"),
        (lambda: times.uniform_density(-0.5, 0.5), ValueError, "low must be"),
        (lambda: times.log_normal_density(EDM(), 0.0, 0.0), ValueError, "std"),
        (lambda: times.log_normal_density(EDM(), 60.0, 1.0), ValueError, "no mass in the range of EDM"),
        (lambda: times.logit_normal_density(math.nan), ValueError, "mean"),
        (lambda: times.uniform_density()(0), ValueError, "n must be at least 1, got 0"),
        (lambda: times.Density()(3), NotImplementedError, "Density must define inverse_cdf"),
        (lambda: times.Density().pdf(torch.ones(1)), NotImplementedError, "Density must define pdf"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def cdf_on_grid(density, n=200_001):
    """The distribution function by trapezoids of the pdf, on a grid that is dense at both ends."""
    u = torch.linspace(0, 1, n, dtype=torch.float64)
    t = (u**4 * (35 - 84 * u + 70 * u**2 - 20 * u**3)).clamp(0, 1)
    return t, torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(density.pdf(t), t)])


@pytest.mark.parametrize("density", DENSITIES, ids=name)
def test_pdf_integrates_to_one(density):
    _, cdf = cdf_on_grid(density)
    assert float(cdf[-1]) == pytest.approx(1.0, abs=1e-4)


def test_uniform_density_is_one_over_the_length_inside_and_zero_outside():
    t = torch.tensor([0.0, 0.19, 0.2, 0.5, 0.6, 0.61, 1.0], dtype=torch.float64)
    expected = torch.tensor([0, 0, 2.5, 2.5, 2.5, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(times.uniform_density(0.2, 0.6).pdf(t), expected)


@pytest.mark.parametrize("density", DENSITIES, ids=name)
def test_inverse_cdf_inverts_the_integral_of_the_pdf(density):
    t, cdf = cdf_on_grid(density)
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    back = np.interp(density.inverse_cdf(u).numpy(), t.numpy(), cdf.numpy())
    np.testing.assert_allclose(back, u.numpy(), atol=1e-4)


@pytest.mark.parametrize("density", DENSITIES, ids=name)
def test_draws_follow_the_pdf(density):
    """Kolmogorov–Smirnov: sup |F_n − F| √n exceeds 1.95 once in a thousand seeds for independent draws."""
    n = 20_000
    draws = density(n, gen(1)).sort().values
    assert draws.dtype == torch.float64 and float(draws[0]) >= 0 and float(draws[-1]) <= 1
    t, cdf = cdf_on_grid(density)
    distance = np.abs(np.interp(draws.numpy(), t.numpy(), cdf.numpy()) - (np.arange(n) + 0.5) / n).max()
    assert distance * math.sqrt(n) < 1.95


@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("density", [DENSITIES[0], DENSITIES[5]], ids=name)
def test_pdf_over_lambda_integrates_to_one(density, process):
    t = torch.linspace(1e-7, 1 - 1e-7, 400_001, dtype=torch.float64)
    mass = torch.trapezoid(density.pdf_lam(process, t), -process.lam(t))
    assert float(mass) == pytest.approx(1.0, abs=2e-3)


def test_log_normal_density_over_lambda_is_that_normal():
    process = RectifiedFlow()
    density = times.log_normal_density(process, -0.4, 0.8)
    log_r = torch.linspace(-3, 3, 31, dtype=torch.float64)
    truth = torch.distributions.Normal(log_r.new_tensor(-0.4), 0.8).log_prob(log_r).exp()
    torch.testing.assert_close(density.pdf_lam(process, process.time(-log_r)), truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_densities_are_finite_at_both_ends(process):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for density in (times.uniform_density(), times.logit_normal_density(), times.log_normal_density(process)):
        assert bool(torch.isfinite(density.pdf(ends)).all())
        assert bool(torch.isfinite(density.pdf_lam(process, ends)).all())


def test_log_normal_draws_are_log_normal_in_sigma():
    """On EDM's process ln σ_t is N(−1.2, 1.2²): mean and std within 4 standard errors at n = 20 000."""
    n, process = 20_000, EDM()
    log_sigma = process.sigma(times.log_normal_density(process)(n, gen(2))).log()
    assert abs(float(log_sigma.mean()) + 1.2) < 4 * 1.2 / math.sqrt(n)
    assert abs(float(log_sigma.std()) - 1.2) < 4 * 1.2 / math.sqrt(2 * n)


def test_low_discrepancy_is_vdms_formula():
    first = torch.rand(1, generator=gen(3), dtype=torch.float64)
    expected = (first + torch.arange(8, dtype=torch.float64) / 8) % 1
    torch.testing.assert_close(times.low_discrepancy()(8, gen(3)), expected, rtol=0, atol=0)
    wrapped = times.logit_normal_density(0.3, 0.5)
    torch.testing.assert_close(times.low_discrepancy(wrapped)(8, gen(3)), wrapped.inverse_cdf(expected))


@pytest.mark.parametrize("density", [DENSITIES[1], DENSITIES[5]], ids=name)
def test_low_discrepancy_shrinks_the_variance_of_a_batch_mean(density):
    """Over 200 batches of 64 the variance of the mean of a smooth function falls by far more than tenfold."""

    def variance(draw):
        g = gen(4)
        return float(torch.stack([torch.cos(3 * draw(64, g)).mean() for _ in range(200)]).var())

    assert variance(times.low_discrepancy(density)) < variance(density) / 30


@pytest.mark.parametrize("density", DENSITIES, ids=name)
def test_the_generator_decides_the_draw(density):
    torch.testing.assert_close(density(5, gen(7)), density(5, gen(7)), rtol=0, atol=0)
    assert not torch.equal(density(5, gen(7)), density(5, gen(8)))
