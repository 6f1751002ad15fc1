"""Choosing among draws and searching among noises, and starting late."""

import itertools
import math

import pytest
import torch

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.metrics import CountCalls
from minidiff.process import LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, best_of, ddim, expected_best, last, late_start, search_noise, squared_errors
from minidiff.samplers.selection import best_weights

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_best_is_taken_column_by_column():
    x = torch.randn(5, 3, 2, generator=gen())
    rewards = torch.randn(5, 3, generator=gen(1))
    found = best_of(x, rewards)
    for b in range(3):
        torch.testing.assert_close(found[b], x[int(rewards[:, b].argmax()), b])


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_expected_best_is_the_mean_over_all_subsets(n):
    rewards = torch.randn(6, 2, generator=gen(), dtype=F64)
    values = torch.randn(6, 2, generator=gen(1), dtype=F64)
    best, other = [], []
    for subset in itertools.combinations(range(6), n):
        part = rewards[list(subset)]
        best.append(part.amax(0))
        other.append(values[list(subset)].gather(0, part.argmax(0)[None])[0])
    torch.testing.assert_close(expected_best(rewards, n), torch.stack(best).mean(0))
    torch.testing.assert_close(expected_best(rewards, n, values), torch.stack(other).mean(0))
    assert float(best_weights(6, n).sum()) == pytest.approx(1)


def test_search_never_loses_and_counts_its_draws():
    D, T = Gaussian(LinearVP(), torch.zeros(2, dtype=F64), std=0.5), times.uniform(4)
    counted = CountCalls(D)
    z = torch.randn(6, 2, generator=gen(), dtype=F64)
    found, before = None, None
    for rounds in range(1, 5):
        counted.calls = 0
        found = search_noise(
            lambda z: last(ddim(counted, z, T)), lambda x: x[:, 0], z, rounds=rounds, neighbours=2, generator=gen(1)
        )
        assert found.draws == 1 + 2 * rounds
        assert counted.calls == 4 * found.draws
        torch.testing.assert_close(found.x, last(ddim(D, found.z, T)))
        torch.testing.assert_close(found.reward, found.x[:, 0])
        assert before is None or bool((found.reward >= before).all())
        before = found.reward
    assert float(found.reward.mean()) > float(last(ddim(D, z, T))[:, 0].mean())


@pytest.mark.parametrize("seed", range(3))
def test_with_radius_one_search_is_best_of_n(seed):
    """The best of 8 standard normals has the mean 1.4236; 4000 searches, 4.5 standard errors of its spread 0.61."""
    z = torch.randn(4000, 1, generator=gen(seed), dtype=F64)
    found = search_noise(lambda z: z, lambda x: x[:, 0], z, rounds=7, radius=1.0, generator=gen(seed + 9))
    assert abs(float(found.reward.mean()) - 1.4236) < 4.5 * 0.61 / math.sqrt(4000)


def test_a_late_start_from_the_data_loses_nothing():
    """From exact data noised to t, a chain of many steps returns the data's spread."""
    D = Gaussian(LinearVP(), torch.zeros(1, dtype=F64), std=0.5)
    x = late_start(D, D.sample(20_000, gen()), 0.4, gen(1))
    end = last(ancestral(D, x, times.uniform(200, start=0.4), generator=gen(2)))
    assert float(end.std()) == pytest.approx(0.5, rel=0.03)
    assert float(x.var()) == pytest.approx(
        float(D.process.alpha(torch.tensor(0.4))) ** 2 * 0.25 + float(D.process.sigma(torch.tensor(0.4))) ** 2, rel=0.03
    )


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()])
def test_squared_errors_of_a_gaussian(process):
    """σ² c² d/(α² c² + σ²), within 5 standard errors of 20000 draws."""
    D, T = Gaussian(process, torch.zeros(2, dtype=F64), std=0.7), torch.tensor([0.9, 0.5, 0.1], dtype=F64)
    found = squared_errors(D, D.sample(20_000, gen()), T, gen(1))
    signal, noise = process.alpha(T) ** 2 * 0.49, process.sigma(T) ** 2
    exact = 2 * noise * 0.49 / (signal + noise)
    assert bool(((found - exact).abs() < 5 * exact / math.sqrt(20_000)).all())


def test_refusals():
    D, x = Gaussian(LinearVP(), torch.zeros(2, dtype=F64), std=0.5), torch.randn(4, 2, generator=gen(), dtype=F64)
    identity, first = (lambda z: z), (lambda x: x[:, 0])
    for call, error, message in (
        (lambda: best_of(x[None], x), ValueError, "rewards"),
        (lambda: best_of(x[None], x[None, :, 0] / 0), ValueError, "rewards must be finite"),
        (lambda: expected_best(x, 5), ValueError, "n must be at most the pool's 4 draws"),
        (lambda: best_weights(0, 1), ValueError, "pool must be at least 1"),
        (lambda: search_noise(identity, first, x, rounds=0), ValueError, "rounds must be at least 1"),
        (lambda: search_noise(identity, first, x, rounds=1, neighbours=0), ValueError, "neighbours must be"),
        (lambda: search_noise(identity, first, x, rounds=1, radius=0.0), ValueError, "radius must be"),
        (lambda: search_noise(identity, lambda x: x[:, 0] / 0, x, rounds=1), ValueError, "the reward must be"),
        (lambda: late_start(D, x, 0.0), ValueError, "t must be"),
        (lambda: late_start(D, x / 0, 0.5), ValueError, "x0 must be finite"),
        (lambda: squared_errors(D, x, torch.tensor([math.nan])), ValueError, "times must be finite"),
    ):
        with pytest.raises(error, match=message):
            call()
