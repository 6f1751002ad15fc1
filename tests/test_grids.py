"""Computed grids: exact on Gaussians, equal to brute force, and equal to the package's own samplers where they meet."""

import itertools
import math

import pytest
import torch
from processes import FORMULAS, name

from minidiff import grids, times
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.bench.orders import mixture
from minidiff.process import EDM, VE, LinearVP, RectifiedFlow
from minidiff.samplers import ddim, exponential, last, path

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.rand(shape, generator=gen(seed), dtype=F64)


def edm_radii(n, transform, inverse, r_max=80.0, r_min=0.002):
    first, final = transform(torch.tensor([r_max, r_min], dtype=F64)).tolist()
    return inverse(torch.linspace(first, final, n + 1, dtype=F64))


# The angle


@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_angle_and_its_inverse(process):
    t = torch.linspace(0.05, 0.95, 7, dtype=F64)
    theta = grids.angle(process, t, 0.7)
    torch.testing.assert_close(theta.tan(), process.sigma(t) / process.alpha(t) / 0.7)
    torch.testing.assert_close(grids.time_of_angle(process, theta, 0.7), t, rtol=0, atol=1e-9)


def test_angle_is_finite_at_both_ends():
    ends = grids.angle(RectifiedFlow(), torch.tensor([0.0, 1.0], dtype=F64), 1.0)
    torch.testing.assert_close(ends, torch.tensor([0.0, math.pi / 2], dtype=F64))


@pytest.mark.parametrize(("t", "scale"), [(1.5, 1.0), (0.5, 0.0), (0.5, math.nan)])
def test_angle_refuses(t, scale):
    with pytest.raises(ValueError, match="must"):
        grids.angle(RectifiedFlow(), torch.tensor(t, dtype=F64), scale)


# Gaussian data


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("process", [RectifiedFlow(), LinearVP(), EDM(), VE()], ids=name)
def test_contraction_is_what_ddim_does(process, scale):
    """On N(0, s²) DDIM is linear in x: its factor over the exact one is the product of cosines."""
    grid = times.uniform(7, start=0.97, end=0.02)
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=scale)
    x = torch.ones(1, 1, dtype=F64)
    alpha, sigma = process.alpha(grid), process.sigma(grid)
    spread = (alpha**2 * scale**2 + sigma**2).sqrt()
    factor = float(last(ddim(D, x, grid))) / float(spread[-1] / spread[0])
    assert float(grids.contraction(sigma / alpha, scale)) == pytest.approx(factor, rel=1e-10)


def test_contraction_bears_both_ends():
    radii = torch.tensor([math.inf, 1.0, 0.0], dtype=F64)
    assert float(grids.contraction(radii, 1.0)) == pytest.approx(math.cos(math.pi / 4) ** 2)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_one_scale_gives_equal_angles(scale):
    equal = edm_radii(6, lambda r: torch.atan(r / scale), lambda theta: scale * theta.tan())
    scales = torch.tensor([scale], dtype=F64)
    for found in (grids.optimal_radii(scales, 6, 80.0, 0.002), grids.arc_length_radii(scales, 6, 80.0, 0.002, 20000)):
        torch.testing.assert_close(found, equal, rtol=2e-4, atol=0)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_newton_finds_a_minimum(n):
    scales = torch.tensor([2.0, 0.1], dtype=F64)
    found = grids.optimal_radii(scales, n, 80.0, 0.002)
    least = float(grids.contraction_loss(found, scales))
    for seed in range(20):
        moved = found.clone()
        moved[1:-1] *= (0.02 * (random(n - 1, seed=seed) - 0.5)).exp()
        assert float(grids.contraction_loss(moved, scales)) >= least
    others = [torch.tensor([s], dtype=F64) for s in (0.1, 0.5, 2.0)]
    assert all(float(grids.contraction_loss(grids.optimal_radii(s, n, 80.0, 0.002), scales)) >= least for s in others)


def test_arc_length_is_nearly_optimal_for_many_steps():
    scales = torch.tensor([2.0, 0.1], dtype=F64)
    gap = []
    for n in (4, 16):
        best = grids.contraction_loss(grids.optimal_radii(scales, n, 80.0, 0.002), scales)
        gap.append(float(grids.contraction_loss(grids.arc_length_radii(scales, n, 80.0, 0.002), scales) / best) - 1)
    assert 0 <= gap[1] < gap[0] < 0.05


@pytest.mark.parametrize(
    ("scales", "n", "r_max", "r_min", "message"),
    [
        ([1.0], 0, 80, 0.1, "n must be at least 1"),
        ([-1.0], 3, 80, 0.1, "scales must be"),
        ([], 3, 80, 0.1, "scales must be"),
        ([1.0], 3, 0.1, 80, "r_min must be below"),
        ([1.0], 3, math.inf, 0.1, "r_max must be a finite"),
        ([math.nan], 3, 80, 0.1, "finite"),
    ],
)
def test_gaussian_grids_refuse(scales, n, r_max, r_min, message):
    with pytest.raises(ValueError, match=message):
        grids.optimal_radii(torch.tensor(scales, dtype=F64), n, r_max, r_min)


def test_contraction_refuses_rising_radii():
    with pytest.raises(ValueError, match="strictly decreasing"):
        grids.contraction(torch.tensor([1.0, 2.0]), 1.0)


# Equal shares


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_equal_shares_of_a_known_density(order):
    """M = (p+1 powers of) 1/u: the density 1/u wants a geometric grid."""
    u = torch.linspace(1, 4, 20001, dtype=F64)
    middle, h = (u[1:] + u[:-1]) / 2, u.diff()
    errors = h / middle if order == 0 else (h / middle) ** (order + 1)
    found = grids.equidistribute(u, errors, 5, order)
    torch.testing.assert_close(found, 4 ** torch.linspace(0, 1, 6, dtype=F64), rtol=1e-6, atol=0)
    torch.testing.assert_close(grids.equidistribute(u.flip(0), errors.flip(0), 5, order), found.flip(0))


def test_equal_shares_skip_where_nothing_happens():
    found = grids.equidistribute(torch.arange(5.0), torch.tensor([0.0, 1.0, 1.0, 0.0]), 2)
    torch.testing.assert_close(found, torch.tensor([0.0, 2.0, 4.0], dtype=F64))


@pytest.mark.parametrize(
    ("u", "errors", "message"),
    [
        ([0.0, 1.0], [1.0, 1.0], "errors"),
        ([0.0, 1.0, 0.5], [1.0, 1.0], "monotone"),
        ([0.0, 1.0, 2.0], [0.0, 0.0], "not all zero"),
        ([0.0, 1.0, 2.0], [-1.0, 2.0], "≥ 0"),
        ([0.0, 1.0, math.nan], [1.0, 2.0], "finite"),
    ],
)
def test_equal_shares_refuse(u, errors, message):
    with pytest.raises(ValueError, match=message):
        grids.equidistribute(torch.tensor(u), torch.tensor(errors), 2)


# The path of least cost


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_dynamic_programming_is_brute_force(seed, steps):
    cost = random(9, 9, seed=seed)
    subsets = ([0, *inner, 8] for inner in itertools.combinations(range(1, 8), steps - 1))
    best = min(subsets, key=lambda p: grids.path_cost(cost, p))
    assert grids.least_cost_path(cost, steps) == best
    searched = grids.align(cost, steps)
    assert len(searched) == steps + 1 and searched == sorted(set(searched)) and (searched[0], searched[-1]) == (0, 8)
    assert grids.path_cost(cost, searched) >= grids.path_cost(cost, best)


def test_coarse_to_fine_is_optimal_for_a_smooth_cost():
    """On 48 nodes and the cost ½(u_j/u_i − 1) of a Gaussian the local search costs at most 2 % more than the best."""
    u = torch.linspace(0, 3, 49, dtype=F64).exp()
    cost = (u[None] / u[:, None] - 1) / 2
    for steps in (4, 6, 8):
        assert grids.path_cost(cost, grids.align(cost, steps)) == pytest.approx(
            grids.path_cost(cost, grids.least_cost_path(cost, steps)), rel=0.02
        )


def test_without_rounds_nothing_is_improved():
    cost = random(9, 9)
    assert grids.path_cost(cost, grids.align(cost, 5, rounds=0)) >= grids.path_cost(cost, grids.align(cost, 5)) - 1e-12


def test_forbidden_steps():
    cost = torch.full((4, 4), math.inf, dtype=F64)
    cost[0, 1] = cost[1, 2] = cost[2, 3] = 1.0
    assert grids.least_cost_path(cost, 3) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no path of 2 steps is allowed"):
        grids.least_cost_path(cost, 2)


@pytest.mark.parametrize("find", [grids.least_cost_path, grids.align])
@pytest.mark.parametrize(
    ("cost", "steps", "message"),
    [
        (torch.ones(3, 4), 2, "must be"),
        (torch.ones(3, 3), 3, "at most T = 2"),
        (torch.ones(3, 3), 0, "at least 1"),
        (torch.full((3, 3), math.nan), 1, "NaN"),
    ],
)
def test_paths_refuse(find, cost, steps, message):
    with pytest.raises(ValueError, match=message):
        find(cost, steps)


# Costs


def test_bound_costs_of_a_gaussian():
    """½ (SNR_j − SNR_i) mse_i with mse = s²/(1 + s² SNR) is ½ (u_j/u_i − 1), u = 1 + s² SNR."""
    snr, s2 = torch.tensor([0.1, 0.5, 2.0, 9.0], dtype=F64), 0.7
    u = 1 + s2 * snr
    cost = grids.bound_costs(snr, s2 / u)
    above = torch.ones(4, 4, dtype=torch.bool).triu(1)
    torch.testing.assert_close(cost[above], ((u[None] / u[:, None] - 1) / 2)[above])
    assert bool(cost[~above].isinf().all())


@pytest.mark.parametrize(
    ("snr", "mse"),
    [([1.0, 2.0], [1.0]), ([2.0, 1.0], [1.0, 1.0]), ([1.0, 2.0], [-1.0, 0.0]), ([-1.0, 2.0], [1.0, 1.0])],
)
def test_bound_costs_refuse(snr, mse):
    with pytest.raises(ValueError, match="snr"):
        grids.bound_costs(torch.tensor(snr), torch.tensor(mse))


@pytest.mark.parametrize("process", [RectifiedFlow(), LinearVP(), EDM()], ids=name)
def test_local_errors_are_those_of_one_ddim_step(process):
    """On N(0, s²) the exact path keeps x/√(α²s² + σ²), and a step loses 1 − cos Δθ of it."""
    s, grid = 0.6, times.uniform(5, start=0.95, end=0.05)
    D = Gaussian(process, torch.zeros(3, dtype=F64), std=s)
    spread = (process.alpha(grid) ** 2 * s**2 + process.sigma(grid) ** 2).sqrt()
    unit = torch.randn(4, 3, generator=gen(), dtype=F64)
    states = spread[:, None, None] * unit
    predictions = torch.stack([D(x, t) for x, t in zip(states, grid, strict=True)])
    cost = grids.local_errors(process, grid, states, predictions, s)
    theta = grids.angle(process, grid, s)
    expected = (1 - (theta[:, None] - theta[None]).cos()) * unit.square().mean(1).sqrt().mean()
    above = torch.ones(6, 6, dtype=torch.bool).triu(1)
    torch.testing.assert_close(cost[above], expected[above])


def test_local_errors_from_pure_noise_to_data_are_finite():
    D, grid = mixture(RectifiedFlow()), times.uniform(5)
    x = torch.randn(4, 2, generator=gen(), dtype=F64)
    states = list(ddim(D, x, grid))
    cost = grids.local_errors(
        D.process, grid, torch.stack([s.x for s in states]), torch.stack([s.x0 for s in states[1:]]), D.sigma_data
    )
    torch.testing.assert_close(cost.diagonal(1), torch.zeros(5, dtype=F64), rtol=0, atol=1e-14)  # its own steps
    assert bool(cost[torch.ones(6, 6, dtype=torch.bool).triu(1)].isfinite().all())


def test_local_errors_refuse_shapes():
    with pytest.raises(ValueError, match="path must be"):
        grids.local_errors(RectifiedFlow(), times.uniform(2), torch.zeros(3, 4, 2), torch.zeros(1, 4, 2))


# The learned solver


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("process", [RectifiedFlow(), LinearVP(), EDM()], ids=name)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_an_untrained_solver_is_the_exponential_integrator(process, order, n):
    D = mixture(process)
    grid = times.cosine_angle(process, n, sigma_data=D.sigma_data, r_max=math.inf, r_min=0.0)
    x = process.prior((6, 2), gen(), dtype=F64)
    ours = grids.StepSolver(process, grid, D.sigma_data, order)
    torch.testing.assert_close(ours.times(), grid, rtol=0, atol=1e-12)
    with torch.no_grad():
        made = ours(D, x)
    expected = last(exponential(D, x, grid, order=order, variable="cos"))
    torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-9)


def test_the_gradient_of_the_times_is_the_difference_quotient():
    D = mixture(RectifiedFlow())
    solver = grids.StepSolver(D.process, times.uniform(4), D.sigma_data)
    x = torch.randn(6, 2, generator=gen(), dtype=F64)
    solver(D, x).square().sum().backward()
    for parameter in (solver.log_increments, solver.deltas):
        for i in range(len(parameter)):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[i] += sign * 1e-5
                    values.append(float(solver(D, x).square().sum()))
                    parameter[i] -= sign * 1e-5
            assert float(parameter.grad[i]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-7)


def test_learning_lowers_the_path_error():
    D = mixture(RectifiedFlow())
    x = torch.randn(64, 2, generator=gen(), dtype=F64)
    target = last(exponential(D, x, times.uniform(400), order=2, variable="cos"))
    solver = grids.StepSolver(D.process, times.uniform(4), D.sigma_data, learn="both")
    optimiser = torch.optim.Adam(solver.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        loss = (solver(D, x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert bool((solver.times().diff() < 0).all())


@pytest.mark.parametrize("learn", ["times", "coefficients", "both"])
def test_what_is_learned(learn):
    solver = grids.StepSolver(RectifiedFlow(), times.uniform(3), learn=learn)
    assert solver.log_increments.requires_grad is (learn != "coefficients")
    assert solver.deltas.requires_grad is (learn != "times")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"order": 3}, "order must be 1 or 2"), ({"learn": "all"}, "learn must be"), ({"sigma_data": 0.0}, "sigma_data")],
)
def test_the_solver_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        grids.StepSolver(RectifiedFlow(), times.uniform(3), **settings)


# Energy distance and geometry


def test_energy_distance_of_two_points():
    a, b = torch.tensor([[0.0], [2.0]], dtype=F64), torch.tensor([[1.0], [4.0]], dtype=F64)
    torch.testing.assert_close(grids.energy_distance(a, b), torch.tensor([2 * 2.5 - 2 - 3, 2 * 1.5 - 2 - 3], dtype=F64))


def test_energy_distance_is_unbiased_and_grows():
    """Zero within three standard errors for one law over 200 draws; larger the farther the mean."""
    values = torch.tensor(
        [
            float(grids.energy_distance(*torch.randn(2, 20, 3, generator=gen(seed), dtype=F64)).mean())
            for seed in range(200)
        ]
    )
    assert abs(float(values.mean())) < 3 * float(values.std()) / 200**0.5
    a, b = torch.randn(2, 300, 3, generator=gen(), dtype=F64)
    far = [float(grids.energy_distance(a, b + shift).mean()) for shift in (0.5, 1.0, 2.0)]
    assert 0 < far[0] < far[1] < far[2]


def test_energy_distance_has_a_gradient():
    a = torch.randn(5, 2, generator=gen(), dtype=F64, requires_grad=True)
    grids.energy_distance(a, torch.zeros(4, 2, dtype=F64) + 3).mean().backward()
    assert bool(a.grad.isfinite().all())


def test_energy_distance_refuses():
    with pytest.raises(ValueError, match="two rows or more"):
        grids.energy_distance(torch.zeros(1, 2), torch.zeros(4, 2))


def test_shares_of_lines_and_planes():
    line = torch.linspace(0, 1, 9, dtype=F64)[:, None, None] * torch.randn(3, 5, generator=gen(), dtype=F64)
    expected = torch.zeros(3, 5, dtype=F64)
    expected[:, 0] = 1
    torch.testing.assert_close(grids.trajectory_shares(line), expected, rtol=0, atol=1e-12)
    circle = torch.stack([f(torch.arange(8, dtype=F64) * math.pi / 4) for f in (torch.cos, torch.sin)], 1)
    shares = grids.trajectory_shares((circle @ torch.randn(2, 2, generator=gen(), dtype=F64))[:, None])
    assert float(shares[0, :2].sum()) == pytest.approx(1)
    torch.testing.assert_close(grids.trajectory_shares(circle[:, None]), torch.full((1, 2), 0.5, dtype=F64))


@pytest.mark.parametrize("path_", [torch.zeros(3, 2), torch.zeros(1, 2, 2), torch.ones(3, 2, 2)])
def test_shares_refuse(path_):
    with pytest.raises(ValueError, match=r"path must be|every path must move"):
        grids.trajectory_shares(path_)


def test_a_gaussian_path_lies_in_a_plane():
    """x_t = (ε-part) and (x_0-part) span it: two components carry everything."""
    D = GaussianMixture(LinearVP(), torch.ones(1), torch.full((1, 6), 2.0, dtype=F64), stds=0.5)
    x = torch.randn(4, 6, generator=gen(), dtype=F64)
    shares = grids.trajectory_shares(path(ddim(D, x, times.uniform(40, end=0.01))))
    assert float(shares[:, :2].sum(1).min()) > 1 - 1e-9
