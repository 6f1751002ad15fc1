"""Information, collapse, own weights, the rectified kernel and the two time scales, against closed forms."""

import math

import pytest
import torch

from minidiff import memorisation
from minidiff.analytic import Empirical
from minidiff.process import EDM

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("seed", range(3))
def test_information_is_that_of_joint_gaussians(seed):
    root, r = draw(4, 4, seed=seed), 0.7
    covariance = root @ root.T
    joint = torch.cat(
        [
            torch.cat([covariance, covariance], 1),
            torch.cat([covariance, covariance + r**2 * torch.eye(4, dtype=F64)], 1),
        ]
    )
    expected = (torch.logdet(covariance) + torch.logdet(joint[4:, 4:]) - torch.logdet(joint)) / 2
    got = memorisation.gaussian_information(torch.linalg.eigvalsh(covariance), r)
    assert got == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("d", "n", "s"), [(1, 2, 1.0), (64, 1000, 1.0), (3, 10**6, 1e-3), (5000, 50, 30.0)])
def test_collapse_ratio_of_equal_variances(d, n, s):
    got = memorisation.collapse_ratio(torch.full((d,), s**2, dtype=F64), n)
    assert got == pytest.approx(s / math.sqrt(math.expm1(2 * math.log(n) / d)), rel=1e-9)


def test_collapse_ratio_solves_its_equation_and_falls_with_n():
    variances = torch.tensor([0.0, 0.1, 2.0, 30.0], dtype=F64)
    ratios = [memorisation.collapse_ratio(variances, n) for n in (2, 10, 1000)]
    for r, n in zip(ratios, (2, 10, 1000), strict=True):
        assert memorisation.gaussian_information(variances, r) == pytest.approx(math.log(n), rel=1e-9)
    assert ratios[0] > ratios[1] > ratios[2]


@pytest.mark.parametrize("r", [0.05, 0.7, 20.0])
def test_own_weights_are_those_of_the_copier(r):
    points, noise, process = draw(9, 2, 3), draw(9, 2, 3, seed=1), EDM()
    t = process.time(-torch.tensor(r, dtype=F64).log())
    weights = Empirical(process, points).weights(points + r * noise, t).diagonal()
    torch.testing.assert_close(memorisation.own_log_weights(points, r, noise).exp(), weights)


def test_own_log_weights_do_not_underflow():
    points = torch.tensor([[0.0], [1.0]], dtype=F64)
    far = memorisation.own_log_weights(points, 0.01, torch.tensor([[100.0], [0.0]], dtype=F64))
    # the first stands at 1: its own logit is −5000, the other's 0
    torch.testing.assert_close(far, torch.tensor([-5000.0, 0.0], dtype=F64))


def test_rectified_kernel_is_the_mean_over_features():
    a, b = draw(3, 5), draw(4, 5, seed=1)
    w = draw(400_000, 5, seed=2)
    products = (w @ a.T).clamp(min=0)[:, :, None] * (w @ b.T).clamp(min=0)[:, None]
    error = products.std(0) / len(w) ** 0.5
    assert ((products.mean(0) - memorisation.relu_kernel(a, b)).abs() < 5 * error).all()
    torch.testing.assert_close(memorisation.relu_kernel(a, a).diagonal(), a.square().sum(1) / 2)
    assert (memorisation.relu_kernel(a, 0 * b) == 0).all()


STEPS = torch.tensor([100.0, 200.0, 400.0, 800.0], dtype=F64)
HELD_OUT = torch.tensor([3.0, 1.0, 2.0, 4.0], dtype=F64)
COPIES = torch.tensor([0.0, 0.0, 0.05, 0.15], dtype=F64)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_rectified_kernel_with_a_row_of_zeros(dtype):
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype)
    torch.testing.assert_close(
        memorisation.relu_kernel(rows, rows), torch.tensor([[0.0, 0.0], [0.0, 12.5]], dtype=dtype)
    )


def test_time_scales_of_a_made_up_training():
    scales = memorisation.time_scales(STEPS, HELD_OUT, COPIES, level=2.0)
    assert scales.best == 200
    assert scales.learned == pytest.approx(100 * 2**0.5)  # half-way in log step
    assert scales.copying == pytest.approx(400 * 2**0.5)
    assert memorisation.time_scales(STEPS, HELD_OUT, COPIES, 0.5, 0.2) == (math.inf, 200, math.inf)


def test_first_reached_at_the_ends():
    assert memorisation.first_reached(STEPS, COPIES, 0.0) == 100
    assert memorisation.first_reached(STEPS, COPIES, 0.15) == pytest.approx(800)
    assert memorisation.first_reached(STEPS, -COPIES, -0.05) == pytest.approx(400)


def test_arguments_are_checked():
    variances, steps = torch.ones(3), torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="variances must be"):
        memorisation.gaussian_information(-variances, 1.0)
    with pytest.raises(ValueError, match="r must be"):
        memorisation.gaussian_information(variances, 0.0)
    with pytest.raises(ValueError, match="n must be at least 2"):
        memorisation.collapse_ratio(variances, 1)
    with pytest.raises(ValueError, match="some variance must be positive"):
        memorisation.collapse_ratio(0 * variances, 5)
    with pytest.raises(ValueError, match="points and noise must have the same shape"):
        memorisation.own_log_weights(torch.ones(3, 2), 1.0, torch.ones(2, 2))
    with pytest.raises(ValueError, match="noise must be finite"):
        memorisation.own_log_weights(torch.ones(3, 2), 1.0, torch.full((3, 2), math.nan))
    for other in (torch.ones(3, 3), torch.ones(3, 2, dtype=F64)):
        with pytest.raises(ValueError, match=r"a and b must be \(n, d\) and \(m, d\) of one dtype"):
            memorisation.relu_kernel(torch.ones(3, 2), other)
    with pytest.raises(ValueError, match="values must have one shape"):
        memorisation.first_reached(steps, torch.ones(3), 1.0)
    with pytest.raises(ValueError, match="steps must be positive and increase"):
        memorisation.first_reached(steps.flip(0), steps, 1.0)
    with pytest.raises(ValueError, match="level must be"):
        memorisation.first_reached(steps, steps, math.nan)
