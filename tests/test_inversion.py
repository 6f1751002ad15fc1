"""DDIM inversion and BDIA: closed round trips on Gaussians, exact inverses, orders, calls, refusals."""

import functools
import itertools
import math

import pytest
import torch
from mixtures import three
from processes import FORMULAS, name

from minidiff import ode, times
from minidiff.analytic import Gaussian
from minidiff.metrics import CountCalls
from minidiff.process import CosineVP, LinearVP, RectifiedFlow, TrigFlow
from minidiff.samplers import bdia, ddim, invert, last, path, slerp

F64 = torch.float64
mixture = functools.partial(three, std=0.5)


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def angles(process, n, first, final=math.inf, std=1.0):
    """Rising times, uniform in arctan(r/std)."""
    return times.cosine_angle(process, n, sigma_data=std, r_max=final, r_min=first).flip(0)


class Wild:
    """No conditional mean of anything, steep and curved: what holds for it holds for every denoiser."""

    sigma_data, coupled = 1.0, False

    def __init__(self, process):
        self.process = process

    def __call__(self, x, t):
        return torch.sin(3 * x + t) + 0.3 * torch.cos(2 * x.flip(1))


# ---- DDIM inversion -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [RectifiedFlow(), CosineVP(), LinearVP(), TrigFlow(0.5)], ids=name)
@pytest.mark.parametrize("std", [0.4, 1.0, 2.0])
def test_inversion_shrinks_a_gaussian_as_the_sampler_does(process, std):
    """Up, and down again: each way Π cos Δθ, θ = arctan(r/s)."""
    D = Gaussian(process, torch.zeros(2, dtype=F64), std=std)
    T = times.uniform(7, end=0.05).flip(0)
    x = normal(5, 2)
    theta = torch.atan((-process.lam(T)).exp() / std)
    product = theta.diff().cos().prod()
    up = last(invert(D, x, T))
    torch.testing.assert_close(up, D.flow(x, T[0], T[-1]) * product, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(last(ddim(D, up, T.flip(0))), x * product**2, rtol=1e-9, atol=1e-12)


def test_it_is_the_ddim_step_the_other_way():
    """One step up is the line x_s = α_s x̂_0 + σ_s ε̂ through x_t."""
    process = LinearVP()
    D, x, T = mixture(process), normal(4, 2), torch.tensor([0.3, 0.7], dtype=F64)
    x0 = D(x, T[0])
    alpha, sigma = process.alpha(T), process.sigma(T)
    eps = (x - alpha[0] * x0) / sigma[0]
    torch.testing.assert_close(last(invert(D, x, T)), alpha[1] * x0 + sigma[1] * eps)


@pytest.mark.parametrize("process", [RectifiedFlow(), LinearVP()], ids=name)
def test_round_trip_is_of_first_order_and_the_fixed_point_is_exact(process):
    D, x = mixture(process), normal(16, 2)

    def error(n, **options):
        T = angles(process, n, 0.2)
        return float((last(ddim(D, last(invert(D, x, T, **options)), T.flip(0))) - x).norm(dim=1).median())

    assert 0.85 < math.log2(error(20) / error(80)) / 2 < 1.2
    errors = [error(20, iterations=k) for k in (1, 2, 4, 8, 40)]
    assert all(later < earlier / 2 for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 1e-12


def test_the_fixed_point_diverges_where_the_step_is_too_long():
    """On N(0, 1): sin Δ cos θ_s / sin θ_t < 1 contracts; from θ_t = 0.05 to 0.2 it does not."""
    D = Gaussian(TrigFlow(), torch.zeros(1, dtype=F64), std=1.0)
    x = normal(3, 1)
    for theta, contracts in ((0.09, True), (0.2, False)):
        T = torch.tensor([0.05, theta], dtype=F64) * 2 / math.pi
        factor = math.sin(theta - 0.05) * math.cos(theta) / math.sin(0.05)
        assert (factor < 1) is contracts
        gaps = []
        for k in (10, 20):
            back = last(ddim(D, last(invert(D, x, T, iterations=k)), T.flip(0)))
            gaps.append(float((back - x).abs().max()))
        assert gaps[1] / gaps[0] == pytest.approx(factor**10, rel=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_calls_of_inversion(n, iterations):
    D = CountCalls(mixture(RectifiedFlow()))
    T = times.uniform(n, end=0.1).flip(0)
    states = list(invert(D, normal(3, 2), T, iterations=iterations))
    assert D.calls == (n if iterations == 0 else 1 + n * iterations)
    assert [float(state.t) for state in states] == T.tolist()
    assert states[0].x0 is None
    assert all(torch.isfinite(state.x).all() and state.x0.shape == (3, 2) for state in states[1:])


@pytest.mark.parametrize("process", FORMULAS, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_process_and_dtype_ends_finite(process, dtype):
    T = torch.tensor([0.2, 0.5, 1.0], dtype=F64)
    D, x = mixture(process), normal(4, 2, dtype=dtype)
    for end in (last(invert(D, x, T)), last(bdia(D, x, T))):
        assert end.dtype == dtype
        assert torch.isfinite(end).all()


def test_inversion_refuses():
    D, x, T = mixture(RectifiedFlow()), normal(4, 2), times.uniform(4, end=0.1).flip(0)
    with pytest.raises(ValueError, match="must rise from the data to the noise"):
        invert(D, x, T.flip(0))
    with pytest.raises(ValueError, match="must rise from the data to the noise"):
        invert(D, x, T[:2].flip(0))
    with pytest.raises(ValueError, match="begin at a small t > 0"):
        invert(D, x, times.uniform(4).flip(0))
    with pytest.raises(ValueError, match="iterations must be at least 0"):
        invert(D, x, T, iterations=-1)
    with pytest.raises(TypeError, match="iterations must be an integer"):
        invert(D, x, T, iterations=1.0)
    with pytest.raises(ValueError, match="strictly decreasing"):
        invert(D, x, torch.tensor([0.1, 0.5, 0.4, 0.9], dtype=F64))
    with pytest.raises(TypeError, match="float64"):
        invert(D, x, T.float())
    with pytest.raises(ValueError, match="finite"):
        invert(D, x * math.nan, T)


# ---- BDIA -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("process", [RectifiedFlow(), LinearVP(), CosineVP()], ids=name)
@pytest.mark.parametrize("end", [0.0, 0.05])
def test_it_runs_backwards_exactly_for_any_denoiser(process, gamma, end):
    D, x, T = Wild(process), normal(6, 2), times.uniform(12, end=end)
    down = path(bdia(D, x, T, gamma=gamma))
    up = path(bdia(D, down[-1], T.flip(0), gamma=gamma, second=down[-2])).flip(0)
    torch.testing.assert_close(up, down, rtol=1e-8, atol=1e-8 * float(down.abs().max()))
    assert (down[0] - down[-1]).norm() > 1


def test_the_start_from_an_image_decodes_to_it_exactly():
    """Rising first, from data with a DDIM inversion step, then falling from the last two states."""
    D, x, T = Wild(LinearVP()), normal(6, 2), angles(LinearVP(), 15, 0.05)
    up = path(bdia(D, x, T))
    down = path(bdia(D, up[-1], T.flip(0), second=up[-2]))
    torch.testing.assert_close(down[-1], x, rtol=1e-9, atol=1e-9)


@functools.cache
def exact_end(process):
    """Where the 32 starts end on the way from t = 0.9 to 0.2, with an error far below those that are measured."""
    return last(ode.probability_flow(mixture(process), normal(32, 2), times.uniform(300, start=0.9, end=0.2)))


@functools.cache
def slope_and_error(gamma, process=None, counts=(40, 320)):
    D = mixture(process or TrigFlow())
    x = normal(32, 2)
    exact = exact_end(D.process)
    errors = []
    for n in counts:
        T = times.uniform(n, start=0.9, end=0.2)
        run = bdia(D, x, T, gamma=gamma) if gamma else ddim(D, x, T)
        errors.append(float((last(run) - exact).norm(dim=1).median()))
    return math.log2(errors[0] / errors[-1]) / math.log2(counts[-1] / counts[0]), errors[-1]


def test_orders():
    assert abs(slope_and_error(1.0)[0] - 2) < 0.3
    for gamma in (0.9, 0.5):
        assert abs(slope_and_error(gamma, counts=(80, 320))[0] - 1) < 0.25


def test_gamma_scales_the_error_of_ddim():
    """The leading error is (1 − γ)/(1 + γ) that of DDIM."""
    _, plain = slope_and_error(0.0, counts=(80, 320))
    for gamma in (0.3, 0.6):
        _, error = slope_and_error(gamma, counts=(80, 320))
        assert error / plain == pytest.approx((1 - gamma) / (1 + gamma), rel=0.05)


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_one_step_is_its_formula(gamma):
    process = LinearVP()
    D, T, x, y = mixture(process), torch.tensor([0.8, 0.5, 0.3], dtype=F64), normal(4, 2), normal(4, 2, seed=1)
    alpha, sigma = process.alpha(T), process.sigma(T)
    x0 = D(y, T[1])
    eps = (y - alpha[1] * x0) / sigma[1]
    expected = alpha[2] * x0 + sigma[2] * eps + gamma * (x - alpha[0] * x0 - sigma[0] * eps)
    torch.testing.assert_close(last(bdia(D, x, T, gamma=gamma, second=y)), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_calls_and_states_of_bdia(n):
    D = CountCalls(mixture(RectifiedFlow()))
    T, x = times.uniform(n), normal(3, 2)
    states = list(bdia(D, x, T))
    assert D.calls == n
    assert [float(state.t) for state in states] == T.tolist()
    assert states[0].x is x
    D.calls = 0
    list(bdia(D, states[-1].x, T.flip(0), second=states[-2].x))
    assert D.calls == n - 1


def test_the_first_step_is_ddim():
    D, T, x = mixture(LinearVP()), times.uniform(5), normal(3, 2)
    torch.testing.assert_close(path(bdia(D, x, T))[1], path(ddim(D, x, T))[1])
    rising = T[:-1].flip(0)
    torch.testing.assert_close(path(bdia(D, x, rising))[1], path(invert(D, x, rising))[1])


def test_bdia_refuses():
    D, x, T = mixture(RectifiedFlow()), normal(4, 2), times.uniform(4)
    for gamma in (0.0, 1.1, -1.0, math.nan):
        with pytest.raises(ValueError, match="gamma must be a finite number"):
            bdia(D, x, T, gamma=gamma)
    with pytest.raises(ValueError, match="must have the same shape"):
        bdia(D, x, T, second=x[:2])
    with pytest.raises(ValueError, match="begin at a small t > 0"):
        bdia(D, x, T.flip(0))
    with pytest.raises(ValueError, match="finite"):
        bdia(D, x, T, second=x * math.inf)


def test_its_reference_is_the_flow():
    D, x, T = mixture(TrigFlow()), normal(8, 2), times.uniform(200, start=0.9, end=0.1)
    exact = last(ode.probability_flow(D, x, T))
    torch.testing.assert_close(last(bdia(D, x, T)), exact, rtol=0, atol=5e-4)


# ---- the arc --------------------------------------------------------------------------------------------------------


def test_slerp_keeps_the_length_the_ends_and_the_plane():
    a, b = normal(5, 1, 4, 4), normal(5, 1, 4, 4, seed=1)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None, None]
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    for w in (0.2, 0.5, 0.9):
        torch.testing.assert_close(slerp(a, b, w).flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))
        torch.testing.assert_close(slerp(a, b, w), slerp(b, a, 1 - w))
    w = torch.linspace(0, 1, 5, dtype=F64)
    torch.testing.assert_close(slerp(a, b, w)[2], slerp(a[2:3], b[2:3], 0.5)[0])


def test_slerp_of_parallel_rows_is_a_line():
    a = normal(2, 6)
    torch.testing.assert_close(slerp(a, 3 * a, 0.25), 1.5 * a)
    assert torch.isfinite(slerp(torch.zeros(1, 3), torch.ones(1, 3), 0.5)).all()
    with pytest.raises(ValueError, match="same shape"):
        slerp(a, a[:1], 0.5)
