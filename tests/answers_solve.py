"""Answers to the exercises of *Sampling is solving an ODE*: right ones, and wrong ones that the checks must catch."""

import math

import torch


def coefficients(alpha_s, sigma_s, alpha_t, sigma_t, c):
    a = math.sqrt(sigma_t**2 - c**2) / sigma_s
    return a, alpha_t - a * alpha_s


def linear_root(alpha_s, sigma_s, alpha_t, sigma_t, c):
    a = (sigma_t - c) / sigma_s
    return a, alpha_t - a * alpha_s


def no_correction_of_the_mean(alpha_s, sigma_s, alpha_t, sigma_t, c):
    return coefficients(alpha_s, sigma_s, alpha_t, sigma_t, c)[0], alpha_t


def ddim_step(x, u, process, s, t):
    alpha, sigma = process.alpha(s), process.sigma(s)
    alpha_rate, sigma_rate = process.rates(s)
    determinant = alpha * sigma_rate - sigma * alpha_rate
    x0 = (sigma_rate * x - sigma * u) / determinant
    eps = (alpha * u - alpha_rate * x) / determinant
    return process.alpha(t) * x0 + process.sigma(t) * eps


def without_the_determinant(x, u, process, s, t):
    alpha_rate, sigma_rate = process.rates(s)
    x0 = sigma_rate * x - process.sigma(s) * u
    eps = process.alpha(s) * u - alpha_rate * x
    return process.alpha(t) * x0 + process.sigma(t) * eps


def observed_order(solve, n):
    coarse, middle, fine = (solve(steps) for steps in (n, 2 * n, 4 * n))
    return math.log2(float((coarse - middle).norm() / (middle - fine).norm()))


def against_the_finest(solve, n):
    coarse, middle, fine = (solve(steps) for steps in (n, 2 * n, 4 * n))
    return math.log2(float((coarse - fine).norm() / (middle - fine).norm()))


def with_a_reference(solve, n):
    end = solve(100 * n)
    solve(4 * n)
    return math.log2(float((solve(n) - end).norm() / (solve(2 * n) - end).norm()))


def round_trip(theta_t, theta_s, k):
    step = theta_s - theta_t
    q = math.sin(step) * math.cos(theta_s) / math.sin(theta_t)
    return 1 - (-q) ** k * math.sin(step) ** 2


def without_the_sign(theta_t, theta_s, k):
    step = theta_s - theta_t
    q = math.sin(step) * math.cos(theta_s) / math.sin(theta_t)
    return 1 - q**k * math.sin(step) ** 2


def weights(p, multiples):
    m = torch.tensor(multiples, dtype=torch.float64)
    powers = [torch.ones_like(m), *(m**q for q in range(p, p + len(m) - 1))]
    right = torch.zeros(len(m), dtype=torch.float64)
    right[0] = 1
    return torch.linalg.solve(torch.stack(powers), right)


def longest(theta_t):
    sine = 3 * math.sin(theta_t)
    return (theta_t + math.asin(sine)) / 2 if sine <= 1 else math.pi / 2


RIGHT = {
    "solve-01": coefficients,
    "solve-02": ddim_step,
    "solve-03": observed_order,
    "solve-04": round_trip,
    "solve-05": weights,
    "solve-06": longest,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "solve-01": [
        (linear_root, "variance of x_t is σ_t²"),
        (no_correction_of_the_mean, "mean of x_t"),
        (lambda *v: (-coefficients(*v)[0], v[2] + coefficients(*v)[0] * v[0]), "not negative"),
    ],
    "solve-02": [
        (without_the_determinant, "line of x_0 and ε"),
        (lambda x, u, process, s, t: x + (t - s) * u, "line of x_0 and ε"),
        (lambda x, u, process, s, t: ddim_step(x, u, process, t, s), "line of x_0 and ε"),
    ],
    "solve-03": [
        (against_the_finest, "known order"),
        (with_a_reference, "nothing else"),
        (lambda solve, n: observed_order(solve, n) + 1, "known order"),
    ],
    "solve-04": [
        (without_the_sign, "step by step"),
        (lambda theta_t, theta_s, k: math.cos(theta_s - theta_t), "both ways shrink"),
        (lambda theta_t, theta_s, k: math.cos(theta_s - theta_t) ** 2, "step by step"),
    ],
    "solve-05": [
        (lambda p, multiples: weights(1, multiples), "powers from h"),
        (lambda p, multiples: weights(p, multiples) / 2, "add up to one"),
        (lambda p, multiples: weights(p, multiples)[:-1], "one weight for each"),
    ],
    "solve-06": [
        (lambda theta_t: 2 * theta_t, "just above|every step"),
        (lambda theta_t: math.pi / 2, "below the angle"),
        (lambda theta_t: theta_t + 0.01, "just above"),
    ],
}
