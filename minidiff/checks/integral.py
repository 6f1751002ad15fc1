"""Checks of the exercises in *One integral, all fast solvers*."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from minidiff.analytic import Gaussian
from minidiff.checks import Answer, checker, close, expect, number, pair, uniform
from minidiff.process import CosineVP, LinearVP, RectifiedFlow

SEEDS = range(4)
NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(40))


def _integral(low: float, high: float, values: Tensor) -> float:
    """∫ over [low, high] of a function given at the Gauss–Legendre points of `_points`."""
    return float((WEIGHTS * values).sum() * (high - low) / 2)


def _points(low: float, high: float) -> Tensor:
    return (low + high) / 2 + (high - low) / 2 * NODES


@checker("integral-01")
def two_exact_weights(answer: Answer) -> None:
    """two_weights(h, before): exact for a constant and a slope, at any size."""
    what = "the two weights"
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        h, before = uniform(generator, 0.05, 3), uniform(generator, 0.05, 3)
        new, old = pair(answer(h, before), what)
        lam = _points(0.0, h)
        kernel = (lam - h).exp()
        close(new + old, _integral(0, h, kernel), "the weights are exact for a constant D")
        close(-before * old, _integral(0, h, kernel * lam), "the weights are exact for a D that is linear in λ")
    for h in (1e-7, 1e-4):
        new, old = pair(answer(h, h), what)
        close(new / h, 1.5 - 2 / 3 * h, "for short equal steps the newest weight tends to 3h/2", rtol=3 * h + 1e-12)
        close(old / h, -0.5 + h / 6, "for short equal steps the older weight tends to −h/2", rtol=3 * h**2 + 1e-12)


class _Counted:
    """A denoiser that counts its calls and remembers its process."""

    coupled = False

    def __init__(self, inner: Gaussian) -> None:
        self.inner, self.process, self.sigma_data, self.calls = inner, inner.process, inner.sigma_data, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x, t)


class _Line:
    """D = λ, whatever x: then a trapezoid with exact weights has no error."""

    coupled, sigma_data = False, 1.0

    def __init__(self, process: LinearVP) -> None:
        self.process = process

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, float(self.process.lam(t)))


@checker("integral-02")
def corrected_ddim(answer: Answer) -> None:
    """unic_1(D, x, times): order 2 on a Gaussian, one call a step, exact where D is linear in λ."""
    for process in (LinearVP(), RectifiedFlow(), CosineVP()):
        D = _Counted(Gaussian(process, torch.tensor([0.4, -0.2], dtype=torch.float64), std=0.5))
        x = torch.tensor([[0.8, -1.0], [0.1, 0.3]], dtype=torch.float64)
        ends = torch.tensor([-1.5, 1.5], dtype=torch.float64)
        errors = []
        for steps in (16, 64):
            times = process.time(torch.linspace(*ends.tolist(), steps + 1, dtype=torch.float64))
            D.calls = 0
            end = number(answer(D, x, times), "the last x")
            expect(end.shape == x.shape, "the answer is the last x, of the shape of the first")
            expect(D.calls == steps, "one call a step")
            errors.append(float((end - D.inner.flow(x, times[0], times[-1])).norm()))
        order = math.log2(errors[0] / errors[1]) / 2
        expect(order > 1.75, "the error falls as that of a method of order 2")
    process = LinearVP()
    lam = torch.tensor([-1.0, -0.3, 0.9, 1.2], dtype=torch.float64)
    times, x = process.time(lam), torch.full((1, 1), 0.7, dtype=torch.float64)
    end = number(answer(_Line(process), x, times), "the last x")
    y = float(x / process.alpha(times[0]))
    for step, (a, b) in enumerate(zip(lam.tolist(), lam[1:].tolist(), strict=False)):
        points = _points(a, b)
        known = points if step < 2 else torch.full_like(points, a)  # the last step is DDIM's
        y = math.exp(a - b) * y + _integral(a, b, (points - b).exp() * known)
    exact = torch.full((1, 1), y * float(process.alpha(times[-1])), dtype=torch.float64)
    close(end, exact, "where D is linear in λ only the last step, which is not corrected, has an error")


def _with_factor(f: float) -> Answer:
    """An update of the third order whose second difference is multiplied by f; f = 1 is exact."""

    def update(h: float, newest: float, older: float, oldest: float) -> float:
        u = _points(0.0, 1.0)
        kernel = h * (-(1 - u) * h).exp()
        slope, bend = (3 * newest - 4 * older + oldest) / 2, newest - 2 * older + oldest
        return _integral(0, 1, kernel * (newest + slope * u + f * bend * u**2 / 2))

    return update


@checker("integral-03")
def find_the_factor(answer: Answer) -> None:
    """factor(update): what the second difference has to be multiplied with."""
    close(answer(_with_factor(1.0)), 1.0, "an exact update needs no factor", rtol=1e-6)
    for f in (0.5, 0.25, 2.0, 1.3):
        close(answer(_with_factor(f)), 1 / f, "a second difference that lacks a factor needs that factor", rtol=1e-6)


@checker("integral-04")
def order_of_plms(answer: Answer) -> None:
    """plms_defect(h): plain mean minus weighted mean of λ − λ_s over a step."""
    for seed in SEEDS:
        h = uniform(torch.Generator().manual_seed(seed), 0.05, 4)
        u = _points(0.0, 1.0)
        kernel = ((1 - u) * h).exp()
        weighted = _integral(0, 1, kernel * u * h) / _integral(0, 1, kernel)
        close(answer(h), h / 2 - weighted, "it is the plain mean of the line less its weighted mean")
    for h in (1e-6, 1e-2):
        defect = number(answer(h), "the defect")
        close(defect * 12 / h**2, 1.0, "for short steps it is h²/12, with its digits", rtol=h**2 / 50 + 1e-7)


@checker("integral-05")
def another_variable(answer: Answer) -> None:
    """weights_in(u, lam_s, lam_t, nodes): exact for polynomials in u."""
    variables = [lambda lam: (-lam).exp(), lambda lam: lam, lambda lam: torch.atan(lam.exp())]
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        lam_s = -1 + uniform(generator, 0.1, 1)
        h = uniform(generator, 0.1, 0.9)
        nodes = [lam_s, lam_s - uniform(generator, 0.1, 0.6), lam_s - uniform(generator, 0.7, 1.2)]
        for u in variables:
            weights = number(answer(u, lam_s, lam_s + h, nodes), "the weights")
            expect(weights.shape == (3,), "there is one weight for each node")
            points = _points(lam_s, lam_s + h)
            kernel = (points - lam_s - h).exp()
            close(weights.sum(), -math.expm1(-h), "the weights sum to the mass 1 − e^{−h}", rtol=1e-6)
            at = u(torch.tensor(nodes, dtype=torch.float64))
            for power in (1, 2):
                exact = _integral(lam_s, lam_s + h, kernel * u(points) ** power)
                close((weights * at**power).sum(), exact, "the weights are exact for polynomials in u", rtol=1e-6)
            moved = answer(lambda lam, u=u: 3 - 2 * u(lam), lam_s, lam_s + h, nodes)
            close(moved, weights, "an affine change of the variable leaves the weights alone", rtol=1e-6)


@checker("integral-06")
def adams_constants(answer: Answer) -> None:
    """constants(k): ∫ of the products of Newton's remainder over one step."""
    u = _points(0.0, 1.0)
    for k in (1, 2, 3, 4, 6, 8):
        old = torch.stack([u + j for j in range(k)]).prod(0)
        explicit, implicit = pair(answer(k), "the two constants")
        close(explicit, _integral(0, 1, old) / math.factorial(k), "the first is the integral for k old values")
        new = _integral(0, 1, (u - 1) * old) / math.factorial(k + 1)
        close(implicit, new, "the second is the integral with the new value as a node")
