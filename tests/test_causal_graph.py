"""Linear causal models: the penalty of cycles, the solution, interventions by surgery, and the graph found again."""

import itertools
import math

import pytest
import torch

from minidiff.families.causal_graph import acyclicity, descend_graph, fit_graph, intervene, linear_scm

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def dag(n, seed=0):
    """Random weights between ½ and 1 in size on a random acyclic graph, its variables shuffled."""
    draw = gen(seed)
    size = 0.5 + 0.5 * torch.rand(n, n, generator=draw, dtype=F64)
    sign = torch.randint(2, (n, n), generator=draw) * 2 - 1
    A = torch.triu(size * sign * (torch.rand(n, n, generator=draw) < 0.6), 1)
    order = torch.randperm(n, generator=draw)
    return A[order][:, order]


def reaches(A):
    """Whether a path leads from i to j, by the closure of the graph."""
    path = (A != 0).double()
    for _ in range(len(A)):
        path = ((path + path @ path) > 0).double()
    return path.bool()


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_acyclicity_is_zero_on_acyclic_graphs(n):
    for seed in range(10):
        assert float(acyclicity(dag(n, seed))) == pytest.approx(0, abs=1e-9)


def test_acyclicity_on_every_graph_of_three_variables():
    """All 64 graphs: zero exactly where no variable reaches itself."""
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    acyclic = 0
    for present in itertools.product((0.0, -0.7), repeat=6):
        A = torch.zeros(3, 3, dtype=F64)
        for (i, j), weight in zip(pairs, present, strict=True):
            A[i, j] = weight
        cyclic = bool(reaches(A).diagonal().any())
        acyclic += not cyclic
        assert (float(acyclicity(A)) > 1e-3) == cyclic
    assert acyclic == 25  # the number of labelled acyclic graphs on three nodes


def test_acyclicity_of_one_cycle():
    """Two variables: tr (I + c/2 A∘A)² − 2 = c²/2 a² b²."""
    a, b, c = 0.6, -1.5, 0.8
    A = torch.tensor([[0.0, a], [b, 0.0]], dtype=F64)
    assert float(acyclicity(A, c)) == pytest.approx(c**2 / 2 * a**2 * b**2, rel=1e-12)
    assert float(acyclicity(torch.tensor([[0.5]], dtype=F64))) == pytest.approx(0.25)


def test_the_slope_of_acyclicity():
    """n (I + A∘A/n)ⁿ⁻¹ᵀ ∘ 2A/n."""
    A = torch.randn(4, 4, generator=gen(), dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(acyclicity(A), A)
    M = torch.eye(4, dtype=F64) + A.square() / 4
    torch.testing.assert_close(slope, torch.linalg.matrix_power(M, 3).mT * 2 * A)


@pytest.mark.parametrize("seed", range(5))
def test_the_solution(seed):
    A, eps = dag(5, seed), torch.randn(8, 5, generator=gen(seed), dtype=F64)
    z = linear_scm(A, eps)
    torch.testing.assert_close(z, z @ A + eps, rtol=1e-10, atol=1e-10)
    assert float(torch.linalg.det(torch.eye(5, dtype=F64) - A.mT)) == pytest.approx(1, abs=1e-10)
    torch.testing.assert_close(linear_scm(torch.zeros_like(A), eps), eps)


@pytest.mark.parametrize("seed", range(8))
def test_an_intervention_is_surgery(seed):
    """The naive twin cuts the arrows into i, sets ε_i = v and solves; non-descendants keep every bit."""
    A, eps = dag(6, seed), torch.randn(9, 6, generator=gen(seed + 50), dtype=F64)
    z, paths = linear_scm(A, eps), reaches(A)
    for do in [{i: 1.3} for i in range(6)] + [{0: -2.0, 4: 0.5}, {}]:
        cut, set_to = A.clone(), eps.clone()
        for i, value in do.items():
            cut[:, i], set_to[:, i] = 0, value
        after = intervene(A, z, do)
        torch.testing.assert_close(after, linear_scm(cut, set_to), rtol=1e-9, atol=1e-9)
        for j in range(6):
            if j not in do and not any(paths[i, j] for i in do):
                assert torch.equal(after[:, j], z[:, j])
        assert all(torch.equal(after[:, i], torch.full((9,), v, dtype=F64)) for i, v in do.items())


@pytest.mark.parametrize("seed", range(12))
def test_the_graph_is_found_again(seed):
    """Five variables, equal noise, 4000 rows: every arrow and no other, weights within 0.1 (5 errors of 1/√4000)."""
    A = dag(5, seed)
    u = linear_scm(A, torch.randn(4000, 5, generator=gen(seed), dtype=F64))
    found = fit_graph(u)
    assert torch.equal(found != 0, A != 0)
    assert float((found - A).abs().max()) < 0.1
    assert float(acyclicity(found)) == pytest.approx(0, abs=1e-12)


def test_descent_ends_at_the_graph_that_sorting_finds():
    """Equal noise, 4000 rows: nearly always the same arrows with the weights of regression; never a cycle."""
    same = 0
    for seed in range(10):
        A = dag(4, seed)
        u = linear_scm(A, torch.randn(4000, 4, generator=gen(seed), dtype=F64))
        found, path = descend_graph(u)
        assert path.shape == (5, 4, 4) and float(acyclicity(found)) == pytest.approx(0, abs=1e-12)
        assert float(acyclicity(path[-1])) < float(acyclicity(path[0])) + 1e-9
        if torch.equal(found != 0, A != 0):
            same += 1
            torch.testing.assert_close(found, fit_graph(u), rtol=0, atol=0.05)
    assert same >= 7


def test_descent_without_a_penalty_regresses_each_variable_on_all_others():
    u = linear_scm(dag(3, 1), torch.randn(500, 3, generator=gen(2), dtype=F64))
    _, path = descend_graph(u, penalties=(1e-12,))
    centred = u - u.mean(0)
    for j in range(3):
        others = [i for i in range(3) if i != j]
        weights = torch.linalg.lstsq(centred[:, others], centred[:, j]).solution
        torch.testing.assert_close(path[0, others, j], weights, rtol=1e-4, atol=1e-5)


def test_a_single_variable_has_no_cause():
    assert fit_graph(torch.randn(10, 1, generator=gen())).tolist() == [[0.0]]


def cycle():
    return torch.tensor([[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: acyclicity(torch.zeros(2, 3)), ValueError, r"square matrix \(n, n\), got \(2, 3\)"),
        (lambda: acyclicity(torch.tensor([[math.nan]])), ValueError, "A must be finite"),
        (lambda: acyclicity(torch.zeros(0, 0)), ValueError, r"square matrix \(n, n\), got \(0, 0\)"),
        (lambda: acyclicity(cycle(), 0.0), ValueError, "c must be"),
        (lambda: linear_scm(cycle() / 2, torch.zeros(4, 3)), ValueError, r"eps must have shape \(B, 2\)"),
        (lambda: intervene(cycle(), torch.zeros(4, 2), {0: 1.0}), ValueError, "acyclic graph, got the cycle"),
        (lambda: intervene(cycle() * 0, torch.zeros(4, 2), {2: 1.0}), ValueError, r"on variables 0…1, got \[2\]"),
        (lambda: intervene(cycle() * 0, torch.zeros(4, 3), {0: 1.0}), ValueError, r"z must have shape \(B, 2\)"),
        (lambda: intervene(cycle() * 0, torch.zeros(4, 2).long(), {0: 1.0}), TypeError, "floating-point"),
        (lambda: intervene(cycle() * 0, torch.zeros(4, 2), {0: math.nan}), ValueError, r"the value of do\(z_0\)"),
        (lambda: intervene(cycle() * 0, torch.zeros(4, 2), {0: "up"}), TypeError, r"the value of do\(z_0\)"),
        (lambda: intervene(cycle() * 0, torch.zeros(4, 2), {True: 1.0}), TypeError, "on variables 0…1, got True"),
        (
            lambda: intervene(cycle() * 0, torch.zeros(4, 2), [0]),
            TypeError,
            "do must map variables to values, got list",
        ),
        (lambda: fit_graph(torch.zeros(2, 2)), ValueError, "N > n"),
        (lambda: fit_graph(torch.tensor([[1.0, 0.1], [2.0, 0.1], [0.0, 0.1]])), ValueError, "every variable of u must"),
        (lambda: fit_graph(torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]])), ValueError, "linear function of the"),
        (lambda: descend_graph(torch.eye(3, 2), penalties=()), ValueError, "at least one penalty"),
        (lambda: descend_graph(torch.zeros(3, 2), penalties=(0.0,)), ValueError, "a penalty must be"),
        (lambda: descend_graph(torch.zeros(2, 2)), ValueError, "N > n"),
        (lambda: fit_graph(torch.zeros(3, 2), threshold=math.nan), ValueError, "threshold must be"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
