"""The circle: two forms of the theta function, the heat equation, the score by differentiation, the walk reversed."""

import math

import pytest
import torch

from minidiff.apps import circle
from minidiff.samplers.state import last

ANGLES = torch.linspace(-math.pi, math.pi, 101, dtype=torch.float64)[:-1]


@pytest.mark.parametrize("v", [0.3, 1.0, 3.0, 2 * math.pi, 12.0])
def test_both_forms_agree(v):
    by_images, by_series = circle.density_by_images(ANGLES, v), circle.density_by_series(ANGLES, v)
    torch.testing.assert_close(by_images, by_series, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(circle.log_density(ANGLES, v), by_images.log(), rtol=0, atol=1e-9)
    assert float(by_images.mean()) * 2 * math.pi == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("v", [0.2, 1.0, 7.0])
def test_heat_equation(v):
    """∂p/∂v = ½ ∂²p/∂θ², both by autograd."""
    theta = ANGLES.clone().requires_grad_()
    for density in (circle.density_by_images, circle.density_by_series):
        variance = torch.full_like(theta, v, requires_grad=True)
        p = density(theta, variance)
        (slope, rate) = torch.autograd.grad(p.sum(), (theta, variance), create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), theta)
        torch.testing.assert_close(rate.detach(), curvature / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("v", [0.05, 0.5, 2.0, 6.0, 6.5, 20.0])
def test_score_is_the_derivative(v):
    theta = ANGLES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(circle.log_density(theta, v).sum(), theta)
    torch.testing.assert_close(circle.score(ANGLES, v), slope, rtol=1e-8, atol=1e-13)
    torch.testing.assert_close(circle.score(ANGLES + 6 * math.pi, v), circle.score(ANGLES, v), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(circle.score(-ANGLES, v), -circle.score(ANGLES, v), rtol=1e-9, atol=1e-12)
    assert abs(float(circle.score(torch.tensor([math.pi], dtype=torch.float64), v))) < 1e-9


def test_limits():
    """Little variance: the line's −θ/v. Much: uniform, and the score −2 e^{−v/2} sin θ."""
    near = torch.tensor([-0.3, 0.1, 0.4], dtype=torch.float64)
    torch.testing.assert_close(circle.score(near, 0.01), -near / 0.01)
    torch.testing.assert_close(
        circle.log_density(near, 60.0), torch.full((3,), -math.log(2 * math.pi), dtype=torch.float64)
    )
    torch.testing.assert_close(circle.score(near, 30.0), -2 * math.exp(-15) * near.sin(), rtol=1e-5, atol=0)
    far = circle.log_density(torch.tensor([3.0]), 0.005)  # exp(−900): the logarithm keeps what the density loses
    assert float(far) == pytest.approx(-900 - math.log(2 * math.pi * 0.005) / 2)


def test_one_call_serves_many_variances():
    v = torch.tensor([0.1, 5.0, 40.0], dtype=torch.float64)
    for function in (circle.score, circle.log_density):
        together = function(torch.full((3,), 1.2), v)
        alone = torch.stack([function(torch.tensor(1.2), float(x)) for x in v])
        torch.testing.assert_close(together, alone)


def test_wrap():
    assert circle.wrap(
        torch.tensor([math.pi, -math.pi, 3 * math.pi, 0.5 + 4 * math.pi], dtype=torch.float64)
    ).tolist() == pytest.approx([-math.pi, -math.pi, -math.pi, 0.5])


def test_the_walk_is_a_semigroup():
    """Fourier moments e^{−n²v/2}, in one step or in three; 40 000 draws within 4 standard errors (≤ 1/√(2n))."""
    n = 40_000
    for parts in ([0.8], [0.5, 0.2, 0.1]):
        theta, random = torch.full((n,), 0.4, dtype=torch.float64), torch.Generator().manual_seed(0)
        for v in parts:
            theta = circle.walk(theta, v, random)
        assert float(theta.abs().max()) <= math.pi
        for order in (1, 2):
            expected = math.exp(-(order**2) * 0.4) * math.cos(order * 0.4)
            assert abs(float((order * theta).cos().mean()) - expected) < 4 / math.sqrt(2 * n) * 1.42


DATA = torch.tensor([-2.0, 0.5, 1.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("v", [0.1, 1.0, 9.0])
def test_score_of_data_is_the_derivative_of_the_mixture(v):
    theta = ANGLES.clone().requires_grad_()
    log_p = sum(circle.density_by_images(theta - x, v) for x in DATA).log()
    (slope,) = torch.autograd.grad(log_p.sum(), theta)
    torch.testing.assert_close(circle.score_of_data(DATA, ANGLES, v), slope, rtol=1e-8, atol=1e-11)


def test_the_reverse_walk_returns_the_data():
    """From the uniform law at v = 12 (e^{−6} from it) to v = 0.05: moments of the data, damped by e^{−n²·0.025}."""
    n, random = 10_000, torch.Generator().manual_seed(1)
    theta = circle.wrap(2 * math.pi * torch.rand(n, generator=random, dtype=torch.float64))
    variances = torch.logspace(math.log10(12), math.log10(0.05), 120, dtype=torch.float64)
    states = circle.reverse_walk(lambda x, v: circle.score_of_data(DATA, x, v), theta, variances, generator=random)
    end = last(states)
    for order in (1, 2, 3):
        for wave in (torch.cos, torch.sin):
            expected = math.exp(-(order**2) * 0.025) * float(wave(order * DATA).mean())
            # 4 standard errors, and 0.015 for the steps and the start.
            assert abs(float(wave(order * end).mean()) - expected) < 4 / math.sqrt(n) + 0.015


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: circle.score(x, 0.0), ValueError, "variance must be positive and finite, got 0.0"),
        (lambda x: circle.log_density(x, math.nan), ValueError, "variance must be positive and finite"),
        (lambda x: circle.density_by_images(x * math.nan, 1.0), ValueError, "theta must be finite"),
        (lambda x: circle.density_by_series(x, 1.0, 0), ValueError, "terms must be at least 1"),
        (lambda x: circle.score(x.long(), 1.0), TypeError, "theta must be a floating-point tensor"),
        (lambda x: circle.score_of_data(x[:0], x, 1.0), ValueError, r"data and theta must be \(n,\) and \(B,\)"),
        (lambda x: circle.score_of_data(x, x * math.nan, 1.0), ValueError, "theta must be finite"),
        (lambda x: circle.walk(x, -1.0), ValueError, "variance must be a finite number"),
        (
            lambda x: list(circle.reverse_walk(lambda x, v: x[:, None], x, torch.tensor([2.0, 1.0]))),
            ValueError,
            "the answer of score and theta must have the same shape",
        ),
        (lambda x: circle.reverse_walk(None, x, torch.tensor([1.0, 2.0])), ValueError, "positive and strictly falling"),
        (lambda x: circle.reverse_walk(None, x, torch.tensor([1.0, 0.0])), ValueError, "positive and strictly falling"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(ANGLES[:3])
