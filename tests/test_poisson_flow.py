"""Poisson flow: Gauss's theorem, the field of one charge, the exact law at a height, and where the lines end."""

import itertools
import math

import pytest
import torch

from minidiff.apps.poisson_flow import PoissonField, flow, prior, sphere_area
from minidiff.samplers.state import last

PLANE = torch.tensor([[0.0, 0.0], [1.0, 0.5], [-0.7, 0.8]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def test_areas_of_spheres():
    assert [sphere_area(d) for d in (1, 2, 3, 4)] == pytest.approx([2, 2 * math.pi, 4 * math.pi, 2 * math.pi**2])
    for d in (3, 4, 7):  # A_d = A_{d−1} ∫ sin^{d−2}
        angle = (torch.arange(100_000, dtype=torch.float64) + 0.5) * math.pi / 100_000
        assert sphere_area(d) == pytest.approx(sphere_area(d - 1) * float((angle.sin() ** (d - 2)).mean()) * math.pi)


def test_one_charge_is_the_inverse_power_of_the_distance():
    field = PoissonField(torch.zeros(1, 2))
    across, up = field(torch.tensor([[3.0, 0.0]]), 4.0)
    assert [*across[0].tolist(), float(up)] == pytest.approx([3 / 125 / (4 * math.pi), 0, 4 / 125 / (4 * math.pi)])


def test_the_field_has_no_divergence_and_no_curl():
    """Away from the charges it is the gradient of a harmonic function: the Jacobian is symmetric with trace zero."""
    field = PoissonField(PLANE, WEIGHTS)
    point = torch.tensor([0.4, -0.3, 0.7], dtype=torch.float64)

    def whole(p):
        return torch.cat([field(p[None, :2], p[2:])[0][0], field(p[None, :2], p[2:])[1]])

    jacobian = torch.autograd.functional.jacobian(whole, point)
    torch.testing.assert_close(jacobian, jacobian.T)
    assert abs(float(jacobian.trace())) < 1e-14


@pytest.mark.parametrize(("radius", "inside"), [(0.4, 0.5), (3.0, 1.0)])
def test_gauss(radius, inside):
    """The flux through a sphere around the origin is the charge inside: 1/2 of it, or all. By quadrature."""
    field, n = PoissonField(PLANE, WEIGHTS), 200
    cosine = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1
    angle = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    sine = (1 - cosine**2).sqrt()
    normal = torch.stack(
        [
            (sine[:, None] * angle.cos()).flatten(),
            (sine[:, None] * angle.sin()).flatten(),
            cosine[:, None].expand(-1, n).flatten(),
        ],
        1,
    )
    across, up = field(radius * normal[:, :2], radius * normal[:, 2])
    flux = (across * normal[:, :2]).sum(1) + up * normal[:, 2]
    assert float(flux.mean()) * 4 * math.pi * radius**2 == pytest.approx(inside, abs=2e-4)


@pytest.mark.parametrize("z", [0.3, 5.0])
def test_half_the_flux_goes_up(z):
    """∫ E_z dx = 1/2 through a line above charges on a line (N = 1), in closed form up to the ends: arctan."""
    field = PoissonField(torch.tensor([[0.2], [-1.0]], dtype=torch.float64))
    x = torch.linspace(-400, 400, 400_001, dtype=torch.float64)[:, None]
    _, up = field(x, z)
    cut = 2 * math.atan(z / 400) / (2 * math.pi)
    assert float(up.sum()) * 0.002 + cut == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("dim", [1, 2])
def test_prior_is_the_cauchy_law(dim):
    """P(|x| < r): (2/π) arctan(r/z) for N = 1, 1 − z/√(r² + z²) for N = 2; 40 000 draws, 4 standard errors."""
    n, z = 40_000, 3.0
    radius = prior(n, dim, z, torch.Generator().manual_seed(0)).norm(dim=1)
    for r in (1.0, 4.0, 20.0):
        p = 2 / math.pi * math.atan(r / z) if dim == 1 else 1 - z / math.sqrt(r**2 + z**2)
        assert abs(float((radius < r).double().mean()) - p) < 4 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("z", [0.5, 20.0])
def test_the_exact_law_above_the_data_is_the_field(z):
    """2 E_z(x, z) is the density of x_i + z g/|u|: the mass of a strip for N = 1, in closed form."""
    data, weights = torch.tensor([[-1.0], [0.5]], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    field = PoissonField(data, weights)
    x = torch.linspace(-2, 3, 50_001, dtype=torch.float64)
    _, up = field(x[:, None], z)
    mass = float(torch.trapezoid(2 * up, x))
    exact = sum(
        float(w) * (math.atan((3 - float(c)) / z) - math.atan((-2 - float(c)) / z)) / math.pi
        for w, c in zip(weights, data, strict=True)
    )
    assert mass == pytest.approx(exact, abs=1e-9)


def test_lines_of_one_charge_are_straight():
    """Radial: x/z is constant, and RK4 in log z keeps it."""
    start = torch.tensor([[3.0, -4.0], [0.1, 0.2]], dtype=torch.float64)
    end = last(flow(PoissonField(torch.zeros(1, 2)), start, 10.0, 0.1, 50))
    torch.testing.assert_close(end, start / 100, rtol=1e-5, atol=0)


def test_rk4_converges_at_order_four():
    field, start = PoissonField(PLANE, WEIGHTS), torch.tensor([[4.0, 3.0], [-1.0, 2.0]], dtype=torch.float64)
    exact = last(flow(field, start, 10.0, 0.5, 640))
    errors = [float((last(flow(field, start, 10.0, 0.5, n)) - exact).abs().max()) for n in (10, 20, 40)]
    assert all(12 < a / b < 22 for a, b in itertools.pairwise(errors))


def test_in_one_dimension_quantiles_are_kept():
    """Field lines do not cross: the start at quantile q of the exact law ends at the data point with that quantile."""
    data, weights, z = torch.tensor([[-1.0], [0.3], [2.0]]).double(), torch.tensor([0.25, 0.45, 0.3]).double(), 4.0
    field = PoissonField(data, weights)
    x = torch.linspace(-30, 30, 400, dtype=torch.float64)
    quantile = ((x[:, None] - data[:, 0]) / z).atan() @ weights / math.pi + 0.5
    end = last(flow(field, x[:, None], z, 1e-3, 400))[:, 0]
    expected = torch.searchsorted(weights.cumsum(0), quantile)
    clear = (quantile[:, None] - weights.cumsum(0)[:2]).abs().amin(1) > 0.003
    found = (end[:, None] - data[:, 0]).abs().argmin(1)
    assert int(clear.sum()) > 300
    assert torch.equal(found[clear], expected[clear])
    assert bool((end.diff() > 0).all())
    middle = clear & (found == 1)
    assert float((end[middle] - 0.3).abs().max()) < 0.2


@pytest.mark.parametrize("exact", [True, False])
def test_lines_end_on_the_data_in_proportion_to_the_charge(exact):
    """3000 lines in the plane, from the exact law at z = 2 or from the prior far above, z = 60: 4 standard errors."""
    field, n, random = PoissonField(PLANE, WEIGHTS), 3000, torch.Generator().manual_seed(1)
    z = 2.0 if exact else 60.0
    start = prior(n, 2, z, random)
    if exact:
        start += PLANE[torch.multinomial(WEIGHTS, n, True, generator=random)]
    states = list(flow(field, start, z, 1e-3, 120))
    assert float(states[0].t) == pytest.approx(z) and float(states[-1].t) == pytest.approx(1e-3)
    distance, found = torch.cdist(states[-1].x, PLANE).min(1)
    assert float((distance < 0.05).double().mean()) > 0.97
    share = torch.bincount(found, minlength=3) / n
    assert bool(((share - WEIGHTS).abs() < 4 * (WEIGHTS * (1 - WEIGHTS) / n).sqrt() + (0 if exact else 0.01)).all())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PoissonField(PLANE[0]), ValueError, r"data must have shape \(n, N\), got \(2,\)"),
        (lambda: PoissonField(PLANE * math.nan), ValueError, "data must be finite"),
        (lambda: PoissonField(PLANE, WEIGHTS[:2]), ValueError, r"weights must be positive of shape \(3,\)"),
        (lambda: PoissonField(PLANE, WEIGHTS - 0.2), ValueError, "weights must be positive"),
        (lambda: PoissonField(PLANE)(torch.zeros(2, 3), 1.0), ValueError, r"x must have shape \(B, 2\), got \(2, 3\)"),
        (
            lambda: PoissonField(PLANE)(torch.zeros(2, 2), torch.ones(3)),
            ValueError,
            r"z must be finite of shape \(\) or \(2,\)",
        ),
        (lambda: PoissonField(PLANE)(torch.zeros(2, 2), math.nan), ValueError, "z must be finite"),
        (lambda: PoissonField(PLANE)(torch.zeros(1, 2), 0.0), ValueError, "the field is infinite at a charge"),
        (lambda: PoissonField(PLANE).slope(torch.zeros(1, 2), 0.5 - 1), ValueError, "z must be positive"),
        (lambda: PoissonField(torch.ones(2, 400))(torch.zeros(1, 400), 9.0), ValueError, "out of the range of floats"),
        (lambda: prior(0, 2, 1.0), ValueError, "n must be at least 1"),
        (lambda: prior(2, 2, 0.0), ValueError, "z must be a finite number"),
        (
            lambda: flow(PoissonField(PLANE), torch.zeros(1, 2), 1.0, 2.0, 5),
            ValueError,
            "z_min must be below z_max, got 2.0 and 1.0",
        ),
        (lambda: flow(PoissonField(PLANE), torch.zeros(1, 2), 1.0, 0.1, 0), ValueError, "steps must be at least 1"),
        (lambda: flow(PoissonField(PLANE), torch.zeros(1, 3), 1.0, 0.1, 5), ValueError, r"x must have shape \(B, 2\)"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_slope_is_the_ratio_of_the_components():
    field = PoissonField(PLANE, WEIGHTS)
    x = torch.tensor([[0.3, 0.1], [-2.0, 1.0]], dtype=torch.float64)
    for z in (0.05, 1.0, torch.tensor([0.2, 30.0], dtype=torch.float64)):
        across, up = field(x, z)
        torch.testing.assert_close(field.slope(x, z), across / up[:, None], rtol=1e-12, atol=1e-12)


def test_field_lines_in_many_dimensions():
    """784 dimensions, where the field itself is below the smallest float: lines end on one of two far charges."""
    data = torch.stack([torch.full((784,), 3.0), torch.full((784,), -3.0)]).double()
    start = prior(6, 784, 1e3, torch.Generator().manual_seed(0))
    end = list(flow(PoissonField(data), start, 1e3, 1e-3, 200))[-1].x
    assert torch.isfinite(end).all()
    assert float(torch.cdist(end, data).amin(1).max()) < 1.0
    assert sphere_area(400) == pytest.approx(2 * math.pi / 398 * sphere_area(398))
