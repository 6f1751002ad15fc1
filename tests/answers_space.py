"""Answers to the exercises of *Other spaces, other corruptions*: right ones, and wrong ones that the checks catch."""

import itertools
import math

import torch

from minidiff.apps import poisson_flow


def logarithm(x, y):
    cosine = (x * y).sum(1, keepdim=True)
    across = y - cosine * x
    sine = across.norm(dim=1, keepdim=True)
    return across * torch.where(sine > 0, torch.atan2(sine, cosine) / sine.clamp_min(1e-300), 1.0)


def by_arc_cosine(x, y):
    """Right, but half of the digits are gone where the points are close."""
    cosine = (x * y).sum(1, keepdim=True)
    across = y - cosine * x
    return cosine.clamp(-1, 1).acos() * across / across.norm(dim=1, keepdim=True).clamp_min(1e-300)


def straight(x, y):
    return y - x


def projected(x, y):
    return y - (x * y).sum(1, keepdim=True) * x


def end(x0, a, severities, guesses):
    return x0 + sum((a(t) - a(s)) * (g - x0) for g, (s, t) in zip(guesses, itertools.pairwise(severities), strict=True))


def without_start(x0, a, severities, guesses):
    """A sampler that starts from nothing."""
    return sum((a(t) - a(s)) * g for g, (s, t) in zip(guesses, itertools.pairwise(severities), strict=True))


def poisson_denoiser(charges, x, z):
    squared = (x[:, None] - charges).square().sum(2) + z**2
    return (-(charges.shape[1] + 1) / 2 * squared.log()).softmax(1) @ charges


def by_powers(charges, x, z):
    squared = (x[:, None] - charges).square().sum(2) + z**2
    weight = squared ** (-(charges.shape[1] + 1) / 2)
    return weight @ charges / weight.sum(1, keepdim=True)


def of_gaussian_noise(charges, x, z):
    return (-(x[:, None] - charges).square().sum(2) / (2 * z**2)).softmax(1) @ charges


def one_dimension_less(charges, x, z):
    squared = (x[:, None] - charges).square().sum(2) + z**2
    return (-charges.shape[1] / 2 * squared.log()).softmax(1) @ charges


def measured(ratio, n, generator):
    return float((poisson_flow.prior(n, 2, 1.0, generator).norm(dim=1) > ratio).double().mean())


RIGHT = {
    "space-01": lambda tolerance: 2 * math.log(2 / tolerance),
    "space-02": logarithm,
    "space-03": lambda plain, symmetric, m: symmetric + (plain - symmetric) / m,
    "space-04": end,
    "space-05": poisson_denoiser,
    "space-06": lambda ratio, n, generator: ((1 + ratio**2) ** -0.5, measured(ratio, n, generator)),
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "space-01": [
        (lambda tolerance: math.log(2 / tolerance), "summed over images"),
        (lambda tolerance: 2 * math.log(1 / tolerance), "summed over images"),
        (lambda tolerance: -1.0, "positive"),
    ],
    "space-02": [
        (straight, "tangent at x"),
        (projected, "leads to y"),
        (by_arc_cosine, "keep their digits"),
        (lambda x, y: x[:, 0], "three numbers"),
    ],
    "space-03": [
        (lambda plain, symmetric, m: symmetric, "listed one by one"),
        (lambda plain, symmetric, m: plain / m, "listed one by one"),
        (lambda plain, symmetric, m: symmetric + (plain - symmetric) / m**0.5, "listed one by one"),
    ],
    "space-04": [
        (without_start, "step by step"),
        (lambda x0, a, severities, guesses: guesses[-1], "step by step"),
        (lambda x0, a, severities, guesses: sum(guesses) / len(guesses), "step by step"),
    ],
    "space-05": [
        (by_powers, "finite"),
        (of_gaussian_noise, "slope of the field lines"),
        (one_dimension_less, "slope of the field lines"),
    ],
    "space-06": [
        (lambda ratio, n, generator: (math.exp(-(ratio**2) / 2), measured(ratio, n, generator)), "in the plane"),
        (lambda ratio, n, generator: ((1 + ratio**2) ** -0.5,) * 2, "is measured"),
        (lambda ratio, n, generator: ((1 + ratio**2) ** -0.5, (1 + ratio**2) ** -0.5 + 1e-9), "a whole number of"),
        (
            lambda ratio, n, generator: (1 - 2 / math.pi * math.atan(ratio), measured(ratio, n, generator)),
            "in the plane",
        ),
        (lambda ratio, n, generator: ((1 + ratio**2) ** -0.5, measured(ratio, n, None)), "same generator"),
    ],
}
