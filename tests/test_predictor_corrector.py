"""Predictor and corrector: what they are made of, what the corrector forgets, calls, ends and arguments."""

import functools
import math

import pytest
import torch
from processes import FORMULAS, name
from test_orders import mixture

from minidiff import times
from minidiff.affine_law import affine_law
from minidiff.analytic import Gaussian
from minidiff.metrics import CountCalls
from minidiff.process import CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, ddim, heun, langevin, last, path, predictor_corrector

F64 = torch.float64


def gen(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_it_is_a_step_and_langevin_in_turn(process):
    D, T = mixture(process), process.time(torch.linspace(-2, 1.5, 5, dtype=F64))
    x = process.prior((5, 2), gen(), dtype=F64)
    ours = path(predictor_corrector(D, x, T, predictor=heun, snr=0.2, steps=3, generator=gen(1)))
    by_hand, g = [x], gen(1)
    for s, t in times.pairwise(T):
        x = last(heun(D, x, torch.stack([s, t])))
        x = last(langevin(D, x, t, step=(0.4 * float(process.sigma(t))) ** 2, steps=3, generator=g))
        by_hand.append(x)
    torch.testing.assert_close(ours, torch.stack(by_hand), rtol=1e-10, atol=1e-10)


def test_without_corrector_it_is_the_predictor():
    D, T = mixture(LinearVP()), times.uniform(6)
    x = torch.randn(4, 2, generator=gen(), dtype=F64)
    torch.testing.assert_close(path(predictor_corrector(D, x, T, snr=0.0)), path(ddim(D, x, T)))
    noisy = predictor_corrector(D, x, T, predictor=functools.partial(ancestral, generator=gen(1)), snr=0.0)
    torch.testing.assert_close(path(noisy), path(ancestral(D, x, T, generator=gen(1))))


def test_the_corrector_forgets_at_the_rate_of_langevin():
    """On N(0, c²): each update multiplies an error of the variance by (1 − ε/2v)²."""
    process, c, snr = LinearVP(), 0.6, 0.3
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=c)
    T = process.time(torch.tensor([-1.0, 0.2], dtype=F64))
    sigma = float(process.sigma(T[1]))
    v = (float(process.alpha(T[1])) * c) ** 2 + sigma**2

    def ends(snr, start):
        law = affine_law(lambda x, g: last(predictor_corrector(D, x, T, snr=snr, steps=2, generator=g)), 2)
        return law.variance(start)

    predicted = ends(0.0, 2.0) - ends(0.0, 1.0)
    kept = (1 - (2 * snr * sigma) ** 2 / (2 * v)) ** 4
    assert ends(snr, 2.0) - ends(snr, 1.0) == pytest.approx(kept * predicted, rel=1e-9)
    # and at rest it has Langevin's own variance, v/(1 − ε/4v)
    step = (2 * snr * sigma) ** 2
    rest = last(langevin(D, torch.zeros(1, 1, dtype=F64), T[1], step=step, steps=1, generator=gen()))
    noise = (rest / torch.randn(1, 1, generator=gen(), dtype=F64)).item() ** 2
    assert noise / (1 - math.sqrt(kept)) == pytest.approx(v / (1 - step / (4 * v)), rel=1e-9)


@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_from_pure_noise_to_the_data(process, n):
    D = CountCalls(mixture(process))
    states = list(predictor_corrector(D, process.prior((4, 2), gen()), times.uniform(n), steps=2, generator=gen()))
    assert len(states) == n + 1
    assert states[-1].x.isfinite().all()
    assert states[-1].x.dtype == torch.float32
    assert D.calls == n + 2 * (n - 1)


def test_bad_options():
    D, x, T = mixture(LinearVP()), torch.zeros(1, 2), times.uniform(3)
    for options, message in (
        ({"snr": -0.1}, "snr must be"),
        ({"snr": 1.0}, "diverges, got 1.0"),
        ({"steps": 0}, "steps must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor_corrector(D, x, T, **options)
    D.coupled = True
    with pytest.raises(ValueError, match="predictor_corrector with snr > 0 adds independent noise"):
        predictor_corrector(D, x, T)
    assert last(predictor_corrector(D, x, T, snr=0.0)).isfinite().all()
