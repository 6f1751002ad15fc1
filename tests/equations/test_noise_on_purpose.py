"""Every equation of *Noise on purpose*: both sides as printed, evaluated independently.

Drifts are those of the package's processes and exact scores, integrals are SciPy's or Gauss–Hermite's, differential
equations are solved by SciPy, and samplers are the package's own with draws that are known.
"""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from sides import F64, SEEDS, equal, hermite

from minidiff import samplers
from minidiff.affine_law import affine_law
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.process import EDM, CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import State

PROCESSES = (LinearVP(), CosineVP(), RectifiedFlow(), EDM())
NODES, WEIGHTS = hermite(80)


class Case:
    """A process, a step from s to t, noise τ and Gaussian data of std c, all random."""

    def __init__(self, seed):
        self.random = torch.Generator().manual_seed(seed)
        self.process = PROCESSES[seed % len(PROCESSES)]
        self.tau, self.c = 0.2 + 1.6 * self.uniform(), 0.3 + 1.5 * self.uniform()
        self.lam_s = -1.5 + 2 * self.uniform()
        self.h = 0.1 + self.uniform()
        self.lam_t = self.lam_s + self.h
        self.grid = self.process.time(torch.tensor([self.lam_s, self.lam_t], dtype=F64))
        (self.alpha_s, self.alpha_t) = self.process.alpha(self.grid).tolist()
        (self.sigma_s, self.sigma_t) = self.process.sigma(self.grid).tolist()
        self.kappa = 1 + self.tau**2
        self.share = self.c**2 * math.exp(2 * self.lam_s) / (1 + self.c**2 * math.exp(2 * self.lam_s))

    def uniform(self):
        return float(torch.rand((), generator=self.random, dtype=F64))

    def normal(self, *shape):
        return torch.randn(shape, generator=self.random, dtype=F64)

    def mixture(self):
        means = torch.tensor([[-1.0], [0.4], [1.3]], dtype=F64)
        return GaussianMixture(self.process, torch.tensor([0.3, 0.5, 0.2], dtype=F64), means, stds=0.25)

    def gaussian(self):
        return Gaussian(self.process, torch.zeros(1, dtype=F64), std=self.c)

    def at(self, lam):
        return self.process.time(torch.tensor(lam, dtype=F64))


def omega(lam, c):
    return c**2 * math.exp(2 * lam) / (1 + c**2 * math.exp(2 * lam))


def solved(rate, y, span, **options):
    return solve_ivp(rate, span, np.atleast_1d(y), "DOP853", rtol=1e-12, atol=1e-14, **options).y[:, -1]


def rates_in_lam(case):
    """dt/dλ and d log σ/dλ at s."""
    (alpha_rate, sigma_rate) = (float(v) for v in case.process.rates(case.grid[0]))
    lam_rate = alpha_rate / case.alpha_s - sigma_rate / case.sigma_s
    return 1 / lam_rate, sigma_rate / case.sigma_s / lam_rate


@SEEDS
@pytest.mark.equation("eq-noise-lambda")
def test_drift_and_noise_per_lambda(seed):
    case = Case(seed)
    D, s, x = case.mixture(), case.grid[0], case.normal(5, 1)
    clock, growth = rates_in_lam(case)
    f, g2 = float(case.process.f(s)), float(case.process.g2(s))
    left = clock * (f * x - case.kappa / 2 * g2 * D.score(x, s))
    equal(left, (growth - case.tau**2) * x + case.kappa * case.alpha_s * D(x, s), rtol=1e-7)
    equal(case.tau**2 * g2 * abs(clock), 2 * case.tau**2 * case.sigma_s**2)


@SEEDS
@pytest.mark.equation("eq-noise-scaled")
def test_in_units_of_the_noise(seed):
    case = Case(seed)
    D, s, x = case.mixture(), case.grid[0], case.normal(5, 1)
    clock, growth = rates_in_lam(case)
    f, g2 = float(case.process.f(s)), float(case.process.g2(s))
    drift = clock * (f * x - case.kappa / 2 * g2 * D.score(x, s))
    zeta = x / case.sigma_s
    of_zeta = drift / case.sigma_s - zeta * growth  # the quotient rule
    equal(of_zeta, -(case.tau**2) * zeta + case.kappa * math.exp(case.lam_s) * D(x, s), rtol=1e-7)
    equal(case.tau * math.sqrt(g2 * abs(clock)) / case.sigma_s, math.sqrt(2) * case.tau)


@SEEDS
@pytest.mark.equation("eq-noise-split")
def test_flow_and_stirring(seed):
    case = Case(seed)
    D, s, x = case.mixture(), case.grid[0], case.normal(5, 1)
    push = math.exp(case.lam_s) * D(x, s)
    left = -(case.tau**2) * x / case.sigma_s + case.kappa * push
    equal(left, push + case.tau**2 * case.sigma_s * D.score(x, s), rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-noise-integrating")
def test_integrating_factor(seed):
    """The product rule, with the derivative of the factor by a central difference."""
    case = Case(seed)
    zeta, D = case.normal(2)
    tau2, lam, d = case.tau**2, case.lam_s, 1e-5
    rate = (math.exp(tau2 * (lam + d)) - math.exp(tau2 * (lam - d))) / (2 * d)
    drift = -tau2 * zeta + case.kappa * math.exp(lam) * D
    equal(rate * zeta + math.exp(tau2 * lam) * drift, case.kappa * math.exp(case.kappa * lam) * D, rtol=1e-7, atol=1e-8)
    assert math.exp(tau2 * lam) * math.sqrt(2) * case.tau == pytest.approx(
        math.sqrt(2) * case.tau * math.exp(tau2 * lam)
    )


@SEEDS
@pytest.mark.equation("eq-noise-exact")
def test_exact_solution_of_the_mean(seed):
    """A denoiser that depends on λ alone: the mean by SciPy from the drift, and by the printed integral."""
    case = Case(seed)
    a, b = case.normal(2).tolist()
    x = float(case.normal())

    def D(lam):
        return a * math.cos(lam) + b * lam

    def rate(lam, zeta):
        return -(case.tau**2) * zeta + case.kappa * math.exp(lam) * D(lam)

    (zeta,) = solved(rate, x / case.sigma_s, (case.lam_s, case.lam_t))
    kernel, _ = quad(lambda u: case.kappa * math.exp(case.kappa * (u - case.lam_t)) * D(u), case.lam_s, case.lam_t)
    right = case.sigma_t / case.sigma_s * math.exp(-(case.tau**2) * case.h) * x + case.alpha_t * kernel
    equal(case.sigma_t * zeta, right)


@SEEDS
@pytest.mark.equation("eq-noise-kicks")
def test_variance_of_the_kicks(seed):
    case = Case(seed)
    tau2 = case.tau**2
    value, _ = quad(lambda u: 2 * tau2 * math.exp(2 * tau2 * (u - case.lam_t)), case.lam_s, case.lam_t)
    equal(value, 1 - math.exp(-2 * tau2 * case.h))
    (variance,) = solved(lambda lam, v: -2 * tau2 * v + 2 * tau2, 0.0, (case.lam_s, case.lam_t))
    equal(variance, 1 - math.exp(-2 * tau2 * case.h))  # Ornstein–Uhlenbeck from rest


@SEEDS
@pytest.mark.equation("eq-noise-mass")
def test_mass_of_the_kernel(seed):
    case = Case(seed)
    value, _ = quad(lambda u: case.kappa * math.exp(case.kappa * (u - case.lam_t)), case.lam_s, case.lam_t)
    equal(value, 1 - math.exp(-case.kappa * case.h))


def printed_one(case, D, x, z):
    return (
        case.sigma_t / case.sigma_s * math.exp(-(case.tau**2) * case.h) * x
        + case.alpha_t * (1 - math.exp(-case.kappa * case.h)) * D(x, case.grid[0])
        + case.sigma_t * math.sqrt(1 - math.exp(-2 * case.tau**2 * case.h)) * z
    )


@SEEDS
@pytest.mark.equation("eq-noise-one")
def test_one_value(seed):
    case = Case(seed)
    D, x = case.mixture(), case.normal(5, 1)
    z = torch.randn(5, 1, generator=torch.Generator().manual_seed(9), dtype=F64)
    noise = torch.Generator().manual_seed(9)
    step = samplers.sa_solver(D, x, case.grid, tau=case.tau, order=1, corrector=False, generator=noise)
    equal(samplers.last(step), printed_one(case, D, x, z), rtol=1e-7, atol=1e-9)


@SEEDS
@pytest.mark.equation("eq-noise-kept")
def test_the_marginal_is_kept(seed):
    case = Case(seed)
    ratio = case.sigma_t / case.sigma_s
    decay, mass = math.exp(-(case.tau**2) * case.h), 1 - math.exp(-case.kappa * case.h)
    equal(ratio * decay * case.alpha_s + case.alpha_t * mass, case.alpha_t)
    fresh = case.sigma_t**2 * (1 - math.exp(-2 * case.tau**2 * case.h))
    equal(ratio**2 * math.exp(-2 * case.tau**2 * case.h) * case.sigma_s**2 + fresh, case.sigma_t**2)


@SEEDS
@pytest.mark.equation("eq-noise-missing")
def test_what_an_average_leaves_out(seed):
    """Variances on a mixture by quadrature: the true one at t, and that of the step from the true law at s."""
    case = Case(seed)
    D, s = case.mixture(), case.grid[0]
    x0_variance = float(D.weights @ (D.means[:, 0] - D.mean) ** 2) + 0.25**2
    exact = case.alpha_t**2 * x0_variance + case.sigma_t**2
    spread = math.sqrt((case.alpha_s * 0.25) ** 2 + case.sigma_s**2)
    x = (case.alpha_s * D.means + spread * NODES[None]).reshape(-1, 1)
    weights = (D.weights[:, None] * WEIGHTS).flatten()
    no_noise = printed_one(case, D, x, torch.zeros_like(x))[:, 0]
    mean = float(weights @ no_noise)
    fresh = case.sigma_t**2 * (1 - math.exp(-2 * case.tau**2 * case.h))
    ours = float(weights @ (no_noise - mean) ** 2) + fresh
    posterior = float(weights @ D.covariance(x, s)[:, 0, 0])
    right = case.alpha_t**2 * (1 - math.exp(-case.kappa * case.h)) ** 2 * posterior
    equal(exact - ours, right, rtol=1e-5, atol=1e-8)


@SEEDS
@pytest.mark.equation("eq-noise-eta")
def test_eta_of_tau(seed):
    """With this η, DDIM as printed is the step with one value: the three coefficients agree (τ ≤ 1)."""
    case = Case(seed)
    tau = min(case.tau, 1.0) * 0.9
    eta2 = (1 - math.exp(-2 * tau**2 * case.h)) / (1 - math.exp(-2 * case.h))
    beta = case.sigma_t**2 * (1 - math.exp(-2 * case.h))
    eps = math.sqrt(case.sigma_t**2 - eta2 * beta)
    equal(eps / case.sigma_s, case.sigma_t / case.sigma_s * math.exp(-(tau**2) * case.h))
    equal(case.alpha_t - eps * case.alpha_s / case.sigma_s, case.alpha_t * (1 - math.exp(-(1 + tau**2) * case.h)))
    equal(math.sqrt(eta2 * beta), case.sigma_t * math.sqrt(1 - math.exp(-2 * tau**2 * case.h)))
    D, x = case.mixture(), case.normal(4, 1)
    ends = [
        samplers.last(method(D, x, case.grid, generator=torch.Generator().manual_seed(2), **options))
        for method, options in (
            (samplers.ddim, {"eta": math.sqrt(eta2)}),
            (samplers.sa_solver, {"tau": tau, "order": 1, "corrector": False}),
        )
    ]
    equal(*ends, rtol=1e-8, atol=1e-9)


@SEEDS
@pytest.mark.equation("eq-noise-eta-small")
def test_eta_of_short_steps(seed):
    """The remainder falls with the square of h."""
    tau2 = Case(seed).tau ** 2

    def remainder(h):
        eta2 = math.expm1(-2 * tau2 * h) / math.expm1(-2 * h)
        return eta2 - tau2 * (1 + (1 - tau2) * h)

    assert abs(remainder(0.02)) < 0.01 * tau2 * (1 + tau2) ** 2
    assert remainder(0.02) / remainder(0.01) == pytest.approx(4, abs=0.3)


@SEEDS
@pytest.mark.equation("eq-noise-multistep")
def test_two_values(seed):
    """The second step of SA-Solver, with weights integrated by SciPy."""
    case = Case(seed)
    lam = [case.lam_s - 0.4, case.lam_s, case.lam_t]
    T = case.process.time(torch.tensor(lam, dtype=F64))
    D, x = case.mixture(), case.normal(4, 1)
    noise = torch.Generator().manual_seed(3)
    states = list(samplers.sa_solver(D, x, T, tau=case.tau, order=2, corrector=False, generator=noise))
    again = torch.Generator().manual_seed(3)
    _, z = (torch.randn(4, 1, generator=again, dtype=F64) for _ in range(2))
    values = [states[2].x0, states[1].x0]
    nodes = [lam[1], lam[0]]
    total = torch.zeros_like(x)
    for j in (0, 1):
        other = nodes[1 - j]

        def integrand(u, j=j, other=other):
            basis = (u - other) / (nodes[j] - other)
            return case.kappa * math.exp(case.kappa * (u - case.lam_t)) * basis

        total += quad(integrand, case.lam_s, case.lam_t)[0] * values[j]
    right = case.sigma_t / case.sigma_s * math.exp(-(case.tau**2) * case.h) * states[1].x + case.alpha_t * total
    right = right + case.sigma_t * math.sqrt(1 - math.exp(-2 * case.tau**2 * case.h)) * z
    equal(states[2].x, right, rtol=1e-7, atol=1e-8)


@SEEDS
@pytest.mark.equation("eq-noise-slope")
def test_weight_of_the_slope(seed):
    case = Case(seed)
    k, h = case.kappa, case.h
    value, _ = quad(lambda u: k * math.exp(k * (u - case.lam_t)) * (u - case.lam_s) / h, case.lam_s, case.lam_t)
    equal(value, 1 - (1 - math.exp(-k * h)) / (k * h))


@SEEDS
@pytest.mark.equation("eq-noise-half")
def test_half_the_mass(seed):
    k = Case(seed).kappa

    def remainder(h):
        mass = -math.expm1(-k * h)
        return 1 - mass / (k * h) - mass / 2 - (k * h) ** 2 / 12

    assert abs(remainder(0.02)) < (0.02 * k) ** 3
    assert remainder(0.04) / remainder(0.02) == pytest.approx(8, abs=0.8)


@SEEDS
@pytest.mark.equation("eq-noise-2m")
def test_sde_dpm_solver_2m(seed):
    case = Case(seed)
    before = 0.3 + case.uniform()
    T = case.process.time(torch.tensor([case.lam_s - before, case.lam_s, case.lam_t], dtype=F64))
    D, x = case.mixture(), case.normal(4, 1)
    states = list(samplers.dpmpp_2m_sde(D, x, T, tau=case.tau, generator=torch.Generator().manual_seed(3)))
    again = torch.Generator().manual_seed(3)
    _, z = (torch.randn(4, 1, generator=again, dtype=F64) for _ in range(2))
    D_0, D_1, r = D(states[1].x, T[1]), D(x, T[0]), before / case.h
    right = (
        case.sigma_t / case.sigma_s * math.exp(-(case.tau**2) * case.h) * states[1].x
        + case.sigma_t * math.sqrt(1 - math.exp(-2 * case.tau**2 * case.h)) * z
        + case.alpha_t * (1 - math.exp(-case.kappa * case.h)) * (D_0 + (D_0 - D_1) / (2 * r))
    )
    equal(states[2].x, right, rtol=1e-7, atol=1e-8)


def kick_covariance(tau, h, a, b):
    """Cov of √2 τ ∫_0^{ah} e^{τ²(u−ah)} dW and the same for b."""
    tau2 = tau**2
    value, _ = quad(lambda u: 2 * tau2 * math.exp(tau2 * (2 * u - (a + b) * h)), 0, min(a, b) * h)
    return value


@SEEDS
@pytest.mark.equation("eq-noise-midpoint")
def test_midpoint(seed):
    """On a Gaussian, the weights of the two draws give the covariances that the printed n_m and n_t must have."""
    case = Case(seed)
    D, c, k, h, tau2 = case.gaussian(), case.c, case.kappa, case.h, case.tau**2
    law = affine_law(lambda x, g: samplers.last(samplers.dpmpp_sde(D, x, case.grid, tau=case.tau, generator=g)), 2)
    m = case.at((case.lam_s + case.lam_t) / 2)
    alpha_m, sigma_m = float(case.process.alpha(m)), float(case.process.sigma(m))
    slope_s = case.alpha_s * c**2 / ((case.alpha_s * c) ** 2 + case.sigma_s**2)
    slope_m = alpha_m * c**2 / ((alpha_m * c) ** 2 + sigma_m**2)
    whole = case.alpha_t * (1 - math.exp(-k * h)) * slope_m
    u = sigma_m / case.sigma_s * math.exp(-tau2 * h / 2) + alpha_m * (1 - math.exp(-k * h / 2)) * slope_s
    gain = case.sigma_t / case.sigma_s * math.exp(-tau2 * h) + whole * u
    equal(law.gain, gain, rtol=1e-7)
    n_mm, n_mt, n_tt = (kick_covariance(case.tau, h, a, b) for a, b in ((0.5, 0.5), (0.5, 1), (1, 1)))
    variance = (whole * sigma_m) ** 2 * n_mm + 2 * whole * sigma_m * case.sigma_t * n_mt + case.sigma_t**2 * n_tt
    equal(law.variance(0.0), variance, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-noise-path")
def test_two_noises_of_one_path(seed):
    """n_t as printed has the variance of its integral, and the covariance with n_m, both by quadrature."""
    case = Case(seed)
    tau2, h = case.tau**2, case.h
    n_mm = kick_covariance(case.tau, h, 0.5, 0.5)
    printed_variance = math.exp(-tau2 * h) * n_mm + 1 - math.exp(-tau2 * h)
    equal(printed_variance, kick_covariance(case.tau, h, 1, 1))
    equal(math.exp(-tau2 * h / 2) * n_mm, kick_covariance(case.tau, h, 0.5, 1))  # Cov(n_m, n_t) of the left equation
    equal(kick_covariance(case.tau, h, 0.5, 1), math.exp(-tau2 * h / 2) * (1 - math.exp(-tau2 * h)))


@SEEDS
@pytest.mark.equation("eq-noise-covariance")
def test_covariance_with_the_end(seed):
    h = 0.2 + Case(seed).uniform()
    integral, _ = quad(lambda u: min(u, h), 0, h)  # Cov(W_u, W_h) = min(u, h)
    equal(integral, h**2 / 2)
    equal(h**2 / 2, h * min(h / 2, h))


@SEEDS
@pytest.mark.equation("eq-noise-strong")
def test_what_the_middle_misses(seed):
    """∫W − h W_{h/2} = ∫ ((h − u) − h 1[u < h/2]) dW_u; its variance by quadrature."""
    h = 0.2 + Case(seed).uniform()
    first, _ = quad(lambda u: (h - u - h) ** 2, 0, h / 2)
    second, _ = quad(lambda u: (h - u) ** 2, h / 2, h)
    equal(first + second, h**3 / 12)


@SEEDS
@pytest.mark.equation("eq-noise-logistic")
def test_share_grows_like_a_logistic(seed):
    case = Case(seed)
    lam, d = case.lam_s, 1e-5
    share = [
        (float(case.process.alpha(t)) * case.c) ** 2
        / ((float(case.process.alpha(t)) * case.c) ** 2 + float(case.process.sigma(t)) ** 2)
        for t in (case.at(lam - d), case.at(lam), case.at(lam + d))
    ]
    equal((share[2] - share[0]) / (2 * d), 2 * share[1] * (1 - share[1]), rtol=1e-5)


def variance_rate(tau, c, gain=lambda lam: 1.0):
    """The printed equation of V, with ω multiplied by `gain`."""
    return lambda lam, V: 2 * ((1 + tau**2) * gain(lam) * omega(lam, c) - tau**2) * V + 2 * tau**2


@SEEDS
@pytest.mark.equation("eq-noise-variance")
def test_variance_on_a_gaussian(seed):
    """Its right side, from the drift of ζ with the package's denoiser; and 1/(1 − ω) solves it for every τ."""
    case = Case(seed)
    D, s = case.gaussian(), case.grid[0]
    one = torch.tensor([[case.sigma_s]], dtype=F64)  # ζ = 1
    slope = -(case.tau**2) + case.kappa * math.exp(case.lam_s) * float(D(one, s))
    V = 0.3 + case.uniform()
    equal(variance_rate(case.tau, case.c)(case.lam_s, V), 2 * slope * V + 2 * case.tau**2, rtol=1e-7)
    start, end = (1 / (1 - omega(lam, case.c)) for lam in (case.lam_s, case.lam_t))
    equal(solved(variance_rate(case.tau, case.c), start, (case.lam_s, case.lam_t)), [end])


@SEEDS
@pytest.mark.equation("eq-noise-forget")
def test_relative_errors_decay(seed):
    """Central differences of e and m along exact solutions of the moment equations."""
    case = Case(seed)
    tau, c, d = case.tau, case.c, 1e-4
    lam = case.lam_s
    V0, m0 = 1.7 / (1 - omega(lam - d, c)), 0.8 / math.sqrt(1 - omega(lam - d, c))

    def both(u, y):
        return [float(variance_rate(tau, c)(u, y[0])), ((1 + tau**2) * omega(u, c) - tau**2) * y[1]]

    e, m = [], []
    for end in (lam - d, lam, lam + d):
        V, mean = solved(both, [V0, m0], (lam - d, end)) if end > lam - d else (V0, m0)
        e.append(V * (1 - omega(end, c)) - 1)
        m.append(mean * math.sqrt(1 - omega(end, c)))
    rate = tau**2 * (1 - omega(lam, c))
    equal((e[2] - e[0]) / (2 * d), -2 * rate * e[1], rtol=1e-5)
    equal((m[2] - m[0]) / (2 * d), -rate * m[1], rtol=1e-5)


@SEEDS
@pytest.mark.equation("eq-noise-forgotten")
def test_what_is_left_of_an_error(seed):
    case = Case(seed)
    tau, c, e = case.tau, case.c, 0.3
    (V,) = solved(variance_rate(tau, c), (1 + e) / (1 - omega(case.lam_s, c)), (case.lam_s, case.lam_t))
    left = (V * (1 - omega(case.lam_t, c)) - 1) / e
    shares = (omega(case.lam_s, c) / omega(case.lam_t, c)) ** (tau**2)
    r_s, r_t = case.sigma_s / case.alpha_s, case.sigma_t / case.alpha_t
    levels = ((c**2 + r_t**2) / (c**2 + r_s**2)) ** (tau**2)
    equal(left, shares, rtol=1e-8)
    equal(shares, levels, rtol=1e-8)


@SEEDS
@pytest.mark.equation("eq-noise-kl")
def test_divergence_falls(seed):
    """A mixture of two Gaussians under the linear SDE of Gaussian data stays one; its divergence on a grid."""
    case = Case(seed)
    tau, c, d, sigma = case.tau, case.c, 1e-4, case.sigma_s
    lam = case.lam_s
    line = torch.linspace(-9, 9, 6001, dtype=F64)

    def at(end):
        """log p̂ and log p of ζ at `end`, for the law that has two peaks at λ_s − d."""
        logs = []
        for mean, variance in ((-1.1, 0.4), (0.7, 1.3)):

            def both(u, y):
                return [((1 + tau**2) * omega(u, c) - tau**2) * y[0], float(variance_rate(tau, c)(u, y[1]))]

            m, v = solved(both, [mean, variance], (lam - d, end)) if end > lam - d else (mean, variance)
            logs.append(-((line - m) ** 2) / (2 * v) - math.log(2 * math.pi * v) / 2 + math.log(0.5))
        v = 1 / (1 - omega(end, c))
        return torch.logsumexp(torch.stack(logs), 0), -(line**2) / (2 * v) - math.log(2 * math.pi * v) / 2

    def divergence(log_a, log_b):
        return float(torch.trapezoid(log_a.exp() * (log_a - log_b), line))

    before, after = divergence(*at(lam - d)), divergence(*at(lam + d))
    log_a, log_b = at(lam)
    (ratio,) = torch.gradient(log_a - log_b, spacing=(line,))
    information = float(torch.trapezoid(log_a.exp() * ratio**2, line)) / sigma**2  # in x = σ ζ
    work = -(tau**2) * sigma**2 * information
    equal((after - before) / (2 * d), work, rtol=1e-4)
    bound = -2 * tau**2 * (1 - omega(lam, c)) * divergence(log_a, log_b)
    assert work <= bound


@SEEDS
@pytest.mark.equation("eq-noise-source")
def test_source_of_a_wrong_gain(seed):
    case = Case(seed)
    tau, c, lam, d = case.tau, case.c, case.lam_s, 1e-4
    k = 0.4 * case.uniform() - 0.2
    rate = variance_rate(tau, c, lambda u: 1 + k)
    e = []
    V = 1.2 / (1 - omega(lam - d, c))
    for end in (lam - d, lam, lam + d):
        (value,) = solved(rate, V, (lam - d, end)) if end > lam - d else (V,)
        e.append(value * (1 - omega(end, c)) - 1)
    w = omega(lam, c)
    right = -2 * tau**2 * (1 - w) * e[1] + 2 * (1 + tau**2) * k * w * (1 + e[1])
    equal((e[2] - e[0]) / (2 * d), right, rtol=1e-4, atol=1e-7)


def band(lam):
    """A smooth error in −1 < λ < 0.5."""
    return math.sin(math.pi * (lam + 1) / 1.5) ** 2 if -1 < lam < 0.5 else 0.0


@SEEDS
@pytest.mark.equation("eq-noise-response")
def test_response_to_first_order(seed):
    """What it leaves out is of the second order in k: with a tenth of k the relative error is a tenth."""
    case = Case(seed)
    tau, c = case.tau, case.c
    integral, _ = quad(
        lambda u: 2 * band(u) * (1 + tau**2) * omega(u, c) ** (tau**2) * omega(u, c), -1, 0.5, epsabs=1e-13
    )
    excess = []
    for size in (1e-2, 1e-3):
        rate = variance_rate(tau, c, lambda u, size=size: 1 + size * band(u))
        V = 1 / (1 - omega(-1.0, c))
        for span in ((-1.0, 0.5), (0.5, 9.0)):  # the error ends where its derivative jumps
            (V,) = solved(rate, V, span)
        e = V * (1 - omega(9.0, c)) - 1
        excess.append(abs(e - size * integral) / (size * abs(integral)))
    assert excess[0] < 0.1
    assert excess[1] < 0.2 * excess[0]


@SEEDS
@pytest.mark.equation("eq-noise-helps")
def test_threshold(seed):
    random = torch.Generator().manual_seed(seed)
    tau = 0.1 + 3 * torch.rand(500, generator=random, dtype=F64)
    share = torch.rand(500, generator=random, dtype=F64)
    left = (1 + tau**2) * share ** (tau**2) < 1
    assert torch.equal(left, share < (1 + tau**2) ** (-1 / tau**2))
    assert 0 < int(left.sum()) < 500
    equal((1 + 1.0) ** (-1 / 1.0), 0.5)
    equal((1 + 1e-8) ** (-1 / 1e-8), 1 / math.e, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-noise-bias")
def test_response_to_a_shift(seed):
    """The mean of ζ by SciPy, with b added to the denoiser in the band."""
    case = Case(seed)
    tau, c, b = case.tau, case.c, 0.7

    def rate(u, m):
        return ((1 + tau**2) * omega(u, c) - tau**2) * m + (1 + tau**2) * math.exp(u) * b * band(u)

    mean = 0.0
    for span in ((-1.0, 0.5), (0.5, 9.0)):
        (mean,) = solved(rate, mean, span)
    integral, _ = quad(lambda u: b * band(u) / c * (1 + tau**2) * omega(u, c) ** ((1 + tau**2) / 2), -1, 0.5)
    equal(mean * math.sqrt(1 - omega(9.0, c)), integral, rtol=1e-6)


def one_value_variance(tau, c, lam, V):
    """The variance of ζ after steps with one value, by the package's sampler."""
    process = LinearVP()
    D, T = Gaussian(process, torch.zeros(1, dtype=F64), std=c), process.time(torch.tensor(lam, dtype=F64))
    sigma = process.sigma(T).tolist()

    def run(x, g):
        return samplers.last(samplers.sa_solver(D, x, T, tau=tau, order=1, corrector=False, generator=g))

    return affine_law(run, len(lam) - 1).variance(V * sigma[0] ** 2) / sigma[-1] ** 2


@SEEDS
@pytest.mark.equation("eq-noise-gain")
def test_gain_of_one_value(seed):
    case = Case(seed)
    D = case.gaussian()

    def run(x, g):
        return samplers.last(samplers.sa_solver(D, x, case.grid, tau=case.tau, order=1, corrector=False, generator=g))

    law = affine_law(run, 1)
    G = (1 - case.share) * math.exp(-(case.tau**2) * case.h) + case.share * math.exp(case.h)
    equal(law.gain * case.sigma_s / case.sigma_t, G, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-noise-step")
def test_error_of_one_step(seed):
    """From the right variance: by the package's sampler, as printed, and from the posterior covariance."""
    case = Case(seed)
    w, h, tau2 = case.share, case.h, case.tau**2
    V = one_value_variance(case.tau, case.c, [case.lam_s, case.lam_t], 1 / (1 - w))
    left = V * (1 - omega(case.lam_t, case.c)) - 1
    right = -w * (1 - w) * (math.exp(h) - math.exp(-tau2 * h)) ** 2 / (1 - w + w * math.exp(2 * h))
    equal(left, right, rtol=1e-6)
    v_t = (case.alpha_t * case.c) ** 2 + case.sigma_t**2
    missing = case.alpha_t**2 * (1 - math.exp(-case.kappa * h)) ** 2 * case.c**2 * (1 - w)
    equal(-missing / v_t, right, rtol=1e-7)


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.5])
@pytest.mark.equation("eq-noise-first-order")
def test_discretisation_to_first_order(tau):
    """The middle by quadrature, and the sampler's own error, which tends to it like h."""
    c, span = 0.8, (-1.0, 1.2)
    middle, _ = quad(lambda u: omega(u, c) ** (1 + tau**2) * (1 - omega(u, c)), *span)
    ends = [omega(lam, c) for lam in span]
    # the walk stops before the data: the damping of the last stretch is that of its end
    ratio = []
    for n in (60, 120):
        h = (span[1] - span[0]) / n
        left = -((1 + tau**2) ** 2) * h * middle
        right = -(1 + tau**2) / 2 * h * (ends[1] ** (1 + tau**2) - ends[0] ** (1 + tau**2))
        equal(left, right, rtol=1e-8)
        V = one_value_variance(tau, c, np.linspace(*span, n + 1).tolist(), 1 / (1 - ends[0]))
        e_data = (V * (1 - ends[1]) - 1) * ends[1] ** (tau**2)  # damped from the end of the walk to the data
        ratio.append(e_data / right - 1)
    assert abs(ratio[1]) < 0.08
    assert ratio[0] / ratio[1] == pytest.approx(2, abs=0.25)


@SEEDS
@pytest.mark.equation("eq-noise-trade")
def test_trade(seed):
    """Both inequalities on random numbers, and beside them the exact errors where neither is close."""
    random = torch.Generator().manual_seed(seed)
    k, h, tau, c = (0.01 + torch.rand(400, 4, generator=random, dtype=F64)).unbind(1)
    lam = torch.linspace(-1.8, -0.4, 201, dtype=F64)
    u = c[:, None] ** 2 * (2 * lam).exp()
    share = u / (1 + u)
    B_0 = torch.trapezoid(2 * share, lam)
    B_tau = torch.trapezoid(2 * share ** (1 + tau[:, None] ** 2), lam)
    upper = (1 + tau**2) * (k * B_tau + h / 2) < k * B_0 + h / 2
    lower = k * (B_0 - (1 + tau**2) * B_tau) > tau**2 * h / 2
    assert torch.equal(upper, lower)
    assert 0 < int(upper.sum()) < 400


@pytest.mark.parametrize(("k", "helps"), [(0.12, True), (0.004, False)])
def test_the_trade_is_that_of_the_sampler(k, helps):
    """Timid in an early band, 400 steps, τ = 1 against 0: the rule and the recursion agree on both sides."""
    n, span = 400, (-2.3, 4.6)
    h = (span[1] - span[0]) / n
    early = (-1.8, -0.4)
    errors = {}
    for tau in (0.0, 1.0):
        V = 1 + math.exp(2 * span[0])
        for i in range(n):
            lam = span[0] + i * h
            w = omega(lam, 1.0) * (1 - k * (early[0] < lam < early[1]))
            decay = math.exp(-(tau**2) * h)
            V = (decay + (math.exp(h) - decay) * w) ** 2 * V + 1 - decay**2
        errors[tau] = abs(V * (1 - omega(span[1], 1.0)) - 1)
    B = {tau: quad(lambda u, tau=tau: 2 * omega(u, 1.0) ** (1 + tau**2), *early)[0] for tau in (0.0, 1.0)}
    assert (k * (B[0.0] - 2 * B[1.0]) > h / 2) is helps
    assert (errors[1.0] < errors[0.0]) is helps


@SEEDS
@pytest.mark.equation("eq-noise-corrector")
def test_corrector_on_a_gaussian(seed):
    """Two starts with variances that differ by one: what the package's Langevin leaves of the difference."""
    case = Case(seed)
    snr, D = 0.05 + 0.4 * case.uniform(), case.gaussian()
    step = (2 * snr * case.sigma_s) ** 2
    law = affine_law(
        lambda x, g: samplers.last(samplers.langevin(D, x, case.grid[0], step=step, steps=1, generator=g)), 1
    )
    v = (case.alpha_s * case.c) ** 2 + case.sigma_s**2
    equal(law.variance(2.0) - law.variance(1.0), (1 - step / (2 * v)) ** 2, rtol=1e-7)
    equal((1 - step / (2 * v)) ** 2, (1 - 2 * snr**2 * (1 - case.share)) ** 2, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-noise-corrector-tau")
def test_corrector_as_tau(seed):
    """The remainder falls with the fourth power of snr."""
    case = Case(seed)
    M, w = 1 + seed, case.share

    def remainder(snr):
        tau2 = 2 * M * snr**2 / case.h
        return math.exp(-2 * tau2 * case.h * (1 - w)) - (1 - 2 * snr**2 * (1 - w)) ** (2 * M)

    assert abs(remainder(0.05)) < 10 * M * 0.05**4
    assert remainder(0.1) / remainder(0.05) == pytest.approx(16, rel=0.1)


def exact_flow(D, x, T):
    yield State(T[0], x, None)
    yield State(T[-1], D.flow(x, T[0], T[-1]), None)


@SEEDS
@pytest.mark.equation("eq-noise-churn")
def test_churn(seed):
    """Up by the forward kernel, down by the exact flow; and the approximation with an error of order γ²."""
    case = Case(seed)
    c, r, w = case.c, case.sigma_s / case.alpha_s, case.share

    def factors(gamma):
        r_hat = (1 + gamma) * r
        D = Gaussian(EDM(), torch.zeros(1, dtype=F64), std=c)
        times = EDM().time(-torch.tensor([r_hat, r], dtype=F64).log())
        down = float(D.flow(torch.ones(1, 1, dtype=F64), *times))
        up = [V + r_hat**2 - r**2 for V in (2.0, 1.0)]
        first = down**2 * (up[0] - up[1])
        return (
            first,
            (c**2 + r**2) / (c**2 + r_hat**2),
            1 / (1 + ((1 + gamma) ** 2 - 1) * (1 - w)),
            1 - 2 * gamma * (1 - w),
        )

    first, second, third, _ = factors(0.3)
    equal(first, second, rtol=1e-6)
    equal(second, third, rtol=1e-9)
    small = [factors(gamma) for gamma in (2e-3, 1e-3)]
    assert abs(small[1][2] - small[1][3]) < 1e-5
    assert (small[0][2] - small[0][3]) / (small[1][2] - small[1][3]) == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("loops", [1, 2, 4])
@pytest.mark.equation("eq-noise-restart")
def test_restart(loops):
    case = Case(loops)
    c, r_a, r_b = case.c, 3.0, 0.4
    D = Gaussian(case.process, torch.zeros(1, dtype=F64), std=c)
    T = case.process.time(-torch.tensor([5.0, r_a, r_b], dtype=F64).log())

    def run(x, g):
        method = samplers.restart(D, x, T[[0, 2]], interval=T[1:], repeats=loops, method=exact_flow, generator=g)
        return samplers.last(method)

    law = affine_law(run, loops)
    v = (float(case.process.alpha(T[0])) * c) ** 2 + float(case.process.sigma(T[0])) ** 2
    end = (float(case.process.alpha(T[2])) * c) ** 2 + float(case.process.sigma(T[2])) ** 2
    e_0 = 0.2  # carried to r_b unchanged by the first descent
    e_K = law.variance((1 + e_0) * v) / end - 1
    equal(e_K / e_0, ((c**2 + r_b**2) / (c**2 + r_a**2)) ** loops, rtol=1e-6)
