"""Steps that choose themselves: error and calls against the tolerance, what is counted, and the law of the noise."""

import itertools
import math

import pytest
import torch
from processes import FORMULAS, name

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.bench.orders import mixture
from minidiff.denoiser import Angle, Denoiser
from minidiff.metrics import CountCalls
from minidiff.process import EDM, VE, CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import adaptive, adaptive_sde, exponential, last
from minidiff.samplers.adaptive import LAST_ANGLE
from minidiff.samplers.adaptive_sde import Brownian

F64 = torch.float64
WHOLE = torch.tensor([1.0, 0.0], dtype=F64)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def run(method, D, *args, **kwargs):
    """The end, the states and the calls."""
    counted = CountCalls(D)
    states = list(method(counted, *args, **kwargs))
    return states[-1].x, states, counted.calls


def solution(D, x, n=600):
    process = D.process
    grid = times.cosine_angle(process, n, sigma_data=D.sigma_data, r_max=math.inf, r_min=0.0)
    return last(exponential(D, x, grid, order=3, variable="cos"))


# The ordinary equation


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow(), EDM(), CosineVP()], ids=name)
def test_error_falls_and_calls_rise_with_the_tolerance(process, order):
    D = mixture(process)
    x = process.prior((6, 2), gen(), dtype=F64)
    reference = solution(D, x)
    errors, calls = [], []
    for tolerance in (0.2, 0.02, 0.002):
        end, _, count = run(adaptive, D, x, WHOLE, order=order, rtol=tolerance, atol=tolerance)
        errors.append(float((end - reference).square().mean().sqrt()))
        calls.append(count)
    assert errors[0] > errors[1] > errors[2]
    assert calls[0] < calls[1] < calls[2]
    assert errors[2] < 0.01


def test_a_higher_order_needs_fewer_calls():
    D = mixture(LinearVP())
    x = torch.randn(6, 2, generator=gen(), dtype=F64)
    calls = [run(adaptive, D, x, WHOLE, order=k, rtol=1e-3, atol=1e-3)[2] for k in (1, 2)]
    assert calls[1] < 0.7 * calls[0]


@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_calls_are_one_and_an_attempt_each(process):
    """Accepted steps are the states between the first and, where σ(0) = 0, the closing one."""
    D = mixture(process)
    _, states, calls = run(adaptive, D, process.prior((4, 2), gen(), dtype=F64), WHOLE)
    closing = float(process.sigma(WHOLE[1])) == 0
    accepted = len(states) - 1 - closing
    assert calls >= 1 + accepted
    assert float(states[-1].t) == 0 and bool(states[-1].x.isfinite().all())
    assert all(a.t > b.t for a, b in itertools.pairwise(states))


def test_a_bold_first_try_is_rejected():
    D = mixture(LinearVP())
    x = torch.randn(4, 2, generator=gen(), dtype=F64)
    _, states, calls = run(adaptive, D, x, WHOLE, rtol=1e-3, atol=1e-3, first=1.0)
    assert calls - 1 - (len(states) - 2) >= 2


def test_one_gaussian_is_exact_at_order_two():
    """There D is linear in cos θ: after the first steps no error is left to estimate."""
    D = Gaussian(RectifiedFlow(), torch.zeros(2, dtype=F64), std=0.7)
    x = torch.randn(4, 2, generator=gen(), dtype=F64)
    end, _, calls = run(adaptive, D, x, WHOLE, rtol=1e-2, atol=1e-2)
    assert calls < 15
    torch.testing.assert_close(end, 0.7 * x, rtol=0.02, atol=0)


def test_the_scale_is_that_of_the_angle():
    """A narrow Gaussian under a large σ_data: D is linear in cos arctan(r/s) for its own s alone."""
    D = Gaussian(RectifiedFlow(), torch.zeros(2, dtype=F64), std=0.1)
    x = torch.randn(4, 2, generator=gen(), dtype=F64)
    D.sigma_data = 1.0
    setting = {"rtol": 1e-2, "atol": 0.0}
    plain, _, more = run(adaptive, D, x, WHOLE, **setting)
    D.angle = Angle(0.1, 0.8, middle=0.5)
    end, states, calls = run(adaptive, D, x, WHOLE, **setting)
    assert calls < more
    assert float((end - 0.1 * x).norm()) < 0.1 * float((plain - 0.1 * x).norm())
    r = (-D.process.lam(states[-2].t)).exp()  # from there the closing step is taken
    assert float(r) == pytest.approx(0.1 * math.tan(LAST_ANGLE))


def test_the_worst_sample_decides():
    D = mixture(LinearVP())
    x = torch.randn(16, 2, generator=gen(), dtype=F64)
    setting = {"rtol": 0.005, "atol": 0.005}
    alone = [run(adaptive, D, row[None], WHOLE, **setting)[2] for row in x]
    together = run(adaptive, D, x, WHOLE, **setting)[2]
    assert together >= 0.9 * max(alone) > sum(alone) / len(alone)
    assert run(adaptive, D, x, WHOLE, norm="mean", **setting)[2] <= together


@pytest.mark.parametrize("controller", ["I", "PI"])
def test_both_controllers_arrive(controller):
    D = mixture(VE())
    x = VE().prior((4, 2), gen(), dtype=F64)
    end, _, _ = run(adaptive, D, x, WHOLE, controller=controller, rtol=1e-3, atol=1e-3)
    assert float((end - solution(D, x)).square().mean().sqrt()) < 0.01


def test_a_short_way_near_the_data_and_single_precision():
    D = mixture(RectifiedFlow())
    x = torch.randn(4, 2, generator=gen())
    near = torch.tensor([0.01, 0.0], dtype=F64)
    _, states, calls = run(adaptive, D, x, near)
    assert calls == 1 and len(states) == 2 and states[-1].x.dtype == torch.float32
    _, states, _ = run(adaptive, D, x, torch.tensor([0.9, 0.3], dtype=F64))
    assert float(states[-1].t) == pytest.approx(0.3)


def test_an_impossible_tolerance_is_given_up():
    D = mixture(LinearVP())
    with pytest.raises(RuntimeError, match="tolerance not met after 50 calls"):
        list(adaptive(D, torch.randn(2, 2, generator=gen()), WHOLE, rtol=0, atol=1e-12, max_calls=50))


class Broken:
    """A denoiser that returns NaN below t = 0.5."""

    process, sigma_data, coupled = RectifiedFlow(), 1.0, False

    def __call__(self, x, t):
        return x * (math.nan if float(t) < 0.5 else 0.5)


def test_nan_is_never_accepted():
    with pytest.raises(RuntimeError, match="tolerance not met"):
        list(adaptive(Broken(), torch.ones(2, 2), WHOLE, max_calls=60))
    with pytest.raises(RuntimeError, match="tolerance not met"):
        list(adaptive_sde(Broken(), torch.ones(2, 2), torch.tensor([0.9, 0.1]).double(), max_calls=200))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 4}, "order must be at most 3"),
        ({"order": 0}, "order must be at least 1"),
        ({"rtol": 0.0, "atol": 0.0}, "not both be 0"),
        ({"rtol": -1.0}, "rtol"),
        ({"controller": "P"}, "controller must be"),
        ({"norm": "max"}, "norm must be"),
        ({"first": 0.0}, "first"),
        ({"max_calls": 0}, "max_calls"),
    ],
)
def test_settings_are_checked_at_the_call(settings, message):
    with pytest.raises(ValueError, match=message):
        adaptive(mixture(LinearVP()), torch.ones(2, 2), WHOLE, **settings)


@pytest.mark.parametrize("method", [adaptive, adaptive_sde])
def test_only_the_two_ends_are_taken(method):
    with pytest.raises(ValueError, match=r"times must be \(2,\)"):
        method(mixture(LinearVP()), torch.ones(2, 2), times.uniform(3))


# The stochastic equation

ENDS = torch.tensor([1.0, 0.01], dtype=F64)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_the_law_on_a_gaussian(tau):
    """Mean and variance at the end within 4 standard errors of the exact ones plus the bias of the tolerance."""
    process, n, std, mean = LinearVP(), 2000, 0.5, 0.8
    D = Gaussian(process, torch.full((1,), mean, dtype=F64), std=std)
    x = D.process.noise(
        mean + std * torch.randn(n, 1, generator=gen(3), dtype=F64),
        WHOLE[0],
        torch.randn(n, 1, generator=gen(4), dtype=F64),
    )
    end, _, _ = run(adaptive_sde, D, x, ENDS, tau=tau, rtol=0.02, atol=0.02, generator=gen(5))
    alpha, sigma = float(process.alpha(ENDS[1])), float(process.sigma(ENDS[1]))
    variance = (alpha * std) ** 2 + sigma**2
    assert abs(float(end.mean()) - alpha * mean) < 4 * math.sqrt(variance / n) + 0.01
    assert abs(float(end.var()) / variance - 1) < 4 * math.sqrt(2 / n) + 0.03


def test_the_error_falls_with_the_tolerance():
    """Without noise the end can be compared with the exact flow."""
    process = LinearVP()
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=0.5)
    x = torch.randn(8, 1, generator=gen(), dtype=F64)
    exact = D.flow(x, *ENDS)
    errors, calls = [], []
    for tolerance in (0.1, 0.01, 0.001):
        end, _, count = run(adaptive_sde, D, x, ENDS, tau=0.0, rtol=tolerance, atol=tolerance)
        errors.append(float((end - exact).abs().max()))
        calls.append(count)
    assert errors[0] > errors[1] > errors[2]
    assert calls[0] < calls[1] < calls[2]


def test_two_calls_a_step_and_one_for_a_rejection():
    D = mixture(LinearVP())
    _, states, calls = run(adaptive_sde, D, torch.randn(8, 2, generator=gen()), ENDS, first=0.5, generator=gen(1))
    accepted = len(states) - 1
    assert calls > 2 * accepted  # the first try of half the way was too bold
    assert [float(states[0].t), float(states[-1].t)] == [1.0, pytest.approx(0.01)]


def test_a_rejected_increment_is_part_of_the_path():
    """Whatever is asked for in between, the increments of one stretch add to what was drawn for it."""
    brownian = Brownian(torch.zeros(3, dtype=F64), gen())
    whole = brownian.take(1.0)
    brownian.give_back(1.0, whole)
    parts = brownian.take(0.3)
    brownian.give_back(0.3, parts)
    parts = brownian.take(0.1) + brownian.take(0.5) + brownian.take(0.4)
    torch.testing.assert_close(parts, whole)
    assert not brownian.kept or brownian.kept[0][0] < 1e-12


def test_the_law_of_bridged_increments():
    """After a rejection the parts are still independent N(0, length): variances and covariance within 4 errors."""
    n = 4000
    brownian = Brownian(torch.zeros(n, dtype=F64), gen(7))
    brownian.give_back(1.0, brownian.take(1.0))
    first, second, third = brownian.take(0.25), brownian.take(0.75), brownian.take(0.5)
    for increment, length in ((first, 0.25), (second, 0.75), (third, 0.5)):
        assert abs(float(increment.var()) / length - 1) < 4 * math.sqrt(2 / n)
    assert abs(float((first * second).mean())) < 4 * math.sqrt(0.25 * 0.75 / n)


def test_one_generator_a_sample_gives_each_its_own_noise():
    D = mixture(LinearVP())
    x = torch.randn(1, 2, generator=gen(), dtype=F64)
    two = last(adaptive_sde(D, x.repeat(2, 1), ENDS, generator=[gen(5), gen(5)]))
    torch.testing.assert_close(two[0], two[1])
    torch.testing.assert_close(two[:1], last(adaptive_sde(D, x, ENDS, generator=[gen(5)])))


@pytest.mark.parametrize(
    ("process", "ends", "settings", "message"),
    [
        (RectifiedFlow(), [1.0, 0.1], {}, "start where α > 0"),
        (LinearVP(), [1.0, 0.0], {}, "end where σ > 0"),
        (LinearVP(), [1.0, 0.1], {"tau": -1.0}, "tau"),
        (LinearVP(), [1.0, 0.1], {"atol": 0.0, "rtol": 0.0}, "not both be 0"),
        (LinearVP(), [1.0, 0.1], {"first": 2.0}, "first"),
    ],
)
def test_the_stochastic_solver_refuses(process, ends, settings, message):
    with pytest.raises(ValueError, match=message):
        adaptive_sde(mixture(process), torch.ones(2, 2), torch.tensor(ends, dtype=F64), **settings)


def test_a_coupled_denoiser_is_refused():
    D = Denoiser(torch.nn.Identity(), LinearVP(), "x0", coupled=True)
    with pytest.raises(ValueError, match="coupling"):
        adaptive_sde(D, torch.ones(2, 2), ENDS)


def test_too_many_calls_are_given_up():
    with pytest.raises(RuntimeError, match="tolerance not met after 20 calls"):
        list(adaptive_sde(mixture(LinearVP()), torch.ones(2, 2), ENDS, max_calls=20, generator=gen()))
