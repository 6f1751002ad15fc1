"""Picard's iteration and parareal: the sequential answer, exactly, and what it costs to have it sooner."""

import pytest
import torch
from mixtures import two as mixture
from processes import FORMULAS, name
from torch import nn

from minidiff import times
from minidiff.denoiser import Combined, Denoiser
from minidiff.metrics import CountCalls
from minidiff.process import EDM, LinearVP, RectifiedFlow
from minidiff.samplers import ddim, dpmpp_2s, euler, heun, last, parareal, path, picard
from minidiff.samplers.rows import stacked

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def begun(process, n, batch=4):
    return mixture(process), process.prior((batch, 2), gen(), dtype=F64), times.uniform(n)


@pytest.mark.parametrize("cheap", ["linear", "identity"])
@pytest.mark.parametrize("window", [None, 4, 1])
@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_picard_ends_at_the_sequential_path_in_at_most_n_sweeps(process, window, cheap):
    D, x, T = begun(process, 9)
    sweeps = list(picard(D, x, T, window=window, tolerance=0.0, cheap=cheap))
    exact = path(ddim(D, x, T))
    torch.testing.assert_close(sweeps[-1].path, exact, rtol=1e-10, atol=1e-10)
    assert len(sweeps) - 1 <= 9
    assert sweeps[-1].settled == 9
    assert sweeps[-1].depth == len(sweeps) - 1
    for k, sweep in enumerate(sweeps):  # one more state is exact after each sweep
        torch.testing.assert_close(sweep.path[: k + 1], exact[: k + 1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", [heun, euler, dpmpp_2s])
def test_picard_of_another_method(method):
    D, x, T = begun(RectifiedFlow(), 6)
    *_, final = picard(D, x, T, tolerance=0.0, method=method)
    torch.testing.assert_close(final.path, path(method(D, x, T)), rtol=1e-10, atol=1e-11)


def test_a_window_of_one_is_the_sequential_method():
    D, x, T = begun(LinearVP(), 7)
    guess, *_, final = picard(D, x, T, window=1)
    assert (guess.settled, guess.depth, guess.calls) == (0, 0, 0)
    assert (final.depth, final.calls) == (7, 7)
    assert torch.equal(final.path, path(ddim(D, x, T))) or torch.allclose(final.path, path(ddim(D, x, T)), atol=1e-13)


@pytest.mark.parametrize("window", [None, 5])
def test_the_calls_are_counted_and_made_together(window):
    D, x, T = begun(LinearVP(), 8)
    rows = []

    def spy(x, t):
        rows.append(len(x))
        return D(x, t)

    spy.process, spy.sigma_data, spy.coupled = D.process, D.sigma_data, D.coupled
    *_, final = picard(spy, x, T, window=window)
    assert len(rows) == final.depth
    assert sum(rows) == final.calls * len(x)
    counted = CountCalls(D)
    *_, final = picard(counted, x, T, window=window, method=heun)
    assert counted.calls == final.calls


def test_the_error_is_of_the_size_of_the_tolerance():
    D, x, T = begun(LinearVP(), 60, batch=50)
    exact = last(ddim(D, x, T))
    depths = []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-5):
        *_, final = picard(D, x, T, tolerance=tolerance)
        assert float((final.x - exact).square().mean(1).sqrt().max()) < 3 * tolerance * D.sigma_data
        depths.append(final.depth)
    assert depths == sorted(depths)
    assert depths[-1] < 30  # of 60 steps


def test_nan_is_never_settled():
    """A change that is NaN is not a small one: states are final one by one, when their predecessors are."""
    exact, x, T = begun(FORMULAS[0], 6)

    class Broken(Combined):
        def __call__(self, x, t):
            return x * torch.nan

    assert [sweep.settled for sweep in picard(Broken(exact), x, T, tolerance=1e9)] == list(range(7))


def test_sweeps_stay_few_when_the_steps_become_many():
    depths = []
    for n in (80, 160, 320, 640):
        D, x, T = begun(LinearVP(), n)
        *_, final = picard(D, x, T)
        depths.append(final.depth)
    assert max(depths) <= 14
    assert depths[-1] - depths[-2] <= 2


@pytest.mark.parametrize("blocks", [1, 3, 6, 12])
@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_parareal_is_exact_after_as_many_sweeps_as_blocks(process, blocks):
    D, x, T = begun(process, 12)
    exact = path(ddim(D, x, T))[:: 12 // blocks]
    sweeps = list(parareal(D, x, T, blocks=blocks, tolerance=0.0))
    assert len(sweeps) - 1 <= blocks
    torch.testing.assert_close(sweeps[-1].path, exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sweeps[0].path, path(ddim(D, x, T[:: 12 // blocks])))


def test_parareal_counts_its_calls():
    D, x, T = begun(LinearVP(), 12)
    counted = CountCalls(D)
    *_, final = parareal(counted, x, T, blocks=4, tolerance=0.0, method=heun)
    assert counted.calls == final.calls
    sweeps = list(parareal(D, x, T, blocks=4, tolerance=0.0))
    for k, sweep in enumerate(sweeps[:4]):
        assert sweep.depth == 4 + sum(3 + 3 - j for j in range(k))
        assert sweep.calls == 4 + sum(3 * (4 - j) + 3 - j for j in range(k))


def test_conditional_networks_get_the_label_of_each_row():
    class Net(nn.Module):
        def forward(self, x, t, y):
            return x * t.reshape(-1, *[1] * (x.ndim - 1)) + y.reshape(-1, *[1] * (x.ndim - 1))

    D = Denoiser(Net(), LinearVP(), "x0").given(torch.tensor([1.0, 2.0, 5.0]))
    x, times_ = torch.randn(4, 3, 2, generator=gen()), tuple(torch.rand(4, generator=gen(1), dtype=F64))
    found = stacked(D, x, times_)
    torch.testing.assert_close(found, torch.stack([D(part, t) for part, t in zip(x, times_, strict=True)]))
    x, T = torch.randn(3, 2, generator=gen()), times.uniform(6)
    *_, final = picard(D, x, T, tolerance=0.0)
    torch.testing.assert_close(final.x, last(ddim(D, x, T)))


def test_half_precision_is_raised():
    D = Denoiser(Copy(), LinearVP(), "x0")
    x, T = torch.randn(3, 2, generator=gen()).bfloat16(), times.uniform(3)
    for sweeps in (picard(D, x, T), parareal(D, x, T, blocks=3)):
        assert [*sweeps][-1].x.dtype == torch.float32


class Copy(nn.Module):
    def forward(self, x, t, y):
        return x


@pytest.mark.parametrize("process", [LinearVP(), EDM()], ids=name)
def test_one_step(process):
    D, x, T = begun(process, 1)
    for sweeps in (picard(D, x, T), parareal(D, x, T, blocks=1)):
        torch.testing.assert_close([*sweeps][-1].x, last(ddim(D, x, T)))


def test_refusals():
    D, x, T = begun(LinearVP(), 4)

    def crooked(x, t):
        return x[:, :1]

    crooked.process, crooked.sigma_data, crooked.coupled = D.process, 1.0, False
    for call, error, message in (
        (lambda: picard(D, x, T, window=0), ValueError, "window must be at least 1"),
        (lambda: picard(D, x, T, tolerance=-1.0), ValueError, "tolerance must be"),
        (lambda: picard(D, x, T, cheap="free"), ValueError, "cheap must be among"),
        (lambda: picard(D, x, T.flip(0)), ValueError, "strictly decreasing"),
        (lambda: parareal(D, x, T, blocks=3), ValueError, "blocks must divide the number of steps, 4, got 3"),
        (lambda: parareal(D, x, T, blocks=0), ValueError, "blocks must be at least 1"),
        (lambda: parareal(D, x, T, blocks=2, tolerance=-1), ValueError, "tolerance must be"),
        (lambda: parareal(D, x[0], T, blocks=2), ValueError, "batch axis"),
        (lambda: list(picard(crooked, x, T)), ValueError, "shape of x"),
    ):
        with pytest.raises(error, match=message):
            call()
