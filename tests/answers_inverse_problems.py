"""Answers to the exercises on inverse problems: right ones, and wrong ones that the checks must catch."""

import math

import torch


def posterior_mean(x, alpha, sigma, data, A, y, s):
    near = (x - alpha * data).square().sum(1) / (2 * sigma**2)
    seen = (y - A(data)).square().sum(1) / (2 * s**2)
    return (-near - seen).softmax(0) @ data


def without_measurement(x, alpha, sigma, data, A, y, s):
    return (-(x - alpha * data).square().sum(1) / (2 * sigma**2)).softmax(0) @ data


def without_alpha(x, alpha, sigma, data, A, y, s):
    return posterior_mean(x, 1.0, sigma, data, A, y, s)


def by_densities(x, alpha, sigma, data, A, y, s):
    near = (x - alpha * data).square().sum(1) / (2 * sigma**2)
    w = torch.exp(-near - (y - A(data)).square().sum(1) / (2 * s**2))
    return w @ data / w.sum()


def tv_floor(p, n):
    total = 0.0
    for q in p.tolist():
        total += sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) * abs(k / n - q) for k in range(n + 1))
    return total / 2


def purify(size, kappa, v):
    r = size / math.sqrt(2 * kappa)
    return r, v / (v + r**2)


RIGHT = {
    "inverse-01": posterior_mean,
    "inverse-02": lambda C, a, s: 1 + a @ C @ a / s**2,
    "inverse-03": lambda C, a: a @ C @ a / (a @ a),
    "inverse-04": tv_floor,
    "inverse-05": purify,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "inverse-01": [
        (without_measurement, "Bayes' rule point by point"),
        (without_alpha, "prior's denoiser"),
        (by_densities, "finite"),
    ],
    "inverse-02": [
        (lambda C, a, s: 1 / (1 + a @ C @ a / s**2), "never too weak"),
        (lambda C, a, s: 1 + a @ a / s**2, "that of DPS"),
        (lambda C, a, s: 1 + a @ C @ a / s, "that of DPS"),
    ],
    "inverse-03": [
        (lambda C, a: a @ C @ a, "other units"),
        (lambda C, a: C.trace(), "for k I"),
        (lambda C, a: C.trace() / 3, "joint Gaussian"),
    ],
    "inverse-04": [
        (lambda p, n: 2 * tv_floor(p, n), "one draw"),
        (lambda p, n: (p * (1 - p)).sum() / n**0.5, "nine draws"),
        (lambda p, n: 0.0, "one draw"),
    ],
    "inverse-05": [
        (lambda size, kappa, v: (size / kappa**0.5, 1.0), "kappa nats survive"),
        (lambda size, kappa, v: (purify(size, kappa, v)[0], purify(size, kappa, v)[1] ** 0.5), "joint Gaussian"),
        (lambda size, kappa, v: 1.0, "two values"),
    ],
}
