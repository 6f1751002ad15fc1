"""The sphere: steps stay on it, the heat kernel solves its equation, the mean decays as e^{−v}, the walk reversed."""

import itertools
import math

import pytest
import torch

from minidiff.apps import sphere
from minidiff.samplers.state import last


def points(n, seed=0):
    return sphere.uniform(n, torch.Generator().manual_seed(seed), torch.float64)


def test_a_step_stays_on_the_sphere_and_goes_its_length():
    x = points(200)
    v = sphere.tangent(x, 0.8 * points(200, 1))
    torch.testing.assert_close((v * x).sum(1), torch.zeros(200, dtype=torch.float64), rtol=0, atol=1e-15)
    y = sphere.exponential_map(x, v)
    torch.testing.assert_close(y.norm(dim=1), torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close((x * y).sum(1).clamp(-1, 1).acos(), v.norm(dim=1))
    torch.testing.assert_close(sphere.exponential_map(x, 0 * v), x)
    walked = sphere.walk(x, 3.0, 50, torch.Generator().manual_seed(2))
    torch.testing.assert_close(walked.norm(dim=1), torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-14)


def step_factor(h):
    """E cos(√h r) for r of density r e^{−r²/2}: by the rule of rectangles."""
    r = (torch.arange(200_000, dtype=torch.float64) + 0.5) * 6e-5
    return float(((math.sqrt(h) * r).cos() * r * (-r.square() / 2).exp()).sum() * 6e-5)


@pytest.mark.parametrize("steps", [1, 4, 64])
def test_the_mean_decays_at_the_first_eigenvalue(steps):
    """Each step multiplies the mean by E cos(√h r), and the product tends to e^{−v}; 60 000 walks, 4 s.e."""
    v, n = 0.7, 60_000
    start = torch.tensor([[0.0, 0.6, 0.8]], dtype=torch.float64)
    x = sphere.walk(start.expand(n, -1), v, steps, torch.Generator().manual_seed(0))
    factor = step_factor(v / steps) ** steps
    along = (x @ start[0]).double()
    assert abs(float(along.mean()) - factor) < 4 * float(along.std()) / math.sqrt(n)
    across = x @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert abs(float(across.mean())) < 4 * float(across.std()) / math.sqrt(n)


def test_the_factor_tends_to_the_exponential_at_first_order():
    gaps = [abs(step_factor(0.7 / n) ** n - math.exp(-0.7)) for n in (8, 16, 32, 64)]
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(gaps))


@pytest.mark.parametrize("v", [0.05, 0.3, 1.0, 6.0])
def test_heat_kernel(v):
    """Mass one, mean e^{−v}, second Legendre moment e^{−3v}, and ∂p/∂v = ½ d/dc[(1 − c²) dp/dc]."""
    nodes, weights = gauss_legendre(200)
    p, slope = sphere.heat_kernel(nodes, v)
    mass = 2 * math.pi * weights * p
    assert float(mass.sum()) == pytest.approx(1, abs=1e-11)
    assert float((mass * nodes).sum()) == pytest.approx(math.exp(-v), abs=1e-11)
    assert float((mass * (3 * nodes**2 - 1) / 2).sum()) == pytest.approx(math.exp(-3 * v), abs=1e-11)
    h = 1e-4 * v
    rate = (sphere.heat_kernel(nodes, v + h)[0] - sphere.heat_kernel(nodes, v - h)[0]) / (2 * h)
    d = 1e-5
    inner = nodes[(nodes.abs() < 0.999)]

    def flux(c):
        return (1 - c**2) * sphere.heat_kernel(c, v)[1]

    laplacian = (flux(inner + d) - flux(inner - d)) / (2 * d)
    torch.testing.assert_close(rate[nodes.abs() < 0.999], laplacian / 2, rtol=1e-4, atol=1e-5 * float(p.max()))
    numeric = (sphere.heat_kernel(inner + d, v)[0] - sphere.heat_kernel(inner - d, v)[0]) / (2 * d)
    torch.testing.assert_close(slope[nodes.abs() < 0.999], numeric, rtol=1e-5, atol=1e-6 * float(slope.abs().max()))


def gauss_legendre(n):
    """Nodes and weights on [−1, 1] by the eigenvalues of the Jacobi matrix."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return values, 2 * vectors[0] ** 2


def test_small_variance_is_the_plane():
    """p ≈ e^{−θ²/2v}/(2πv) near the pole, to relative O(v)."""
    v, angle = 0.02, torch.linspace(0, 0.3, 7, dtype=torch.float64)
    p, _ = sphere.heat_kernel(angle.cos(), v)
    torch.testing.assert_close(p, (-angle.square() / (2 * v)).exp() / (2 * math.pi * v), rtol=0.03, atol=0)


DATA = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [0.8, 0.5, 0.1], [0, -0.3, 1.0]]).double(), dim=1)


@pytest.mark.parametrize("v", [0.1, 1.0])
def test_score_is_the_tangent_gradient(v):
    """Against differences of log Σ_i p_v along two tangent directions."""
    x = points(20, 3)
    score = sphere.score_of_data(DATA, x, v)

    def log_p(y):
        return sphere.heat_kernel((y @ DATA.T).clamp(-1, 1), v)[0].sum(1).log()

    near = log_p(x) > -12  # further out the series has lost its digits
    assert int(near.sum()) > 10
    torch.testing.assert_close((score * x).sum(1), torch.zeros(20).double(), rtol=0, atol=1e-12)
    for seed in (4, 5):
        direction = sphere.tangent(x, points(20, seed))
        h = 1e-5
        slope = (log_p(sphere.exponential_map(x, h * direction)) - log_p(sphere.exponential_map(x, -h * direction))) / (
            2 * h
        )
        torch.testing.assert_close((score * direction).sum(1)[near], slope[near], rtol=1e-5, atol=1e-5)


def test_score_in_the_far_tail():
    """Two radians from one point at v = 0.03, e^{−67}: θ/v to the leading order, towards the point; within 2 %."""
    north = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    angle = torch.tensor([1.0, 1.1, 1.2, 2.0, 3.0], dtype=torch.float64)
    x = torch.stack([angle.sin(), 0 * angle, angle.cos()], 1)
    score = sphere.score_of_data(north, x, 0.03)
    torch.testing.assert_close(score.norm(dim=1), angle / 0.03, rtol=0.02, atol=0)
    torch.testing.assert_close(
        torch.nn.functional.normalize(score), torch.stack([-angle.cos(), 0 * angle, angle.sin()], 1)
    )


def test_uniform_points():
    """Mean 0 and second moments I/3, 30 000 draws within 4 standard errors."""
    x = points(30_000, 6)
    assert float(x.mean(0).abs().max()) < 4 / math.sqrt(3 * 30_000)
    torch.testing.assert_close(x.T @ x / 30_000, torch.eye(3).double() / 3, rtol=0, atol=4 * 0.3 / math.sqrt(30_000))


def test_the_reverse_walk_returns_the_data():
    """From the uniform law at v = 6 to v = 0.03: the mean of the data times e^{−0.03}, and points near the data."""
    n, random = 4000, torch.Generator().manual_seed(7)
    variances = torch.logspace(math.log10(6), math.log10(0.03), 100, dtype=torch.float64)
    states = sphere.reverse_walk(
        lambda x, v: sphere.score_of_data(DATA, x, v),
        sphere.uniform(n, random, torch.float64),
        variances,
        generator=random,
    )
    end = last(states)
    torch.testing.assert_close(end.norm(dim=1), torch.ones(n).double(), rtol=0, atol=1e-14)
    expected = math.exp(-0.03) * DATA.mean(0)
    # 4 standard errors (std per coordinate below 0.6) and 0.015 for the steps and the start.
    assert float((end.mean(0) - expected).abs().max()) < 4 * 0.6 / math.sqrt(n) + 0.015
    assert float((end @ DATA.T).amax(1).clamp(-1, 1).acos().square().mean()) < 2 * 0.03 * 1.2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: sphere.walk(2 * x, 1.0), ValueError, "x must be unit vectors, got a length that is off by 1"),
        (lambda x: sphere.walk(x[:, :2], 1.0), ValueError, r"x must have shape \(B, 3\), got \(5, 2\)"),
        (lambda x: sphere.walk(x * math.nan, 1.0), ValueError, "x must be finite"),
        (lambda x: sphere.walk(x, -1.0), ValueError, "variance must be a finite number"),
        (lambda x: sphere.walk(x, 1.0, 0), ValueError, "steps must be at least 1"),
        (lambda x: sphere.exponential_map(x, x[:2]), ValueError, "v and x must have the same shape"),
        (lambda x: sphere.exponential_map(x, x), ValueError, "v must be tangent to the sphere at x"),
        (lambda x: sphere.exponential_map(x, x * math.nan), ValueError, "v must be finite"),
        (lambda x: sphere.score_of_data(x[:0], x, 1.0), ValueError, "data must hold at least one point"),
        (
            lambda x: list(sphere.reverse_walk(lambda x, v: x[:, :1], x, torch.tensor([2.0, 1.0]))),
            ValueError,
            "the answer of score and x must have the same shape",
        ),
        (lambda x: sphere.heat_kernel(x * 3, 1.0), ValueError, r"cosine must lie in \[-1, 1\]"),
        (lambda x: sphere.heat_kernel(x, 0.001), ValueError, r"variance must be a finite number in \[0.02, inf\]"),
        (lambda x: sphere.score_of_data(2 * x, x, 1.0), ValueError, "data must be unit vectors"),
        (lambda x: sphere.reverse_walk(None, 2 * x, torch.tensor([2.0, 1.0])), ValueError, "x must be unit vectors"),
        (lambda x: sphere.reverse_walk(None, x, torch.tensor([1.0, 1.0])), ValueError, "strictly falling"),
        (lambda x: sphere.uniform(0), ValueError, "n must be at least 1"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(points(5))
