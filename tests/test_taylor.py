"""The Taylor step: its order, its derivative, and its cost."""

import math

import pytest
import torch
from processes import name

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.bench.orders import mixture
from minidiff.denoiser import Denoiser
from minidiff.metrics import CountCalls
from minidiff.nets.unet import UNet
from minidiff.process import EDM, LinearVP, RectifiedFlow, TrigFlow
from minidiff.samplers import ddim, exponential, last, path, taylor
from minidiff.samplers.taylor import along_path
from minidiff.train import seeded

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow(), EDM(), TrigFlow(0.5)], ids=name)
def test_order_two(process):
    D = mixture(process)
    x = process.prior((6, 2), gen(), dtype=F64)

    def grid(n):
        return process.time(torch.linspace(-1.5, 1.5, n + 1, dtype=F64))

    reference = last(exponential(D, x, grid(640), order=3))
    errors = [float((last(taylor(D, x, grid(n))) - reference).square().mean().sqrt()) for n in (40, 80)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.35)


def test_the_derivative_is_the_difference_quotient_along_the_path():
    """dD/dt of a Gaussian along its exact flow."""
    process = LinearVP()
    D = Gaussian(process, torch.full((2,), 0.3, dtype=F64), std=0.6)
    x, t, h = torch.randn(5, 2, generator=gen(), dtype=F64), torch.tensor(0.4, dtype=F64), 1e-4
    near = [D.flow(x, t, t + s) for s in (h, -h)]
    velocity = (near[0] - near[1]) / (2 * h)
    expected = (D(near[0], t + h) - D(near[1], t - h)) / (2 * h)
    torch.testing.assert_close(along_path(D, x, t, velocity), expected, rtol=1e-6, atol=1e-8)


def test_two_evaluations_a_step_one_at_pure_noise():
    D = CountCalls(mixture(RectifiedFlow()))
    x = torch.randn(3, 2, generator=gen(), dtype=F64)
    end = path(taylor(D, x, times.uniform(5)))
    assert D.calls == 1 + 2 * 4
    assert bool(end.isfinite().all())
    torch.testing.assert_close(end[1], path(ddim(D, x, times.uniform(5)))[1])


def test_a_network_with_attention_in_single_precision():
    with seeded(0):
        D = Denoiser(UNet(), RectifiedFlow(), "velocity").eval()
    x = torch.randn(2, 1, 8, 8, generator=gen())
    with torch.no_grad():
        end = last(taylor(D, x, times.uniform(3)))
    assert end.dtype == torch.float32 and bool(end.isfinite().all())


def test_it_checks_at_the_call():
    with pytest.raises(ValueError, match="strictly decreasing"):
        taylor(mixture(LinearVP()), torch.ones(2, 2), torch.tensor([0.1, 0.5], dtype=F64))
