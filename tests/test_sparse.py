"""The soft threshold and its companions against brute force, quadrature, optimality conditions and scikit-learn."""

import math

import pytest
import torch

from minidiff.sparse import laplace_mean, lasso_residual, proximal_gradient, soft_threshold

GRID = torch.linspace(-30, 30, 120_001, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 2.0])
def test_soft_threshold_by_brute_force(threshold):
    for y in (-3.0, -0.2, 0.0, 0.5, 4.0):
        best = GRID[((y - GRID) ** 2 / 2 + threshold * GRID.abs()).argmin()]
        assert float(soft_threshold(torch.tensor(y), threshold)) == pytest.approx(float(best), abs=1e-3)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("r", [0.1, 1.0, 3.0])
def test_laplace_mean_by_quadrature(scale, r):
    y = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    log_density = -((y - GRID) ** 2) / (2 * r**2) - GRID.abs() / scale
    mean = (log_density.softmax(1) * GRID).sum(1)
    torch.testing.assert_close(laplace_mean(y[:, 0], scale, r), mean, rtol=1e-4, atol=1e-5)


def test_laplace_mean_far_out_and_at_the_ends():
    far = torch.tensor([1e6, -1e6], dtype=torch.float64)
    torch.testing.assert_close(laplace_mean(far, 2.0, 1.0), soft_threshold(far, 0.5))
    y = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(laplace_mean(y, 2.0, 1e-6), y)
    assert laplace_mean(y, 1e-3, 1.0).abs().max() < 1e-4
    torch.testing.assert_close(laplace_mean(y, 1e9, 1.0), y, rtol=1e-6, atol=1e-6)
    assert laplace_mean(y.float(), 1.0, 1.0).dtype == torch.float32


def problem(seed=0, m=30, d=12):
    A = normal(m, d, seed=seed)
    truth = normal(d, seed=seed + 1) * (torch.arange(d) < 4)
    return A, A @ truth + 0.1 * normal(m, seed=seed + 2)


def solve(A, b, penalty, steps=3000):
    step = 1 / float(torch.linalg.matrix_norm(A, 2)) ** 2
    walk = proximal_gradient(
        lambda x: A.mT @ (A @ x - b),
        lambda y: soft_threshold(y, step * penalty),
        torch.zeros(A.shape[1], dtype=torch.float64),
        step=step,
        steps=steps,
    )
    return list(walk)


def test_lasso_meets_the_kkt_conditions_and_descends():
    A, b = problem()
    for penalty in (0.1, 1.0, 10.0):
        path = solve(A, b, penalty)
        values = torch.stack([(A @ x - b).square().sum() / 2 + penalty * x.abs().sum() for x in path])
        assert (values.diff() <= 1e-12 * values[0]).all()
        x = path[-1]
        assert lasso_residual(A, b, penalty, x) < 1e-10
        pull = A.mT @ (b - A @ x)
        torch.testing.assert_close(pull[x != 0], penalty * x[x != 0].sign())
        assert (pull[x == 0].abs() <= penalty).all()
        assert lasso_residual(A, b, penalty, x + 1e-3) > 1e-4


def test_lasso_of_scikit_learn():
    lasso = pytest.importorskip("sklearn.linear_model").Lasso
    A, b = problem(5)
    model = lasso(alpha=2.0 / len(A), fit_intercept=False, tol=1e-14, max_iter=100_000).fit(A.numpy(), b.numpy())
    torch.testing.assert_close(solve(A, b, 2.0)[-1], torch.from_numpy(model.coef_), rtol=1e-6, atol=1e-8)


def test_a_large_penalty_leaves_nothing():
    A, b = problem()
    silent = float((A.mT @ b).abs().max())
    assert not solve(A, b, silent, steps=50)[-1].any()
    assert solve(A, b, 0.99 * silent, steps=50)[-1].any()


def test_a_linear_denoiser_reaches_the_regularised_solution():
    """With denoise = the proximal map of a quadratic the limit is ridge regression."""
    A, b = problem()
    step, penalty = 1 / float(torch.linalg.matrix_norm(A, 2)) ** 2, 3.0
    walk = proximal_gradient(
        lambda x: A.mT @ (A @ x - b),
        lambda y: y / (1 + step * penalty),
        torch.zeros(12, dtype=torch.float64),
        step=step,
        steps=2000,
    )
    *_, x = walk
    torch.testing.assert_close(x, torch.linalg.solve(A.mT @ A + penalty * torch.eye(12, dtype=torch.float64), A.mT @ b))


def test_wrong_arguments():
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="threshold must be"):
        soft_threshold(x, -1.0)
    with pytest.raises(ValueError, match="threshold must be"):
        soft_threshold(x, math.nan)
    with pytest.raises(TypeError, match="floating-point"):
        soft_threshold(torch.zeros(2, dtype=torch.int64), 1.0)
    for scale, r in ((0.0, 1.0), (1.0, 0.0), (math.inf, 1.0)):
        with pytest.raises(ValueError, match=r"(scale|r) must be"):
            laplace_mean(x, scale, r)
    for step, steps in ((0.0, 3), (1.0, 0)):
        with pytest.raises(ValueError, match="must be"):
            proximal_gradient(torch.zeros_like, torch.abs, x, step=step, steps=steps)
    with pytest.raises(ValueError, match=r"A \(M, D\), b \(M,\) and x \(D,\) must fit"):
        lasso_residual(torch.zeros(3, 2), torch.zeros(2), 1.0, x)
