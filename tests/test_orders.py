"""Measured orders of convergence on an exact mixture: every method of the catalogue, by the function of the book.

λ in [−2, 1.5], N = 40…320, median error of 64 starts, float64, against SciPy's DOP853: see `minidiff.bench.orders`.
"""

import math
from functools import partial

import pytest
import torch
from processes import FORMULAS, name

from minidiff.bench import orders, results
from minidiff.bench.orders import LAM, STEPS, errors, has_order, mixture, reference, slope
from minidiff.process import CosineVP, LinearVP
from minidiff.samplers import deis, dpmpp_3m, euler, exponential, heun, path, unipc
from minidiff.samplers.catalogue import METHODS

F64 = torch.float64


@pytest.fixture(scope="module")
def stored():
    return {row["method"]: row for row in results.load("orders")["data"]["table"]}


@pytest.mark.parametrize("method", METHODS)
def test_order(method, stored):
    """The slope is the nominal one, and the book's table holds this very measurement."""
    found = errors(METHODS[method].run, LinearVP(), METHODS[method].grid)
    measured = math.log2(found[0] / found[-1]) / math.log2(STEPS[-1] / STEPS[0])
    assert has_order(measured, METHODS[method].order)
    row = stored[method]
    assert row["measured"] == pytest.approx(measured, abs=0.03)
    assert row["errors"] == pytest.approx(found, rel=0.1)
    assert {key: row[key] for key in ("quantity", "variable", "nodes", "weights", "order")} == {
        key: getattr(METHODS[method], key) for key in ("quantity", "variable", "nodes", "weights", "order")
    }


def test_the_stored_table_is_that_of_the_catalogue(stored):
    assert list(stored) == list(METHODS)
    assert results.load("orders")["data"]["steps"] == list(STEPS)


def test_the_table_and_its_command(monkeypatch, tmp_path):
    """Its rows, on the first two methods; the command takes no arguments."""
    (tmp_path / "book" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(orders, "METHODS", dict(list(METHODS.items())[:2]))
    orders.main([])
    rows = results.load("orders")["data"]["table"]
    assert [row["method"] for row in rows] == ["DDIM", "Euler"]
    assert all(len(row["errors"]) == len(STEPS) for row in rows)
    with pytest.raises(ValueError, match="no arguments are known"):
        orders.main(["fast"])


@pytest.mark.parametrize(("method", "order"), [(euler, 1), (heun, 2)], ids=["euler", "heun"])
@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_order_of_the_methods_in_t(process, method, order):
    assert has_order(slope(method, process, "t"), order)


@pytest.mark.parametrize("process", [p for p in FORMULAS if p != LinearVP()], ids=name)
def test_order_of_deis_in_t(process):
    """Its polynomial is one in t, so its numbers depend on the process; the order does not."""
    few, many = errors(partial(deis, order=2, variable="t"), process, steps=(40, 80))
    assert has_order(math.log2(few / many), 2)


def in_common_coordinates(method, process, lam, y):
    """x/α along a run from y, on times where λ is `lam`."""
    times = process.time(lam)
    alpha = process.alpha(times)
    return path(method(mixture(process), alpha[0] * y, times)) / alpha[:, None, None]


@pytest.mark.parametrize("process", [p for p in FORMULAS if p != LinearVP()], ids=name)
def test_methods_in_lam_are_the_same_for_every_process(process):
    """x/α at equal λ does not depend on the process, so one order says it for all."""
    y, lam = reference()[0][:8], torch.linspace(*LAM, 13, dtype=F64)
    for method in METHODS.values():
        if not method.of_process:
            ours, first = (in_common_coordinates(method.run, p, lam, y) for p in (process, LinearVP()))
            torch.testing.assert_close(ours, first, rtol=0, atol=1e-10)


MANY = (320, 1280)


def last_slope(method):
    few, many = errors(method, LinearVP(), steps=MANY)
    return math.log2(few / many) / 2


def test_the_start_caps_the_order():
    """A first step of order 1 has the local error h², a corrected one h³, and neither is repeated: caps 2 and 3."""
    ramped = partial(exponential, collocate=False)
    assert has_order(last_slope(partial(ramped, order=3)), 2)
    assert has_order(last_slope(partial(unipc, order=3, corrector=False)), 2)
    assert has_order(last_slope(partial(ramped, order=4)), 2)
    assert has_order(last_slope(partial(ramped, order=4, corrector=True)), 3)
    assert has_order(last_slope(partial(exponential, order=3)), 3)


def test_the_released_3m_has_order_2_whatever_its_start():
    released = partial(dpmpp_3m, second_difference="released")
    assert has_order(slope(released, LinearVP()), 2)
    assert has_order(slope(partial(released, collocate=False), LinearVP()), 2)


def test_an_infinite_start_costs_one_first_order_step():
    """From α = 0 a polynomial in λ leaves the first node out; in cos θ it keeps it. Both end finite and close."""
    process = CosineVP()
    D = mixture(process)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    inside = process.time(torch.linspace(-4, 3, 200, dtype=F64))
    times = torch.cat([torch.ones(1, dtype=F64), inside])
    ends = [
        path(exponential(D, x, times, order=3, variable=variable, corrector=True))[-1] for variable in ("lam", "cos")
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=2e-4)
