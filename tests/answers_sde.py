"""Answers to the exercises of the SDE chapter: right ones, and wrong ones that the checks must catch."""

import math

import torch


def final_variance(process, c, times, tau, power=2, noise=1.0):
    v = (process.alpha(times) * c) ** 2 + process.sigma(times) ** 2
    k = process.f(times) + (1 + tau**2) * process.g2(times) / (2 * v)
    V = v[0]
    for n, h in enumerate(-times.diff()):
        V = (1 - h * k[n]) ** power * V + noise * tau**2 * process.g2(times)[n] * h
    return V


def score_without_tau(process, c, times, tau):
    v = (process.alpha(times) * c) ** 2 + process.sigma(times) ** 2
    V = v[0]
    for n, h in enumerate(-times.diff()):
        k = process.f(times)[n] + process.g2(times)[n] / v[n]
        V = (1 - h * k) ** 2 * V + tau**2 * process.g2(times)[n] * h
    return V


def trace(product, d, probes, generator):
    z = torch.randint(0, 2, (probes, d), generator=generator).double() * 2 - 1
    values = (z * product(z)).sum(1)
    return values.mean(), values.std() / probes**0.5


def gaussian_trace(product, d, probes, generator):
    z = torch.randn(probes, d, generator=generator, dtype=torch.float64)
    values = (z * product(z)).sum(1)
    return values.mean(), values.std() / probes**0.5


def spread_of_one(product, d, probes, generator):
    value, error = trace(product, d, probes, generator)
    return value, error * probes**0.5


def own_randomness(product, d, probes, generator):
    return trace(product, d, probes, None)


def squared_product(product, d, probes, generator):
    z = torch.randint(0, 2, (probes, d), generator=generator).double() * 2 - 1
    values = product(z).square().sum(1)
    return values.mean(), values.std() / probes**0.5


def log_density(A, T, x, trace_sign=-1.0, direction=-1.0):
    origin = torch.linalg.matrix_exp(direction * T * A) @ x
    return -(origin @ origin) / 2 - len(x) / 2 * math.log(2 * math.pi) + trace_sign * T * torch.trace(A)


def reverse_drift(x, t, m, c, factor=2.0):
    v = c**2 * math.exp(-2 * t) + 1 - math.exp(-2 * t)
    return -x + factor * (x - m * math.exp(-t)) / v


def code_length(variance):
    return math.log(2 * math.pi * variance) / 2 + 1 / (2 * variance)


def likelihoods(k, B):
    rest = 1 / (2 * k - 1)
    sde = rest + (1 - rest) * math.exp((1 - 2 * k) * B)
    bound = math.log(2 * math.pi * math.e) / 2 + B * (1 - k) ** 2 / 2
    return code_length(math.exp((1 - k) * B)), code_length(sde), bound


def bent(k, B):
    """The ODE's number forced under the bound, as one would who believes that it must lie there."""
    ode, sde, bound = likelihoods(k, B)
    return min(ode, bound), sde, bound


def stationary_limit(k, B):
    ode, _, bound = likelihoods(k, B)
    return ode, code_length(1 / (2 * k - 1)), bound


def wrong_way(k, B):
    _, sde, bound = likelihoods(k, B)
    return code_length(math.exp((k - 1) * B)), sde, bound


def whole_square(k, B):
    ode, sde, bound = likelihoods(k, B)
    return ode, sde, bound + B * (1 - k) ** 2 / 2


def first_violation(B):
    low, high = (1 - 2 / B) / 2, B
    for _ in range(80):
        y = (low + high) / 2
        low, high = (y, high) if y + math.exp(-y) - 1 > y**2 / B else (low, y)
    return 1 - y / B


RIGHT = {
    "sde-01": lambda t, a: (-2 * a * t, 2 * t + 4 * a * t**3),
    "sde-02": lambda x, U, g: 3.0 - 2 * U(x) / g**2,
    "sde-03": final_variance,
    "sde-04": trace,
    "sde-05": log_density,
    "sde-06": reverse_drift,
    "sde-07": likelihoods,
    "sde-08": first_violation,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "sde-01": [
        (lambda t, a: (-a * t**2, 2 * t + 2 * a * t**4), "mean m′ = f m"),
        (lambda t, a: (-2 * a * t, 2 * t), "variance v′ = 2 f v"),
        (lambda t, a: (-2 * a * t, 2 * t - 4 * a * t**3), "variance v′ = 2 f v"),
        (lambda t, a: 2 * t, "f and g² is|two values|variance|mean"),
    ],
    "sde-02": [
        (lambda x, U, g: -U(x) / g**2, "flux"),
        (lambda x, U, g: -2 * U(x) / g, "flux"),
        (lambda x, U, g: (-2 * U(x) / g**2).exp(), "flux"),
        (lambda x, U, g: -2 * U(x.detach()) / g**2, "differentiable"),
    ],
    "sde-03": [
        (lambda p, c, T, tau: final_variance(p, c, T, tau, noise=0.0), "package's sampler"),
        (lambda p, c, T, tau: final_variance(p, c, T, tau, power=1), "package's sampler"),
        (score_without_tau, "package's sampler"),
        (lambda p, c, T, tau: (p.alpha(T[-1]) * c) ** 2 + p.sigma(T[-1]) ** 2, "package's sampler"),
    ],
    "sde-04": [
        (gaussian_trace, "least variance"),
        (spread_of_one, "error is that of the mean"),
        (squared_product, "unbiased"),
        (own_randomness, "same generator"),
    ],
    "sde-05": [
        (lambda A, T, x: log_density(A, T, x, trace_sign=1.0), "only expands"),
        (lambda A, T, x: log_density(A, T, x, trace_sign=0.0), "only expands"),
        (lambda A, T, x: log_density(A, T, x, direction=1.0), "only expands"),
        (lambda A, T, x: log_density(A.diag().diag(), T, x), "flow carries"),
    ],
    "sde-06": [
        (lambda x, t, m, c: reverse_drift(x, t, m, c, factor=1.0), "Bayes' rule"),
        (lambda x, t, m, c: -reverse_drift(x, t, m, c), "Bayes' rule"),
        (lambda x, t, m, c: reverse_drift(x, t, 0.0, c), "Bayes' rule"),
        (lambda x, t, m, c: x, "Bayes' rule"),
    ],
    "sde-07": [
        (bent, "ODE's number agrees"),
        (stationary_limit, "SDE's number agrees|bound holds for the reverse SDE"),
        (wrong_way, "ODE's number agrees"),
        (whole_square, "half of the score error"),
        (lambda k, B: likelihoods(k, B)[:2], "three numbers"),
    ],
    "sde-08": [
        (lambda B: 1 / B, "just above|just below"),
        (lambda B: 0.5, "just above|just below"),
        (lambda B: 1 - 1e-6, "just below"),
    ],
}
