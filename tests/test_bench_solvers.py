"""The default sampler keeps its promises on problems with a known answer, and the benchmark measures what it says."""

import functools
import json
import math

import pytest
import torch

from minidiff.analytic import Gaussian
from minidiff.bench import problems, results, solvers
from minidiff.bench.problems import BUDGETS, F64, Problem
from minidiff.process import EDM


@functools.cache
def six():
    return [(problem, problems.solution(problem)) for problem in problems.six()]


@functools.cache
def log_snr_2m():
    return {problem.name: problems.errors(problem, end, solvers.log_snr_2m) for problem, end in six()}


def test_the_default_sampler_is_far_below_the_bar():
    rows = {problem.name: problems.errors(problem, end, solvers.ours) for problem, end in six()}
    means = solvers.means(rows)
    assert means["all budgets"] <= 0.30
    assert means["8 to 20 calls"] <= 0.40
    assert all(mine <= theirs for name in rows for mine, theirs in zip(rows[name], log_snr_2m()[name], strict=True))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_scale_wrong_by_two_stays_beside_2m(factor):
    for problem, end in six():
        wrong = [factor * e for e in problems.errors(problem.with_scale(factor), end, solvers.ours)]
        assert all(e <= 1.5 * two for e, two in zip(wrong, log_snr_2m()[problem.name], strict=True)), problem.name


@pytest.mark.parametrize("seed", [1, 5, 6])
def test_other_mixtures_are_served_too(seed):
    problem = problems.other(seed)
    end = problems.solution(problem)
    for n in (5, 10, 20):
        mine, theirs = (problems.error(problem, f(problem, n), end) for f in (solvers.ours, solvers.log_snr_2m))
        assert mine <= theirs


def test_the_solution_is_that_of_one_gaussian():
    D = Gaussian(EDM(sigma_max=80.0), torch.tensor([0.3, -1.0], dtype=F64), std=0.4)
    y = 80 * torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    exact = D.mean + (y - D.mean) * 0.4 / math.hypot(0.4, 80)
    torch.testing.assert_close(problems.solution(Problem("one", D, y)), exact, rtol=1e-6, atol=1e-8)


def test_six_problems_have_the_spread_and_the_starts_they_say():
    for problem in problems.six():
        assert problem.D.sigma_data == pytest.approx(0.5, abs=1e-12)
        assert problem.r_max == pytest.approx(problems.R_MAX[problem.name.split()[1]])
        assert float(problem.y.std()) == pytest.approx(math.hypot(problem.r_max, 0.5), rel=0.1)
        torch.testing.assert_close(problem.D.mean, torch.zeros_like(problem.D.mean), rtol=0, atol=1e-12)
    assert [tuple(p.y.shape) for p in problems.six()[:2]] == [(256, 2), (256, 64)]


def test_a_wrong_scale_changes_only_what_the_denoiser_says_of_it():
    problem = problems.six()[0]
    told = problem.with_scale(2.0)
    t = torch.tensor(0.5, dtype=F64)
    torch.testing.assert_close(told.D(problem.y, t), problem.D(problem.y, t))
    assert told.D.sigma_data == 2 * problem.D.sigma_data
    assert told.name == "2-D VP-linear, σ_data × 2"


def test_the_bar_is_the_committed_table():
    bar = problems.bar()
    assert set(bar) == {problem.name for problem in problems.six()}
    assert all(len(row) == len(BUDGETS) and all(0 < e < 1 for e in row) for row in bar.values())


def test_geometric_mean():
    assert problems.geometric_mean([1.0, 4.0, 2.0]) == pytest.approx(2.0)


@pytest.fixture
def kept(monkeypatch):
    stored = {}

    def save(name, data, command):
        stored[name] = json.loads(json.dumps(data, allow_nan=False))
        return command

    monkeypatch.setattr(results, "save", save)
    return stored


def test_the_exact_stage(kept, monkeypatch, capsys):
    monkeypatch.setattr(solvers, "OTHERS", range(1))
    monkeypatch.setattr(solvers, "SCALES", (1.0,))
    made = [(Problem(p.name, p.D, p.y[:16]), e[:16]) for p, e in six()]
    monkeypatch.setattr(problems, "six", lambda: [p for p, _ in made])
    solvers.main(["exact"])
    stored = kept["solvers"]
    assert stored["scales"][0]["all budgets"] == pytest.approx(stored["all budgets"])
    assert [row["calls"] for row in stored["orders"]] == [40, 80, 160, 320]
    assert stored["others"][0]["ours"] != stored["others"][0]["doubled"]
    assert "minidiff.sample" in capsys.readouterr().out


def test_order_of_the_default():
    """The ramped start costs an order or two, not more: from 40 calls on the error falls at least like N⁻²."""
    assert all(row["order"] > 1.8 for row in solvers.orders(*six()[0])[1:])


def test_diffusers_rows_come_out_again(kept, monkeypatch):
    pytest.importorskip("diffusers")
    problem, end = six()[0]
    solvers.reproduce(problem, end)
    monkeypatch.setitem(solvers.KNOWN, "2M lu", tuple(1.2 * e for e in solvers.KNOWN["2M lu"]))
    with pytest.raises(RuntimeError, match="2M lu is off by 1"):
        solvers.reproduce(problem, end)
    short = [(Problem(p.name, p.D, p.y[:4]), e[:4]) for p, e in six()]
    monkeypatch.setattr(problems, "six", lambda: [p for p, _ in short[4:]])
    monkeypatch.setattr(problems, "solution", lambda p: {q.name: e for q, e in short}[p.name])
    monkeypatch.setattr(solvers, "reproduce", lambda problem, end: None)
    monkeypatch.setattr(solvers, "BUDGETS", (5,))
    solvers.main(["peers"])
    assert set(kept["solvers-peers"]["errors"]) == set(solvers.EDM_SCHEDULERS)


def test_a_peer_that_raises_or_explodes_has_no_error():
    problem, end = six()[0]

    def raises(problem, n):
        raise IndexError("no such step")

    assert solvers.attempt(raises, problem, 5, end) is None
    assert solvers.attempt(lambda problem, n: torch.full_like(end, 1e300), problem, 5, end) is None


def test_the_network_stage(kept, monkeypatch):
    monkeypatch.setattr(solvers, "REFERENCE", 3)
    solvers.network(images=2, seeds=(), calls=(2,))
    assert [row["calls"] for row in kept["solvers-network"]["paths"]["minidiff.sample"]] == [2]


def test_unknown_stage():
    with pytest.raises(ValueError, match="stages are"):
        solvers.main(["nothing"])
