"""Every equation of *Other spaces, other corruptions*: both sides as printed, by sums, grids and quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from sides import F64, LINE, SEEDS, equal, gen, integral, normal, normals, numbers

from minidiff.apps import circle, cold, poisson_flow, sphere
from minidiff.times import uniform

TURN = 2 * math.pi
ROUND = torch.linspace(-math.pi, math.pi, 257, dtype=F64)[:-1]  # the trapezoidal rule on a circle is exact to rounding
IMAGES = torch.arange(-30, 31, dtype=F64)
WAVES = torch.arange(1, 61, dtype=F64)


def around(values):
    """∫ over the circle."""
    return values.sum(-1) * TURN / len(ROUND)


def images(theta, v):
    return normal(theta[..., None] + TURN * IMAGES, 0.0, v).sum(-1)


def slope(f, x, order=1):
    x = x.clone().requires_grad_()
    y = f(x)
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y.detach()


# The circle


@SEEDS
@pytest.mark.equation("eq-space-images")
def test_images(seed):
    """The probability of an arc: that of all its copies on the line, against the integral of the density."""
    (v,) = numbers(seed, 1, 0.3, 6)
    low, high = -0.4, 1.1
    wrapped = 0.0
    for k in range(-30, 31):
        a, b = ((x + TURN * k) / math.sqrt(2 * v) for x in (low, high))
        wrapped += (math.erf(b) - math.erf(a)) / 2
    arc = torch.linspace(low, high, 4001, dtype=F64)
    equal(integral(images(arc, v), arc), wrapped, rtol=1e-7)
    equal(circle.density_by_images(arc, v), images(arc, v))


@SEEDS
@pytest.mark.equation("eq-space-moments")
def test_moments(seed):
    (v,), (start,) = numbers(seed, 1, 0.2, 3), numbers(seed + 9, 1, 0.1, 2)
    for n in (1, 2, 3):
        line = torch.cos(n * (start + LINE * math.sqrt(v))) * normal(LINE, 0.0, 1.0)
        equal(integral(line), math.exp(-(n**2) * v / 2) * math.cos(n * start))
        equal(around(torch.cos(n * ROUND) * images(ROUND - start, v)), math.exp(-(n**2) * v / 2) * math.cos(n * start))


@SEEDS
@pytest.mark.equation("eq-space-series")
def test_series(seed):
    (v,) = numbers(seed, 1, 0.3, 6)
    waves = (torch.exp(-(WAVES**2) * v / 2) * torch.cos(WAVES * ROUND[:, None])).sum(1)
    equal(images(ROUND, v), (1 + 2 * waves) / TURN)


@SEEDS
@pytest.mark.equation("eq-space-heat")
@pytest.mark.equation("eq-space-backward")
def test_heat_forwards_and_backwards(seed):
    (v,) = numbers(seed, 1, 0.4, 3)
    rate = slope(lambda u: images(ROUND, u[:, None]), torch.full_like(ROUND, v))
    curvature = slope(lambda x: images(x, v), ROUND, 2)
    equal(rate, curvature / 2, rtol=1e-8)

    flux = slope(lambda x: images(x, v) * slope_of_log(x, v), ROUND)
    equal(-rate, -flux + curvature / 2, rtol=1e-8)


def slope_of_log(x, v):
    """∂ log p by the weights of the images: differentiable in x."""
    image = x[..., None] + TURN * IMAGES
    weight = (-(image**2) / (2 * v)).softmax(-1)
    return -(weight * image).sum(-1) / v


@SEEDS
@pytest.mark.equation("eq-space-score")
@pytest.mark.equation("eq-space-period")
def test_score(seed):
    (v,) = numbers(seed, 1, 0.3, 6)
    exact = slope(lambda x: images(x, v).log(), ROUND)
    equal(exact, slope_of_log(ROUND, v), rtol=1e-8, atol=1e-10)
    damped = torch.exp(-(WAVES**2) * v / 2)
    above = -2 * (damped * WAVES * torch.sin(WAVES * ROUND[:, None])).sum(1)
    below = 1 + 2 * (damped * torch.cos(WAVES * ROUND[:, None])).sum(1)
    equal(exact, above / below, rtol=1e-8, atol=1e-10)
    equal(circle.score(ROUND, v), exact, rtol=1e-8, atol=1e-10)
    equal(circle.score(ROUND + TURN, v), exact, rtol=1e-8, atol=1e-10)
    equal(circle.score(torch.tensor([math.pi], dtype=F64), v), [0.0], atol=1e-10)


@SEEDS
@pytest.mark.equation("eq-space-mixture")
def test_score_of_data(seed):
    (v,), data = numbers(seed, 1, 0.2, 3), 3 * normals(seed, 4)
    exact = slope(lambda x: images(x[:, None] - data, v).mean(1).log(), ROUND)
    shares = images(ROUND[:, None] - data, v)
    shares = shares / shares.sum(1, keepdim=True)
    equal(exact, (shares * slope_of_log(ROUND[:, None] - data, v)).sum(1), rtol=1e-8, atol=1e-10)
    equal(circle.score_of_data(data, ROUND, v), exact, rtol=1e-7, atol=1e-9)


# The sphere


def legendre(degree, c):
    return torch.from_numpy(np.polynomial.legendre.Legendre.basis(degree)(c.numpy()))


def kernel(c, v):
    return sum(
        (2 * n + 1) / (4 * math.pi) * torch.exp(-torch.as_tensor(n * (n + 1) / 2, dtype=F64) * v) * legendre(n, c)
        for n in range(40)
    )


NODES, WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(80))


@SEEDS
@pytest.mark.equation("eq-space-sphere-heat")
def test_heat_on_the_sphere(seed):
    (v,) = numbers(seed, 1, 0.3, 2)
    c = torch.linspace(-0.95, 0.95, 41, dtype=F64)
    polynomials = [np.polynomial.legendre.Legendre.basis(n).convert(kind=np.polynomial.Polynomial) for n in range(20)]
    whole = sum((2 * n + 1) / (4 * math.pi) * math.exp(-n * (n + 1) * v / 2) * q for n, q in enumerate(polynomials))
    inner = np.polynomial.Polynomial([1, 0, -1]) * whole.deriv()
    step = 1e-4
    changed = (kernel(c, v + step) - kernel(c, v - step)) / (2 * step)
    equal(changed, inner.deriv()(c.numpy()) / 2, rtol=1e-5, atol=1e-6)


@SEEDS
@pytest.mark.equation("eq-space-sphere-kernel")
@pytest.mark.equation("eq-space-sphere-mean")
def test_kernel_of_the_sphere(seed):
    """It composes: two motions of variances u and v are one of u + v; its mass is 1, its mean e^{−v}."""
    u, v = numbers(seed, 2, 0.3, 1.0)
    equal(sphere.heat_kernel(NODES, v)[0], kernel(NODES, v), rtol=1e-8, atol=1e-12)
    equal((TURN * WEIGHTS * kernel(NODES, v)).sum(), 1.0)
    equal((TURN * WEIGHTS * NODES * kernel(NODES, v)).sum(), math.exp(-v))
    angle = torch.linspace(0, TURN, 81, dtype=F64)[:-1]
    root = (1 - NODES**2).sqrt()
    middle = torch.stack(
        [(root[:, None] * angle.cos()).flatten(), (root[:, None] * angle.sin()).flatten(), NODES.repeat_interleave(80)],
        1,
    )
    area = WEIGHTS.repeat_interleave(80) * TURN / 80
    a, b = torch.nn.functional.normalize(normals(seed, 2, 3), dim=1)
    both = (area * kernel(middle @ a, u) * kernel(middle @ b, v)).sum()
    equal(both, kernel((a @ b)[None], u + v)[0], rtol=1e-8)


@SEEDS
@pytest.mark.equation("eq-space-sphere-score")
def test_score_of_the_sphere(seed):
    """The derivative along the sphere, by small steps on great circles."""
    (v,) = numbers(seed, 1, 0.3, 1.5)
    x, y = torch.nn.functional.normalize(normals(seed, 2, 3), dim=1)
    c, step = float(x @ y), 1e-5
    derivative = (kernel(torch.tensor([c + step], dtype=F64), v) - kernel(torch.tensor([c - step], dtype=F64), v)) / (
        2 * step
    )
    printed = derivative / kernel(torch.tensor([c], dtype=F64), v) * (y - c * x)
    for w in torch.linalg.svd(x[None]).Vh[1:]:  # two directions orthogonal to x
        ahead, behind = (math.cos(s) * x + math.sin(s) * w for s in (step, -step))
        numeric = (kernel((ahead @ y)[None], v).log() - kernel((behind @ y)[None], v).log()) / (2 * step)
        equal(numeric[0], printed @ w, rtol=1e-5, atol=1e-7)
    equal(printed @ x, 0.0, atol=1e-9)
    equal(sphere.score_of_data(y[None], x[None], v)[0], printed, rtol=1e-5, atol=1e-7)


# Symmetry


def rotation(seed, d):
    return torch.linalg.qr(normals(seed, d, d))[0]


@SEEDS
@pytest.mark.equation("eq-space-group")
@pytest.mark.equation("eq-space-equivariant")
def test_invariant_laws_have_equivariant_scores(seed):
    """Permutations of points, of nodes of a graph, and rotations, as matrices on the flattened x."""
    order = torch.randperm(4, generator=gen(seed))
    P = torch.eye(4, dtype=F64)[order]
    a = normals(seed + 1, 3)

    def of_points(x):
        pairs = torch.cdist(x, x).square()
        return -(a[0] ** 2 * x.square().sum() + (pairs + 0.1).log().sum())

    def of_graph(A):
        return -(A.square().sum() + a[1] ** 2 * torch.trace(A @ A @ A).cos() + (A.sum(1).sin()).sum())

    def of_radius(x):
        return -((x.square().sum().sqrt() - 1.3) ** 2) / abs(a[2])

    cases = [
        (of_points, lambda x: P @ x, normals(seed, 4, 2)),
        (of_graph, lambda A: P @ A @ P.T, normals(seed, 4, 4)),
        (of_radius, lambda x: rotation(seed, 3) @ x, normals(seed, 3)),
    ]
    for log_p, act, x in cases:
        equal(log_p(act(x)), log_p(x))
        moved = act(x).requires_grad_()
        (left,) = torch.autograd.grad(log_p(moved), moved)
        here = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(log_p(here), here)
        equal(left, act(score), atol=1e-9)
    # and the denoiser, through Tweedie's formula, at every noise level
    centres = normals(seed + 2, 3, 2)
    orders = [list(o) for o in itertools.permutations(range(3))]

    def D(x, alpha=0.8, sigma=0.6):
        means = torch.stack([centres[o] for o in orders])
        w = (-(x - alpha * means).square().sum((1, 2)) / (2 * sigma**2)).softmax(0)
        return (w[:, None, None] * means).sum(0)

    x = normals(seed + 3, 3, 2)
    for o in orders:
        equal(D(x[o]), D(x)[o])


@SEEDS
@pytest.mark.equation("eq-space-pythagoras")
def test_pythagoras(seed):
    """A law of finitely many pairs (x_0, x_t), made invariant by listing all orders; D is any function of x_t."""
    n, orders = 3, [list(o) for o in itertools.permutations(range(3))]
    first, second = normals(seed, 5, n, 2), normals(seed + 1, 5, n, 2)
    clean = torch.cat([first[:, o] for o in orders])
    noisy = torch.cat([second[:, o] for o in orders])
    weight = normals(seed + 2, 2 * n, 2 * n)

    def D(x):
        return torch.tanh(x.flatten(1) @ weight).reshape(x.shape)

    def symmetric(x):
        total = 0
        for o in orders:
            back = [o.index(i) for i in range(n)]
            total = total + D(x[:, o])[:, back]
        return total / len(orders)

    def mean(a, b):
        return (a - b).square().sum((1, 2)).mean()

    left = mean(D(noisy), clean)
    equal(left, mean(symmetric(noisy), clean) + mean(D(noisy), symmetric(noisy)))
    assert float(mean(D(noisy), symmetric(noisy))) > 0.1


# Cold diffusion


def any_restorer(seed):
    weight = normals(seed, 6, 6)
    return lambda x, s: torch.sin(x @ weight + float(s))


DEGRADATIONS = {
    "fixed": lambda x0, s: x0 + math.sin(2 * float(s)) * FIXED,
    "fade": lambda x0, s: (1 - float(s)) * x0 + float(s) * FIXED,
    "linear": lambda x0, s: x0 @ torch.matrix_exp(-float(s) * GENERATOR),
}
FIXED = normals(70, 6)
GENERATOR = normals(71, 6, 6) @ normals(71, 6, 6).T / 6


def run(degrade, restore, x, times):
    """x_t = x_s − degrade(x̂, s) + degrade(x̂, t), as printed; all states and guesses."""
    states, guesses = [x], []
    for s, t in itertools.pairwise(times):
        guess = restore(states[-1], s)
        guesses.append(guess)
        states.append(states[-1] - degrade(guess, s) + degrade(guess, t))
    return states, guesses


@SEEDS
@pytest.mark.equation("eq-space-error")
@pytest.mark.equation("eq-space-exact")
@pytest.mark.equation("eq-space-linear")
@pytest.mark.equation("eq-space-fade")
def test_errors_of_the_improved_sampler(seed):
    x0, restore, times = normals(seed, 4, 6), any_restorer(seed), uniform(5)
    for name, degrade in DEGRADATIONS.items():
        states, guesses = run(degrade, restore, degrade(x0, times[0]), times)
        packaged = list(cold.improved(degrade, restore, degrade(x0, times[0]), times))
        for (s, t), before, after, guess, state in zip(
            itertools.pairwise(times), states[:-1], states[1:], guesses, packaged[1:], strict=True
        ):
            equal(state.x, after)
            error = before - degrade(x0, s)
            change = [degrade(x, t) - degrade(x, s) for x in (guess, x0)]
            equal(after - degrade(x0, t), error + change[0] - change[1])
            if name == "linear":
                kernel = torch.matrix_exp(-float(t) * GENERATOR) - torch.matrix_exp(-float(s) * GENERATOR)
                equal(after - degrade(x0, t), error + (guess - x0) @ kernel)
        if name == "fixed":
            equal(states[-1], x0)
        if name == "fade":
            total = sum((float(s - t)) * (g - x0) for (s, t), g in zip(itertools.pairwise(times), guesses, strict=True))
            equal(states[-1] - x0, total)
            assert float(total.abs().max()) > 0.1


@SEEDS
@pytest.mark.equation("eq-space-iff")
def test_what_makes_the_step_independent_of_the_guess(seed):
    """Degradations that are the identity at 0: a step changes all pictures alike iff it is additive."""
    a, b = normals(seed, 2, 1, 6)
    times = [torch.tensor(u, dtype=F64) for u in (1.0, 0.6, 0.0)]
    for name, degrade in DEGRADATIONS.items():
        same = all(
            torch.allclose(degrade(a, t) - degrade(a, s), degrade(b, t) - degrade(b, s))
            for s, t in itertools.combinations(times, 2)
        )
        additive = all(torch.allclose(degrade(a, s) - a, degrade(b, s) - b) for s in times)
        assert same == additive == (name == "fixed")


# Poisson flow


def area(d):
    return 2 * math.pi ** (d / 2) / math.gamma(d / 2)


CHARGES = torch.tensor([[0.2, -0.3], [-0.7, 0.4], [0.5, 0.6]], dtype=F64)
SHARES = torch.tensor([0.5, 0.2, 0.3], dtype=F64)


def field(p):
    """(E_x, E_z) at points (B, 3) of the space above the plane, as printed, N = 2."""
    apart = torch.cat([p[:, None, :2] - CHARGES, p[:, None, 2:].expand(-1, 3, 1)], 2)
    return (SHARES[:, None] * apart / apart.norm(dim=2, keepdim=True) ** 3).sum(1) / area(3)


@SEEDS
@pytest.mark.equation("eq-space-flux")
def test_flux_through_an_ellipsoid(seed):
    """Over the images c + L n of the unit sphere, whose patches are det L · L⁻¹ n; and the package's field is it."""
    axes, centre = torch.tensor(numbers(seed, 3, 1.5, 3), dtype=F64), 0.2 * normals(seed + 5, 3)
    angle = torch.linspace(0, TURN, 121, dtype=F64)[:-1]
    root = (1 - NODES**2).sqrt()
    unit = torch.stack(
        [
            (root[:, None] * angle.cos()).flatten(),
            (root[:, None] * angle.sin()).flatten(),
            NODES.repeat_interleave(120),
        ],
        1,
    )
    patch = (WEIGHTS.repeat_interleave(120) * TURN / 120)[:, None] * axes.prod() * unit / axes
    equal((field(centre + axes * unit) * patch).sum(), 1.0, rtol=1e-8)
    packaged = poisson_flow.PoissonField(CHARGES, 4 * SHARES)  # normalised there
    point = normals(seed, 8, 3)  # on both sides of the floor
    across, up = packaged(point[:, :2], point[:, 2])
    equal(torch.cat([across, up[:, None]], 1), field(point))


@SEEDS
@pytest.mark.equation("eq-space-divergence")
@pytest.mark.equation("eq-space-continuity")
def test_no_charge_above_the_floor(seed):
    p = torch.cat([normals(seed, 6, 2), 0.5 + normals(seed, 6, 1).abs()], 1)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda q: field(q[None])[0]))(p)
    equal(jacobian.diagonal(dim1=1, dim2=2).sum(1), torch.zeros(6), atol=1e-10)

    def density(q):
        return 2 * field(q[None])[0, 2]

    def current(q):
        e = field(q[None])[0]
        return density(q) * e[:2] / e[2]

    rate = torch.func.vmap(torch.func.grad(density))(p)[:, 2]
    spread = torch.func.vmap(torch.func.jacrev(current))(p)[:, :, :2].diagonal(dim1=1, dim2=2).sum(1)
    equal(rate + spread, torch.zeros(6), atol=1e-10)


@SEEDS
@pytest.mark.equation("eq-space-law")
def test_law_at_a_height(seed):
    """2 E_z is the density of data plus z g/|u|: closed form, mass one, and the probability of a disc in two ways."""
    (z,) = numbers(seed, 1, 0.5, 1.5)
    # On the line (N = 1): density z/π/(x² + z²), area(2) = 2π.
    u = torch.linspace(-math.pi / 2, math.pi / 2, 200_001, dtype=F64)[1:-1]
    x = z * torch.tan(u)
    density = 2 * z / (area(2) * (x**2 + z**2))
    equal(torch.trapezoid(density * z / torch.cos(u) ** 2, u), 1.0, rtol=1e-4)
    # In the plane: mass 1 by polar coordinates, and the closed form of one charge.
    v = torch.linspace(0, math.pi / 2, 20_001, dtype=F64)[:-1]
    radius = z * torch.tan(v)
    one = 2 * z / (area(3) * (radius**2 + z**2) ** 1.5)
    equal(torch.trapezoid(TURN * radius * one * z / torch.cos(v) ** 2, v), 1.0, rtol=1e-3)
    point = torch.cat([normals(seed, 4, 2), torch.full((4, 1), z, dtype=F64)], 1)
    squared = (point[:, None, :2] - CHARGES).square().sum(2)
    equal(2 * field(point)[:, 2], (SHARES * 2 * z / (area(3) * (squared + z**2) ** 1.5)).sum(1))
    # z g/|u| has that law: the probability of a disc, by conditioning on u and by the density
    edge = 1.3
    inside = 1 - z / math.sqrt(edge**2 + z**2)  # ∫ of the density over the disc
    disc = v[radius <= edge]
    r = z * torch.tan(disc)
    mass = torch.trapezoid(TURN * r * 2 * z / (area(3) * (r**2 + z**2) ** 1.5) * z / torch.cos(disc) ** 2, disc)
    equal(mass, inside, rtol=1e-3)
    by_u = integral(normal(LINE, 0.0, 1.0) * (1 - torch.exp(-((edge * LINE / z) ** 2) / 2)))
    equal(by_u, inside, rtol=1e-8)


@SEEDS
@pytest.mark.equation("eq-space-denoiser")
def test_poisson_flow_has_a_denoiser(seed):
    """The slope of the field lines against a denoiser from Bayes' rule with the noise's density."""
    (z,) = numbers(seed, 1, 0.3, 2)
    x = normals(seed, 5, 2)
    e = field(torch.cat([x, torch.full((5, 1), z, dtype=F64)], 1))
    slope_of_lines = e[:, :2] / e[:, 2:]
    likelihood = 2 * z / (area(3) * ((x[:, None] - CHARGES).square().sum(2) + z**2) ** 1.5)
    posterior = SHARES * likelihood / (SHARES * likelihood).sum(1, keepdim=True)
    equal(slope_of_lines, (x - posterior @ CHARGES) / z)
