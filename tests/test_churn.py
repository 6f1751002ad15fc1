"""EDM's sampler and Restart: order, identities, and the law of what is added, on Gaussians exactly."""

import math

import pytest
import torch
from processes import FORMULAS, name
from test_orders import has_order, mixture, slope

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.metrics import CountCalls
from minidiff.process import EDM, CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import State, ddim, edm, heun, last, path, restart
from minidiff.samplers.churn import MOST_CHURN

F64 = torch.float64


def gen(seed=5):
    return torch.Generator().manual_seed(seed)


def test_order_without_churn():
    assert has_order(slope(edm, LinearVP()), 2)


def test_without_churn_it_is_heun_where_time_is_r():
    """With α = 1 and σ = t (EDM at ρ = 1 up to its ends), dy/dr is dx/dt up to a constant factor."""
    process = EDM(sigma_min=0.01, sigma_max=10.0, rho=1.0)
    D, T = mixture(process), times.uniform(12)
    x = process.prior((5, 2), gen(), dtype=F64)
    torch.testing.assert_close(path(edm(D, x, T)), path(heun(D, x, T)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_the_same_for_every_process(process):
    """y = x/α at equal λ does not depend on the process, with churn too."""
    lam = torch.linspace(-2, 1.5, 9, dtype=F64)

    def ends(process):
        T = process.time(lam)
        x = process.alpha(T[0]) * torch.randn(6, 2, generator=gen(), dtype=F64) * math.exp(2)
        options = {"churn": 2.0, "churn_range": (0.3, 3.0), "noise": 1.003, "generator": gen(1)}
        return last(edm(mixture(process), x, T, **options)) / process.alpha(T[-1])

    torch.testing.assert_close(ends(process), ends(EDM()), rtol=0, atol=1e-9)


def test_one_step_with_churn_by_hand():
    """r = 2 → r̂ = 2 (1 + γ), then Heun to r = 1; γ is cut at √2 − 1, and at r of t = 1."""
    process = EDM(sigma_min=0.01, sigma_max=10.0)
    D = mixture(process)
    T = process.time(-torch.tensor([2.0, 1.0], dtype=F64).log())
    y, z = torch.randn(4, 2, generator=gen(), dtype=F64), torch.randn(4, 2, generator=gen(9), dtype=F64)
    for churn, gamma in ((0.2, 0.2), (5.0, MOST_CHURN)):
        r = 2 * (1 + gamma)
        up = y + 1.1 * math.sqrt(r**2 - 4) * z
        slope_s = (up - D(up, process.time(torch.tensor(-math.log(r), dtype=F64)))) / r
        ahead = up + (1 - r) * slope_s
        by_hand = up + (1 - r) / 2 * (slope_s + (ahead - D(ahead, T[1])))
        end = last(edm(D, y, T, churn=churn, noise=1.1, generator=gen(9)))
        torch.testing.assert_close(end, by_hand, rtol=1e-10, atol=1e-10)
    T[0] = 1.0  # r = 10 already
    assert torch.equal(last(edm(D, y, T, churn=5.0)), last(edm(D, y, T)))


def test_calls():
    process = LinearVP()
    D = CountCalls(mixture(process))
    x = torch.randn(3, 2, generator=gen(), dtype=F64)
    assert len(list(edm(D, x, times.log_snr(process, 8, zero=True)))) == 9
    assert D.calls == 15


@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_from_pure_noise_to_the_data(process, n, churn):
    D, x = mixture(process), process.prior((4, 2), gen())
    end = last(edm(D, x, times.uniform(n), churn=churn, generator=gen()))
    assert end.isfinite().all()
    if n == 1:
        torch.testing.assert_close(end, last(ddim(D, x, times.uniform(1))))


def exact(D, x, T):
    """The probability flow of a Gaussian, in one step."""
    yield State(T[0], x, None)
    yield State(T[-1], D.flow(x, T[0], T[-1]), None)


@pytest.mark.parametrize("process", FORMULAS, ids=name)
@pytest.mark.parametrize("repeats", [1, 3])
def test_restart_forgets_an_error_of_the_variance(process, repeats, monkeypatch):
    """Each visit multiplies it, in y = x/α, by (s² + r_b²)/(s² + r_a²). Row 0 carries x, row i the i-th noise."""
    s, r = 0.7, torch.tensor([4.0, 2.0, 0.5], dtype=F64)
    T = process.time(-r.log())
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=s)
    rows = torch.eye(repeats + 1, dtype=F64)
    visit = iter(range(1, repeats + 1))
    monkeypatch.setattr("minidiff.samplers.churn.standard_normal", lambda *_: rows[:, [next(visit)]])
    gain = last(restart(D, rows[:, [0]], T[[0, 2]], interval=T[1:], repeats=repeats, method=exact)).flatten()
    gain = gain / process.alpha(T[2])
    wrong = (
        1.3 * (s**2 + float(r[0]) ** 2) * float(process.alpha(T[0])) ** 2
    )  # the variance at the start is off by 30 %
    variance = float(gain[0] ** 2 * wrong + gain[1:].square().sum())
    right = s**2 + float(r[2]) ** 2
    factor = right / (s**2 + float(r[1]) ** 2)
    assert variance - right == pytest.approx(0.3 * right * factor**repeats, rel=1e-7)


def test_restart_states_and_bad_input():
    process = LinearVP()
    D, x, T = mixture(process), torch.randn(3, 2, generator=gen(), dtype=F64), times.log_snr(process, 6)
    interval = T[[2, 3, 4]]
    states = list(restart(D, x, T, interval=interval, repeats=2, generator=gen()))
    visited = [*T[:5], *interval, *interval, *T[5:]]
    assert [float(state.t) for state in states] == [float(t) for t in visited]
    plain = path(heun(D, x, T))
    torch.testing.assert_close(torch.stack([state.x for state in states[:5]]), plain[:5])
    for wrong, error, message in (
        ({"interval": T[[2, 3]] - 1e-3}, ValueError, "interval must end at one of times"),
        ({"interval": T[[3, 2]]}, ValueError, "strictly decreasing"),
        ({"interval": interval, "repeats": 0}, ValueError, "repeats must be at least 1"),
    ):
        with pytest.raises(error, match=message):
            restart(D, x, T, **wrong)
    D.coupled = True
    for call in (lambda: restart(D, x, T, interval=interval), lambda: edm(D, x, T, churn=1.0)):
        with pytest.raises(ValueError, match="adds independent noise"):
            call()
    assert last(edm(D, x, T)).isfinite().all()


def test_bad_churn():
    D, x, T = mixture(LinearVP()), torch.zeros(1, 2), times.uniform(3)
    for options, message in (({"churn": -1.0}, "churn must be"), ({"noise": 0.0}, "noise must be")):
        with pytest.raises(ValueError, match=message):
            edm(D, x, T, **options)
