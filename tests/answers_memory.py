"""Answers to the exercises of *Memorise or generalise*, right and wrong."""

import math

import numpy as np
import torch


def speciation(m, covariance):
    def splits(r2):
        return float(m @ torch.linalg.solve(covariance + r2 * torch.eye(len(m), dtype=m.dtype), m)) > 1

    if not splits(0.0):
        return 0.0
    low, high = 0.0, float(m @ m)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if splits(middle) else (low, middle)
    return math.sqrt(low)


def as_if_round(m, covariance):
    return math.sqrt(max(0.0, float(m @ m - covariance.trace() / len(m))))


def along_m(m, covariance):
    return math.sqrt(max(0.0, float(m @ m - m @ covariance @ m / (m @ m))))


def never_none(m, covariance):
    return speciation(m, covariance) or float(m.norm())


def stop(seen, true, r):
    if seen <= true:
        return math.inf
    own, best = seen / (seen + r**2), true / (true + r**2)
    return math.log(own / (own - best)) / (seen + r**2)


def always(seen, true, r):
    return stop(seen, true, r) if seen > true else 1.0


def by_clock(seen, true, r):
    return math.inf if seen <= true else 1 / (seen + r**2)


def without_noise(seen, true, r):
    return math.inf if seen <= true else -math.log(1 - true / seen) / seen


def local_denoiser(y, data, r, radius, wrap=False, own=True):
    d, made = y.shape[1], torch.empty_like(y)
    for p in range(d):
        places = range(p - radius, p + radius + 1)
        seen = [q % d for q in places] if wrap else [q for q in places if 0 <= q < d]
        distances = torch.cdist(y[:, seen], data[:, seen]).square()
        made[:, p] = (-distances / ((2 if own else 1) * r**2)).softmax(1) @ data[:, p]
    return made


def by_densities(y, data, r, radius):
    made = torch.empty_like(y)
    for p in range(y.shape[1]):
        seen = slice(max(0, p - radius), p + radius + 1)
        w = torch.exp(-torch.cdist(y[:, seen], data[:, seen]).square() / (2 * r**2))
        made[:, p] = w @ data[:, p] / w.sum(1)
    return made


def whole(y, data, r, radius):
    return (-torch.cdist(y, data).square() / (2 * r**2)).softmax(1) @ data


def parts(first, second, truth):
    variance = ((first - second) ** 2).sum(1).mean() / 2
    error = ((first - truth) ** 2).sum(1).mean() / 2 + ((second - truth) ** 2).sum(1).mean() / 2
    return error - variance, variance


def of_the_mean(first, second, truth):
    return (((first + second) / 2 - truth) ** 2).sum(1).mean(), parts(first, second, truth)[1]


def as_if_alike(first, second, truth):
    """The mean error over all inputs: biases of opposite sign cancel."""
    return (first - truth).mean(0).square().sum(), parts(first, second, truth)[1]


def not_halved(first, second, truth):
    bias, variance = parts(first, second, truth)
    return bias, 2 * variance


def per_coordinate(first, second, truth):
    return tuple(value / first.shape[1] for value in parts(first, second, truth))


def hiding(training, ratio=3.0):
    gaps = (training[:, None] - training).square().sum(2)
    gaps.fill_diagonal_(math.inf)
    return float(gaps.min(1).values.median().sqrt()) / math.sqrt((ratio**2 - 1) * training.shape[1])


RIGHT = {
    "memory-01": speciation,
    "memory-02": stop,
    "memory-03": local_denoiser,
    "memory-04": parts,
    "memory-05": hiding,
}
# The same in other forms: other routes, tensors and arrays in the place of floats.
ALSO_RIGHT = {
    "memory-01": [
        lambda m, covariance: torch.linalg.eigvalsh(torch.outer(m, m) - covariance)[-1].clamp(min=0).sqrt(),
    ],
    "memory-02": [
        lambda *arguments: torch.tensor(stop(*arguments), dtype=torch.float64),
        lambda *arguments: np.float64(stop(*arguments)),
    ],
    "memory-04": [lambda *arguments: np.array([float(part) for part in parts(*arguments)])],
    "memory-05": [lambda training: torch.tensor(hiding(training))],
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "memory-01": [
        (as_if_round, "not round"),
        (along_m, "not round|some r > 0"),
        (never_none, "never split"),
        (lambda m, covariance: speciation(m, covariance) ** 2, "round class"),
    ],
    "memory-02": [
        (always, "never turns"),
        (by_clock, "smallest at that time"),
        (without_noise, "smallest at that time"),
        (lambda seen, true, r: 0.0 if seen > true else math.inf, "begins at time 0"),
    ],
    "memory-03": [
        (whole, "each sample alone"),
        (by_densities, "finite"),
        (lambda *arguments: local_denoiser(*arguments, wrap=True), "window|copier"),
        (lambda *arguments: local_denoiser(*arguments, own=False), "copier"),
    ],
    "memory-04": [
        (of_the_mean, "unbiased whatever the variance"),
        (as_if_alike, "unbiased whatever the variance"),
        (not_halved, "variance of one training"),
        (per_coordinate, "unbiased whatever the variance|variance of one training"),
        (lambda first, second, truth: (0.0, parts(first, second, truth)[1]), "unbiased"),
    ],
    "memory-05": [
        (lambda training: hiding(training) / 3, "more than half|less than half"),
        (lambda training: hiding(training) * math.sqrt(8 / 9), "less than half|more than half"),
        (lambda training: float(training.std()), "half of the copies"),
        (lambda training: 0.1, "half of the copies|three times"),
    ],
}
