"""Wiener's filter against the Gaussian oracle, its own optimality and ridge regression; ridge against least squares."""

import numpy as np
import pytest
import torch

from minidiff import data
from minidiff.analytic import Gaussian
from minidiff.denoiser import check_denoiser
from minidiff.linear import Wiener, ridge
from minidiff.process import VE, CosineVP, LinearVP, RectifiedFlow

PROCESSES = [LinearVP(), CosineVP(), VE(), RectifiedFlow()]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def time(value):
    return torch.tensor(value, dtype=torch.float64)


def moments(n=4, seed=0):
    root = normal(n, n, seed=seed)
    return normal(n, seed=seed + 1), root @ root.mT + 0.1 * torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("t", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_it_is_the_posterior_mean_of_gaussian_data(process, t):
    mean, covariance = moments()
    D, oracle = Wiener(process, mean, covariance), Gaussian(process, mean, covariance)
    x = process.noise(oracle.sample(5), time(t), normal(5, 4, seed=3))
    torch.testing.assert_close(D(x, time(t)), oracle(x, time(t)))
    check_denoiser(D)
    assert D.sigma_data == pytest.approx(oracle.sigma_data)
    posterior = oracle.covariance(x[:1], time(t))[0]
    torch.testing.assert_close(D.error(time(t)), posterior.trace())


def test_a_time_for_each_row():
    D = Wiener(LinearVP(), *moments())
    x, t = normal(3, 4), time([0.1, 0.5, 1.0])
    together = D(x, t)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], D(x[row : row + 1], t[row]))
    assert D.gains(t).shape == (3, 4)
    torch.testing.assert_close(D.error(t)[1], D.error(t[1]))


def test_no_affine_function_does_better():
    """Population error of W + δ, b + δ', from the moments alone."""
    process, t = LinearVP(), time(0.4)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    mean, covariance = moments()
    D = Wiener(process, mean, covariance)
    W = D(torch.eye(4, dtype=torch.float64), t) - D(torch.zeros(4, 4, dtype=torch.float64), t)
    W, b = W.mT, D(torch.zeros(1, 4, dtype=torch.float64), t)[0]

    def error(W, b):
        rest = torch.eye(4, dtype=torch.float64) - alpha * W
        return (rest @ covariance @ rest.mT + sigma**2 * W @ W.mT).trace() + (rest @ mean - b).square().sum()

    torch.testing.assert_close(error(W, b), D.error(t))
    for seed in range(10):
        assert error(W + 1e-2 * normal(4, 4, seed=seed), b) > error(W, b)
        assert error(W, b + 1e-2 * normal(4, seed=seed)) > error(W, b)


def test_images_with_constant_pixels():
    images, _ = data.digits()
    D = Wiener.of_data(RectifiedFlow(), images)
    assert D.mean.shape == (1, 8, 8)
    torch.testing.assert_close(D.mean.float(), images.mean(0))
    torch.testing.assert_close(D(images[:7], time(0.0)), images[:7])
    torch.testing.assert_close(D(images[:7], time(1.0)), images.mean(0).expand(7, 1, 8, 8))
    assert D.sigma_data == pytest.approx(float(images.var(0, correction=0).mean().sqrt()), rel=1e-5)
    covariance = torch.from_numpy(np.cov(images.double().flatten(1).mT, bias=True))
    spectrum = torch.linalg.eigvalsh(covariance)
    torch.testing.assert_close(D.variances, spectrum.clamp(min=0), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_an_axis_without_variance(process):
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    D = Wiener(process, mean, torch.diag(torch.tensor([0.0, 3.0], dtype=torch.float64)))
    for t in (0.0, 0.3, 1.0):
        answer = D(normal(4, 2), time(t))
        torch.testing.assert_close(answer[:, 0], torch.ones(4, dtype=torch.float64))
        assert answer.isfinite().all()


def test_ridge_on_noisy_inputs_approaches_the_filter():
    """N pairs err by O(1/√N): a hundred times as many pairs, a tenth of the distance."""
    process, t = LinearVP(), time(0.5)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    mean, covariance = moments(3)
    exact = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=torch.float64))
    oracle = Gaussian(process, mean, covariance)

    def distance(n, seed):
        x0 = oracle.sample(n, torch.Generator().manual_seed(seed))
        return (ridge(process.noise(x0, t, normal(n, 3, seed=seed + 100)), x0)[0] - exact).square().sum()

    few, many = (torch.stack([distance(n, seed) for seed in range(20)]).mean() for n in (500, 50_000))
    assert 40 < few / many < 250  # 100 with a relative standard error of about 0.15


def test_penalty_is_the_mean_effect_of_noise():
    """Ridge with penalty s² equals least squares on inputs ± s √D e_j, whose noise has covariance s² I."""
    x, y, s = normal(30, 4), normal(30, 2, seed=1), 0.7
    noise = s * 2 * torch.cat([torch.eye(4), -torch.eye(4)]).double()
    noisy = (x[:, None] + noise).flatten(0, 1)
    targets = y[:, None].expand(30, 8, 2).flatten(0, 1)
    for clean, spoiled in zip(ridge(x, y, s**2), ridge(noisy, targets), strict=True):
        torch.testing.assert_close(clean, spoiled)


def test_ridge_against_a_least_squares_solver():
    x, y, penalty = normal(40, 5), normal(40, 2, seed=1), 0.3
    weight, bias = ridge(x, y, penalty)
    augmented = torch.cat([x - x.mean(0), (40 * penalty) ** 0.5 * torch.eye(5, dtype=torch.float64)])
    right = torch.cat([y - y.mean(0), torch.zeros(5, 2, dtype=torch.float64)])
    torch.testing.assert_close(weight.mT, torch.linalg.lstsq(augmented, right).solution)
    torch.testing.assert_close(y.mean(0), weight @ x.mean(0) + bias)


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (torch.zeros(2), torch.eye(3), r"got \(2,\) and \(3, 3\)"),
        (torch.zeros(()), torch.eye(1), r"got \(\) and \(1, 1\)"),
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (torch.zeros(2), -torch.eye(2), "no negative eigenvalue, got -1"),
        (torch.zeros(2), torch.eye(2) * torch.nan, "finite"),
    ],
)
def test_wrong_moments(mean, covariance, message):
    with pytest.raises(ValueError, match=message):
        Wiener(LinearVP(), mean, covariance)


def test_wrong_calls():
    D = Wiener(LinearVP(), torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match=r"x must have shape \(B, 2\), got \(1, 3\)"):
        D(torch.zeros(1, 3), time(0.5))
    with pytest.raises(TypeError, match="floating"):
        D(torch.zeros(1, 2, dtype=torch.int64), time(0.5))
    for wrong in (D, lambda x, t: D.gains(t), lambda x, t: D.error(t)):
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
            wrong(torch.zeros(1, 2), time(1.5))
    with pytest.raises(ValueError, match="hold something"):
        Wiener.of_data(LinearVP(), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="hold something"):
        Wiener.of_data(LinearVP(), torch.zeros(3))


def test_wrong_regressions():
    with pytest.raises(ValueError, match=r"inputs must be \(N, D\), targets \(N, K\), got \(3, 2\) and \(2, 2\)"):
        ridge(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="penalty must be"):
        ridge(torch.zeros(3, 2), torch.zeros(3, 2), -1.0)
    with pytest.raises(ValueError, match="a penalty above 0"):
        ridge(torch.ones(3, 2), torch.zeros(3, 2))
