"""Answers to the exercises of the DDPM chapter: right ones, and wrong ones that the checks must catch."""

import math

import torch


def posterior(x_n, x_0, alpha_m, sigma_m, alpha_n, sigma_n):
    rho = (alpha_n * sigma_m / (alpha_m * sigma_n)) ** 2
    mean = alpha_n * sigma_m**2 / (alpha_m * sigma_n**2) * x_n + alpha_m * (1 - rho) * x_0
    return mean, sigma_m**2 * (1 - rho)


def by_division(x_n, x_0, alpha_m, sigma_m, alpha_n, sigma_n):
    """Right inside, 0/0 at σ_m = 0."""
    beta = sigma_n**2 - (alpha_n / alpha_m * sigma_m) ** 2
    precision = (alpha_n / alpha_m) ** 2 / beta + 1 / sigma_m**2
    return (alpha_n / alpha_m * x_n / beta + alpha_m * x_0 / sigma_m**2) / precision, 1 / precision


def forward_variance(x_n, x_0, alpha_m, sigma_m, alpha_n, sigma_n):
    mean, variance = posterior(x_n, x_0, alpha_m, sigma_m, alpha_n, sigma_n)
    return mean, variance * sigma_n**2 / sigma_m**2 if sigma_m else 0.0


def variance_preserving_only(x_n, x_0, alpha_m, sigma_m, alpha_n, sigma_n):
    beta = 1 - (alpha_n / alpha_m) ** 2
    mean = (alpha_n / alpha_m * sigma_m**2 * x_n + alpha_m * beta * x_0) / sigma_n**2
    return mean, beta * sigma_m**2 / sigma_n**2


def snr_scales(snr):
    return snr / (1 + snr), 1 / (1 + snr)


def reverse_variance(c, snr_m, snr_n):
    regained, (alpha2, sigma2) = 1 - snr_n / snr_m, snr_scales(snr_m)
    return sigma2 * regained + alpha2 * regained**2 * c**2 / (1 + c**2 * snr_n)


def shorten(betas, kept):
    log_alpha2 = torch.log1p(-betas).cumsum(0)[torch.tensor(kept) - 1]
    return -torch.expm1(torch.diff(log_alpha2, prepend=log_alpha2.new_zeros(1)))


def summed(betas, kept):
    return torch.diff(betas.cumsum(0)[torch.tensor(kept) - 1], prepend=betas.new_zeros(1))


def estimate(term, p, draws, generator):
    n = torch.multinomial(p, draws, replacement=True, generator=generator)
    values = term(n) / p[n]
    return float(values.mean()), float(values.std()) / draws**0.5


def unweighted(term, p, draws, generator):
    values = len(p) * term(torch.multinomial(p, draws, replacement=True, generator=generator))
    return values.mean(), values.std() / draws**0.5


def spread_of_one(term, p, draws, generator):
    value, error = estimate(term, p, draws, generator)
    return value, error * draws**0.5


def own_randomness(term, p, draws, generator):
    return estimate(term, p, draws, None)


RIGHT = {
    "ddpm-01": lambda a, snr_n: snr_n + a**-2,
    "ddpm-02": posterior,
    "ddpm-03": reverse_variance,
    "ddpm-04": shorten,
    "ddpm-05": estimate,
    "ddpm-06": lambda b, snr, d: (b**-2 + d * snr) ** -0.5,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "ddpm-01": [
        (lambda a, snr_n: 1 / a**2, "higher signal-to-noise ratio"),
        (lambda a, snr_n: snr_n + 1 / a, "Bayes grid"),
        (lambda a, snr_n: snr_n * (1 + 1 / a**2), "Bayes grid"),
        (lambda a, snr_n: math.nan, "finite"),
    ],
    "ddpm-02": [
        (by_division, "raised ZeroDivisionError"),
        (forward_variance, "variance is that of Bayes' rule"),
        (variance_preserving_only, "for any α and σ"),
        (lambda *arguments: 0.0, "two values"),
    ],
    "ddpm-03": [
        (lambda c, snr_m, snr_n: snr_scales(snr_n)[1] * (1 - snr_n / snr_m), "joint Gaussian"),
        (lambda c, snr_m, snr_n: reverse_variance(min(c, 1), snr_m, snr_n), "joint Gaussian"),
        (lambda c, snr_m, snr_n: reverse_variance(c, snr_m, snr_n) ** 0.5, "joint Gaussian"),
    ],
    "ddpm-04": [
        (summed, "α² is that of the long chain"),
        (lambda betas, kept: betas[torch.tensor(kept) - 1], "α² is that of the long chain"),
        (lambda betas, kept: 1 - (1 - betas).cumprod(0)[torch.tensor(kept) - 1], "keeping every step"),
        (lambda betas, kept: betas, "one β for each"),
    ],
    "ddpm-05": [
        (unweighted, "unbiased"),
        (spread_of_one, "standard error"),
        (own_randomness, "same generator"),
        (lambda term, p, draws, generator: None, "two values"),
    ],
    "ddpm-06": [
        (lambda b, snr, d: b / math.sqrt(1 + b**2 * snr), "joint Gaussian"),
        (lambda b, snr, d: 1 / (1 + d * snr), "joint Gaussian"),
        (lambda b, snr, d: b / (1 + b**2 * d * snr), "joint Gaussian"),
    ],
}
