"""Masked diffusion is autoregression in random order: exact bounds, every mask, every order, laws of samplers."""

import itertools
import math

import pytest
import torch

from minidiff.apps.discrete import (
    Chain,
    Table,
    absorbing_steps,
    ancestral,
    count_loss,
    law_of_ancestral,
    law_of_unmasking,
    mask,
    order_agnostic_bound,
    rate_loss,
    strings,
    total_variation,
    unmask,
)
from minidiff.samplers.state import last
from minidiff.times import uniform

K, L = 3, 3


def random_table(seed=0, vocabulary=K, length=L):
    p = (
        torch.rand([vocabulary] * length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
        + 0.01
    )
    return Table(p / p.sum())


def wrong(x, t):
    """A denoiser that is not exact, but depends on the masked string alone."""
    weight = torch.randn(L * (K + 1), L * K, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return (torch.nn.functional.one_hot(x, K + 1).double().flatten(1) @ weight / 2).reshape(-1, L, K)


def nll(D, x0, hidden):
    """−log p(x_0^i | the rest) at every position, with the positions `hidden` masked; naive; (L,)."""
    x = torch.tensor([[K if i in hidden else int(x0[i]) for i in range(len(x0))]])
    log_p = D(x, torch.tensor(0.5))[0].double().log_softmax(-1)
    return [-float(log_p[i, int(x0[i])]) for i in range(len(x0))]


# The table


def test_conditionals_by_counting():
    """p(x_0^i = k | what is seen) from sums over the strings that agree with it."""
    table = random_table()
    for x in strings(K + 1, L)[::5]:
        answer = table.masked(x[None]).exp()[0]
        agree = [
            s for s in itertools.product(range(K), repeat=L) if all(v in (K, s[i]) for i, v in enumerate(x.tolist()))
        ]
        total = sum(float(table.probabilities[s]) for s in agree)
        for i, k in itertools.product(range(L), range(K)):
            expected = sum(float(table.probabilities[s]) for s in agree if s[i] == k) / total
            assert float(answer[i, k]) == pytest.approx(expected, abs=1e-14)


def test_marginal_of_the_table():
    table = random_table(1)
    kernel = torch.rand(K, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kernel = kernel / kernel.sum(1, keepdim=True)
    naive = torch.einsum("abc,ax,by,cz->xyz", table.probabilities, kernel, kernel, kernel)
    torch.testing.assert_close(table.marginal(kernel), naive)


def test_draws_of_the_table():
    table, n = random_table(3), 40_000
    x = table.sample(n, torch.Generator().manual_seed(0))
    counts = torch.bincount(x @ torch.tensor([K * K, K, 1]), minlength=K**L) / n
    p = table.probabilities.flatten()
    assert float(((counts - p) / (p / n).sqrt()).abs().max()) < 4.5
    torch.testing.assert_close(table.log_prob(strings(K, L)), p.log())


# The bound


def test_exact_conditionals_give_the_exact_likelihood():
    """For every string, not only on average: each order multiplies up to p(x_0)."""
    table, x0 = random_table(), strings(K, L)
    torch.testing.assert_close(order_agnostic_bound(table.masked, x0, K), -table.log_prob(x0))


@pytest.mark.parametrize("D", [wrong, random_table(4).masked])
def test_bound_is_the_mean_over_every_order(D):
    for x0 in (torch.tensor([2, 0, 1]), torch.tensor([1, 1, 0])):
        orders = list(itertools.permutations(range(L)))
        mean = sum(nll(D, x0, order[j:])[order[j]] for order in orders for j in range(L)) / len(orders)
        assert float(order_agnostic_bound(D, x0[None], K)) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize(
    "alpha",
    [lambda u: 1 - u, lambda u: torch.cos(math.pi * u / 2), lambda u: (1 - u**2) ** 3],
    ids=["linear", "cosine", "another"],
)
def test_bound_is_the_integral_for_every_schedule(alpha):
    """∫ −α′/(1 − α) E Σ_masked −log p du by Gauss–Legendre: the weight 1/m is what remains of any schedule."""
    x0 = torch.tensor([0, 2, 1])
    masks = [m for m in itertools.product([0, 1], repeat=L) if any(m)]
    cost = {
        m: sum(v for v, hidden in zip(nll(wrong, x0, [i for i in range(L) if m[i]]), m, strict=True) if hidden)
        for m in masks
    }
    nodes, total = 400, 0.0
    for j in range(nodes):
        u = torch.tensor((j + 0.5) / nodes, dtype=torch.float64, requires_grad=True)
        a = alpha(u)
        (slope,) = torch.autograd.grad(a, u)
        m = 1 - float(a.detach())
        mean = sum(m ** sum(row) * (1 - m) ** (L - sum(row)) * cost[row] for row in masks)
        total += -float(slope) / m * mean / nodes
    assert total == pytest.approx(float(order_agnostic_bound(wrong, x0[None], K)), rel=2e-5)


def test_both_losses_are_unbiased():
    """Mean over t or k within 4 standard errors of the exact bound; counting masks has the smaller variance."""
    x0, n = torch.tensor([[0, 2, 1]]), 40_000
    exact, random = float(order_agnostic_bound(wrong, x0, K)), torch.Generator().manual_seed(0)
    t = 1 - torch.rand(n, generator=random, dtype=torch.float64)
    k = torch.randint(1, L + 1, (n,), generator=random)
    by_rate = rate_loss(wrong, x0.expand(n, -1), t, K, random)
    by_count = count_loss(wrong, x0.expand(n, -1), k, K, random)
    for draws in (by_rate, by_count):
        assert abs(float(draws.mean()) - exact) < 4 * float(draws.std()) / math.sqrt(n)
    assert float(by_count.var()) < float(by_rate.var()) / 2


def test_counting_takes_away_the_variance():
    """With a uniform D they are |M| log K/t and L log K: the second does not vary, the first has no finite variance.

    E (|M|/t)² = (L t (1 − t) + L² t²)/t² at the rate t, whose integral over t diverges at 0 like L log 1/t.
    """

    def flat(x, t):
        return torch.zeros(*x.shape, K)

    n = 200_000
    x0 = torch.zeros(n, L, dtype=torch.int64)
    counted = count_loss(flat, x0, torch.arange(n) % L + 1, K, torch.Generator().manual_seed(0))
    torch.testing.assert_close(counted, torch.full((n,), L * math.log(K), dtype=torch.float64))
    for t in (0.5, 0.05, 0.005):
        squares = rate_loss(flat, x0, torch.tensor(t), K, torch.Generator().manual_seed(1)).square() / math.log(K) ** 2
        expected = L * (1 - t) / t + L**2
        assert abs(float(squares.mean()) - expected) < 5 * float(squares.std()) / math.sqrt(n)


def test_counts_are_exact():
    x0 = torch.zeros(50, 7, dtype=torch.int64)
    seen = []
    count_loss(lambda x, t: seen.append(x) or torch.zeros(50, 7, 2), x0, torch.arange(50) % 7 + 1, 2)
    assert torch.equal((seen[0] == 2).sum(1), torch.arange(50) % 7 + 1)


def test_mask_rates():
    x = mask(
        torch.zeros(3, 20_000, dtype=torch.int64), torch.tensor([0.0, 0.3, 1.0]), K, torch.Generator().manual_seed(0)
    )
    rate = (x == K).double().mean(1)
    assert rate[0] == 0 and rate[2] == 1
    assert abs(float(rate[1]) - 0.3) < 4 * math.sqrt(0.21 / 20_000)


def test_the_chain_is_the_same_with_finitely_many_steps():
    """D3PM's absorbing KL at rates m = n/T is (m_n − m_{n−1})/m_n Σ_masked −log p, for a denoiser that is not exact."""
    length = 5
    grid = torch.linspace(1, 0, length + 1, dtype=torch.float64)
    chain = Chain(absorbing_steps(1 - grid[1:] / grid[:-1], K))
    x0, x_n, n = torch.tensor([[0, 2, 1]]), torch.tensor([[K, 2, K]]), 3
    row = nll(wrong, x0[0], [0, 2])
    assert float(chain.step_kl(wrong, x0, x_n, n, K)) == pytest.approx((row[0] + row[2]) / n)


# Samplers


def test_one_token_at_a_time_samples_the_joint_law():
    table = random_table()
    assert total_variation(law_of_unmasking(table.masked, L, K, [1] * L), table.probabilities) < 1e-14


def test_all_at_once_is_the_product_of_the_marginals():
    table = random_table()
    p = table.probabilities
    product = torch.einsum("a,b,c->abc", p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1)))
    for law in (law_of_unmasking(table.masked, L, K, [L]), law_of_ancestral(table.masked, L, K, uniform(1))):
        torch.testing.assert_close(law, product)


def test_more_steps_close_the_gap_at_first_order():
    """The total variation of parallel unmasking falls as 1/T; each law is normalised."""
    table, gaps = random_table(), []
    for n in (4, 8, 16, 32, 64):
        law = law_of_ancestral(table.masked, L, K, uniform(n))
        assert float(law.sum()) == pytest.approx(1, abs=1e-12)
        gaps.append(total_variation(law, table.probabilities))
    assert all(1.6 < a / b < 2.4 for a, b in itertools.pairwise(gaps))
    assert gaps[-1] < 0.02 * gaps[0] * 8


def test_independent_tokens_need_one_step():
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    table = Table(torch.einsum("a,b,c->abc", p, p.flip(0), p))
    assert total_variation(law_of_ancestral(table.masked, L, K, uniform(1)), table.probabilities) < 1e-14


@pytest.mark.parametrize(
    ("walk", "law"),
    [
        (lambda D, x, g: ancestral(D, x, uniform(2), K, generator=g), lambda D: law_of_ancestral(D, L, K, uniform(2))),
        (lambda D, x, g: unmask(D, x, [2, 1], K, generator=g), lambda D: law_of_unmasking(D, L, K, [2, 1])),
    ],
    ids=["ancestral", "unmask"],
)
@pytest.mark.parametrize("D", [wrong, random_table().masked])
def test_samplers_have_the_computed_laws(walk, law, D):
    """30 000 strings, each of the 27 frequencies within 4.5 standard errors."""
    n = 30_000
    x = last(walk(D, torch.full((n, L), K), torch.Generator().manual_seed(3)))
    p = law(D).flatten()
    counts = torch.bincount(x @ torch.tensor([K * K, K, 1]), minlength=K**L) / n
    assert float(((counts - p) / (p / n).sqrt()).abs().max()) < 4.5


def test_given_tokens_stay():
    x = torch.tensor([[2, K, K], [K, 1, K]])
    for end in (last(ancestral(wrong, x, uniform(3), K)), last(unmask(wrong, x, [1, 1], K))):
        assert int(end[0, 0]) == 2 and int(end[1, 1]) == 1 and int(end.max()) < K


def test_confident_order_reveals_the_surest_token_first():
    """A denoiser that is sure of place 2, then 0, then 1: the masks vanish in that order."""
    sure = torch.tensor([3.0, 1.0, 9.0])

    def D(x, t):
        return torch.stack([sure, torch.zeros(3), torch.zeros(3)], -1).expand(len(x), -1, -1) * 10

    states = list(unmask(D, torch.full((4, L), K), [1, 1, 1], K, order="confident"))
    masked = [(s.x == K).long().tolist() for s in states]
    assert masked == [[[1, 1, 1]] * 4, [[1, 1, 0]] * 4, [[0, 1, 0]] * 4, [[0, 0, 0]] * 4]
    assert [float(s.t) for s in states] == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_confident_order_sharpens():
    """Most confident first is biased although every conditional is exact: on this table towards the mode."""
    table, n = random_table(5), 20_000
    random = torch.Generator().manual_seed(0)
    x = last(unmask(table.masked, torch.full((n, L), K), [1] * L, K, order="confident", generator=random))
    p = table.probabilities
    share = float((table.log_prob(x) == p.max().log()).double().mean())
    assert share > float(p.max()) + 4 * math.sqrt(float(p.max()) / n)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: mask(x + K, torch.tensor(0.5), K), ValueError, "tokens of x0 must lie in 0 … 2"),
        (lambda x: mask(x, torch.tensor(1.5), K), ValueError, r"t must lie in \[0, 1\]"),
        (lambda x: mask(x, torch.tensor([0.5, 0.5]), K), ValueError, r"t must have shape \(\) or \(B,\)"),
        (lambda x: rate_loss(wrong, x, torch.tensor(0.0), K), ValueError, "t must be above 0"),
        (lambda x: count_loss(wrong, x, torch.tensor([0]), K), ValueError, "counts must lie in 1 … 3, got 0 … 0"),
        (lambda x: count_loss(wrong, x, torch.tensor([4]), K), ValueError, "counts must lie in 1 … 3, got 4 … 4"),
        (lambda x: count_loss(wrong, x, torch.tensor([1.0]), K), ValueError, r"counts must be int64 of shape \(1,\)"),
        (lambda x: count_loss(wrong, x, [1], K), ValueError, r"counts must be int64 of shape \(1,\), got list"),
        (lambda x: law_of_ancestral(wrong, L, K, uniform(2, end=0.5)), ValueError, "times must end at 0"),
        (lambda x: random_table().sample(0), ValueError, "n must be at least 1, got 0"),
        (lambda x: ancestral(wrong, x + K + 1, uniform(2), K), ValueError, "tokens of x must lie in 0 … 3"),
        (lambda x: ancestral(wrong, x, uniform(2).flip(0), K), ValueError, "strictly decreasing"),
        (lambda x: unmask(wrong, x + K, [1, 1], K), ValueError, r"sum to the 3 masked tokens of a row, got \[1, 1\]"),
        (lambda x: unmask(wrong, x + K, [3, 0], K), ValueError, "counts must be at least 1, got 0"),
        (lambda x: unmask(wrong, x + K, [3], K, order="best"), ValueError, "'random' or 'confident', got 'best'"),
        (
            lambda x: unmask(wrong, torch.tensor([[3, 3], [3, 0]]), [1], K),
            ValueError,
            "same number of masks, got 1 … 2",
        ),
        (lambda x: law_of_unmasking(wrong, L, K, [2]), ValueError, "counts must sum to the 3"),
        (
            lambda x: law_of_ancestral(wrong, 8, K, uniform(2)),
            ValueError,
            r"at most 16384 strings are listed, got 4\^8",
        ),
        (lambda x: total_variation(torch.ones(2), torch.ones(3)), ValueError, "p and q must have the same shape"),
        (lambda x: order_agnostic_bound(wrong, x + K, K), ValueError, "tokens of x0"),
        (lambda x: Table(torch.full((2, 2), 0.3)), ValueError, "every row of probabilities must sum to 1"),
        (lambda x: Table(torch.full((2, 3), 1 / 6)), ValueError, r"L ≥ 1 axes of one length, got \(2, 3\)"),
        (lambda x: Table(torch.tensor([math.nan, 1.0])), ValueError, "probabilities must be finite"),
        (lambda x: random_table().log_prob(x[:, :2]), ValueError, "x must have 3 tokens a row, got 2"),
        (
            lambda x: random_table().conditionals(x, torch.eye(2)),
            ValueError,
            r"kernel must have shape \(3, V\), got \(2, 2\)",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(1, L, dtype=torch.int64))
