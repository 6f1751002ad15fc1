"""Sets: an invariant density, an equivariant denoiser, the permanent by brute force, the projection of any denoiser."""

import itertools
import math

import pytest
import torch

from minidiff.apps.sets import SetMixture, Symmetrised
from minidiff.denoiser import Denoiser
from minidiff.nets import SetTransformer
from minidiff.process import CosineVP, RectifiedFlow
from minidiff.samplers import sample

CENTRES = torch.tensor([[0.0, 1.0], [1.5, -0.5], [-1.0, -1.0]], dtype=torch.float64)
PROCESS, T = CosineVP(), torch.tensor(0.4, dtype=torch.float64)


def draw(n, seed=0):
    return torch.randn(n, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def density(x):
    """(1/n!) Σ_π Π_i N(x^i; α c_π(i), (α s)² + σ²), one point and one order at a time."""
    alpha, sigma = float(PROCESS.alpha(T)), float(PROCESS.sigma(T))
    v, total = (alpha * 0.3) ** 2 + sigma**2, 0.0
    for order in itertools.permutations(range(3)):
        parts = [
            math.exp(-float((x[i] - alpha * CENTRES[j]).square().sum()) / (2 * v)) / (2 * math.pi * v)
            for i, j in enumerate(order)
        ]
        total += math.prod(parts) / 6
    return total


def test_density_is_the_permanent():
    D, x = SetMixture(PROCESS, CENTRES, 0.3), draw(4)
    for row, log_p in zip(x, D.log_prob(x, T), strict=True):
        assert float(log_p) == pytest.approx(math.log(density(row)))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_invariant_density_equivariant_score_and_denoiser(order):
    D, x, order = SetMixture(PROCESS, CENTRES, 0.3), draw(4), list(order)
    torch.testing.assert_close(D.log_prob(x[:, order], T), D.log_prob(x, T))
    torch.testing.assert_close(D.score(x[:, order], T), D.score(x, T)[:, order])
    torch.testing.assert_close(D(x[:, order], T), D(x, T)[:, order])


def test_score_is_the_gradient_and_tweedie_holds():
    D, x = SetMixture(PROCESS, CENTRES, 0.3), draw(4).requires_grad_()
    (gradient,) = torch.autograd.grad(D.log_prob(x, T).sum(), x)
    torch.testing.assert_close(D.score(x.detach(), T), gradient)
    alpha, sigma = PROCESS.alpha(T), PROCESS.sigma(T)
    torch.testing.assert_close(alpha * D(x.detach(), T), x.detach() + sigma**2 * gradient)


def test_samples_have_every_order_and_samplers_find_the_set():
    """Each of the 6 orders in 6000 draws within 4 standard errors; generated sets lie near the centres, one each."""
    D, n = SetMixture(PROCESS, CENTRES, 0.05), 6000
    x = D.sample(n, torch.Generator().manual_seed(0))
    nearest = torch.cdist(x, CENTRES).argmin(-1)
    assert bool((nearest.sort(1).values == torch.arange(3)).all())
    counts = torch.bincount(nearest @ torch.tensor([9, 3, 1]))
    counts = counts[counts > 0]
    assert len(counts) == 6 and float((counts - n / 6).abs().max()) < 4 * math.sqrt(n * 5 / 36)
    made = sample(D, draw(200, 3), 20)
    found = torch.cdist(made, CENTRES).argmin(-1).sort(1).values
    assert float((found == torch.arange(3)).all(1).double().mean()) > 0.97


class Lopsided:
    """Exact but for an error that knows the names of the points."""

    process, sigma_data, coupled = PROCESS, 1.0, False

    def __init__(self):
        self.exact = SetMixture(PROCESS, CENTRES, 0.3)

    def __call__(self, x, t):
        return self.exact(x, t) + torch.tensor([[0.5, 0.0], [0.0, -0.3], [0.2, 0.2]]) * x.sin()


def test_symmetrised_is_equivariant_exact_where_exact_and_no_worse():
    raw, x = Lopsided(), draw(50)
    D, order = Symmetrised(raw), [2, 0, 1]
    torch.testing.assert_close(D(x[:, order], T), D(x, T)[:, order])
    assert float((raw(x[:, order], T) - raw(x, T)[:, order]).abs().max()) > 0.1
    torch.testing.assert_close(Symmetrised(raw.exact)(x, T), raw.exact(x, T))
    assert (D.process, D.sigma_data, D.coupled, D.angle) == (PROCESS, 1.0, False, None)
    # Over an invariant set of points: every order of each x.
    orbit = torch.cat([x[:, list(o)] for o in itertools.permutations(range(3))])

    def error(d):
        return float((d(orbit, T) - raw.exact(orbit, T)).square().mean())

    assert error(D) < 0.8 * error(raw)


def test_a_set_network_is_a_denoiser():
    """SetTransformer in the Denoiser wrapper: equivariant for any n, and unchanged by symmetrising."""
    net = SetTransformer(2, 16).double()
    random = torch.Generator().manual_seed(0)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=random)
    D = Denoiser(net.requires_grad_(False), RectifiedFlow(), "edm")
    x, order = draw(3), [1, 2, 0]
    torch.testing.assert_close(D(x[:, order], T), D(x, T)[:, order])
    torch.testing.assert_close(Symmetrised(D)(x, T), D(x, T))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SetMixture(PROCESS, CENTRES[0], 0.3), ValueError, r"centres must have shape \(n, d\), got \(2,\)"),
        (lambda: SetMixture(PROCESS, CENTRES * math.nan, 0.3), ValueError, "centres must be finite"),
        (
            lambda: SetMixture(PROCESS, torch.zeros(7, 2), 0.3),
            ValueError,
            "at most 6 points are permuted exhaustively, got 7",
        ),
        (
            lambda: SetMixture(PROCESS, CENTRES, 0.3)(draw(2)[:, :2], T),
            ValueError,
            r"x must have shape \(B, 3, 2\), got \(2, 2, 2\)",
        ),
        (lambda: SetMixture(PROCESS, CENTRES, 0.3)(draw(2).long(), T), TypeError, "floating-point"),
        (lambda: Symmetrised(lambda x, t: x), TypeError, "a denoiser is callable"),
        (lambda: Symmetrised(Lopsided())(torch.zeros(2, 3), T), ValueError, r"x must have shape \(B, n, …\)"),
        (lambda: Symmetrised(Lopsided())(torch.zeros(2, 7, 2), T), ValueError, "at most 6 points"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
