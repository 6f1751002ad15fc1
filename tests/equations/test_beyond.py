"""Every equation of *Beyond Gaussian noise*: both sides as printed, on chains and tables small enough to list.

Chains are naive products over paths, laws of strings are tables, expectations are sums over all strings, masks, orders.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from sides import F64, SEEDS, equal, gen, normals, numbers

from minidiff.apps.discrete import (
    Chain,
    Table,
    absorbing_steps,
    jump_rates,
    law_of_unmasking,
    mixture_kernel,
    order_agnostic_bound,
    partially_autoregressive_loss,
    strings,
    uniform_steps,
)
from minidiff.nets.transformer import TokenTransformer

K, L = 3, 3  # clean tokens, length; the mask is the token K


def law(seed, *shape):
    """Random laws along the last axis."""
    p = torch.rand(shape, generator=gen(seed), dtype=F64) ** 2 + 0.02
    return p / p.sum(-1, keepdim=True)


def joint(seed, vocabulary=K, length=L):
    return law(seed, vocabulary**length).reshape([vocabulary] * length)


def forget(alpha, pi):
    """α I + (1 − α) 1πᵀ, entry by entry."""
    n = len(pi)
    return torch.tensor(
        [[alpha * (i == j) + (1 - alpha) * float(pi[j]) for j in range(n)] for i in range(n)], dtype=F64
    )


def sources(seed):
    """A random law, the uniform one, and the mask's, each with the number of tokens that can be clean."""
    mask = torch.tensor([0.0] * K + [1.0], dtype=F64)
    return [(law(seed, K), K), (torch.full((K,), 1 / K, dtype=F64), K), (mask, K)]


def chain_of(seed, steps, kind):
    return Chain(kind(torch.tensor(numbers(seed, steps, 0.1, 0.6), dtype=F64), K))


def costs(D, x0):
    """−log p(x_0^i | x_0 without M) for each non-empty M, {M: {i: nats}}, one string at a time."""
    answer = {}
    for k in range(1, len(x0) + 1):
        for M in itertools.combinations(range(len(x0)), k):
            x = torch.tensor([[K if i in M else int(x0[i]) for i in range(len(x0))]])
            log_p = D(x, None)[0].log_softmax(-1)
            answer[M] = {i: -float(log_p[i, int(x0[i])]) for i in M}
    return answer


def guesser(seed, length=L):
    """A classifier that is not exact: a random function of the masked string."""
    weight = normals(seed + 50, length * (K + 1), length * K)
    return lambda x, t: (torch.nn.functional.one_hot(x, K + 1).double().flatten(1) @ weight).reshape(-1, length, K)


# The chain


@SEEDS
@pytest.mark.equation("eq-beyond-cumulative")
def test_cumulative(seed):
    steps = law(seed, 3, K, K)
    product = steps[0] @ steps[1] @ steps[2]
    for k, j in itertools.product(range(K), repeat=2):
        ways = sum(
            float(steps[0, k, a] * steps[1, a, b] * steps[2, b, j]) for a, b in itertools.product(range(K), repeat=2)
        )
        equal(ways, product[k, j])
    equal(Chain(steps).cumulative[3], product)


@SEEDS
@pytest.mark.equation("eq-beyond-projection")
def test_projection(seed):
    for pi, _ in sources(seed):
        ones = torch.ones(len(pi), 1, dtype=F64)
        once = ones @ pi[None]
        equal(once @ once, ones @ (pi[None] @ ones) @ pi[None])
        equal(ones @ (pi[None] @ ones) @ pi[None], once)


@SEEDS
@pytest.mark.equation("eq-beyond-two")
def test_two_steps(seed):
    b1, b2 = numbers(seed, 2, 0.1, 0.9)
    for pi, _ in sources(seed):
        left = forget(1 - b1, pi) @ forget(1 - b2, pi)
        share = (1 - b1) * (1 - b2)
        equal(left, share * torch.eye(len(pi), dtype=F64) + (1 - share) * pi.expand(len(pi), -1))


@SEEDS
@pytest.mark.equation("eq-beyond-closed")
@pytest.mark.equation("eq-beyond-between")
def test_closed_forms(seed):
    betas = torch.tensor(numbers(seed, 5, 0.1, 0.6), dtype=F64)
    for (pi, _), make in zip(sources(seed), (None, uniform_steps, absorbing_steps), strict=True):
        matrices = [forget(1 - float(b), pi) for b in betas]
        if make is not None:
            equal(make(betas, K), torch.stack(matrices))
        eye, drawn = torch.eye(len(pi), dtype=F64), pi.expand(len(pi), -1)
        alpha = [math.prod(1 - float(b) for b in betas[:n]) for n in range(6)]
        for n in range(1, 6):
            product = eye
            for matrix in matrices[:n]:
                product = product @ matrix
            equal(product, alpha[n] * eye + (1 - alpha[n]) * drawn)
        middle = matrices[2] @ matrices[3] @ matrices[4]
        equal(middle, alpha[5] / alpha[2] * eye + (1 - alpha[5] / alpha[2]) * drawn)


def three_times(chain, s, n):
    """q(x_s, x_n | x_0), [x_0, x_s, x_n], by naive products of single steps."""
    first, second = torch.eye(chain.vocabulary, dtype=F64), torch.eye(chain.vocabulary, dtype=F64)
    for step in chain.steps[:s]:
        first = first @ step
    for step in chain.steps[s:n]:
        second = second @ step
    return first[:, :, None] * second[None]


KINDS = pytest.mark.parametrize("kind", [uniform_steps, absorbing_steps])


@SEEDS
@KINDS
@pytest.mark.equation("eq-beyond-posterior")
def test_posterior(seed, kind):
    chain = chain_of(seed, 4, kind)
    s, n = 2, 4
    together = three_times(chain, s, n)[:K]
    bayes = together / together.sum(1, keepdim=True)
    for k, v in itertools.product(range(K), range(chain.vocabulary)):
        if float(together[k, :, v].sum()) == 0:
            continue
        printed = chain.cumulative[s][k] * chain.between(s, n)[:, v] / chain.cumulative[n][k, v]
        equal(bayes[k, :, v], printed)
        equal(chain.posterior(torch.tensor([[v]]), torch.tensor([[k]]), s, n)[0, 0], printed)


@SEEDS
@pytest.mark.equation("eq-beyond-mask-posterior")
def test_mask_posterior(seed):
    chain = chain_of(seed, 4, absorbing_steps)
    alpha = [math.prod(float(step[0, 0]) for step in chain.steps[:n]) for n in range(5)]
    for s, n in ((1, 2), (2, 4), (0, 3)):
        together = three_times(chain, s, n)
        for k in range(K):
            bayes = together[k, :, K] / together[k, :, K].sum()
            equal(bayes[k], (alpha[s] - alpha[n]) / (1 - alpha[n]))
            equal(bayes[K], (1 - alpha[s]) / (1 - alpha[n]))


# The way back: two tokens, everything listed


def everything(chain, p, s, n):
    """q(x_0, x_s, x_n) of two tokens, axes (a, b, c, d, e, f) = x_0, x_s, x_n."""
    one = three_times(chain, s, n)[:K]
    return torch.einsum("ab,ace,bdf->abcdef", p, one, one)


@SEEDS
@KINDS
@pytest.mark.equation("eq-beyond-reverse")
@pytest.mark.equation("eq-beyond-leave-one-out")
@pytest.mark.equation("eq-beyond-published")
def test_three_ways_back(seed, kind):
    chain, p, (s, n) = chain_of(seed, 4, kind), joint(seed, K, 2), (2, 3)
    whole = everything(chain, p, s, n)
    one = three_times(chain, s, n)[:K]  # q(x_s, x_n | x_0) of one place
    at_n = one.sum(1)
    others = torch.einsum("ab,bf->af", p, at_n)  # q(x_0^1, x_n^2)
    for e, f in itertools.product(range(chain.vocabulary), repeat=2):
        total = whole[..., e, f].sum()
        if float(total) == 0:
            continue
        truth = whole[..., e, f].sum((0, 1, 3)) / total  # q(x_s^1 | x_n)
        belief = whole[..., e, f].sum((1, 2, 3)) / total  # q(x_0^1 | x_n)
        given = others[:, f] / others[:, f].sum()  # q(x_0^1 | x_n^2)
        posterior = one[:, :, e] / at_n[:, e, None].clamp_min(1e-300)
        equal(truth, belief @ posterior)
        equal(belief, at_n[:, e] * given / (at_n[:, e] * given).sum())
        equal(truth, (one[:, :, e] * given[:, None]).sum(0) / (at_n[:, e] * given).sum())
        log = torch.stack([belief, whole[..., e, f].sum((0, 2, 3)) / total])[None].log()
        x_n = torch.tensor([[e, f]])
        equal(chain.reverse(log, x_n, s, n)[0, 0], truth)
        both = torch.stack([given, given])[None].log()
        equal(chain.reverse_published(both, x_n, s, n)[0, 0], truth)


@SEEDS
@KINDS
@pytest.mark.equation("eq-beyond-bound")
def test_bound(seed, kind):
    """One token, three steps, a classifier that is not exact: every path listed."""
    chain = chain_of(seed, 3, kind)
    V, T = chain.vocabulary, 3
    start = law(seed + 1, V)
    beliefs = law(seed + 2, T + 1, V, K)  # p(x_0 | x_n) at each n
    back = []
    for n in range(1, T + 1):
        one = three_times(chain, n - 1, n)[:K]
        belief = beliefs[n] * (one.sum(1).T > 0)
        belief = belief / belief.sum(1, keepdim=True)
        posterior = one / one.sum(1, keepdim=True).clamp_min(1e-300)
        back.append(torch.einsum("vk,kjv->vj", belief, posterior))  # p(x_{n−1} | x_n)
    ways = list(itertools.product(range(V), repeat=T))
    for x0 in range(K):
        q, p = [], []
        for a, b, c in ways:
            q.append(float(chain.steps[0][x0, a] * chain.steps[1][a, b] * chain.steps[2][b, c]))
            p.append(float(start[c] * back[2][c, b] * back[1][b, a] * back[0][a, x0]))
        middle = sum(u * math.log(u / v) for u, v in zip(q, p, strict=True) if u > 0)
        assert -math.log(sum(p)) < middle + 1e-12
        end = chain.cumulative[T][x0]
        total = (torch.xlogy(end, end) - torch.xlogy(end, start)).sum()
        for n in range(1, T + 1):
            one = three_times(chain, n - 1, n)[x0]
            for v in range(V):
                if float(one[:, v].sum()) > 0:
                    post = one[:, v] / one[:, v].sum()
                    kl = (torch.xlogy(post, post) - torch.xlogy(post, back[n - 1][v])).nan_to_num().sum()
                    total = total + one[:, v].sum() * kl
        equal(middle, total)


@SEEDS
@pytest.mark.equation("eq-beyond-cross-entropy")
def test_cross_entropy(seed):
    q, p = law(seed, 5, K), law(seed + 1, 5, K)  # laws of x_0^i for five noisy strings
    weight = law(seed + 2, 5)
    left = -(weight[:, None] * q * p.log()).sum()
    entropy = -(weight[:, None] * q * q.log()).sum()
    equal(left, entropy + (weight * (q * (q / p).log()).sum(1)).sum())


# Masks


@SEEDS
@pytest.mark.equation("eq-beyond-mask-kl")
def test_kl_of_a_masked_step(seed):
    """Both laws over all strings x_{n−1}, products over the places; no formula of the package."""
    chain, n = chain_of(seed, 4, absorbing_steps), 3
    alpha = [math.prod(float(step[0, 0]) for step in chain.steps[:m]) for m in range(5)]
    x0, x_n = torch.tensor([[1, 2, 0]]), torch.tensor([[K, 2, K]])
    log_p = guesser(seed)(x_n, None).log_softmax(-1)
    one = three_times(chain, n - 1, n)[:K]
    q, p = [], []
    for i in range(L):
        posterior = one[:, :, x_n[0, i]] / one[:, :, x_n[0, i]].sum(1, keepdim=True).clamp_min(1e-300)
        q.append(posterior[x0[0, i]])
        belief = log_p[0, i].exp() if int(x_n[0, i]) == K else torch.eye(K, dtype=F64)[x_n[0, i]]
        p.append(belief @ posterior)
    kl = 0.0
    for x in strings(K + 1, L):
        a, b = (math.prod(float(v[i][x[i]]) for i in range(L)) for v in (q, p))
        kl += a * math.log(a / b) if a > 0 else 0.0
    share = (alpha[n - 1] - alpha[n]) / (1 - alpha[n])
    equal(kl, share * -sum(float(log_p[0, i, x0[0, i]]) for i in (0, 2)))


def legendre(count=60):
    """Gauss–Legendre nodes and weights on [0, 1]."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(count))
    return (nodes + 1) / 2, weights / 2


def mean_cost(cost, m):
    """E Σ_masked −log p at rate m, each token masked by itself."""
    total = 0.0
    for M, of_place in cost.items():
        total = total + math.prod([m] * len(M)) * (1 - m) ** (L - len(M)) * sum(of_place.values())
    return total


@SEEDS
@pytest.mark.equation("eq-beyond-rate")
def test_rate(seed):
    """The limit of the finite chain by Richardson, and both integrals, for a schedule that is not linear."""
    x0 = torch.tensor([2, 0, 1])
    cost = costs(guesser(seed), x0)

    def finite(T):
        alpha = [1 - (n / T) ** 2 for n in range(T + 1)]
        terms = [(alpha[n - 1] - alpha[n]) / (1 - alpha[n]) * mean_cost(cost, 1 - alpha[n]) for n in range(1, T + 1)]
        return sum(terms)

    coarse, fine, finer = (finite(T) for T in (400, 800, 1600))
    limit = (8 * finer - 6 * fine + coarse) / 3  # the error is a/T + b/T² + …
    t, w = legendre()
    by_time = sum(
        float(w[i]) * 2 * float(t[i]) / float(t[i]) ** 2 * mean_cost(cost, float(t[i]) ** 2) for i in range(60)
    )
    by_rate = sum(float(w[i]) / float(t[i]) * mean_cost(cost, float(t[i])) for i in range(60))
    equal(limit, by_time, rtol=1e-6)
    equal(by_time, by_rate)


@SEEDS
@pytest.mark.equation("eq-beyond-sets")
def test_sets(seed):
    """Masks drawn place by place: the mean over the 2^L outcomes of L coins, each with its own factor."""
    cost, (m,) = costs(guesser(seed), torch.tensor([2, 0, 1])), numbers(seed, 1, 0.1, 0.9)
    left = 0.0
    for coins in itertools.product((False, True), repeat=L):
        probability = 1.0
        for coin in coins:
            probability *= m if coin else 1 - m
        M = tuple(i for i in range(L) if coins[i])
        left += probability * (sum(cost[M].values()) if M else 0.0)
    equal(left, sum(m ** len(M) * (1 - m) ** (L - len(M)) * sum(v.values()) for M, v in cost.items()))


@pytest.mark.equation("eq-beyond-beta")
def test_beta():
    t, w = legendre()
    for length in (1, 2, 5, 9):
        for k in range(1, length + 1):
            left = (w * t**k * (1 - t) ** (length - k) / t).sum()
            middle = math.factorial(k - 1) * math.factorial(length - k) / math.factorial(length)
            equal(left, middle)
            equal(middle, 1 / (k * math.comb(length, k)))


@SEEDS
@pytest.mark.equation("eq-beyond-count")
@pytest.mark.equation("eq-beyond-orders")
@pytest.mark.equation("eq-beyond-mixture")
def test_counts_and_orders(seed):
    D, x0 = guesser(seed), torch.tensor([2, 0, 1])
    cost = costs(D, x0)
    t, w = legendre()
    bound = sum(float(w[i]) / float(t[i]) * mean_cost(cost, float(t[i])) for i in range(60))
    equal(bound, sum(sum(v.values()) / (len(M) * math.comb(L, len(M))) for M, v in cost.items()))
    by_size = 0.0
    for k in range(1, L + 1):
        of_size = [sum(v.values()) for M, v in cost.items() if len(M) == k]
        by_size += sum(of_size) / len(of_size) / k
    equal(bound, by_size)
    orders = list(itertools.permutations(range(L)))
    paths = [sum(cost[tuple(sorted(o[j:]))][o[j]] for j in range(L)) for o in orders]
    equal(bound, sum(paths) / len(paths))
    mixture = -math.log(sum(math.exp(-v) for v in paths) / len(paths))
    assert mixture < bound - 1e-6
    equal(order_agnostic_bound(D, x0[None], K), [bound])


@SEEDS
@pytest.mark.equation("eq-beyond-exact")
def test_exact_conditionals(seed):
    """Conditionals by sums over the table; every order gives −log p(x_0)."""
    p = joint(seed)
    for x0 in itertools.product(range(K), repeat=L):
        for order in itertools.permutations(range(L)):
            total = 0.0
            for j, place in enumerate(order):
                seen = order[:j]
                agree = [s for s in itertools.product(range(K), repeat=L) if all(s[i] == x0[i] for i in seen)]
                right = sum(float(p[s]) for s in agree if s[place] == x0[place])
                total -= math.log(right / sum(float(p[s]) for s in agree))
            equal(total, -math.log(float(p[x0])))


# The price of writing tokens together


def entropy(p):
    return float(-(p * p.log()).sum())


def marginal(p, places):
    return p.sum([i for i in range(p.ndim) if i not in places]) if len(places) < p.ndim else p


def conditional_entropy(p, A, S):
    """H(x^A | x^S) of a table."""
    return entropy(marginal(p, {*A, *S})) - (entropy(marginal(p, S)) if S else 0.0)


@SEEDS
@pytest.mark.equation("eq-beyond-total-correlation")
def test_total_correlation(seed):
    p = joint(seed)  # S = {0}, A = {1, 2}
    left = 0.0
    for a in range(K):
        given = p[a] / p[a].sum()
        product = torch.outer(given.sum(1), given.sum(0))
        left += float(p[a].sum() * (given * (given / product).log()).sum())
    right = sum(conditional_entropy(p, {i}, {0}) for i in (1, 2)) - conditional_entropy(p, {1, 2}, {0})
    equal(left, right)
    assert left > 1e-4


def curve(p):
    answer = []
    for k in range(p.ndim):
        values = [
            conditional_entropy(p, {i}, set(S))
            for S in itertools.combinations(range(p.ndim), k)
            for i in range(p.ndim)
            if i not in S
        ]
        answer.append(sum(values) / len(values))
    return answer


@SEEDS
@pytest.mark.equation("eq-beyond-area")
def test_area(seed):
    p = joint(seed)
    h = curve(p)
    equal(sum(h), entropy(p))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(h))


@SEEDS
@pytest.mark.equation("eq-beyond-price")
def test_price(seed):
    """The right side is the divergence with the order kept, listed; the left side that of the sampler's exact law."""
    length = 4
    p = joint(seed, 2, length)
    h, table = curve(p), Table(p)
    for counts in ([4], [1, 3], [3, 1], [2, 2], [1, 2, 1], [1, 1, 1, 1]):
        price = sum(c * h[sum(counts[:j])] for j, c in enumerate(counts)) - sum(h)
        with_order, orders = 0.0, list(itertools.permutations(range(length)))
        for order in orders:
            seen = 0
            for c in counts:
                S, A = set(order[:seen]), order[seen : seen + c]
                with_order += sum(conditional_entropy(p, {i}, S) for i in A) - conditional_entropy(p, set(A), S)
                seen += c
        equal(price, with_order / len(orders))
        drawn = law_of_unmasking(table.masked, length, 2, counts)
        kl = float((p * (p / drawn).log()).sum())
        assert kl <= price + 1e-12
        if len(counts) == 1:
            equal(kl, price)  # one call: there is no order to forget


# Jumps


@SEEDS
@pytest.mark.equation("eq-beyond-flow")
@pytest.mark.equation("eq-beyond-kolmogorov")
@pytest.mark.equation("eq-beyond-churn")
def test_flow_of_one_token(seed):
    (t,) = numbers(seed, 1, 0.2, 0.8)
    for pi, clean in sources(seed):
        V, h = len(pi), 1e-4
        for k in range(clean):

            def q(u, k=k, pi=pi):
                return torch.tensor([(1 - u) * (v == k) + u * float(pi[v]) for v in range(len(pi))], dtype=F64)

            falling = (q(t - h) - q(t + h)) / (2 * h)
            there = torch.eye(V, dtype=F64)[k]
            equal(falling, there - pi, rtol=1e-8, atol=1e-9)
            equal(there - pi, (there - q(t)) / t)
            arrive, balance = torch.zeros(V, dtype=F64), torch.zeros(V, dtype=F64)
            for x, v in itertools.product(range(V), repeat=2):
                rate = ((v == k) - (v == x)) / t
                back = (x == k) / float(q(t)[k]) * (float(pi[v]) - (v == k))
                arrive[v] += q(t)[x] * rate
                balance[v] += q(t)[x] * (rate + back)
            equal(arrive, there - pi)
            equal(balance, torch.zeros(V, dtype=F64))


@SEEDS
@pytest.mark.equation("eq-beyond-average")
@pytest.mark.equation("eq-beyond-master")
@pytest.mark.equation("eq-beyond-euler")
def test_flow_of_strings(seed):
    (t,) = numbers(seed, 1, 0.3, 0.7)
    p, length = joint(seed, K, 2), 2
    for pi, _ in sources(seed):
        V = len(pi)

        def noisy(u, pi=pi):
            kernel = forget(1 - u, pi)[:K]
            return torch.einsum("ab,ac,bd->cd", p, kernel, kernel), kernel

        (q, kernel), step = noisy(t), 1e-4
        falling = (noisy(t - step)[0] - noisy(t + step)[0]) / (2 * step)
        whole = torch.einsum("ab,ac,bd->abcd", p, kernel, kernel)  # q(x_0, x)
        belief = [
            whole.sum(1) / whole.sum((0, 1)).clamp_min(1e-300),  # q(x_0^1 = k | x), [k, c, d]
            whole.sum(0) / whole.sum((0, 1)).clamp_min(1e-300),
        ]
        belief = [torch.cat([b, torch.zeros(V - K, V, V, dtype=F64)]) for b in belief]
        rates = torch.zeros(length, V, V, V, dtype=F64)  # [i, x^1, x^2, v]
        for i, c, d, v in itertools.product(range(2), range(V), range(V), range(V)):
            here = (c, d)[i]
            averaged = sum(float(belief[i][k, c, d]) * ((v == k) - (v == here)) / t for k in range(K))
            if float(q[c, d]) > 0:
                equal(averaged, (float(belief[i][v, c, d]) - (v == here)) / t)
            rates[i, c, d, v] = averaged
        gained = torch.zeros(V, V, dtype=F64)
        for c, d, v in itertools.product(range(V), range(V), range(V)):
            gained[c, d] += q[v, d] * rates[0, v, d, c] + q[c, v] * rates[1, c, v, d]
        equal(gained, falling, rtol=1e-7, atol=1e-8)

        table, clock = Table(p), torch.tensor(t, dtype=F64)
        D = table.denoiser(lambda u, pi=pi: mixture_kernel(u, pi, K))
        s, to = t, 0.4 * t
        for c, d in itertools.product(range(V), repeat=2):
            if float(q[c, d]) == 0:
                continue
            x = torch.tensor([[c, d]])
            equal(jump_rates(D, x, clock, pi, K)[0], rates[:, c, d])
            here = torch.eye(V, dtype=F64)[[c, d]]
            left = here + (s - to) * rates[:, c, d]
            know = torch.stack([belief[0][:, c, d], belief[1][:, c, d]])
            equal(left, to / s * here + (1 - to / s) * know)


# Packing and sets


@SEEDS
@pytest.mark.equation("eq-beyond-attention")
def test_attention_over_allowed_columns(seed):
    scores, values = normals(seed, 7), normals(seed + 1, 7, 4)
    allowed = torch.tensor([True, False, True, True, False, False, True])
    a = allowed.double()
    left = (a * scores.exp() / (a * scores.exp()).sum()) @ values
    equal(left, scores[allowed].softmax(0) @ values[allowed])
    query = torch.ones(1, 1, 1, 1, dtype=F64)
    mixed = torch.nn.functional.scaled_dot_product_attention(
        query, scores[None, None, :, None], values[None, None], attn_mask=allowed[None]
    )
    equal(mixed[0, 0, 0], left)


@SEEDS
@pytest.mark.equation("eq-beyond-normalised")
def test_normalised(seed):
    """All ways to fill the hidden places, for random weights and three ways to cut them into blocks."""
    net = TokenTransformer(K + 2, 4, width=16, depth=2, heads=2, outputs=K).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=gen(seed))
    fill = strings(K, 3)
    x0 = torch.zeros(len(fill), 4, dtype=torch.int64)
    x0[:, [0, 2, 3]] = fill
    for steps in ([1, 0, 2, 3], [2, 0, 1, 2], [1, 0, 1, 1]):
        row = torch.tensor([steps]).expand(len(fill), -1)
        with torch.no_grad():
            loss = partially_autoregressive_loss(net, x0, row, K).autoregressive
        equal((-loss).exp().sum(), 1.0)
        assert float((-loss).exp().max()) > 2 / len(fill)


@SEEDS
@pytest.mark.equation("eq-beyond-set")
def test_set(seed):
    """A random law over what is said next, given the set that was said."""
    labels, nexts = (0, 2, 3), law(seed, 16, 5)

    def said(order):
        history, total = set(), 0.0
        for label in (*order, 4):
            row = nexts[sum(2**k for k in history)]
            pool = sum(float(row[k]) for k in range(5) if k not in history)
            total -= math.log(float(row[label]) / pool)
            history.add(label)
        return total

    losses = [said(order) for order in itertools.permutations(labels)]
    left = -math.log(sum(math.exp(-v) for v in losses))
    assert left < sum(losses) / 6 - math.log(6)
    equal_losses = [losses[0]] * 6  # equality when every order is as probable
    equal(-math.log(sum(math.exp(-v) for v in equal_losses)), sum(equal_losses) / 6 - math.log(6))
