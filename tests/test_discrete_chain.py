"""D3PM: matrices against naive chains, Bayes by enumeration, both combinations of x̂_0, the bound and its limits."""

import itertools
import math

import pytest
import torch

from minidiff.apps.discrete import Chain, Table, absorbing_steps, discretised_gaussian_steps, strings, uniform_steps
from minidiff.apps.discrete.tokens import categorical

K, BETAS = 3, torch.tensor([0.1, 0.3, 0.2, 0.5], dtype=torch.float64)
STEPS = {
    "uniform": uniform_steps(BETAS, K),
    "absorbing": absorbing_steps(BETAS, K),
    "gaussian": discretised_gaussian_steps(BETAS, K),
}
kinds = pytest.mark.parametrize("kind", STEPS)


def random_table(seed, vocabulary=K, length=2):
    p = (
        torch.rand([vocabulary] * length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
        + 0.01
    )
    return Table(p / p.sum())


def denoiser(chain, table):
    """The exact posterior of the chain's noise, K of the V tokens being clean."""
    return table.denoiser(lambda t: chain.cumulative[round(float(t) * chain.length), : table.vocabulary])


@kinds
def test_marginals_are_sums_over_paths(kind):
    """Q̄_3[i, j] = Σ over every path from i to j of the product of its transition probabilities."""
    chain = Chain(STEPS[kind])
    v = chain.vocabulary
    for i, j in itertools.product(range(v), repeat=2):
        total = 0.0
        for a, b in itertools.product(range(v), repeat=2):
            total += float(chain.steps[0][i, a] * chain.steps[1][a, b] * chain.steps[2][b, j])
        assert float(chain.cumulative[3][i, j]) == pytest.approx(total, abs=1e-15)
    torch.testing.assert_close(chain.cumulative[1] @ chain.between(1, 4), chain.cumulative[4])


def test_closed_forms_of_the_marginals():
    """ᾱ I + (1 − ᾱ) 11ᵀ/K for uniform, a survival probability ᾱ for absorbing, ᾱ = Π (1 − β)."""
    alpha = float((1 - BETAS).prod())
    uniform = alpha * torch.eye(K, dtype=torch.float64) + (1 - alpha) / K
    torch.testing.assert_close(Chain(STEPS["uniform"]).cumulative[-1], uniform)
    absorbed = Chain(STEPS["absorbing"]).cumulative[-1]
    torch.testing.assert_close(absorbed[:K, :K], alpha * torch.eye(K, dtype=torch.float64))
    torch.testing.assert_close(absorbed[:, K], torch.tensor([1 - alpha] * K + [1.0], dtype=torch.float64))


def test_discretised_gaussian_matrices():
    """Symmetric, so uniform is stationary; ratios off the diagonal are Gaussian; a small β leaves tokens alone."""
    steps = discretised_gaussian_steps(torch.tensor([0.02, 0.5], dtype=torch.float64), 7)
    torch.testing.assert_close(steps, steps.mT)
    torch.testing.assert_close(steps.sum(1), torch.ones(2, 7, dtype=torch.float64))
    expected = math.exp(-4 * (9 - 1) / (36 * 0.5))
    assert float(steps[1, 0, 3] / steps[1, 2, 3]) == pytest.approx(expected)
    assert float(steps[0].diagonal().min()) > 0.5 > float(steps[1, 3, 3])
    naive = math.exp(-4 / (36 * 0.5)) / sum(math.exp(-4 * n**2 / (36 * 0.5)) for n in range(-6, 7))
    assert float(steps[1, 2, 3]) == pytest.approx(naive)


@kinds
@pytest.mark.parametrize(("s", "n"), [(2, 3), (0, 2), (1, 4), (0, 1)])
def test_posterior_is_bayes_on_the_table(kind, s, n):
    chain = Chain(STEPS[kind])
    x0 = torch.tensor([[i] for i in range(K) for _ in range(chain.vocabulary)])
    x_n = torch.tensor([[j] for _ in range(K) for j in range(chain.vocabulary)])
    posterior = chain.posterior(x_n, x0, s, n)
    forward = chain.between(s, n)
    for row, (i, j) in enumerate(zip(x0[:, 0].tolist(), x_n[:, 0].tolist(), strict=True)):
        joint = [float(chain.cumulative[s][i, a] * forward[a, j]) for a in range(chain.vocabulary)]
        if sum(joint) == 0:
            assert not posterior[row].any()
        else:
            torch.testing.assert_close(posterior[row, 0], torch.tensor(joint, dtype=torch.float64) / sum(joint))


@kinds
def test_noise_has_the_marginal_law(kind):
    """60 000 draws: each frequency within 4 standard errors."""
    chain, n = Chain(STEPS[kind]), 60_000
    x = chain.noise(torch.full((n, 1), 1), 3, torch.Generator().manual_seed(0))
    p = chain.marginal(torch.tensor([[1]]), 3)[0, 0]
    counts = torch.bincount(x[:, 0], minlength=chain.vocabulary) / n
    assert bool(((counts - p).abs() <= 4 * (p * (1 - p) / n).sqrt() + 1e-12).all())


@kinds
@pytest.mark.parametrize(("s", "n"), [(1, 2), (1, 4)])
def test_reverse_is_exact_for_the_exact_denoiser(kind, s, n):
    """Position by position it is p(x_s^i | x_n) of the joint law, computed by summing over every x_0 and x_s."""
    chain, table = Chain(STEPS[kind]), random_table(1)
    v = chain.vocabulary
    x_n = strings(v, 2)
    # p(x_s, x_n), x_s and x_n strings
    law = table.marginal(chain.cumulative[s][:K])  # (V, V)
    step = chain.between(s, n)
    joint = torch.einsum("ab,ac,bd->abcd", law, step, step)
    truth = torch.stack([joint.sum(1), joint.sum(0)], 1) / joint.sum((0, 1))  # (V, 2, V, V): p(x_s^i | x_n)
    possible = joint.sum((0, 1)).flatten() > 0
    log_p = denoiser(chain, table)(x_n[possible], torch.tensor(n / chain.length))
    answer = chain.reverse(log_p, x_n[possible], s, n)
    torch.testing.assert_close(answer, truth.permute(2, 3, 1, 0).reshape(-1, 2, v)[possible])


def test_the_published_combination_wants_the_other_tokens_only():
    """D3PM's eq. 4 is exact for p(x_0^i | x_n without position i), not for p(x_0^i | x_n); with masks both agree."""
    chain, table = Chain(STEPS["uniform"]), random_table(2)
    x_n, kernel = strings(K, 2), chain.cumulative[3]
    log_p = table.conditionals(x_n, kernel)
    exact = chain.reverse(log_p, x_n, 2, 3)
    # Leave one out: p(x_0^i | x_n^j) for the other position j.
    noisy = table.probabilities @ kernel  # p(x_0^0, x_n^1)
    first = (noisy / noisy.sum(0)).T[x_n[:, 1]]
    noisy = table.probabilities.T @ kernel
    second = (noisy / noisy.sum(0)).T[x_n[:, 0]]
    others = torch.stack([first, second], 1).log()
    torch.testing.assert_close(chain.reverse_published(others, x_n, 2, 3), exact)
    assert float((chain.reverse_published(log_p, x_n, 2, 3) - exact).abs().max()) > 0.05
    masks, x_m = Chain(STEPS["absorbing"]), strings(K + 1, 2)
    log_p = table.masked(x_m)
    torch.testing.assert_close(masks.reverse_published(log_p, x_m, 2, 3), masks.reverse(log_p, x_m, 2, 3))


def exact_bound(chain, table, prior):
    """Σ over every x_n of q(x_n | x_0) step_kl, for every string x_0: the bound without Monte Carlo; (K^L,)."""
    x0, D = strings(K, table.length), denoiser(chain, table)
    total = chain.prior_kl(x0, prior)
    for n in range(1, chain.length + 1):
        for x_n in strings(chain.vocabulary, table.length):
            x_n = x_n.expand(len(x0), -1)
            weight = chain.marginal(x0, n).gather(2, x_n[..., None])[..., 0].prod(1)
            possible = weight > 0
            if possible.any():
                kl = chain.step_kl(D, x0[possible], x_n[possible], n, K)
                total[possible] += weight[possible] * kl
    return total


@kinds
def test_one_token_has_no_gap(kind):
    """L = 1: the reverse is exact, so the mean bound is the entropy of the data plus KL(q(x_T) ‖ prior)."""
    chain = Chain(STEPS[kind])
    table = random_table(3, length=1)
    prior = torch.full((chain.vocabulary,), 1 / chain.vocabulary, dtype=torch.float64)
    q = table.marginal(chain.cumulative[-1][:K])
    expected = -(table.probabilities * table.probabilities.log()).sum() + (torch.xlogy(q, q) - q * prior.log()).sum()
    # KL(q(x_T|x_0) ‖ prior) averages to KL(q(x_T) ‖ prior) plus what x_T knows of x_0; the steps pay that less.
    assert float(table.probabilities @ exact_bound(chain, table, prior)) == pytest.approx(float(expected), abs=1e-12)


@kinds
def test_the_gap_is_positive_and_closes_with_more_steps(kind):
    """Two dependent tokens in T steps: the mean bound falls towards the entropy; the gap halves with doubled T."""
    table, gaps = random_table(4), []
    entropy = -float((table.probabilities * table.probabilities.log()).sum())
    for length in (4, 8, 16, 32):
        grid = torch.linspace(1, 0, length + 1, dtype=torch.float64)
        betas = 1 - grid[1:] / grid[:-1]
        make = {"uniform": uniform_steps, "absorbing": absorbing_steps}.get(kind)
        if make is None:
            chain = Chain(discretised_gaussian_steps(torch.full((length,), 40.0 / length, dtype=torch.float64), K))
        else:
            chain = Chain(make(betas, K))
        prior = table.marginal(chain.cumulative[-1][:K]).sum(1)
        gaps.append(float(table.probabilities.flatten() @ exact_bound(chain, table, prior)) - entropy)
    assert min(gaps) > 0
    if kind != "gaussian":
        ratios = [a / b for a, b in itertools.pairwise(gaps)]
        assert all(1.5 < ratio < 2.6 for ratio in ratios)


def test_drawn_bound_agrees_with_the_exact_one():
    chain, table = Chain(STEPS["uniform"]), random_table(5)
    prior = torch.full((K,), 1 / K, dtype=torch.float64)
    x0 = torch.tensor([[2, 0]])
    draws = chain.bound(denoiser(chain, table), x0.expand(20_000, -1), prior, K, torch.Generator().manual_seed(1))
    exact = exact_bound(chain, table, prior)[6]
    assert abs(float(draws.mean() - exact)) < 4 * float(draws.std()) / math.sqrt(len(draws))


@kinds
def test_the_bound_lies_above_the_likelihood_of_the_model(kind):
    """For every x_0: −log of the probability that the sampler, propagated over all strings, ends there."""
    chain, table = Chain(STEPS[kind]), random_table(5)
    v, D = chain.vocabulary, denoiser(chain, table)
    prior = table.marginal(chain.cumulative[-1][:K]).sum(1)
    x, law = strings(v, 2), torch.outer(prior, prior).flatten()
    for n in range(chain.length, 0, -1):
        possible = law > 0
        p = chain.reverse(D(x[possible], chain.time(n)).nan_to_num(nan=0.0), x[possible], n - 1, n)
        law = torch.einsum("n,na,nb->ab", law[possible], p[:, 0], p[:, 1]).flatten()
    model = law.reshape(v, v)[:K, :K].flatten()
    assert float(model.sum()) == pytest.approx(1, abs=1e-12)
    gap = exact_bound(chain, table, prior) + model.log()
    assert float(gap.min()) > 0


@pytest.mark.parametrize("indices", [None, (4, 2, 0), (4, 0)])
@kinds
def test_samples_of_one_token_follow_the_data(kind, indices):
    """L = 1: exact with any number of steps, from the exact law of x_T. 20 000 draws within 4 standard errors."""
    chain, table, n = Chain(STEPS[kind]), random_table(6, length=1), 20_000
    random = torch.Generator().manual_seed(2)
    noise = categorical(table.marginal(chain.cumulative[-1][:K]).expand(n, 1, -1), random)
    states = list(chain.sample(denoiser(chain, table), noise, K, indices=indices, generator=random))
    assert len(states) == (5 if indices is None else len(indices))
    assert states[0].x0 is None and states[-1].x0.shape == (n, 1, K)
    p = table.probabilities
    frequency = torch.bincount(states[-1].x[:, 0], minlength=K) / n
    assert frequency.shape == (K,)
    assert bool(((frequency - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all())


def test_a_row_of_a_batch_is_its_single_run():
    chain, table = Chain(STEPS["uniform"]), random_table(7)
    x = torch.tensor([[0, 2], [1, 1], [2, 0]])
    D = denoiser(chain, table)

    def seeded():
        return [torch.Generator().manual_seed(s) for s in range(3)]

    together = list(chain.sample(D, x, K, generator=seeded()))[-1].x
    for i in range(3):
        alone = list(chain.sample(D, x[i : i + 1], K, generator=seeded()[i : i + 1]))[-1].x
        assert torch.equal(together[i : i + 1], alone)
    with pytest.raises(ValueError, match="one generator a sample needed: got 2 generators for a batch of 3"):
        list(chain.sample(D, x, K, generator=seeded()[:2]))


def test_zero_probability_is_never_drawn():
    p = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0])
    assert set(categorical(p.expand(10_000, -1), torch.Generator().manual_seed(0)).tolist()) == {1, 3}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: uniform_steps(torch.tensor([1.2]), 3), ValueError, r"betas must lie in \[0, 1\]"),
        (lambda: absorbing_steps(torch.tensor([-0.1]), 3), ValueError, r"betas must lie in \[0, 1\]"),
        (lambda: discretised_gaussian_steps(torch.tensor([0.0]), 3), ValueError, "betas must be positive, got 0.0"),
        (lambda: uniform_steps(torch.tensor([math.nan]), 3), ValueError, "betas must be finite"),
        (lambda: uniform_steps(torch.tensor([[0.1]]), 3), ValueError, r"betas must have shape \(T,\)"),
        (lambda: uniform_steps(torch.tensor([0.1]), 1), ValueError, "vocabulary must be at least 2, got 1"),
        (lambda: Chain(torch.eye(3)), ValueError, r"steps must have shape \(T, V, V\), got \(3, 3\)"),
        (
            lambda: Chain(torch.eye(3)[None] * 2),
            ValueError,
            "every row of steps must sum to 1, got a row that is off by 1",
        ),
        (lambda: Chain(torch.tensor([[[1.5, -0.5], [0.0, 1.0]]])), ValueError, "no negative entry, got -0.5"),
        (lambda: Chain(torch.full((1, 2, 2), math.nan)), ValueError, "steps must be finite"),
        (lambda: Chain(torch.zeros(0, 2, 2)), ValueError, "probabilities along its last axis"),
        (lambda: Chain(torch.ones(1, 2, 2, dtype=torch.int64)), TypeError, "floating-point"),
    ],
)
def test_bad_matrices(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c, x: c.noise(torch.tensor([[0, 3]]), 1), ValueError, r"tokens of x0 must lie in 0 … 2, got 0 … 3"),
        (lambda c, x: c.noise(torch.tensor([[0, -1]]), 1), ValueError, "tokens of x0 must lie in 0 … 2, got -1 … 0"),
        (lambda c, x: c.noise(x.float(), 1), TypeError, "x0 must be an int64 tensor, got torch.float32"),
        (lambda c, x: c.noise(x[0], 1), ValueError, r"x0 must have shape \(B, L\) and not be empty, got \(2,\)"),
        (lambda c, x: c.noise(x, 5), ValueError, "n must lie in 0 … 4, got 5"),
        (lambda c, x: c.marginal(x, 1.0), TypeError, "n must be an integer"),
        (lambda c, x: c.posterior(x, x[:, :1], 0, 1), ValueError, "x_n and x0 must have the same shape"),
        (lambda c, x: c.reverse(torch.zeros(1, 2, 3), x, 1, 9), ValueError, "0 ≤ s < n ≤ 4, got s = 1, n = 9"),
        (lambda c, x: c.reverse(torch.full((1, 2, 3), math.nan), x, 0, 1), ValueError, "log_p must be without NaN"),
        (lambda c, x: c.sample(None, x, 3, indices=(4.0, 0.0)), TypeError, "indices must be an integer"),
        (lambda c, x: c.between(2, 2), ValueError, "0 ≤ s < n ≤ 4, got s = 2, n = 2"),
        (lambda c, x: c.reverse(torch.zeros(1, 2, 4), x, 0, 1), ValueError, r"log_p must be \(B, L, K\) with K ≤ 3"),
        (lambda c, x: c.prior_kl(x, torch.ones(3)), ValueError, "every row of prior must sum to 1"),
        (lambda c, x: c.prior_kl(x, torch.ones(1)), ValueError, r"prior must have shape \(3,\), got \(1,\)"),
        (lambda c, x: c.sample(None, x, 3, indices=(3, 0)), ValueError, "indices must fall from 4 to 0, got"),
        (lambda c, x: c.sample(None, x, 3, indices=(4, 2, 2, 0)), ValueError, "indices must fall from 4 to 0"),
        (lambda c, x: c.sample(None, x + 2, 3), ValueError, "tokens of x must lie in 0 … 2"),
        (
            lambda c, x: list(c.sample(lambda x, t: torch.zeros(1, 2, 4), x, 3)),
            ValueError,
            r"logits of shape \(1, 2, 3\)",
        ),
        (lambda c, x: list(c.sample(lambda x, t: torch.full((1, 2, 3), math.nan), x, 3)), ValueError, "without NaN"),
        (
            lambda c, x: list(c.sample(lambda x, t: torch.full((1, 2, 3), -math.inf), x, 3)),
            ValueError,
            "at least one above",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(Chain(STEPS["uniform"]), torch.tensor([[0, 1]]))


def test_beliefs_that_rule_out_what_is_seen_are_refused():
    """The token 0 is seen through the absorbing noise, and D is sure of a 1: no way back, and no silent token 0."""
    chain, seen = Chain(STEPS["absorbing"]), torch.tensor([[0, 3]])
    sure = torch.full((1, 2, 3), -math.inf)
    sure[..., 1] = 0.0
    for combine in (chain.reverse, chain.reverse_published):
        with pytest.raises(ValueError, match="leave, at every position, an x_0 that can lead to x_n"):
            combine(sure, seen, 1, 2)
        assert torch.isfinite(combine(sure, torch.tensor([[1, 3]]), 1, 2)).all()
    last = torch.tensor([[0, 3]])
    with pytest.raises(ValueError, match="an x_0 that can lead to x_n"):
        list(chain.sample(lambda x, t: sure, last, 3))
    with pytest.raises(ValueError, match="x_n must be able to come from x0"):
        chain.step_kl(lambda x, t: torch.zeros(1, 2, 3), torch.tensor([[1, 1]]), seen, 2, 3)


@pytest.mark.parametrize("nothing", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_nothing_to_draw_from(nothing):
    with pytest.raises(ValueError, match="probabilities must be finite, with one above zero"):
        categorical(torch.tensor([nothing]))
