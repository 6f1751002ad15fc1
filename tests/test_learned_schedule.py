"""Schedules of bands: inverse, rates and density agree, and training finds the best durations in closed form."""

import math

import pytest
import torch

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.continuous_bound import diffusion_term
from minidiff.learned_schedule import BandedVP, LearnedSchedule, banded_density
from minidiff.process import CosineVP, LinearVP, RectifiedFlow

DURATIONS = (0.1, 0.4, 0.2, 0.3)
T = torch.linspace(0, 1, 101, dtype=torch.float64)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_ends_and_the_borders():
    process = BandedVP(3.0, -1.0, DURATIONS)
    ends = torch.tensor([0.0, 0.1, 0.5, 0.7, 1.0], dtype=torch.float64)
    torch.testing.assert_close(process.lam(ends), torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0], dtype=torch.float64))
    assert process.lam_range == pytest.approx((-1.0, 3.0))


def test_variance_is_preserved_and_lambda_is_that_of_alpha_and_sigma():
    process = BandedVP(3.0, -1.0, DURATIONS)
    alpha, sigma = process.alpha(T), process.sigma(T)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(T))
    torch.testing.assert_close((alpha / sigma).log(), process.lam(T))
    torch.testing.assert_close(process.time(process.lam(T)), T, rtol=0, atol=1e-12)
    assert process.lam(T.float()).dtype == torch.float32


def test_rates_are_difference_quotients_inside_the_bands():
    process, h = BandedVP(3.0, -1.0, DURATIONS), 1e-6
    t = torch.tensor([0.05, 0.3, 0.65, 0.85], dtype=torch.float64)
    for rate, of in zip(process.rates(t), (process.alpha, process.sigma), strict=True):
        torch.testing.assert_close(rate, (of(t + h) - of(t - h)) / (2 * h), rtol=1e-8, atol=1e-9)


def test_one_band_is_uniform_in_lambda():
    process = BandedVP(2.0, -2.0)
    torch.testing.assert_close(process.lam(T), 2 - 4 * T)


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow(), CosineVP()], ids=lambda p: type(p).__name__)
def test_the_density_integrates_to_one_and_inverts_its_distribution(process):
    law = banded_density(process, 3.0, -1.0, DURATIONS)
    u = torch.linspace(0, 1, 40_001, dtype=torch.float64)
    t = law.inverse_cdf(u)
    assert bool((t[1:] > t[:-1]).all())
    # dt/du · p(t) = 1 away from the borders, where p jumps.
    middle, p = (t[1:] + t[:-1]) / 2, None
    p = law.pdf(middle) * (t[1:] - t[:-1]) * 40_000
    away = ((process.lam(middle) - process.lam(middle).round()).abs() > 1e-2) | (len(DURATIONS) == 1)
    torch.testing.assert_close(p[away], torch.ones_like(p[away]), rtol=1e-4, atol=1e-4)
    outside = process.time(torch.tensor([3.3, -1.2], dtype=torch.float64))
    assert law.pdf(outside).tolist() == [0.0, 0.0]


def test_schedule_and_density_give_the_same_estimate_draw_by_draw():
    """The process BandedVP at clock u, and LinearVP at the time of the same λ with its density: one number."""
    banded, process = BandedVP(3.0, -1.0, DURATIONS), LinearVP()
    law = banded_density(process, 3.0, -1.0, DURATIONS)
    zero = torch.zeros(2, dtype=torch.float64)
    x0, eps = (torch.randn(50, 2, generator=gen(s), dtype=torch.float64) for s in (0, 1))
    u = times.uniform_density()(50, gen(2))
    first = diffusion_term(Gaussian(banded, zero, std=0.8), x0, u, eps)
    second = diffusion_term(Gaussian(process, zero, std=0.8), x0, law.inverse_cdf(u), eps, density=law)
    torch.testing.assert_close(first, second, rtol=1e-7, atol=1e-9)


def band_means(bands, lam_max, lam_min, f):
    """The mean of f(λ) over each band, by the midpoint rule."""
    width = (lam_max - lam_min) / bands
    inside = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    starts = lam_max - width * torch.arange(bands, dtype=torch.float64)
    return f(starts[:, None] - width * inside).mean(1)


def test_the_second_moment_is_that_of_the_estimate():
    schedule = LearnedSchedule(3.0, -1.0, 4)
    with torch.no_grad():
        schedule.logits.copy_(torch.tensor(DURATIONS).log())
    lam = 3 - 4 * (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    error = torch.exp(-lam)
    got = schedule.second_moment(lam, error, torch.full_like(lam, 1 / 4)).mean()
    m = band_means(4, 3.0, -1.0, lambda v: torch.exp(-2 * v))
    torch.testing.assert_close(got, (m / schedule.durations).sum(), rtol=1e-5, atol=1e-9)  # Δ = 1
    # And as what it is for: E ℓ² over the clock of the process.
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    process = schedule.process()
    slope = torch.tensor([1 / w for w in DURATIONS], dtype=torch.float64)
    k = (3 - process.lam(t)).floor().clamp(0, 3).long()
    torch.testing.assert_close(got, (slope[k] * torch.exp(-process.lam(t))).square().mean(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_training_finds_the_durations_in_proportion_to_the_root_of_the_fourth_moment(seed):
    schedule = LearnedSchedule(3.0, -1.0, 4)
    optimiser, g = torch.optim.Adam([schedule.logits], 0.05), gen(seed)
    for step in range(400):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 400)
        lam = 3 - 4 * torch.rand(256, generator=g, dtype=torch.float64)
        loss = schedule.second_moment(lam, torch.exp(-lam), torch.full_like(lam, 1 / 4)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    best = band_means(4, 3.0, -1.0, lambda v: torch.exp(-2 * v)).sqrt()
    torch.testing.assert_close(schedule.durations.detach(), best / best.sum(), rtol=0.05, atol=2e-3)


def test_the_learned_schedule_as_process_and_as_density():
    schedule = LearnedSchedule(2.0, -3.0, 5)
    assert schedule.process().durations == pytest.approx((0.2,) * 5)
    law = schedule.density(LinearVP())
    assert law.durations == pytest.approx((0.2,) * 5)
    lam = torch.tensor([1.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.density_at(lam).detach(), torch.full((2,), 0.2, dtype=torch.float64))
    t = LinearVP().time(lam)
    speed = LinearVP().rates(t)[1] / LinearVP().sigma(t) - LinearVP().rates(t)[0] / LinearVP().alpha(t)
    torch.testing.assert_close(law.pdf(t), 0.2 * speed)


def moment(**changed):
    lam = torch.tensor([0.5, 1.0], dtype=torch.float64)
    call = {"lam": lam, "error": torch.ones_like(lam), "drawn": torch.ones_like(lam)}
    return LearnedSchedule(2.0, 0.0).second_moment(**(call | changed))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: BandedVP(1.0, 2.0), ValueError, "lam_min must lie below lam_max, got 2.0 and 1.0"),
        (lambda: BandedVP(math.inf, 2.0), ValueError, "lam_max must be a finite number"),
        (lambda: BandedVP(2.0, 1.0, [1.0]), TypeError, "non-empty tuple of floats, got list"),
        (lambda: BandedVP(2.0, 1.0, ()), TypeError, "non-empty tuple"),
        (lambda: BandedVP(2.0, 1.0, (0.5, 0.6)), ValueError, "sum to 1, got 1.1"),
        (lambda: BandedVP(2.0, 1.0, (1.5, -0.5)), ValueError, "duration 0 must be a finite number"),
        (lambda: BandedVP(2.0, 1.0).time(torch.tensor([2.5])), ValueError, r"λ must lie in \[1, 2\]"),
        (lambda: banded_density(LinearVP(), 2.0, -9.0), ValueError, "got -9.0 and 2.0"),
        (lambda: LearnedSchedule(2.0, 1.0, 0), ValueError, "bands must be at least 1"),
        (lambda: LearnedSchedule(1.0, 1.0), ValueError, "lam_min must lie below"),
        (lambda: moment(error=torch.ones(3)), ValueError, "same shape"),
        (lambda: moment(drawn=torch.ones(3)), ValueError, "same shape"),
        (lambda: moment(lam=torch.tensor([0.5, 2.5]).double()), ValueError, r"λ must lie in \[0, 2\]"),
        (lambda: moment(drawn=torch.zeros(2).double()), ValueError, "drawn must be positive"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
