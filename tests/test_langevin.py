"""Langevin samplers: exact moments on Gaussians, the schedule of steps, calls, ends and arguments."""

import itertools
import math

import pytest
import torch

from minidiff import times
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.metrics import CountCalls
from minidiff.process import EDM, VE, CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import annealed_langevin, langevin, last, path

F64 = torch.float64
T = torch.tensor(0.4, dtype=F64)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(process, std=0.7, mean=0.0):
    return Gaussian(process, torch.tensor([mean, -mean], dtype=F64), std=std)


def gain_of(run, shape=(1, 2)):
    """The factor of x in a sampler that is affine in x: the difference of two runs with the same draws."""
    zero, one = torch.zeros(shape, dtype=F64), torch.ones(shape, dtype=F64)
    return float((run(one, gen(1)) - run(zero, gen(1)))[0, 0])


@pytest.mark.parametrize("process", [VE(), LinearVP(), RectifiedFlow()], ids=["VE", "VP", "RF"])
def test_one_step_is_its_formula(process):
    D = GaussianMixture(process, torch.ones(2), torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=F64), stds=0.5)
    x = torch.randn(5, 2, generator=gen(), dtype=F64)
    z = torch.randn(5, 2, generator=gen(3), dtype=F64)
    states = list(langevin(D, x, T, step=0.03, steps=1, generator=gen(3)))
    expected = x + 0.015 * D.score(x, T) + math.sqrt(0.03) * z
    torch.testing.assert_close(states[1].x, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(states[1].x0, D(x, T))
    assert states[0].x0 is None
    assert all(state.t == T for state in states)


@pytest.mark.parametrize("ratio", [0.1, 1.0, 3.0])
def test_the_stationary_variance_on_a_gaussian(ratio):
    """On N(0, v) it is v/(1 − ε/(4 v)): read from the exact recursion that the sampler's own gain and noise give."""
    D = gaussian(VE(), std=0.7)
    v = 0.7**2 + float(VE().sigma(T)) ** 2
    step = ratio * v

    def run(x, generator, steps=1):
        return last(langevin(D, x, T, step=step, steps=steps, generator=generator))

    gain = gain_of(run)
    noise = run(torch.zeros(1, 2, dtype=F64), gen(5)) / torch.randn(1, 2, generator=gen(5), dtype=F64)
    variance = float(noise[0, 0]) ** 2 / (1 - gain**2)
    assert variance == pytest.approx(v / (1 - step / (4 * v)), rel=1e-9)


def test_the_stationary_variance_is_reached():
    D, n = gaussian(VE(), std=1.0), 20_000
    v = 1 + float(VE().sigma(T)) ** 2
    x = last(langevin(D, torch.zeros(n, 2, dtype=F64), T, step=v, steps=30, generator=gen()))
    expected = v / (1 - 1 / 4)
    assert abs(float(x.square().mean()) - expected) < 5 * expected * math.sqrt(2 / (2 * n))


@pytest.mark.parametrize("process", [VE(0.05, 10.0), LinearVP(), RectifiedFlow()], ids=["VE", "VP", "RF"])
def test_annealing_is_langevin_at_each_level_in_turn(process):
    D = GaussianMixture(process, torch.ones(2), torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=F64), stds=0.5)
    levels = torch.tensor([0.9, 0.5, 0.2], dtype=F64)
    alpha, sigma = process.alpha(levels), process.sigma(levels)
    x = torch.randn(4, 2, generator=gen(), dtype=F64)
    by_hand, generator = x, gen(2)
    for i, t in enumerate(levels):
        if i:
            by_hand = by_hand * alpha[i] / alpha[i - 1]
        step = 0.01 * float(sigma[i] / sigma[-1]) ** 2
        by_hand = last(langevin(D, by_hand, t, step=step, steps=3, generator=generator))
    states = list(annealed_langevin(D, x, levels, step=0.01, steps=3, generator=gen(2)))
    torch.testing.assert_close(states[-1].x, by_hand, rtol=1e-9, atol=1e-9)
    assert [float(state.t) for state in states] == [0.9] * 4 + [0.5] * 3 + [0.2] * 3


def test_annealed_moments_on_a_gaussian_follow_the_recursion():
    process, n = VE(0.05, 10.0), 20_000
    D, levels = gaussian(process, std=0.7, mean=1.0), times.uniform(5)
    x = process.prior((n, 2), gen(), dtype=F64)
    sigma = process.sigma(levels).tolist()
    mean, variance = 0.0, 1 + sigma[0] ** 2
    for s in sigma:
        step, v = 0.5 * s**2, 0.49 + s**2
        for _ in range(6):
            mean = mean + step / 2 * (1 - mean) / v
            variance = (1 - step / (2 * v)) ** 2 * variance + step
    got = last(annealed_langevin(D, x, levels, step=0.5 * sigma[-1] ** 2, steps=6, generator=gen(1)))
    first = got[:, 0]
    assert abs(float(first.mean()) - mean) < 5 * math.sqrt(variance / n)
    assert abs(float(first.var()) - variance) < 5 * variance * math.sqrt(2 / n)


def test_calls_and_states_are_counted():
    D = CountCalls(gaussian(VE()))
    x = torch.zeros(3, 2, dtype=F64)
    assert path(langevin(D, x, T, step=0.1, steps=7)).shape == (8, 3, 2)
    assert D.calls == 7
    D = CountCalls(gaussian(VE()))
    assert path(annealed_langevin(D, x, times.uniform(4), step=1e-5, steps=3)).shape == (16, 3, 2)
    assert D.calls == 15


def test_a_row_of_a_batch_equals_its_single_run():
    D, x = gaussian(EDM()), torch.randn(3, 2, generator=gen(), dtype=F64)
    together = last(annealed_langevin(D, x, times.uniform(3), step=1e-6, steps=2, generator=[gen(i) for i in range(3)]))
    for i in range(3):
        alone = last(annealed_langevin(D, x[i : i + 1], times.uniform(3), step=1e-6, steps=2, generator=[gen(i)]))
        assert torch.equal(together[i : i + 1], alone)


def test_the_start_is_left_alone_and_float32_stays():
    D, x = gaussian(VE()), torch.randn(3, 2, generator=gen())
    before = x.clone()
    end = last(langevin(D, x, 0.5, step=0.1, steps=2, generator=gen()))
    assert end.dtype == torch.float32
    assert torch.equal(x, before)


def test_noise_levels_repair_the_weights_of_two_modes():
    """Two narrow modes, 4 apart, weights 0.2 and 0.8: one level keeps the even start, annealing forgets it."""
    n, process = 2000, VE(0.05, 8.0)
    means = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=F64)
    D = GaussianMixture(process, torch.tensor([0.2, 0.8], dtype=F64), means, stds=0.3)
    start = means[torch.arange(n) % 2]
    zero = torch.zeros((), dtype=F64)
    stuck = last(langevin(D, start, zero, step=0.05, steps=200, generator=gen()))
    assert abs(float((stuck[:, 0] > 0).double().mean()) - 0.5) < 1e-9
    grid = times.uniform(24)
    start = process.prior((n, 2), gen(), dtype=F64)
    moved = last(annealed_langevin(D, start, grid, step=0.5 * 0.05**2, steps=24, generator=gen(1)))
    share = float((moved[:, 0] > 0).double().mean())
    assert abs(share - 0.8) < 5 * math.sqrt(0.16 / n) + 0.02  # the ladder is finite: −0.013


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"t": 1.5}, ValueError, "t must lie in"),
        ({"t": torch.tensor([0.1, 0.2])}, ValueError, "t must be one time"),
        ({"step": 0.0}, ValueError, "step must be a finite number"),
        ({"step": math.nan}, ValueError, "step must be a finite number"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": 2.0}, TypeError, "steps must be an integer"),
        ({"x": torch.zeros(3)}, ValueError, "must have a batch axis"),
        ({"x": torch.full((3, 2), math.nan)}, ValueError, "x must be finite"),
        ({"D": lambda x, t: x}, TypeError, "a denoiser is callable"),
    ],
)
def test_langevin_names_wrong_arguments_at_the_call(change, error, message):
    arguments = {"D": gaussian(VE()), "x": torch.zeros(3, 2), "t": 0.5, "step": 0.1, "steps": 2} | change
    with pytest.raises(error, match=message):
        langevin(**arguments)


@pytest.mark.parametrize(
    ("process", "change", "error", "message"),
    [
        (VE(), {"times": torch.tensor([0.5, 0.7], dtype=F64)}, ValueError, "strictly decreasing"),
        (VE(), {"times": torch.tensor([0.5], dtype=F64)}, ValueError, "times must have shape"),
        (RectifiedFlow(), {"times": times.uniform(3, start=0.9)}, ValueError, "the score needs σ > 0"),
        (CosineVP(), {"times": times.uniform(3, end=0.1)}, ValueError, "got α = 0 at t = 1.0"),
        (VE(), {"step": -1.0}, ValueError, "step must be a finite number"),
    ],
)
def test_annealed_langevin_names_wrong_arguments_at_the_call(process, change, error, message):
    arguments = {"D": gaussian(process), "x": torch.zeros(3, 2), "times": times.uniform(3), "step": 0.1, "steps": 2}
    with pytest.raises(error, match=message):
        annealed_langevin(**arguments | change)


@pytest.mark.parametrize("method", [langevin, annealed_langevin])
def test_coupled_denoisers_are_refused(method):
    D = gaussian(VE())
    D.coupled = True
    where = T if method is langevin else times.uniform(3)
    with pytest.raises(ValueError, match="adds independent noise, but D was trained under a coupling"):
        method(D, torch.zeros(3, 2), where, step=0.1, steps=2)


def test_two_runs_agree():
    D, x = gaussian(VE()), torch.zeros(3, 2, dtype=F64)
    runs = [path(annealed_langevin(D, x, times.uniform(3), step=1e-5, steps=2, generator=gen(7))) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in itertools.pairwise(runs))
