"""Answers to the exercises of the chapter on the one integral: right ones, and wrong ones for the checks to catch."""

import itertools
import math

import numpy as np
import torch

from minidiff.samplers.phi import phi, phi_weights


def two_weights(h, before):
    return phi_weights(h, [0.0, -before / h])


def cancelling(h, before):
    older = -(h - 1 + math.exp(-h)) / before
    return 1 - math.exp(-h) - older, older


def halved(h, before):
    slope = -math.expm1(-h) / 2 * h / before
    return -math.expm1(-h) + slope, -slope


def swapped_ratio(h, before):
    slope = h * phi(2, -h) * before / h
    return h * phi(1, -h) + slope, -slope


def unic_1(D, x, times, weight=lambda h: h * phi(2, -h), last_too=False):
    process, pending = D.process, None
    for s, t in itertools.pairwise(times):
        value = D(x, s)
        if pending is not None:
            x = x + pending[1] * (value - pending[0])
        h, alpha = float(process.lam(t) - process.lam(s)), float(process.alpha(t))
        x = float(process.sigma(t) / process.sigma(s)) * x + alpha * h * phi(1, -h) * value
        pending = value, alpha * weight(h)
    if last_too:
        x = x + pending[1] * (D(x, times[-1]) - pending[0])
    return x


def evaluated_again(D, x, times):
    process = D.process
    for s, t in itertools.pairwise(times):
        h, alpha = float(process.lam(t) - process.lam(s)), float(process.alpha(t))
        old = D(x, s)
        x = float(process.sigma(t) / process.sigma(s)) * x + alpha * h * phi(1, -h) * old
        x = x + alpha * h * phi(2, -h) * (D(x, t) - old)
    return x


def factor(update):
    h = 0.7
    return 2 * h**3 * phi(3, -h) / update(h, 0.0, h**2, 4 * h**2)


def plms_defect(h):
    if h < 0.1:
        return h**2 / 12 - h**4 / 720 + h**6 / 30240
    return h / 2 - 1 + h / math.expm1(h)


def weights_in(u, lam_s, lam_t, nodes, kernel=lambda lam, lam_t: (lam - lam_t).exp()):
    z, measure = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(24))
    lam = lam_s + (lam_t - lam_s) * (z + 1) / 2
    at = u(torch.tensor(nodes, dtype=torch.float64))
    powers = torch.stack([at**k for k in range(len(nodes))])
    moments = torch.stack(
        [(measure * kernel(lam, lam_t) * u(lam) ** k).sum() for k in range(len(nodes))]
    ) * (lam_t - lam_s) / 2  # fmt: skip
    return torch.linalg.solve(powers, moments)


def constants(k, offset=0):
    z, w = np.polynomial.legendre.leggauss(12)
    u = (z + 1) / 2
    old = np.prod([u + j + offset for j in range(k)], axis=0)
    new = (w * (u - 1) * old).sum() / 2 / math.factorial(k + 1)
    return (w * old).sum() / 2 / math.factorial(k), new


RIGHT = {
    "integral-01": two_weights,
    "integral-02": unic_1,
    "integral-03": factor,
    "integral-04": plms_defect,
    "integral-05": weights_in,
    "integral-06": constants,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "integral-01": [
        (cancelling, "short equal steps"),
        (halved, "linear in λ"),
        (swapped_ratio, "linear in λ"),
        (lambda h, before: (1.5 * h, -0.5 * h), "constant D"),
        (lambda h, before: None, "two values"),
    ],
    "integral-02": [
        (lambda D, x, times: unic_1(D, x, times, lambda h: 0.0), "order 2"),
        (lambda D, x, times: unic_1(D, x, times, lambda h: h / 2), "linear in λ"),
        (lambda D, x, times: unic_1(D, x, times, last_too=True), "one call a step"),
        (evaluated_again, "one call a step"),
    ],
    "integral-03": [
        (lambda update: 2.0, "needs no factor"),
        (lambda update: 1 / factor(update), "needs that factor"),
        (lambda update: update(0.3, 1.0, 1.0, 1.0), "needs no factor"),
    ],
    "integral-04": [
        (lambda h: h**2 / 12, "weighted mean"),
        (lambda h: h / 2 - 1 + h / math.expm1(h), "with its digits"),
        (lambda h: h / 2 - (-1 / h + 1 / -math.expm1(-h)) * h, "weighted mean"),
    ],
    "integral-05": [
        (lambda u, a, b, nodes: weights_in(lambda lam: lam, a, b, nodes), "polynomials in u"),
        (lambda u, a, b, nodes: weights_in(u, a, b, nodes, lambda lam, t: torch.ones_like(lam)), "mass"),
        (lambda u, a, b, nodes: weights_in(u, a, b, nodes)[:2], "one weight for each"),
        (lambda u, a, b, nodes: weights_in(u, a, b, nodes[:1]).repeat(3) / 3, "polynomials in u"),
    ],
    "integral-06": [
        (lambda k: constants(k)[::-1], "k old values"),
        (lambda k: constants(k, 1), "k old values"),
        (lambda k: (constants(k)[0], constants(k + 1)[0]), "new value as a node"),
    ],
}
