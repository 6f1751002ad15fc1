"""Answers to the exercises of the regression chapter: right ones, and wrong ones that the checks must catch."""

import math

import torch


def guess(x, a, p, alpha, sigma):
    return a * torch.tanh(alpha * a * x / sigma**2 + math.log(p / (1 - p)) / 2)


def by_exponentials(x, a, p, alpha, sigma):
    """Right, but 0/0 for small σ."""
    plus = p * torch.exp(-((x - alpha * a) ** 2) / (2 * sigma**2))
    minus = (1 - p) * torch.exp(-((x + alpha * a) ** 2) / (2 * sigma**2))
    return a * (plus - minus) / (plus + minus)


def error(v, alpha, sigma, told):
    gain = alpha * v / (alpha**2 * v + told**2)
    return (1 - alpha * gain) ** 2 * v + gain**2 * sigma**2


def by_ratio(v, alpha, sigma, told):
    """Right, but divides by α."""
    gain = v / (v + (told / alpha) ** 2) / alpha
    return (1 - alpha * gain) ** 2 * v + gain**2 * sigma**2


def shrink(z, p, s, r):
    slab, spike = s**2 + r**2, r**2
    if p == 1:
        return z * s**2 / slab
    log_odds = z**2 / 2 * (1 / spike - 1 / slab) + math.log(spike / slab) / 2 + math.log(p / (1 - p))
    return torch.sigmoid(log_odds) * s**2 / slab * z


def by_densities(z, p, s, r):
    """Right, but 0/0 far out."""
    slab = p * torch.exp(-(z**2) / (2 * (s**2 + r**2))) / math.sqrt(s**2 + r**2)
    spike = (1 - p) * torch.exp(-(z**2) / (2 * r**2)) / r
    return slab / (slab + spike) * z * s**2 / (s**2 + r**2)


def soft(z, p, s, r):
    return z.sign() * (z.abs() - r**2 / s).clamp(min=0)


def two_looks(D, z1, r1, z2, r2):
    precision = r1**-2 + r2**-2
    return D((z1 / r1**2 + z2 / r2**2) / precision, precision**-0.5)


def mean_of_guesses(D, z1, r1, z2, r2):
    w = r1**-2 / (r1**-2 + r2**-2)
    return w * D(z1, r1) + (1 - w) * D(z2, r2)


def better_look(D, z1, r1, z2, r2):
    precision = r1**-2 + r2**-2
    return D((z1 / r1**2 + z2 / r2**2) / precision, min(r1, r2))


def guess_of_guess(D, z1, r1, z2, r2):
    D(z1, r1)
    return two_looks(D, z1, r1, z2, r2)


def leave_one_out(points, z, r):
    logits = (z @ points.mT - points.square().sum(1) / 2) / r**2
    logits.fill_diagonal_(-math.inf)
    return logits.softmax(1) @ points


def subtracted(points, z, r):
    """Right, but 0/0 for small r."""
    p = ((z @ points.mT - points.square().sum(1) / 2) / r**2).softmax(1)
    own = p.diagonal()[:, None]
    return (p @ points - own * points) / (1 - own)


def own_included(points, z, r):
    return ((z @ points.mT - points.square().sum(1) / 2) / r**2).softmax(1) @ points


def not_renormalised(points, z, r):
    p = ((z @ points.mT - points.square().sum(1) / 2) / r**2).softmax(1)
    return p @ points - p.diagonal()[:, None] * points


def largest(points):
    return torch.linalg.eigvalsh(torch.cov(points.mT, correction=0))[-1]


RIGHT = {
    "regression-01": guess,
    "regression-02": error,
    "regression-03": shrink,
    "regression-04": two_looks,
    "regression-05": leave_one_out,
    "regression-06": lambda k: (k + 1) / k,
    "regression-07": lambda points: largest(points).sqrt(),
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "regression-01": [
        (by_exponentials, "the guess for σ = 1e-4 is finite"),
        (lambda x, a, p, alpha, sigma: a * torch.tanh(alpha * a * x / sigma**2), "weights of Bayes' rule"),
        (lambda x, a, p, alpha, sigma: a * x.sign(), "weights of Bayes' rule"),
        (lambda x, a, p, alpha, sigma: guess(x, a, p, 1.0, sigma / alpha), "weights of Bayes' rule"),
    ],
    "regression-02": [
        (by_ratio, "raised ZeroDivisionError"),
        (lambda v, alpha, sigma, told: error(v, alpha, told, told), "variance of x_0 minus the guess"),
        (lambda v, alpha, sigma, told: error(v, alpha, sigma, sigma), "variance of x_0 minus the guess"),
        (lambda v, alpha, sigma, told: v * sigma**2 / (v + sigma**2), "variance of x_0 minus the guess"),
    ],
    "regression-03": [
        (by_densities, "is finite"),
        (soft, "by quadrature"),
        (lambda z, p, s, r: p * z * s**2 / (s**2 + r**2), "by quadrature"),
        (lambda z, p, s, r: torch.zeros_like(z), "by quadrature"),
    ],
    "regression-04": [
        (mean_of_guesses, "posterior given both looks"),
        (better_look, "posterior given both looks"),
        (lambda D, z1, r1, z2, r2: D((z1 + z2) / 2, math.hypot(r1, r2) / 2), "posterior given both looks"),
        (guess_of_guess, "called once"),
    ],
    "regression-05": [
        (subtracted, "finite"),
        (own_included, "without point i"),
        (not_renormalised, "without point i"),
    ],
    "regression-06": [
        (lambda k: 2.0, "small posterior"),
        (lambda k: 1 / k, "small posterior"),
        (lambda k: 1 + 1 / k**0.5, "small posterior"),
    ],
    "regression-07": [
        (lambda points: largest(points), "just below|just above"),
        (lambda points: torch.cov(points.mT).trace().sqrt(), "just below"),
        (lambda points: points.square().mean().sqrt(), "just below|just above"),
        (lambda points: torch.linalg.eigvalsh(torch.cov(points.mT))[-2].sqrt(), "just above"),
    ],
}
