"""Answers to the exercises of *Noise on purpose*: right ones, and wrong ones that the checks must catch."""

import math


def tau_of_eta(eta, h):
    return math.sqrt(-math.log1p(eta**2 * math.expm1(-2 * h)) / (2 * h))


def loops(c, r_a, r_b, factor, power=0.5, rounding=math.ceil):
    once = power * math.log((c**2 + r_b**2) / (c**2 + r_a**2))
    return rounding(math.log(factor) / once)


def corrector(D, x, t, snr, steps, draw, half=2.0, kick=1.0):
    alpha, sigma = float(D.process.alpha(t)), float(D.process.sigma(t))
    gamma = 4 * snr**2
    for _ in range(steps):
        x = x + gamma / half * (alpha * D(x, t) - x) + kick * sigma * math.sqrt(gamma) * draw()
    return x


def one_draw(D, x, t, snr, steps, draw):
    z = draw()
    return corrector(D, x, t, snr, steps, lambda: z)


def without_alpha(D, x, t, snr, steps, draw):
    for _ in range(steps):
        x = x + 2 * snr**2 * (D(x, t) - x) + 2 * snr * float(D.process.sigma(t)) * draw()
    return x


def end_error(c, lam, tau, n, noise=1.0, frozen=True):
    h = (lam[1] - lam[0]) / n
    V = 1 + c**2 * math.exp(2 * lam[0])
    for i in range(n):
        u = c**2 * math.exp(2 * (lam[0] + (i if frozen else i + 0.5) * h))
        w = u / (1 + u)
        gain = (1 - w) * math.exp(-(tau**2) * h) + w * math.exp(h)
        V = gain**2 * V - noise * math.expm1(-2 * tau**2 * h)
    return V / (1 + c**2 * math.exp(2 * lam[1])) - 1


def path_noises(fractions, h, tau, draws, decay=1.0):
    noises, before, n = [], 0.0, 0.0
    for fraction, z in zip(fractions, draws, strict=True):
        piece = tau**2 * (fraction - before) * h
        n = math.exp(-decay * piece) * n + math.sqrt(-math.expm1(-2 * piece)) * z
        noises.append(n)
        before = fraction
    return noises


def independent_noises(fractions, h, tau, draws):
    return [math.sqrt(-math.expm1(-2 * tau**2 * a * h)) * z for a, z in zip(fractions, draws, strict=True)]


def brownian(fractions, h, tau, draws):
    noises, before, n = [], 0.0, 0.0
    for fraction, z in zip(fractions, draws, strict=True):
        n = n + tau * math.sqrt(2 * (fraction - before) * h) * z
        noises.append(n)
        before = fraction
    return noises


RIGHT = {
    "noise-01": tau_of_eta,
    "noise-02": loops,
    "noise-03": corrector,
    "noise-04": end_error,
    "noise-05": lambda omega: max(0.0, -1 / math.log(omega) - 1),
    "noise-06": path_noises,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "noise-01": [
        (lambda eta, h: eta, "package's two samplers"),
        (lambda eta, h: tau_of_eta(eta, h) ** 2, "the two are the same"),
        (lambda eta, h: math.sqrt(-math.expm1(-2 * eta**2 * h) / -math.expm1(-2 * h)), "package's two samplers"),
    ],
    "noise-02": [
        (lambda c, a, b, f: loops(c, a, b, f, power=1.0), "no more than the part"),
        (lambda c, a, b, f: loops(c, a, b, f, rounding=math.floor), "no more than the part|at least one"),
        (lambda c, a, b, f: loops(c, a, b, f) + 1, "one loop fewer"),
        (lambda c, a, b, f: math.log(f) / math.log(b / a), "whole number"),
    ],
    "noise-03": [
        (lambda *a: corrector(*a, half=1.0), "ε/2 times the score"),
        (lambda *a: corrector(*a, kick=2**0.5), "√ε z"),
        (one_draw, "draws its own noise"),
        (without_alpha, "ε/2 times the score|package's Langevin"),
    ],
    "noise-04": [
        (lambda c, lam, tau, n: end_error(c, lam, tau, n, noise=0.0), "package's sampler"),
        (lambda c, lam, tau, n: end_error(c, lam, tau, n, frozen=False), "loses variance|package's sampler"),
        (lambda c, lam, tau, n: -(1 + tau**2) / 2 * (lam[1] - lam[0]) / n, "package's sampler"),
    ],
    "noise-05": [
        (lambda omega: 0.0, "makes the error larger"),
        (lambda omega: -1 / math.log(omega) - 1, "not negative"),
        (lambda omega: 1 / (1 - omega), "makes the error larger"),
    ],
    "noise-06": [
        (independent_noises, "covariance of one path"),
        (brownian, "variance of its integral"),
        (lambda *a: path_noises(*a, decay=2.0), "variance of its integral"),
        (lambda f, h, tau, z: path_noises(f, h, tau, z[::-1]), "only the first draw"),
    ],
}
