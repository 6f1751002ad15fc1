"""The Schrödinger bridge on a grid: marginals, the Gaussian closed form, both limits, projections that only gain."""

import itertools
import math

import pytest
import torch

from minidiff import bridge

LINE = torch.linspace(-7, 7, 141, dtype=torch.float64)


def gaussian(std, x=LINE):
    p = torch.exp(-(x**2) / (2 * std**2))
    return p / p.sum()


def covariance(plan):
    return float((plan * LINE[:, None] * LINE).sum())


def random_problem(seed, n=9, m=7):
    random = torch.Generator().manual_seed(seed)
    p, x, q, y = (torch.rand(k, generator=random, dtype=torch.float64) for k in (n, n, m, m))
    return p + 0.1, 2 * x, q + 0.1, 2 * y


@pytest.mark.parametrize("seed", range(3))
def test_marginals_and_form(seed):
    """The plan has both marginals, and log plan − log kernel is a function of x plus a function of y."""
    p, x, q, y = random_problem(seed)
    plan = bridge.couple(p, x, q, y, noise=0.7, tolerance=1e-13)
    torch.testing.assert_close(plan.sum(1), p / p.sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(plan.sum(0), q / q.sum(), rtol=0, atol=1e-12)
    rest = plan.log() + (x[:, None] - y) ** 2 / (2 * 0.7**2)
    mixed = rest - rest.mean(0) - rest.mean(1, keepdim=True) + rest.mean()
    torch.testing.assert_close(mixed, torch.zeros_like(mixed), rtol=0, atol=1e-10)


@pytest.mark.parametrize("noise", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("s", [0.5, 1.1])
def test_gaussians_have_a_closed_form(s, noise):
    """The covariance of the ends is √(s² + noise⁴/4) − noise²/2."""
    plan = bridge.couple(gaussian(s), LINE, gaussian(1.0), LINE, noise, tolerance=1e-10)
    assert covariance(plan) == pytest.approx(math.sqrt(s**2 + noise**4 / 4) - noise**2 / 2, abs=1e-6)


def test_each_sweep_projects():
    """The columns are exact, the error of the rows falls, and so does the divergence from the solution."""
    p, x, q, y = random_problem(4)
    best = bridge.couple(p, x, q, y, 0.5, tolerance=1e-13)
    errors, gaps = [], []
    for plan, error in bridge.fit(p, x, q, y, 0.5, sweeps=12):
        torch.testing.assert_close(plan.sum(0), q / q.sum(), rtol=1e-12, atol=0)
        assert error == pytest.approx(float((plan.sum(1) - p / p.sum()).abs().sum() / 2))
        errors.append(error)
        gaps.append(float((best * (best / plan).log()).sum()))
    for values in (errors, gaps):
        assert all(later < earlier for earlier, later in itertools.pairwise(values))


def test_much_noise_is_independence():
    p, x, q, y = random_problem(2)
    plan = bridge.couple(p, x, q, y, noise=200.0)
    torch.testing.assert_close(plan, torch.outer(p, q) / (p.sum() * q.sum()), rtol=1e-3, atol=0)


def test_little_noise_is_the_monotone_coupling():
    """Equal weights on equally many places: all the mass on the sorted pairs."""
    x, y = (v.sort().values for v in (torch.tensor([0.1, 0.9, 2.0, 3.3]), torch.tensor([-1.0, 0.4, 1.1, 2.9])))
    plan = bridge.couple(torch.ones(4), x, torch.ones(4), y, noise=0.3, tolerance=1e-4)
    torch.testing.assert_close(plan, torch.eye(4, dtype=torch.float64) / 4, rtol=0, atol=6e-3)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_marginal_of_the_bridge_between_gaussians(t):
    """N(0, (1−t)² s² + t² + 2 t (1−t) c + noise² t (1−t)), c the covariance of the ends."""
    s, noise = 1.4, 0.8
    plan = bridge.couple(gaussian(s), LINE, gaussian(1.0), LINE, noise)
    density = bridge.marginal(plan, LINE, LINE, noise, t, LINE)
    c = math.sqrt(s**2 + noise**4 / 4) - noise**2 / 2
    variance = (1 - t) ** 2 * s**2 + t**2 + 2 * t * (1 - t) * c + noise**2 * t * (1 - t)
    expected = torch.exp(-(LINE**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    torch.testing.assert_close(density, expected, rtol=0, atol=2e-6)


def test_too_little_noise_is_an_error(monkeypatch):
    p, x, q, y = random_problem(1)
    monkeypatch.setattr(bridge, "fit", lambda *problem, sweeps: iter([bridge.Fit(torch.ones(1), 0.5)]))
    with pytest.raises(RuntimeError, match=r"the error is 0\.5, above the tolerance 1e-08: more noise"):
        bridge.couple(p, x, q, y, 0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"p": torch.ones(3)}, "p and its places must be vectors of one length, got"),
        ({"q": torch.tensor([1.0, 0.0])}, "q must be positive, got the value 0.0"),
        ({"q": torch.tensor([1.0, math.nan])}, "q must be finite"),
        ({"noise": 0.0}, "noise must be a finite number"),
        ({"sweeps": 0}, "sweeps must be at least 1"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    pair = torch.tensor([0.5, 0.5])
    good = {"p": pair, "x": pair, "q": pair, "y": pair, "noise": 1.0}
    with pytest.raises(ValueError, match=message):
        bridge.fit(**(good | changed))


def test_bad_arguments_of_the_marginal():
    plan, x = torch.full((2, 2), 0.25), torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="t must be a finite number in"):
        bridge.marginal(plan, x, x, 1.0, 0.0, x)
    with pytest.raises(ValueError, match=r"plan must be \(2, 3\), got \(2, 2\)"):
        bridge.marginal(plan, x, torch.zeros(3), 1.0, 0.5, x)
