"""Answers to the exercises of the chapter on five names: right ones, and wrong ones that the checks must catch."""

import math

import torch


def precondition(alpha, sigma, s):
    q = alpha**2 * s**2 + sigma**2
    return q**-0.5, alpha * s**2 / q, sigma * s / q**0.5


def published_only(alpha, sigma, s):
    """EDM's own formulas, right at α = 1."""
    q = s**2 + sigma**2
    return q**-0.5, s**2 / q, sigma * s / q**0.5


def no_skip(alpha, sigma, s):
    return precondition(alpha, sigma, s)[0], 0.0, s


def unscaled_target(alpha, sigma, s):
    c_in, c_skip, _ = precondition(alpha, sigma, s)
    return c_in, c_skip, 1.0


def both(name, value, x, alpha, sigma, alpha_rate, sigma_rate):
    if name == "score":
        name, value = "eps", -sigma * value
    rows = {"x0": (1, 0), "eps": (0, 1), "v": (-sigma, alpha), "velocity": (alpha_rate, sigma_rate)}
    a, b = rows[name]
    determinant = alpha * b - sigma * a
    return (b * x - sigma * value) / determinant, (alpha * value - a * x) / determinant


def circle_only(name, value, x, alpha, sigma, alpha_rate, sigma_rate):
    if name == "v":
        return alpha * x - sigma * value, sigma * x + alpha * value
    return both(name, value, x, alpha, sigma, alpha_rate, sigma_rate)


def by_noise(name, value, x, alpha, sigma, alpha_rate, sigma_rate):
    """Right inside, but the picture is read off the noise, which fails at α = 0."""
    _, eps = both(name, value, x, alpha, sigma, alpha_rate, sigma_rate)
    return (x - sigma * eps) / alpha, eps


def wrong_score(name, value, x, alpha, sigma, alpha_rate, sigma_rate):
    return both(name, -value if name == "score" else value, x, alpha, sigma, alpha_rate, sigma_rate)


def min_snr(alpha, sigma, gamma, on):
    least = min(alpha**2, gamma * sigma**2)
    if on == "x0":
        return least / sigma**2 if sigma else gamma
    if on == "eps":
        return least / alpha**2 if alpha else 1.0
    return least / (alpha**2 + sigma**2) ** 2


def snr(alpha, sigma):
    return alpha**2 / sigma**2 if sigma else math.inf


def eps_factor_on_v(alpha, sigma, gamma, on):
    return min_snr(alpha, sigma, gamma, "eps" if on == "v" else on)


def circle_min_snr(alpha, sigma, gamma, on):
    if on == "v":
        return min(snr(alpha, sigma), gamma) / (snr(alpha, sigma) + 1)
    return min_snr(alpha, sigma, gamma, on)


def naive_min_snr(alpha, sigma, gamma, on):
    if on == "eps":
        return min(snr(alpha, sigma), gamma) / snr(alpha, sigma)
    return min_snr(alpha, sigma, gamma, on)


def normal(lam, mean, c):
    return torch.exp(-(((lam - mean) / c) ** 2) / 2) / (c * math.sqrt(2 * math.pi))


def eps_times(lam, m, c, s):
    second = math.exp(2 * c**2 - 2 * m) / s**2
    return (normal(lam, m, c) + second * normal(lam, m - 2 * c**2, c)) / (1 + second)


def not_normalised(lam, m, c, s):
    return (1 + torch.exp(-2 * lam) / s**2) * normal(lam, m, c)


def on_x0(lam, m, c, s):
    """The weight of the error of x_0 taken for that of ε."""
    second = math.exp(2 * c**2 + 2 * m) * s**2
    return (normal(lam, m, c) + second * normal(lam, m + 2 * c**2, c)) / (1 + second)


def terminal_snr(b, d, kept):
    c, room = d * b**2, kept**-2 - 1
    return math.inf if c - 1 <= room else room / (c - 1 - room)


def one_pixel(b, d, kept):
    return terminal_snr(b, 1, kept) if b > 1 else 1.0


def variance_kept(b, d, kept):
    return terminal_snr(b, d, kept**0.5)


def time_for(t, size, base):
    k = size / base
    return k * t / (1 + (k - 1) * t)


def best_density(lam, omega, second):
    density = omega * second.sqrt()
    return density / torch.trapezoid(density, lam)


def by_variance(lam, omega, second):
    density = omega * second
    return density / torch.trapezoid(density, lam)


def in_proportion(lam, omega, second):
    return omega / torch.trapezoid(omega, lam)


def even_grid(lam, omega, second):
    density = omega * second.sqrt()
    return density / (density.mean() * (lam[-1] - lam[0]))


RIGHT = {
    "names-01": precondition,
    "names-02": both,
    "names-03": min_snr,
    "names-04": eps_times,
    "names-05": terminal_snr,
    "names-06": time_for,
    "names-07": best_density,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "names-01": [
        (published_only, "input has variance 1, for any α"),
        (no_skip, "smaller c_out"),
        (unscaled_target, "target has variance 1"),
        (lambda alpha, sigma, s: precondition(alpha, sigma, s)[:2], "c_in, c_skip and c_out"),
    ],
    "names-02": [
        (circle_only, "from v, α x̂_0"),
        (by_noise, "finite"),
        (wrong_score, "from score follows"),
    ],
    "names-03": [
        (eps_factor_on_v, "forms on v and on x0 are one loss"),
        (circle_min_snr, "forms on v and on x0 are one loss, for any"),
        (naive_min_snr, "raised ZeroDivisionError|finite"),
        (lambda alpha, sigma, gamma, on: max(snr(alpha, sigma), gamma), "never exceeds γ"),
    ],
    "names-04": [
        (lambda lam, m, c, s: normal(lam, m, c), "same at every λ"),
        (not_normalised, "integrates to 1"),
        (on_x0, "same at every λ|integrates"),
    ],
    "names-05": [
        (one_pixel, "fraction asked for"),
        (variance_kept, "fraction asked for"),
        (lambda b, d, kept: (kept**-2 - 1) / (d * b**2 - 1), "fraction asked for|positive"),
    ],
    "names-06": [
        (lambda t, size, base: time_for(t, size**2, base**2), "as noisy as the small"),
        (lambda t, size, base: t * size / base, "as noisy as the small|lies in"),
        (lambda t, size, base: time_for(t, base, size), "as noisy as the small"),
    ],
    "names-07": [
        (by_variance, "smaller second moment"),
        (in_proportion, "smaller second moment"),
        (even_grid, "even if it is uneven"),
    ],
}
