"""Cold diffusion: what is exact for which degradation, the error's recursion, and noise as a special case."""

import itertools
import math

import pytest
import torch

from minidiff.apps import cold
from minidiff.data import swiss_roll
from minidiff.denoiser import convert
from minidiff.process import CosineVP
from minidiff.samplers import ddim
from minidiff.samplers.state import last, path
from minidiff.times import uniform

RANDOM = torch.Generator().manual_seed(0)
X0 = torch.randn(4, 1, 8, 8, generator=RANDOM, dtype=torch.float64)
TARGET = torch.randn(4, 1, 8, 8, generator=RANDOM, dtype=torch.float64)
ORDER = torch.randn(1, 8, 8, generator=RANDOM)
ONE = torch.tensor(1.0, dtype=torch.float64)


def drift(x0, s):
    """x_0 + s e with one e for all: the case of exact recovery."""
    return x0 + float(s) * TARGET


def bad(x, s):
    """A restorer that knows nothing."""
    return (3 * x).sin() - 0.4


DEGRADATIONS = {"drift": drift, "fade": cold.fade(TARGET), "blur": cold.blur(3.0), "erase": cold.erase(ORDER)}
kinds = pytest.mark.parametrize("kind", DEGRADATIONS)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_the_improved_sampler_recovers_a_fixed_drift_with_any_restorer(n):
    start = drift(X0, ONE)
    torch.testing.assert_close(last(cold.improved(drift, bad, start, uniform(n))), X0)
    assert float((last(cold.naive(drift, bad, start, uniform(n))) - X0).abs().max()) > 0.5


@kinds
def test_both_recover_with_a_perfect_restorer(kind):
    degrade, times = DEGRADATIONS[kind], uniform(7)
    for sampler in (cold.naive, cold.improved):
        xs = path(sampler(degrade, lambda x, s: X0, degrade(X0, ONE), times))
        for x, s in zip(xs, times, strict=True):
            torch.testing.assert_close(x, degrade(X0, s))


@pytest.mark.parametrize("kind", ["fade", "blur", "erase"])
def test_linear_in_the_picture_is_not_enough(kind):
    """A degradation that is linear (affine) in x_0 does not make the improved sampler exact for any restorer."""
    degrade = DEGRADATIONS[kind]
    assert float((last(cold.improved(degrade, bad, degrade(X0, ONE), uniform(9))) - X0).abs().max()) > 0.1


@kinds
def test_the_error_obeys_its_recursion(kind):
    """e_t = e_s + δ(x̂_0) − δ(x_0), e = x − degrade(x_0), at every step of a run with a bad restorer."""
    degrade, times = DEGRADATIONS[kind], uniform(5)
    states = list(cold.improved(degrade, bad, degrade(X0, ONE), times))
    for before, after in itertools.pairwise(states):
        s, t, guess = before.t, after.t, after.x0

        def change(x, s=s, t=t):
            return degrade(x, t) - degrade(x, s)

        error = (before.x - degrade(X0, s)) + change(guess) - change(X0)
        torch.testing.assert_close(after.x - degrade(X0, t), error)


def test_the_error_of_fading_by_hand():
    """(1 − s) x_0 + s m with a guess that is off by a fixed b: the improved sampler ends off by b, as the naive one."""
    degrade, b = cold.fade(TARGET), 0.3
    for sampler in (cold.naive, cold.improved):
        end = last(sampler(degrade, lambda x, s: X0 + b, degrade(X0, ONE), uniform(6)))
        torch.testing.assert_close(end, X0 + b)


def test_erased_pixels_keep_what_they_were_given():
    """With pixels that vanish one by one, the improved sampler fills each once and leaves the known ones alone."""
    degrade, calls = cold.erase(ORDER), []

    def restore(x, s):
        calls.append(float(s))
        return torch.full_like(x, float(len(calls)))

    half = torch.tensor(0.5, dtype=torch.float64)
    end = last(cold.improved(degrade, restore, degrade(X0, half), uniform(4, start=0.5)))
    known = degrade(torch.ones_like(X0), half) == 1
    assert int(known[0].sum()) == 32
    torch.testing.assert_close(end[known], X0[known])
    assert sorted(set(end[~known].tolist())) == [1.0, 2.0, 3.0, 4.0]
    assert calls == [0.5, 0.375, 0.25, 0.125]


def test_blur():
    """A wave is damped by e^{−s·strength·k²}; severities add up; brightness stays; s = 0 changes nothing."""
    degrade, k = cold.blur(3.0), 2 * math.pi / 8
    column = torch.arange(8, dtype=torch.float64)
    wave = (k * column).cos().expand(1, 1, 8, 8)
    half = torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(degrade(wave, half), math.exp(-1.5 * k**2) * wave)
    torch.testing.assert_close(degrade(degrade(X0, half), half), degrade(X0, ONE))
    torch.testing.assert_close(degrade(X0, ONE).sum(), X0.sum())
    assert degrade(X0.float(), half).dtype == torch.float32


@kinds
def test_severity_zero_is_the_identity(kind):
    torch.testing.assert_close(DEGRADATIONS[kind](X0, 0 * ONE), X0)


def test_noise_with_the_implied_eps_is_ddim():
    """degrade = α_t x̂_0 + σ_t ε̂ with ε̂ read off x_s: the naive sampler is then DDIM."""
    process, x = CosineVP(), swiss_roll(50).double()
    start, times = x * 0.3 + 1, uniform(6, start=0.9, end=0.1)

    class D:
        sigma_data, coupled = 1.0, False

        def __init__(self):
            self.process = process

        def __call__(self, x, t):
            return x.tanh()

    memory = {}

    def restore(x, s):
        memory["eps"] = convert(x.tanh(), x, s, process, "x0", "eps")
        return x.tanh()

    def degrade(x0, t):
        return process.alpha(t) * x0 + process.sigma(t) * memory["eps"]

    torch.testing.assert_close(last(cold.naive(degrade, restore, start, times)), last(ddim(D(), start, times)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cold.naive(drift, bad, X0 * math.nan, uniform(2)), ValueError, "x must be finite"),
        (lambda: cold.improved(drift, bad, X0[0, 0, 0], uniform(2)), ValueError, "x must have a batch axis"),
        (lambda: cold.improved(drift, bad, X0.long(), uniform(2)), TypeError, "floating-point"),
        (lambda: cold.naive(drift, bad, X0, uniform(2).flip(0)), ValueError, "strictly decreasing"),
        (
            lambda: last(cold.naive(drift, lambda x, s: x[:1], X0, uniform(2))),
            ValueError,
            "the guess of restore and x must",
        ),
        (
            lambda: last(cold.improved(lambda x, s: x[..., :1], bad, X0, uniform(2))),
            ValueError,
            "the answer of degrade and x",
        ),
        (lambda: cold.fade(X0 * math.nan), ValueError, "target must be finite"),
        (lambda: cold.blur(-1.0), ValueError, "strength must be a finite number"),
        (lambda: cold.blur(1.0)(X0, torch.tensor(-0.1)), ValueError, "the severity s must be a finite number in"),
        (lambda: cold.fade(X0)(X0, torch.tensor(math.nan)), ValueError, "the severity s must be a finite number in"),
        (lambda: cold.erase(ORDER)(X0, torch.tensor(1.1)), ValueError, "the severity s must be a finite number in"),
        (lambda: cold.erase(ORDER * math.inf), ValueError, "order must be finite"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
