"""Discrete flow matching: the rates carry the closed-form marginals (Kolmogorov's equation), Euler's law and order."""

import itertools
import math

import pytest
import torch

from minidiff.apps.discrete import (
    Table,
    euler_jumps,
    jump_rates,
    law_of_ancestral,
    mixture_kernel,
    mixture_noise,
    strings,
    total_variation,
)
from minidiff.samplers.state import last
from minidiff.times import uniform

K, L = 3, 2
SOURCES = {
    "uniform": torch.full((K,), 1 / K, dtype=torch.float64),
    "mask": torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64),
    "both": torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64),
}
sources = pytest.mark.parametrize("name", SOURCES)


def random_table(seed=0):
    p = torch.rand([K] * L, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3 + 0.01
    return Table(p / p.sum())


def generator_matrix(D, t, source, churn):
    """G[x, y], the rate from string x to string y, one changed position at a time; from the per-position rates."""
    x = strings(len(source), L)
    rates = jump_rates(D, x, torch.tensor(t, dtype=torch.float64), source, K, churn)
    G = torch.zeros(len(x), len(x), dtype=torch.float64)
    for a, b in itertools.product(range(len(x)), repeat=2):
        changed = (x[a] != x[b]).nonzero()[:, 0].tolist()
        if len(changed) == 1:
            G[a, b] = rates[a, changed[0], x[b, changed[0]]]
        elif not changed:
            G[a, a] = sum(rates[a, i, x[a, i]] for i in range(L))
    return G


def setting(name):
    source, table = SOURCES[name], random_table()

    def exact(x, t):  # strings of probability zero, which are never met, get a uniform answer in place of NaN
        return table.conditionals(x, mixture_kernel(t, source, K)).nan_to_num(nan=0.0, neginf=-torch.inf)

    return source, table, exact


@sources
@pytest.mark.parametrize("churn", [0.0, 0.7])
@pytest.mark.parametrize("t", [0.15, 0.6, 0.95])
def test_rates_carry_the_marginals(name, churn, t):
    """−∂p_t/∂t = p_t G_t on every string: p_t in closed form, its derivative by central differences."""
    source, table, D = setting(name)

    def law(u):
        return table.marginal(mixture_kernel(torch.tensor(u, dtype=torch.float64), source, K)).flatten()

    h = 1e-5
    slope = (law(t - h) - law(t + h)) / (2 * h)
    G = generator_matrix(D, t, source, churn)
    torch.testing.assert_close(law(t) @ G, slope, rtol=0, atol=1e-8)
    torch.testing.assert_close(G.sum(1), torch.zeros(len(G), dtype=torch.float64), rtol=0, atol=1e-12)
    assert float((G - torch.diag(G.diagonal())).min()) >= 0


@sources
def test_marginal_kernel(name):
    """(1 − t) I + t 1 πᵀ, and draws of x_t follow it; 40 000 draws within 4 standard errors."""
    source, n = SOURCES[name], 40_000
    t = torch.tensor(0.4)
    kernel = mixture_kernel(t, source, K)
    for k, v in itertools.product(range(K), range(len(source))):
        assert float(kernel[k, v]) == pytest.approx(0.6 * (k == v) + 0.4 * float(source[v]), abs=1e-7)
    x = mixture_noise(torch.full((n, 1), 1), t, source, K, torch.Generator().manual_seed(0))
    frequency = torch.bincount(x[:, 0], minlength=len(source)) / n
    p = kernel[1]
    assert bool(((frequency - p).abs() <= 4 * (p * (1 - p) / n).sqrt() + 1e-12).all())
    ends = mixture_noise(torch.tensor([[1, 2], [1, 2]]), torch.tensor([0.0, 1.0]), SOURCES["mask"], K)
    assert ends.tolist() == [[1, 2], [3, 3]]


def exact_law(D, source, table, times, churn):
    """The law of `euler_jumps` by propagating it over every string: product over positions of the Euler kernel."""
    x = strings(len(source), L)
    law = table.marginal(mixture_kernel(times[0], source, K)).flatten()
    for s, t in itertools.pairwise(times):
        rates = jump_rates(D, x, s, source, K, churn)
        kernel = torch.nn.functional.one_hot(x, len(source)) + float(s - t) * rates  # (N, L, V)
        assert float(kernel.min()) > -1e-12
        matrix = torch.stack([kernel[:, i][:, x[:, i]] for i in range(L)]).prod(0)
        law = law @ matrix
    return law.reshape([len(source)] * L)


@sources
@pytest.mark.parametrize("churn", [0.0, 0.5])
def test_euler_is_of_first_order_in_law(name, churn):
    """Stopped at t = 0.1, the exactly propagated law misses the path's by an error that halves with the step."""
    source, table, D = setting(name)
    truth, gaps = table.marginal(mixture_kernel(torch.tensor(0.1), source, K)), []
    for n in (40, 80, 160):
        gaps.append(total_variation(exact_law(D, source, table, uniform(n, end=0.1), churn), truth))
    assert all(1.8 < a / b < 2.3 for a, b in itertools.pairwise(gaps))


@pytest.mark.parametrize(("name", "churn"), [("uniform", 0.0), ("uniform", 0.5), ("both", 0.5), ("mask", 0.0)])
def test_sampler_has_the_propagated_law(name, churn):
    """40 000 strings after 6 steps, frequencies within 4.5 standard errors of the propagated law."""
    source, table, D = setting(name)
    times, n = uniform(6, end=0.2), 40_000
    law = exact_law(D, source, table, times, churn).flatten().clamp_min(0)
    random = torch.Generator().manual_seed(1)
    start = mixture_noise(table.sample(n, random), times[0], source, K, random)
    x = last(euler_jumps(D, start, times, source, K, churn=churn, generator=random))
    counts = torch.bincount(x @ torch.tensor([len(source), 1]), minlength=len(law)) / n
    assert bool(((counts - law).abs() <= 4.5 * (law * (1 - law) / n).sqrt() + 1e-12).all())


def test_masks_without_churn_are_masked_diffusion():
    """Euler's kernel for masks is the ancestral step, exactly: the same laws on a coarse grid down to t = 0."""
    source, table, D = setting("mask")
    law = exact_law(D, source, table, uniform(3), 0.0)[:K, :K]
    torch.testing.assert_close(law, law_of_ancestral(table.masked, L, K, uniform(3)))


def test_churn_revisits_tokens_and_stays_a_law_to_the_end():
    """Large churn on a coarse grid: probabilities are capped, tokens change that were clean, none is a mask at the end
    of a churn-free run."""
    source, _table, D = setting("mask")
    random = torch.Generator().manual_seed(0)
    start = torch.full((500, L), K)
    states = list(euler_jumps(D, start, uniform(4), source, K, churn=5.0, generator=random))
    back = [bool(((a.x < K) & (b.x == K)).any()) for a, b in itertools.pairwise(states)]
    assert any(back)
    assert int(last(euler_jumps(D, start, uniform(4), source, K)).max()) < K


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": torch.tensor([0.5, 0.6])}, "every row of source must sum to 1"),
        ({"source": torch.tensor([0.5, 0.5])}, r"source must be a law \(V,\) with V ≥ 3"),
        ({"source": torch.tensor([math.nan, 0.5, 0.5])}, "source must be finite"),
        ({"x": torch.tensor([[0, 3]])}, "tokens of x must lie in 0 … 2"),
        ({"churn": -1.0}, "churn must be a finite number"),
    ],
)
def test_bad_arguments(change, message):
    good = {"x": torch.tensor([[0, 1]]), "source": SOURCES["uniform"], "churn": 0.0} | change

    def D(x, t):
        return torch.zeros(*x.shape, K)

    with pytest.raises(ValueError, match=message):
        euler_jumps(D, good["x"], uniform(2), good["source"], K, churn=good["churn"])
    with pytest.raises(ValueError, match=message):
        jump_rates(D, good["x"], torch.tensor(0.5), good["source"], K, good["churn"])


def test_bad_times_and_tokens():
    D, x, source = (lambda x, t: torch.zeros(*x.shape, K)), torch.tensor([[0, 1]]), SOURCES["uniform"]
    for t in (torch.tensor(0.0), torch.tensor([0.5]), torch.tensor(1.5)):
        with pytest.raises(ValueError, match=r"t must be a 0-d time in \(0, 1\]"):
            jump_rates(D, x, t, source, K)
    with pytest.raises(ValueError, match="strictly decreasing"):
        euler_jumps(D, x, uniform(2).flip(0), source, K)
    with pytest.raises(ValueError, match="tokens of x0 must lie in 0 … 2"):
        mixture_noise(x + 2, torch.tensor(0.5), source, K)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        mixture_kernel(torch.tensor(2.0), source, K)
    with pytest.raises(ValueError, match=r"t must be 0-d, got shape \(2,\)"):
        mixture_kernel(torch.tensor([0.1, 0.2]), source, K)
    for call in (lambda: mixture_kernel(0.5, source, K), lambda: jump_rates(D, x, 0.5, source, K)):
        with pytest.raises(TypeError, match="t must be a floating-point tensor, got float"):
            call()
