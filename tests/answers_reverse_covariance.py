"""Answers to the exercises on the covariance of a step: right ones, and wrong ones that the checks must catch."""

import math

import torch


def best(alpha_s, sigma_s, alpha_t, sigma_t, eta, std):
    rho = (alpha_s * sigma_t / (alpha_t * sigma_s)) ** 2
    least = eta**2 * sigma_t**2 * (1 - rho)
    b = alpha_t - alpha_s / sigma_s * math.sqrt(max(0.0, sigma_t**2 - least))
    return least + b**2 * (std * sigma_s) ** 2 / ((alpha_s * std) ** 2 + sigma_s**2)


def only_the_noise(alpha_s, sigma_s, alpha_t, sigma_t, eta, std):
    return best(alpha_s, sigma_s, alpha_t, sigma_t, eta, 0.0)


def only_eta_one(alpha_s, sigma_s, alpha_t, sigma_t, eta, std):
    rho = (alpha_s * sigma_t / (alpha_t * sigma_s)) ** 2
    error = (std * sigma_s) ** 2 / ((alpha_s * std) ** 2 + sigma_s**2)
    return eta**2 * sigma_t**2 * (1 - rho) + (alpha_t * (1 - rho)) ** 2 * error


def divides_by_signal(alpha_s, sigma_s, alpha_t, sigma_t, eta, std):
    return best(alpha_s, sigma_s, alpha_t, sigma_t, eta, std) + 0 / alpha_s


def bounds(snr_s, snr_t, width):
    rest, power = 1 - snr_s / snr_t, min(1.0, width**2 / 4)
    lower = rest / (1 + snr_t)
    return lower, lower + snr_t / (1 + snr_t) * rest**2 * power / (1 + snr_s * power)


def without_width(snr_s, snr_t, width):
    return bounds(snr_s, snr_t, 2.0)


def width_and_no_guess(snr_s, snr_t, width):
    lower, upper = bounds(snr_s, snr_t, 2.0)
    rest = 1 - snr_s / snr_t
    return lower, min(upper, lower + snr_t / (1 + snr_t) * rest**2 * width**2 / 4)


def too_narrow(snr_s, snr_t, width):
    lower, upper = bounds(snr_s, snr_t, width / 2)
    return lower, upper


def analytic(scores, alpha_s, sigma_s, alpha_t, sigma_t):
    rho = (alpha_s * sigma_t / (alpha_t * sigma_s)) ** 2
    share = min(1.0, max(0.0, 1 - sigma_s**2 * float(scores.square().mean())))
    return sigma_t**2 * (1 - rho) + (alpha_t * (1 - rho) * sigma_s / alpha_s) ** 2 * share


def unclipped(scores, alpha_s, sigma_s, alpha_t, sigma_t):
    rho = (alpha_s * sigma_t / (alpha_t * sigma_s)) ** 2
    share = 1 - sigma_s**2 * float(scores.square().mean())
    return sigma_t**2 * (1 - rho) + (alpha_t * (1 - rho) * sigma_s / alpha_s) ** 2 * share


def not_per_coordinate(scores, *scales):
    return analytic(scores * scores.shape[1] ** 0.5, *scales)


def preserving_only(scores, alpha_s, sigma_s, alpha_t, sigma_t):
    share = min(1.0, max(0.0, 1 - sigma_s**2 * float(scores.square().mean())))
    beta = 1 - (alpha_s / alpha_t) ** 2
    return sigma_t**2 / sigma_s**2 * beta + (alpha_t * beta / sigma_s / alpha_s) ** 2 * share


def prices(v):
    pixel, place, one = v.mean(0).log().mean(), v.mean(1).log().mean(), v.mean().log()
    return torch.stack([pixel, place, one]) / 2 - v.log().mean() / 2


def swapped(v):
    return prices(v)[[1, 0, 2]]


def geometric(v):
    logs = v.log()
    zero = logs.new_zeros(())
    return torch.stack([zero, zero, logs.mean() - logs.mean()])


def covariance(omega, friction, gamma):
    A = torch.tensor([[0.0, 1.0], [-1.0, -friction]], dtype=torch.float64)
    E = torch.matrix_exp(A * omega)
    left = torch.diag(torch.tensor([1.0, 1.0 - gamma], dtype=torch.float64))
    return torch.eye(2, dtype=torch.float64) - E @ left @ E.mT


def still_velocity(omega, friction, gamma):
    return covariance(omega, friction, 0.0)


def root(A, noise, covariance, start, stop, count=100):
    h, R = (stop - start) / count, torch.eye(len(A), dtype=torch.float64)

    def slope(omega, R):
        return (A + noise @ torch.linalg.inv(covariance(omega)) / 2) @ R

    for i in range(count):
        omega = start + i * h
        k1 = slope(omega, R)
        k2 = slope(omega + h / 2, R + h / 2 * k1)
        k3 = slope(omega + h / 2, R + h / 2 * k2)
        k4 = slope(omega + h, R + h * k3)
        R = R + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return R


def cholesky(A, noise, covariance, start, stop):
    first, final = (torch.linalg.cholesky(covariance(omega)) for omega in (start, stop))
    return final @ torch.linalg.inv(first)


RIGHT = {
    "variance-01": best,
    "variance-02": bounds,
    "variance-03": analytic,
    "variance-04": prices,
    "variance-05": covariance,
    "variance-06": root,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "variance-01": [
        (only_the_noise, "joint Gaussian"),
        (only_eta_one, "joint Gaussian"),
        (divides_by_signal, "raised ZeroDivisionError"),
        (lambda *arguments: best(*arguments) ** 0.5, "joint Gaussian"),
    ],
    "variance-02": [
        (without_width, "better linear guess"),
        (width_and_no_guess, "better linear guess"),
        (too_narrow, "two points lie between"),
        (lambda snr_s, snr_t, width: bounds(snr_s, snr_t, width)[1], "two values"),
    ],
    "variance-03": [
        (unclipped, "too large leave the least"),
        (not_per_coordinate, "conditional variance"),
        (preserving_only, "conditional variance"),
    ],
    "variance-04": [
        (swapped, "mean divergence of the best"),
        (geometric, "mean divergence of the best"),
        (lambda v: prices(v)[2], "three prices"),
    ],
    "variance-05": [
        (lambda omega, friction, gamma: covariance(omega, 2.0, gamma), "equation of moments"),
        (still_velocity, "only the velocity is random"),
        (lambda omega, friction, gamma: covariance(omega, friction, gamma)[0, 0], "shape must be"),
    ],
    "variance-06": [
        (cholesky, "rotation included"),
        (lambda A, noise, covariance, start, stop: torch.matrix_exp(A * (stop - start)), "covariance of the start"),
        (lambda A, noise, covariance, start, stop: root(A, 2 * noise, covariance, start, stop), "covariance of the st"),
    ],
}
