"""Answers to the exercises of the variational chapter: right ones, and wrong ones that the checks must catch."""

import math

import torch


def precision(W, s):
    return torch.eye(W.shape[1], dtype=W.dtype) + W.T @ W / s**2


def gap(W, s):
    M = precision(W, s)
    return (M.diagonal().log().sum() - torch.logdet(M)) / 2


def moment_matched(W, s):
    """The divergence in the other direction's best q: the variances of the posterior."""
    C = torch.linalg.inv(precision(W, s))
    return (C.diagonal().log().sum() - torch.logdet(C)) / 2


def not_halved(W, s):
    return 2 * gap(W, s)


def without_prior(W, s):
    M = W.T @ W / s**2
    return (M.diagonal().log().sum() - torch.logdet(M)) / 2


def price(c, snr_max, snr_min):
    V = (1 + c**2 * snr_min) / (1 + snr_min)
    return (V - 1 - math.log(V)) / 2 + math.log1p(1 / (c**2 * snr_max)) / 2


def noisy_end_only(c, snr_max, snr_min):
    V = (1 + c**2 * snr_min) / (1 + snr_min)
    return (V - 1 - math.log(V)) / 2


def noise_for_the_marginal(c, snr_max, snr_min):
    """The prior term of one picture in the place of the divergence of the marginal."""
    a2, s2 = snr_min / (1 + snr_min), 1 / (1 + snr_min)
    return (a2 * c**2 + s2 - 1 - math.log(s2)) / 2 + math.log1p(1 / (c**2 * snr_max)) / 2


def snr(t, c, snr_max, snr_min):
    A, B = 1 + c**2 * snr_max, 1 + c**2 * snr_min
    return (A ** (1 - t) * B**t - 1) / c**2


def log_uniform(t, c, snr_max, snr_min):
    return snr_max ** (1 - t) * snr_min**t


def backwards(t, c, snr_max, snr_min):
    return snr(1 - t, c, snr_max, snr_min)


def unit_variance(t, c, snr_max, snr_min):
    return snr(t, 1.0, snr_max, snr_min)


def chain_bound(v, c, d):
    return ((v[:-1] - v[1:]) / 2 * d * c**2 / (1 + c**2 * v[1:])).sum()


def cleaner_error(v, c, d):
    return ((v[:-1] - v[1:]) / 2 * d * c**2 / (1 + c**2 * v[:-1])).sum()


def estimate(g, n, generator):
    first = torch.rand(1, generator=generator, dtype=torch.float64)
    return g((first + torch.arange(n, dtype=torch.float64) / n) % 1).mean()


def stratified(g, n, generator):
    """Each time has a shift of its own: also good, but another estimate."""
    shift = torch.rand(n, generator=generator, dtype=torch.float64)
    return g((shift + torch.arange(n, dtype=torch.float64)) / n).mean()


def not_wrapped(g, n, generator):
    first = torch.rand(1, generator=generator, dtype=torch.float64)
    return g(first + torch.arange(n, dtype=torch.float64) / n).mean()


def fixed_grid(g, n, generator):
    return g((torch.arange(n, dtype=torch.float64) + 0.5) / n).mean()


def one_cell(g, n, generator):
    """The shift stays within 1/n, so no single time is uniform."""
    first = torch.rand(1, generator=generator, dtype=torch.float64) / n
    return g(first + torch.arange(n, dtype=torch.float64) / n).mean()


def global_randomness(g, n, generator):
    return estimate(g, n, None)


def sandwiched(below, above, a, b):
    return a * (below + above) / (1 + a**2), b**2 / (1 + a**2)


RIGHT = {
    "variational-01": gap,
    "variational-02": price,
    "variational-03": snr,
    "variational-04": chain_bound,
    "variational-05": estimate,
    "variational-06": sandwiched,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "variational-01": [
        (moment_matched, "best diagonal encoder"),
        (not_halved, "best diagonal encoder"),
        (without_prior, "best diagonal encoder"),
        (lambda W, s: gap(W, s) * torch.ones(3), "one number"),
        (lambda W, s: torch.logdet(precision(W, s)) / 2, "columns of W are orthogonal"),
    ],
    "variational-02": [
        (noisy_end_only, "prior . diffusion"),
        (noise_for_the_marginal, "prior . diffusion"),
        (lambda c, snr_max, snr_min: -price(c, snr_max, snr_min), "above the entropy"),
    ],
    "variational-03": [
        (log_uniform, "the same at every t"),
        (backwards, "starts at snr_max"),
        (unit_variance, "the same at every t"),
    ],
    "variational-04": [
        (cleaner_error, "sum of the mean divergences"),
        (lambda v, c, d: 2 * chain_bound(v, c, d), "sum of the mean divergences"),
        (lambda v, c, d: chain_bound(v, c, 1), "sum of the mean divergences"),
        (lambda v, c, d: chain_bound(v, c, d) * torch.ones(2), "one number"),
    ],
    "variational-05": [
        (stratified, "1/n apart"),
        (not_wrapped, r"times lie in \[0, 1\)"),
        (fixed_grid, "each of the times alone is uniform|integrated|unbiased"),
        (one_cell, "each of the times alone"),
        (lambda g, n, generator: g(torch.rand(n, generator=generator)).mean(), "1/n apart"),
        (global_randomness, "same generator"),
    ],
    "variational-06": [
        (lambda below, above, a, b: (a * below, b**2), "mean is that of Bayes"),
        (lambda below, above, a, b: ((below + above) / 2, b**2 / (1 + a**2)), "mean is that of Bayes"),
        (lambda below, above, a, b: (a * (below + above) / (1 + a**2), b**2), "variance is that of Bayes"),
        (lambda below, above, a, b: sandwiched(below, above, a, b)[0], "two values"),
    ],
}
