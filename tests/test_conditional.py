"""The mixture with labels: the laws of its classes, Bayes's rule, and its refusals."""

import pytest
import torch

from minidiff.analytic import GaussianMixture
from minidiff.conditional import LabelledMixture
from minidiff.process import VE, LinearVP, RectifiedFlow

F64 = torch.float64
HALF = torch.tensor(0.5, dtype=F64)
LABELS = torch.tensor([0, 1, 0, 2, 1])


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(process, full=True):
    """Five components of three classes in the plane."""
    weights, means = torch.rand(5, generator=gen(1), dtype=F64) + 0.2, torch.randn(5, 2, generator=gen(2), dtype=F64)
    if not full:
        return LabelledMixture(process, weights, means, LABELS, stds=torch.tensor([0.2, 0.4, 0.6, 0.3, 0.5]))
    root = torch.randn(5, 2, 2, generator=gen(3), dtype=F64)
    return LabelledMixture(process, weights, means, LABELS, 0.2 * root @ root.mT + 0.05 * torch.eye(2))


@pytest.mark.parametrize("process", [LinearVP(), VE(0.05, 20.0), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("full", [True, False])
def test_the_average_over_classes_is_unconditional(process, full):
    """Σ_y p(y | x_t) D(x, t | y) = D(x, t), Σ_y p(y) p_t(x | y) = p_t(x), and the sum of the probabilities is 1."""
    D = mixture(process, full)
    x = torch.randn(7, 2, generator=gen(), dtype=F64)
    for t in (HALF, torch.linspace(0.05, 1, 7, dtype=F64)):
        shares = D.log_posterior(x, t).exp()
        torch.testing.assert_close(shares.sum(1), torch.ones(7, dtype=F64))
        each = torch.stack([D(x, t, torch.full((7,), y)) for y in range(3)], 1)
        torch.testing.assert_close((shares[..., None] * each).sum(1), D(x, t))
        densities = torch.stack([part.log_prob(x, t).exp() for part in D.classes], 1)
        torch.testing.assert_close(densities @ D.priors, D.log_prob(x, t).exp())
        torch.testing.assert_close(densities * D.priors / D.log_prob(x, t).exp()[:, None], shares)


def test_each_row_has_its_label():
    D = mixture(LinearVP())
    x, y = torch.randn(6, 2, generator=gen(), dtype=F64), torch.tensor([2, 0, 1, 1, 0, 2])
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    made = D.given(y)(x, t)
    for i in range(6):
        part = int(y[i]) == LABELS
        alone = GaussianMixture(D.process, D.weights[part], D.means[part], _covariances(D)[part])
        torch.testing.assert_close(made[i : i + 1], alone(x[i : i + 1], t[i]))
    torch.testing.assert_close(D.given(y)(x, HALF)[0], D.classes[2](x, HALF)[0])
    assert torch.equal(D(x, HALF), GaussianMixture.__call__(D, x, HALF))


def _covariances(D):
    return torch.einsum("kie,ke,kje->kij", D.axes, D.variances, D.axes)


def test_one_std_serves_all_components():
    D = LabelledMixture(LinearVP(), torch.ones(2), torch.zeros(2, 1), torch.tensor([1, 0]), stds=0.3)
    assert [part.sigma_data for part in D.classes] == pytest.approx([0.3, 0.3])
    assert D.priors.tolist() == [0.5, 0.5]


def test_refusals():
    weights, means = torch.ones(3), torch.zeros(3, 2)
    D = mixture(LinearVP())
    x = torch.zeros(2, 2)
    for labels in (torch.zeros(3), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"labels must be int64 \(3,\)"):
            LabelledMixture(LinearVP(), weights, means, labels, stds=1.0)
    for labels in (torch.tensor([0, 2, 2]), torch.tensor([-1, 0, 1])):
        with pytest.raises(ValueError, match="needs a component"):
            LabelledMixture(LinearVP(), weights, means, labels, stds=1.0)
    for y in (torch.zeros(3, dtype=torch.int64), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"y must be int64 of shape \(2,\)"):
            D(x, HALF, y)
    for y in (torch.tensor([0, 3]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match="labels must lie in 0 … 2"):
            D(x, HALF, y)
