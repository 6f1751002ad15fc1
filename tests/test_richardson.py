"""Richardson extrapolation: its algebra, measured orders, calls, and the identity with the midpoint rule."""

import functools
import math

import pytest
import torch
from mixtures import three
from processes import FORMULAS, name

from minidiff import ode, times
from minidiff.analytic import Gaussian
from minidiff.metrics import CountCalls
from minidiff.process import CosineVP, LinearVP, RectifiedFlow, TrigFlow
from minidiff.samplers import ddim, dpm_solver, euler, heun, last, local_richardson, path, richardson, sample
from minidiff.samplers.richardson import romberg_weights

F64 = torch.float64
mixture = functools.partial(three, std=0.5)


def noisy(n=32, dtype=F64):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)


@functools.cache
def exact_end():
    """Where the 32 starts end on the way from t = 0.9 to 0.2, with an error far below those that are measured."""
    return last(ode.probability_flow(mixture(TrigFlow()), noisy(), times.uniform(400, start=0.9, end=0.2)))


def slope(run, counts=(16, 64)):
    """The order measured between the first and the last count, on uniform steps in t."""
    D, errors = mixture(TrigFlow()), []
    for n in counts:
        end = last(run(D, noisy(), times.uniform(n, start=0.9, end=0.2)))
        errors.append(float((end - exact_end()).norm(dim=1).median()))
    return math.log2(errors[0] / errors[-1]) / math.log2(counts[-1] / counts[0])


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_weights_cancel_the_powers_that_they_promise(order, levels):
    w = romberg_weights(order, levels)
    assert sum(w) == pytest.approx(1)
    for q in range(order, order + levels - 1):
        assert sum(weight * 2 ** (level * q) for level, weight in enumerate(w)) == pytest.approx(0, abs=1e-9)


def test_two_levels_have_the_textbook_weights():
    assert romberg_weights(1, 2) == (2.0, -1.0)
    assert romberg_weights(2, 2) == pytest.approx((4 / 3, -1 / 3))


@pytest.mark.parametrize(("method", "order"), [(ddim, 1), (euler, 1), (heun, 2), (dpm_solver, 2)])
@pytest.mark.parametrize("extrapolate", [richardson, local_richardson])
def test_one_order_is_gained(extrapolate, method, order):
    assert abs(slope(method) - order) < 0.15
    assert order + 0.75 < slope(lambda *a: extrapolate(method, *a, order=order)) < order + 1.5


@pytest.mark.parametrize(("levels", "gained"), [(3, 2), (4, 3)])
def test_romberg_gains_an_order_a_level(levels, gained):
    measured = slope(lambda *a: richardson(ddim, *a, levels=levels), counts=(32, 128))
    assert gained + 0.7 < measured < gained + 1.7


def test_the_wrong_order_gains_nothing():
    assert slope(lambda *a: richardson(ddim, *a, order=2)) < 1.2


def test_local_weights_are_right_on_uneven_steps_and_the_equal_ones_are_not():
    """Steps of lengths 2 : 1 in turn, a grid that is no smooth function of i/n."""

    def uneven(n, start=0.9, end=0.2):
        lengths = torch.tensor([2.0, 1.0], dtype=F64).repeat(n // 2)
        ends = torch.cat([torch.zeros(1, dtype=F64), lengths.cumsum(0)])
        return start + (end - start) * ends / ends[-1]

    D = mixture(TrigFlow())

    def order_of(extrapolate):
        errors = [(last(extrapolate(ddim, D, noisy(), uneven(n))) - exact_end()).norm(dim=1).median() for n in (16, 64)]
        return math.log2(errors[0] / errors[1]) / 2

    assert order_of(local_richardson) > 1.8
    assert order_of(richardson) < 1.3


def test_local_extrapolation_of_euler_is_the_midpoint_rule():
    """2 (two half steps) − (one step) = x + h f(midpoint), on the straight line where Euler's variable is t."""
    D = mixture(RectifiedFlow())
    T = torch.tensor([0.8, 0.6, 0.4], dtype=F64)
    x = noisy()

    def u(y, t):
        return (y - D(y, t)) / t

    middle = x - 0.2 * u(x, T[0])
    torch.testing.assert_close(last(richardson(euler, D, x, T)), x - 0.4 * u(middle, T[1]))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_calls(n, end):
    D = CountCalls(mixture(RectifiedFlow()))
    T = times.uniform(n, end=end)
    assert torch.isfinite(last(richardson(ddim, D, noisy(), T))).all()
    assert D.calls == (1 if n == 1 else n + math.ceil(n / 2) - 1)
    D.calls = 0
    assert torch.isfinite(last(local_richardson(ddim, D, noisy(), T))).all()
    assert D.calls == n


@pytest.mark.parametrize(("n", "calls"), [(1, 1), (2, 2), (3, 4), (4, 4 + 2 + 1 - 2), (8, 8 + 4 + 2 - 2)])
def test_calls_of_three_levels(n, calls):
    D = CountCalls(mixture(RectifiedFlow()))
    last(richardson(ddim, D, noisy(), times.uniform(n), levels=3))
    assert D.calls == calls


def test_calls_of_heun_are_two_a_step_and_one_at_the_end():
    D = CountCalls(mixture(RectifiedFlow()))
    last(richardson(heun, D, noisy(), times.uniform(6), order=2))
    assert D.calls == 11 + 5 - 1
    D.calls = 0
    last(local_richardson(heun, D, noisy(), times.uniform(6), order=2))
    assert D.calls == 4 + 1 + 4 + 1 + 3 + 0


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7])
def test_states_come_at_the_shared_times(n):
    D, x, T = mixture(LinearVP()), noisy(), times.uniform(n)
    shared = [*T[:-1:2].tolist(), 0.0]
    for extrapolate in (richardson, local_richardson):
        states = list(extrapolate(ddim, D, x, T))
        assert [float(state.t) for state in states] == shared
        assert states[0].x is x
        assert states[0].x0 is None
        assert all(state.x0.shape == x.shape for state in states[1:])
        assert torch.equal(path(extrapolate(ddim, D, x, T)), path(extrapolate(ddim, D, x, T)))


@pytest.mark.parametrize("process", FORMULAS, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_process_and_dtype_ends_finite(process, dtype):
    D = mixture(process)
    x = process.prior((4, 2), torch.Generator().manual_seed(0), dtype=F64).to(dtype)
    T = times.cosine_angle(process, 5, sigma_data=D.sigma_data, r_max=math.inf, r_min=0)
    for extrapolate in (richardson, local_richardson):
        end = last(extrapolate(ddim, D, x, T))
        assert end.dtype == dtype
        assert torch.isfinite(end).all()


def test_one_gaussian_is_the_combination_of_its_products_of_cosines():
    D, n, x = Gaussian(CosineVP(0.0), torch.zeros(2, dtype=F64), std=1.0), 8, noisy()
    fine, coarse = (math.cos(math.pi / 2 / m) ** m for m in (n, n // 2))
    torch.testing.assert_close(last(richardson(ddim, D, x, times.uniform(n))), (2 * fine - coarse) * x)


def test_it_beats_its_method_at_equal_calls_on_a_mixture():
    D, x = mixture(RectifiedFlow()), noisy()
    exact = sample(D, x, 80)
    plain, extrapolated = (
        float((last(run) - exact).norm(dim=1).median())
        for run in (
            ddim(D, x, times.uniform(20)),
            local_richardson(ddim, D, x, times.uniform(20)),
        )
    )
    assert extrapolated < plain / 3


@pytest.mark.parametrize("extrapolate", [richardson, local_richardson])
def test_arguments_are_checked_at_the_call(extrapolate):
    D, x, T = mixture(LinearVP()), noisy(), times.uniform(4)
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        extrapolate(ddim, D, x, T, order=0)
    with pytest.raises(TypeError, match="order must be an integer"):
        extrapolate(ddim, D, x, T, order=1.5)
    with pytest.raises(ValueError, match="strictly decreasing"):
        extrapolate(ddim, D, x, T.flip(0))
    with pytest.raises(ValueError, match="batch axis"):
        extrapolate(ddim, D, x[0], T)
    with pytest.raises(TypeError, match="a denoiser is callable"):
        extrapolate(ddim, None, x, T)


def test_levels_are_checked():
    with pytest.raises(ValueError, match="levels must be at least 1"):
        richardson(ddim, mixture(LinearVP()), noisy(), times.uniform(4), levels=0)
