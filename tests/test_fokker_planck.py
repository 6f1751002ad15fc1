"""The one-dimensional Fokker–Planck solver against exact Gaussians, a stationary law, and its conservation law."""

import math

import pytest
import torch

from minidiff import fokker_planck

F64 = torch.float64


def boxes(n=200, reach=6.0):
    return torch.linspace(-reach, reach, n + 1, dtype=F64)


def gaussian_boxes(edges, mean, variance):
    """Exact means over the boxes."""
    cdf = torch.special.ndtr((edges - mean) / math.sqrt(variance))
    return cdf.diff() / edges.diff()


def ornstein_uhlenbeck(n, steps, end=0.6):
    """dx = −a x dt + g dW from N(1, 0.3): solved, and exact."""
    a, g, edges = 1.3, 0.9, boxes(n)
    times = torch.linspace(0, end, steps + 1, dtype=F64)
    found = fokker_planck.solve(gaussian_boxes(edges, 1.0, 0.3), edges, times, lambda x, t: -a * x, lambda t: g**2)
    rest = g**2 / (2 * a)
    variance = rest + (0.3 - rest) * math.exp(-2 * a * end)
    return found, gaussian_boxes(edges, math.exp(-a * end), variance), edges


def test_an_ornstein_uhlenbeck_process():
    found, exact, _ = ornstein_uhlenbeck(300, 80)
    assert found.shape == (81, 300)
    assert float((found[-1] - exact).abs().max()) < 1e-3 * float(exact.max())


def test_the_error_is_of_second_order_in_space_and_time():
    errors = []
    for n in (50, 100, 200):
        found, exact, edges = ornstein_uhlenbeck(n, n // 5)
        errors.append(float((found[-1] - exact).abs().sum() * (edges[1] - edges[0])))
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(2, abs=0.2)


def test_mass_is_conserved_to_rounding_even_at_the_walls():
    edges = boxes(60, 1.0)
    times = torch.linspace(0, 1, 21, dtype=F64)
    density = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = fokker_planck.solve(density, edges, times, lambda x, t: 3 + torch.sin(5 * x + t), lambda t: 0.5 + t)
    torch.testing.assert_close(found.sum(1), density.sum().expand(21), rtol=1e-12, atol=1e-12)


def test_coefficients_that_change_with_time():
    """The forward process m′ = f m, v′ = 2 f v + g² with f = −t and g² = 1 + t."""
    edges = boxes(250)
    times = torch.linspace(0, 1, 61, dtype=F64)
    found = fokker_planck.solve(gaussian_boxes(edges, 0.5, 0.2), edges, times, lambda x, t: -t * x, lambda t: 1 + t)
    s = torch.linspace(0, 1, 100_001, dtype=F64)
    variance = math.exp(-1) * (0.2 + float(torch.trapezoid((1 + s) * (s**2).exp(), s)))
    exact = gaussian_boxes(edges, 0.5 * math.exp(-0.5), variance)
    assert float((found[-1] - exact).abs().max()) < 1e-3 * float(exact.max())


def test_pure_transport_moves_a_bump():
    edges = boxes(300)
    times = torch.linspace(0, 1, 121, dtype=F64)
    start = gaussian_boxes(edges, -1.0, 0.25)
    found = fokker_planck.solve(start, edges, times, lambda x, t: torch.full_like(x, 1.5), lambda t: 0.0)
    exact = gaussian_boxes(edges, 0.5, 0.25)
    assert float((found[-1] - exact).abs().max()) < 1e-2 * float(exact.max())


def test_the_stationary_law_of_a_double_well_stays():
    """p ∝ exp(−2 U/g²) for the drift −U′."""
    edges, g2 = boxes(240, 2.2), 0.7
    x = fokker_planck.centres(edges)
    density = (-2 * (x**4 / 4 - x**2 / 2) / g2).exp()
    density = density / density.sum() / (edges[1] - edges[0])
    times = torch.linspace(0, 2, 41, dtype=F64)
    found = fokker_planck.solve(density, edges, times, lambda x, t: x - x**3, lambda t: g2)
    assert float((found[-1] - density).abs().max()) < 1e-3 * float(density.max())


def test_columns_of_the_generator_sum_to_zero():
    edges = boxes(30)
    matrix = fokker_planck.rates(edges, torch.randn(29, generator=torch.Generator().manual_seed(1), dtype=F64), 0.3)
    torch.testing.assert_close(matrix.sum(0), torch.zeros(30, dtype=F64), rtol=0, atol=1e-12)


def test_refusals():
    edges, times, density = boxes(10), torch.tensor([0.0, 1.0], dtype=F64), torch.ones(10, dtype=F64)

    def run(density=density, edges=edges, times=times, g2=1.0):
        return fokker_planck.solve(density, edges, times, lambda x, t: -x, lambda t: g2)

    for call, message in (
        (lambda: run(density=density[1:]), "one mean for each of the 10 boxes, got 9"),
        (lambda: run(edges=edges**3), "equally spaced"),
        (lambda: run(edges=edges.flip(0)), "equally spaced"),
        (lambda: run(edges=edges[:2], density=density[:1]), "at least 3"),
        (lambda: run(times=times.flip(0)), "times must increase strictly"),
        (lambda: run(times=times[None]), "times must have one axis"),
        (lambda: run(density=density / 0), "density must be finite"),
        (lambda: run(g2=-1.0), "g2 must not be negative, got -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
