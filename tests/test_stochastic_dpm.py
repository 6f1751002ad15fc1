"""DPM-Solver++ with noise: its identities, its weak order on a Gaussian exactly, and other libraries with our noise."""

import math

import pytest
import torch
from processes import FORMULAS, LINEAR_BETAS, name
from test_orders import mixture

from minidiff import times
from minidiff.affine_law import affine_law
from minidiff.analytic import Gaussian
from minidiff.metrics import CountCalls
from minidiff.process import CosineVP, LinearVP, RectifiedFlow, Tabulated
from minidiff.samplers import ancestral, dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, dpmpp_sde, last, path, sa_solver

F64 = torch.float64
BOTH = pytest.mark.parametrize("method", [dpmpp_2m_sde, dpmpp_sde])


def gen(seed=5):
    return torch.Generator().manual_seed(seed)


def uniform_grid(process, n, lam=(-2.0, 1.5)):
    return process.time(torch.linspace(*lam, n + 1, dtype=F64))


@pytest.mark.parametrize(("method", "other"), [(dpmpp_2m_sde, dpmpp_2m), (dpmpp_sde, dpmpp_2s)])
@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_without_noise(method, other, process):
    D, T = mixture(process), uniform_grid(process, 9)
    x = process.prior((5, 2), gen(), dtype=F64)
    torch.testing.assert_close(path(method(D, x, T, tau=0.0)), path(other(D, x, T)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_the_first_step_of_2m_is_the_posterior(process):
    D, T = mixture(process), uniform_grid(process, 6)[:2]
    x = process.prior((5, 2), gen(), dtype=F64)
    ours = last(dpmpp_2m_sde(D, x, T, generator=gen()))
    torch.testing.assert_close(ours, last(ancestral(D, x, T, generator=gen())), rtol=0, atol=1e-11)


def test_2m_is_sa_solver_up_to_the_weight_of_the_slope():
    """½ (1 − e^{−κh}) in place of 1 − (1 − e^{−κh})/(κh); the noise is the same."""
    process, tau, h = LinearVP(), 0.7, 3.5 / 9
    D, T = mixture(process), uniform_grid(process, 9)[:3]
    x = process.prior((5, 2), gen(), dtype=F64)
    ours = list(dpmpp_2m_sde(D, x, T, tau=tau, generator=gen()))
    theirs = list(sa_solver(D, x, T, tau=tau, order=2, corrector=False, generator=gen()))
    k = (1 + tau**2) * h
    difference = (-math.expm1(-k) / 2 - (1 + math.expm1(-k) / k)) * (ours[2].x0 - ours[1].x0)
    expected = theirs[2].x + float(process.alpha(T[2])) * difference
    torch.testing.assert_close(ours[2].x, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_midpoint_by_hand(process):
    tau, (lam_s, lam_t) = 0.8, (-0.5, 0.4)
    lam_m = (lam_s + lam_t) / 2
    s, m, t = process.time(torch.tensor([lam_s, lam_m, lam_t], dtype=F64))
    D = mixture(process)
    x = process.prior((4, 2), gen(), dtype=F64)
    g = gen(3)
    z, z2 = (torch.randn(4, 2, generator=g, dtype=F64) for _ in range(2))
    (a_m, a_t), (s_s, s_m, s_t) = process.alpha(torch.stack([m, t])), process.sigma(torch.stack([s, m, t]))
    h, k = lam_t - lam_s, 1 + tau**2
    n_m = math.sqrt(1 - math.exp(-(tau**2) * h)) * z
    u = s_m / s_s * math.exp(-(tau**2) * h / 2) * x + a_m * (1 - math.exp(-k * h / 2)) * D(x, s) + s_m * n_m
    n_t = math.exp(-(tau**2) * h / 2) * n_m + math.sqrt(1 - math.exp(-(tau**2) * h)) * z2
    end = s_t / s_s * math.exp(-(tau**2) * h) * x + a_t * (1 - math.exp(-k * h)) * D(u, m) + s_t * n_t
    state = list(dpmpp_sde(D, x, torch.stack([s, t]), tau=tau, generator=gen(3)))[-1]
    torch.testing.assert_close(state.x, end, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state.x0, D(x, s))


@BOTH
@pytest.mark.parametrize("tau", [0.5, 1.5])
def test_weak_order_two(method, tau):
    """The error of the variance on N(0, 0.6²), exactly."""
    process = LinearVP()
    D, errors = Gaussian(process, torch.zeros(1, dtype=F64), std=0.6), []
    for n in (40, 160):
        T = uniform_grid(process, n)
        law = affine_law(lambda x, g, T=T: last(method(D, x, T, tau=tau, generator=g)), 2 * n)
        v = (process.alpha(T) * 0.6) ** 2 + process.sigma(T) ** 2
        errors.append(abs(law.variance(float(v[0])) / float(v[-1]) - 1))
    assert math.log2(errors[0] / errors[1]) / 2 > 1.8


def test_2m_is_that_of_diffusers_with_our_noise():
    """`sde-dpmsolver++` of order 2 with its own float32 schedule, fed the same predictions and the same noise."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        trained_betas=list(LINEAR_BETAS),
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=False,
        prediction_type="sample",
        final_sigmas_type="sigma_min",
        timestep_spacing="trailing",
    )
    n = 12
    scheduler.set_timesteps(n)
    process = Tabulated(LINEAR_BETAS)
    # sigma_min is the first step of the chain
    visited = torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.tensor([1e-3], dtype=F64)])
    D = mixture(process)
    x = y = torch.randn(6, 2, generator=gen(), dtype=F64)
    noise = gen(1)
    for t, time in zip(scheduler.timesteps, visited, strict=False):
        z = torch.randn(6, 2, generator=noise, dtype=F64)
        y = scheduler.step(D(y, time), t, y, variance_noise=z).prev_sample
    ours = last(dpmpp_2m_sde(D, x, visited, generator=gen(1)))
    torch.testing.assert_close(ours, y.double(), rtol=1e-5, atol=1e-5)


def test_ancestral_is_euler_ancestral_of_diffusers_in_its_coordinates():
    """`EulerAncestralDiscreteScheduler` walks y = x/α with a noise predictor; its step is the posterior's."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerAncestralDiscreteScheduler(
        num_train_timesteps=1000, trained_betas=list(LINEAR_BETAS), timestep_spacing="trailing"
    )
    scheduler.set_timesteps(10)
    process = Tabulated(LINEAR_BETAS)
    T = torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.zeros(1, dtype=F64)])
    D = mixture(process)
    x = torch.randn(6, 2, generator=gen())
    y, noise = x / float(process.alpha(T[0])), gen(1)
    for t, time in zip(scheduler.timesteps, T, strict=False):
        alpha, sigma = float(process.alpha(time)), float(process.sigma(time))
        scheduler.scale_model_input(y, t)
        eps = (alpha * y - alpha * D(alpha * y, time)) / sigma
        y = scheduler.step(eps, t, y, generator=noise).prev_sample
    ours = last(ancestral(D, x, T, generator=gen(1)))
    torch.testing.assert_close(ours, y, rtol=2e-4, atol=2e-4)


@BOTH
@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_from_pure_noise_to_the_data(method, process, n, tau):
    D = CountCalls(mixture(process))
    x = process.prior((4, 2), gen())
    end = last(method(D, x, times.uniform(n), tau=tau, generator=gen()))
    assert end.isfinite().all()
    assert end.dtype == torch.float32
    infinite = 1 + (float(process.alpha(torch.ones(()))) == 0) - (n == 1 and float(process.alpha(torch.ones(()))) == 0)
    assert D.calls == (n if method is dpmpp_2m_sde else 2 * n - infinite)


@BOTH
def test_a_row_of_a_batch_is_its_single_run(method):
    D, T = mixture(LinearVP()), uniform_grid(LinearVP(), 5)
    x = torch.randn(3, 2, generator=gen(), dtype=F64)
    together = last(method(D, x, T, generator=[gen(i) for i in range(3)]))
    alone = last(method(D, x[1:2], T, generator=[gen(1)]))
    torch.testing.assert_close(together[1:2], alone)


@BOTH
def test_bad_options(method):
    D, x, T = mixture(LinearVP()), torch.zeros(1, 2), times.uniform(3)
    with pytest.raises(ValueError, match="tau must be"):
        method(D, x, T, tau=-0.1)
    D.coupled = True
    with pytest.raises(ValueError, match=f"{method.__name__} with tau > 0 adds independent noise"):
        method(D, x, T)
    assert last(method(D, x, T, tau=0.0)).isfinite().all()
