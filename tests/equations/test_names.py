"""Every equation of *One model, five names*: both sides as printed, evaluated independently.

A random process has smooth α and σ with α² + σ² ≠ 1; its rates are finite differences or automatic derivatives, and
integrals are trapezium or Gauss–Hermite sums.
"""

import math
from functools import partial

import pytest
import torch
from odes import rk4
from sides import F64, SEEDS, equal, hermite

from minidiff import objectives, times
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.denoiser import Denoiser
from minidiff.process import EDM, CosineVP, LinearVP, RectifiedFlow, Shifted, Tabulated, zero_terminal
from minidiff.samplers import ddim, last

NODES, WEIGHTS = hermite(80)
LAM = torch.linspace(-3, 3, 13, dtype=F64)


def derivative(f, t):
    """f′(t) by automatic differentiation, for f that maps (n,) to (n,) element by element."""
    t = t.detach().clone().requires_grad_(True)
    return torch.autograd.grad(f(t).sum(), t)[0]


class Scales:
    """A random process at random times: α, σ, their rates and λ′, and a pair (x_0, ε) with its guess (x̂_0, ε̂)."""

    def __init__(self, seed, n=6):
        self.random = torch.Generator().manual_seed(seed)
        a, b, c, p = (0.3 + self.uniform(4)).tolist()
        self.of_alpha = lambda t: (1 + a) * torch.exp(-b * t - t**2)
        self.of_sigma = lambda t: c * t**p + 0.1 * t
        self.of_lam = lambda t: torch.log(self.of_alpha(t) / self.of_sigma(t))
        self.t = 0.1 + 0.8 * self.uniform(n)
        self.alpha, self.sigma = self.of_alpha(self.t), self.of_sigma(self.t)
        self.alpha_rate, self.sigma_rate = derivative(self.of_alpha, self.t), derivative(self.of_sigma, self.t)
        self.lam_rate = derivative(self.of_lam, self.t)
        self.x0, self.eps, self.x0_hat = (self.normal(n) for _ in range(3))
        self.x = self.alpha * self.x0 + self.sigma * self.eps
        self.eps_hat = (self.x - self.alpha * self.x0_hat) / self.sigma
        self.snr = (self.alpha / self.sigma) ** 2

    def uniform(self, *shape):
        return torch.rand(shape, generator=self.random, dtype=F64)

    def normal(self, *shape):
        return torch.randn(shape, generator=self.random, dtype=F64)

    def named(self, x0, eps):
        """The five quantities from their definitions in the notation page."""
        return {
            "x0": x0,
            "eps": eps,
            "v": self.alpha * eps - self.sigma * x0,
            "score": -eps / self.sigma,
            "velocity": self.alpha_rate * x0 + self.sigma_rate * eps,
        }


# One pair, five names


@SEEDS
@pytest.mark.equation("eq-names-solve")
def test_solving_for_the_pair(seed):
    s = Scales(seed)
    a, b = s.normal(2, 6)
    y = a * s.x0_hat + b * s.eps_hat
    delta = s.alpha * b - s.sigma * a
    equal(s.x0_hat, (b * s.x - s.sigma * y) / delta, rtol=1e-7)
    equal(s.eps_hat, (s.alpha * y - a * s.x) / delta, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-names-table")
def test_rows_of_the_table(seed):
    s = Scales(seed)
    zero, one = torch.zeros(6), torch.ones(6)
    rows = {
        "x0": (one, zero, -s.sigma),
        "eps": (zero, one, s.alpha),
        "v": (-s.sigma, s.alpha, s.alpha**2 + s.sigma**2),
        "score": (zero, -1 / s.sigma, -s.alpha / s.sigma),
        "velocity": (s.alpha_rate, s.sigma_rate, s.alpha * s.sigma_rate - s.sigma * s.alpha_rate),
    }
    named = s.named(s.x0, s.eps)
    for name, (a, b, delta) in rows.items():
        equal(named[name], a * s.x0 + b * s.eps)
        matrix = torch.stack([torch.stack([s.alpha, s.sigma]), torch.stack([a.double(), b.double()])]).permute(2, 0, 1)
        equal(torch.linalg.det(matrix), delta)


@SEEDS
@pytest.mark.equation("eq-names-v")
@pytest.mark.equation("eq-names-velocity")
def test_v_and_velocity(seed):
    s = Scales(seed)
    said = s.named(s.x0_hat, s.eps_hat)
    v, u = said["v"], said["velocity"]
    length2 = s.alpha**2 + s.sigma**2
    equal(s.x0_hat, (s.alpha * s.x - s.sigma * v) / length2)
    equal(s.eps_hat, (s.sigma * s.x + s.alpha * v) / length2)
    delta = s.alpha * s.sigma_rate - s.sigma * s.alpha_rate
    equal(s.x0_hat, (s.sigma_rate * s.x - s.sigma * u) / delta)
    equal(s.eps_hat, (s.alpha * u - s.alpha_rate * s.x) / delta)


@SEEDS
@pytest.mark.equation("eq-names-wronskian")
@pytest.mark.equation("eq-names-angle")
def test_determinant_and_angle(seed):
    s = Scales(seed)
    wronskian = s.alpha * s.sigma_rate - s.sigma * s.alpha_rate
    equal(wronskian, -s.alpha * s.sigma * s.lam_rate)
    assert bool((wronskian > 0).all())
    speed = derivative(lambda t: torch.atan2(s.of_sigma(t), s.of_alpha(t)), s.t)
    length2 = s.alpha**2 + s.sigma**2
    equal(speed, wronskian / length2)
    equal(wronskian / length2, -s.alpha * s.sigma / length2 * s.lam_rate)


@SEEDS
@pytest.mark.equation("eq-names-circle")
@pytest.mark.equation("eq-names-velocity-v")
def test_v_is_the_direction_of_turning(seed):
    s = Scales(seed)
    rho, phi = torch.hypot(s.alpha, s.sigma), torch.atan2(s.sigma, s.alpha)
    v = s.named(s.x0, s.eps)["v"]
    equal(s.x, rho * (phi.cos() * s.x0 + phi.sin() * s.eps))
    equal(v, rho * (phi.cos() * s.eps - phi.sin() * s.x0))
    equal(v, derivative(lambda angle: rho * (angle.cos() * s.x0 + angle.sin() * s.eps), phi))
    u = derivative(lambda t: s.of_alpha(t) * s.x0 + s.of_sigma(t) * s.eps, s.t)
    rho_rate = derivative(lambda t: torch.hypot(s.of_alpha(t), s.of_sigma(t)), s.t)
    phi_rate = derivative(lambda t: torch.atan2(s.of_sigma(t), s.of_alpha(t)), s.t)
    equal(u, rho_rate / rho * s.x + phi_rate * v)


# Errors


@SEEDS
@pytest.mark.equation("eq-names-error")
@pytest.mark.equation("eq-names-weights")
@pytest.mark.equation("eq-names-amplification")
def test_errors_are_proportional(seed):
    s = Scales(seed)
    truth, guess = s.named(s.x0, s.eps), s.named(s.x0_hat, s.eps_hat)
    a, b = s.normal(2, 6)
    y, y_hat = a * s.x0 + b * s.eps, a * s.x0_hat + b * s.eps_hat
    delta = s.alpha * b - s.sigma * a
    equal(y - y_hat, -delta / s.sigma * (s.x0 - s.x0_hat), rtol=1e-7)
    square = (s.x0 - s.x0_hat) ** 2
    error = {name: (truth[name] - guess[name]) ** 2 for name in truth}
    equal(error["eps"], s.alpha**2 / s.sigma**2 * square)
    equal(error["v"], (s.alpha**2 + s.sigma**2) ** 2 / s.sigma**2 * square)
    equal(error["score"], s.alpha**2 / s.sigma**4 * square)
    equal(error["velocity"], (s.alpha * s.lam_rate) ** 2 * square)
    equal((square / error["eps"]).sqrt(), s.sigma / s.alpha)  # |σ/Δ| of ε
    equal((square / error["v"]).sqrt(), s.sigma / (s.alpha**2 + s.sigma**2))


@pytest.mark.equation("eq-names-flow-weight")
def test_weight_of_the_velocity_on_straight_lines():
    t = torch.linspace(0.05, 0.95, 19, dtype=F64)
    alpha = 1 - t
    lam_rate = derivative(lambda u: torch.log((1 - u) / u), t)
    root_snr = (1 - t) / t
    equal((alpha * lam_rate) ** 2, 1 / t**2)
    equal(1 / t**2, (1 + root_snr) ** 2)


@SEEDS
@pytest.mark.equation("eq-names-forms")
def test_three_forms_of_every_loss_agree(seed):
    """With the printed factors the three squared errors of one prediction are one loss, for α² + σ² = 1."""
    random = torch.Generator().manual_seed(seed)
    angle = torch.linspace(0.1, 1.4, 9, dtype=F64)
    alpha, sigma = angle.cos(), angle.sin()
    x0, eps, x0_hat = torch.randn(3, 9, generator=random, dtype=F64)
    eps_hat = (alpha * x0 + sigma * eps - alpha * x0_hat) / sigma
    on = [x0 - x0_hat, eps - eps_hat, alpha * (eps - eps_hat) - sigma * (x0 - x0_hat)]
    S = (alpha / sigma) ** 2
    gamma, k, p, s = 2.0, 0.7, 1.3, 0.6
    one = torch.ones_like(S)
    forms = {
        "simple": (S, one, S / (S + 1)),
        "uniform": (one, 1 / S, 1 / (S + 1)),
        "v": (S + 1, (S + 1) / S, one),
        "truncated_snr": (S.clamp(min=1), (1 / S).clamp(min=1), S.clamp(min=1) / (S + 1)),
        "min_snr": (S.clamp(max=gamma), (gamma / S).clamp(max=1), S.clamp(max=gamma) / (S + 1)),
        "p2": (S / (k + S) ** p, 1 / (k + S) ** p, S / ((S + 1) * (k + S) ** p)),
        "edm": (S + 1 / s**2, 1 + 1 / (s**2 * S), (s**2 * S + 1) / (s**2 * (S + 1))),
        "velocity": ((1 + S.sqrt()) ** 2, (1 + S.sqrt()) ** 2 / S, (1 + S.sqrt()) ** 2 / (S + 1)),
    }
    parameters = {"min_snr": {"gamma": gamma}, "p2": {"k": k, "gamma": p}, "edm": {"sigma_data": s}}
    for name, factors in forms.items():
        first, second, third = (factor * error**2 for factor, error in zip(factors, on, strict=True))
        equal(first, second)
        equal(first, third)
        # and the package's weight on x_0 is the printed one; the flow's own process is the straight line
        process = RectifiedFlow() if name == "velocity" else CosineVP(0.0)
        t = process.time(torch.log(alpha / sigma))
        equal(getattr(objectives, name)(process, t, **parameters.get(name, {})), factors[0], rtol=1e-8)


# Weight and density


@SEEDS
@pytest.mark.equation("eq-names-density")
@pytest.mark.equation("eq-names-effective-loss")
def test_the_loss_in_lambda(seed):
    s = Scales(seed)
    t = torch.linspace(0.02, 0.98, 40_001, dtype=F64)
    lam, speed = s.of_lam(t), derivative(s.of_lam, t).abs()
    p = 0.2 + t * (1 - t)
    p = p / torch.trapezoid(p, t)
    p_lam = p / speed
    edges = slice(3000, 30_000, 3000)
    mass_t = torch.cumulative_trapezoid(p, t)[edges]
    mass_lam = torch.cumulative_trapezoid(p_lam, -lam)[edges]
    equal(mass_lam, mass_t, rtol=1e-5)

    w, error = torch.exp(-t) + t**2, 1 / (1 + torch.exp(2 * lam))  # any weight, any mean squared error of x_0
    alpha, sigma = s.of_alpha(t), s.of_sigma(t)
    noise_error = (alpha / sigma) ** 2 * error
    omega = w * torch.exp(-2 * lam) * p_lam
    left = torch.trapezoid(p * w * error, t)
    equal(torch.trapezoid(omega * noise_error, -lam), left, rtol=1e-5)


@SEEDS
@pytest.mark.equation("eq-names-elbo")
def test_the_bound_is_an_area(seed):
    """For data N(0, c²) and the denoiser of N(0, k²): errors by quadrature over x_0 and ε."""
    random = torch.Generator().manual_seed(seed)
    c, k = (0.4 + torch.rand(2, generator=random, dtype=F64)).tolist()
    lam = torch.linspace(-4, 3, 4001, dtype=F64)
    snr = torch.exp(2 * lam)

    def errors(level):
        r = math.exp(-level)  # coordinates x/α
        x0, eps = c * NODES[:, None], NODES[None, :]
        guess = k**2 / (k**2 + r**2) * (x0 + r * eps)
        guessed_noise = (x0 + r * eps - guess) / r
        both = WEIGHTS[:, None] * WEIGHTS
        return (both * (x0 - guess) ** 2).sum(), (both * (eps - guessed_noise) ** 2).sum()

    of_x0, of_eps = (torch.stack(values) for values in zip(*map(errors, lam.tolist()), strict=True))
    equal(torch.trapezoid(of_x0, snr) / 2, torch.trapezoid(of_eps, lam), rtol=1e-5)


@SEEDS
@pytest.mark.equation("eq-names-scoreflow")
def test_likelihood_weight_of_the_score(seed):
    s = Scales(seed)
    g2 = derivative(lambda t: s.of_sigma(t) ** 2, s.t) - 2 * s.alpha_rate / s.alpha * s.sigma**2
    truth, guess = s.named(s.x0, s.eps), s.named(s.x0_hat, s.eps_hat)
    noise_error = (truth["eps"] - guess["eps"]) ** 2
    equal(g2 / 2 * (truth["score"] - guess["score"]) ** 2, noise_error * s.lam_rate.abs(), rtol=1e-8)


def histogram_density(lam_of, draw, lam):
    """The density of λ from the distribution function of t by a central difference: lam_of falls, draw is P(T ≤ t)."""
    h = 1e-5

    def mass_above(level):  # P(λ ≥ level) = P(T ≤ t(level)), t by bisection
        low, high = torch.full_like(level, 1e-12), torch.full_like(level, 1 - 1e-12)
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (
                torch.where(lam_of(middle) > level, middle, low),
                torch.where(lam_of(middle) > level, high, middle),
            )
        return draw(low)

    return (mass_above(lam - h) - mass_above(lam + h)) / (2 * h)


@pytest.mark.equation("eq-names-cosine-density")
@pytest.mark.equation("eq-names-flow-density")
def test_densities_of_three_clocks():
    def cosine(t):
        return -torch.log(torch.tan(math.pi * t / 2))

    def straight(t):
        return torch.log((1 - t) / t)

    m, c = 0.4, 0.8
    got = histogram_density(cosine, lambda t: t, LAM)
    equal(got, 1 / (math.pi * torch.cosh(LAM)), rtol=1e-5)
    got = histogram_density(straight, lambda t: t, LAM)
    equal(got, 1 / (4 * torch.cosh(LAM / 2) ** 2), rtol=1e-5)
    got = histogram_density(straight, lambda t: torch.special.ndtr((t.logit() - m) / c), LAM)
    equal(got, torch.exp(-(((LAM + m) / c) ** 2) / 2) / (c * math.sqrt(2 * math.pi)), rtol=1e-4, atol=1e-9)


@pytest.mark.equation("eq-names-effective")
def test_rows_of_the_effective_weights():
    """The printed curves against weight, e^{−2λ} and the density, taken at times by finite differences of λ."""
    cosine, straight, uniform = CosineVP(0.0), RectifiedFlow(), times.uniform_density()
    logit, normal = times.logit_normal_density(0.4, 0.8), times.log_normal_density(EDM())

    def gauss(mean, std):
        return torch.exp(-(((LAM - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))

    sech, s, b, gamma = 1 / torch.cosh(LAM), 0.5, 0.7, 5.0
    inside = (torch.erf(torch.tensor((math.log(80) + 1.2) / 1.2 / 2**0.5)) + 1) / 2  # EDM's range cuts the tails
    inside = inside - (torch.erf(torch.tensor((math.log(0.002) + 1.2) / 1.2 / 2**0.5)) + 1) / 2
    rows = [
        (torch.ones_like(LAM), objectives.elbo, uniform, cosine),
        (torch.ones_like(LAM), objectives.likelihood, uniform, straight),
        (sech / math.pi, objectives.simple, uniform, cosine),
        (2 / math.pi * torch.exp(-LAM), objectives.v, uniform, cosine),
        (
            (gamma * torch.exp(-2 * LAM)).clamp(max=1) * sech / math.pi,
            partial(objectives.min_snr, gamma=gamma),
            uniform,
            cosine,
        ),
        (torch.exp(-LAM) * sech**2 / (2 * math.pi), objectives.p2, uniform, cosine),
        (1 / (1 + torch.exp(2 * LAM - b)), partial(objectives.sigmoid, bias=b), uniform, cosine),
        (
            (1 + torch.exp(-2 * LAM) / s**2) * gauss(1.2, 1.2) / inside,
            partial(objectives.edm, sigma_data=s),
            normal,
            EDM(),
        ),
        (torch.exp(-LAM), objectives.velocity, uniform, straight),
        ((1 + torch.exp(-LAM)) ** 2 * gauss(-0.4, 0.8), objectives.velocity, logit, straight),
    ]
    for printed, weight, density, process in rows:
        t, h = process.time(LAM), 1e-6
        speed = (process.lam(t - h * t * (1 - t)) - process.lam(t + h * t * (1 - t))) / (2 * h * t * (1 - t))
        equal(printed, weight(process, t) * torch.exp(-2 * LAM) * density.pdf(t) / speed, rtol=1e-6, atol=1e-12)


# What the curve means


class Mixture:
    """Two Gaussians on a line and their exact denoiser, at levels λ on a grid; expectations by quadrature over ε."""

    def __init__(self, seed, low=-6.0, high=3.0, n=601):
        random = torch.Generator().manual_seed(seed)
        means = 2 * torch.rand(2, 1, generator=random, dtype=F64) - 1
        shares = 0.3 + torch.rand(2, generator=random, dtype=F64)
        self.process = CosineVP(0.0)
        self.oracle = GaussianMixture(self.process, shares, means, stds=0.4)
        self.lam = torch.linspace(low, high, n, dtype=F64)
        self.x0 = 0.3 + float(means[0])
        at = [self.at(level) for level in self.lam]
        self.error, self.divergence = (torch.stack(values) for values in zip(*at, strict=True))

    def at(self, level):
        """E|ε − ε̂|² and KL(q(x_λ | x_0) ‖ p(x_λ)) for the one x_0."""
        t = self.process.time(level)
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        x = alpha * self.x0 + sigma * NODES
        eps_hat = (x - alpha * self.oracle(x[:, None], t)[:, 0]) / sigma
        log_q = -(NODES**2) / 2 - torch.log(sigma) - math.log(2 * math.pi) / 2
        log_p = self.oracle.log_prob(x[:, None], t)
        return WEIGHTS @ (NODES - eps_hat) ** 2, WEIGHTS @ (log_q - log_p)


@SEEDS
@pytest.mark.equation("eq-names-immse")
def test_slope_of_the_divergence_is_the_noise_error(seed):
    mixture = Mixture(seed, n=3)
    for level in torch.tensor([-2.0, -0.7, 0.4, 1.6], dtype=F64):
        h = 1e-4
        slope = (mixture.at(level + h)[1] - mixture.at(level - h)[1]) / (2 * h)
        equal(slope, mixture.at(level)[0], rtol=1e-5, atol=1e-8)


@SEEDS
@pytest.mark.equation("eq-names-parts")
@pytest.mark.equation("eq-names-mass")
@pytest.mark.equation("eq-names-augmented")
def test_a_falling_weight_is_an_average_of_bounds(seed):
    """J is the divergence itself here, from its definition, since the denoiser is exact."""
    mixture = Mixture(seed)
    lam, J = mixture.lam, mixture.divergence
    omega = (1 + torch.exp(lam[0] - 1)) / (1 + torch.exp(lam - 1))  # falls from 1
    fall = torch.exp(lam - 1) * (1 + torch.exp(lam[0] - 1)) / (1 + torch.exp(lam - 1)) ** 2  # −ω′, by hand
    weighted = torch.trapezoid(omega * mixture.error, lam)
    equal(weighted, omega[-1] * J[-1] - omega[0] * J[0] + torch.trapezoid(fall * J, lam), rtol=1e-5)
    equal(omega[-1] + torch.trapezoid(fall, lam), 1.0, rtol=1e-5)
    average = omega[-1] * J[-1] + torch.trapezoid(fall * J, lam)
    equal(weighted, average - J[0], rtol=1e-5)
    rising = 1 + 0.1 * lam**3  # by parts needs no monotone weight
    left = torch.trapezoid(rising * mixture.error, lam)
    parts = rising[-1] * J[-1] - rising[0] * J[0] - torch.trapezoid(0.3 * lam**2 * J, lam)
    equal(left, parts, rtol=1e-4, atol=1e-4)


@SEEDS
@pytest.mark.equation("eq-names-path-bound")
def test_the_path_bounds_its_end_point(seed):
    """A fine chain of linear denoisers x̂_0 = a_n x: its marginals are Gaussian; J is the area, and its own sum."""
    random = torch.Generator().manual_seed(seed)
    lam = torch.linspace(-3, 1.5, 600, dtype=F64)
    alpha, sigma2, snr = torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam), torch.exp(2 * lam)
    x0, tilt = 0.9, 0.5 + torch.rand((), generator=random, dtype=F64)
    gain = tilt * alpha  # x̂_0 = gain · x, right for data N(0, 1) at tilt 1
    error = (1 - alpha * gain) ** 2 * x0**2 + gain**2 * sigma2  # of x_0, x = α x_0 + σ ε
    kept = 1 - alpha * gain  # ε̂ = kept · x/σ
    noise_error = (1 - kept) ** 2 + (kept * alpha * x0) ** 2 / sigma2

    def end_point(n, variance):  # KL(q(x_n | x_0) ‖ N(0, variance))
        ratio = sigma2[n] / variance
        return (ratio - 1 - torch.log(ratio) + (alpha[n] * x0) ** 2 / variance) / 2

    variance = torch.tensor(1.0, dtype=F64)
    total, gaps = end_point(0, variance), []
    start = total
    for n in range(1, len(lam)):
        total = total + (snr[n] - snr[n - 1]) / 2 * error[n - 1]
        rho = snr[n - 1] / snr[n]
        slope = alpha[n - 1] * sigma2[n] / (alpha[n] * sigma2[n - 1]) + alpha[n] * (1 - rho) * gain[n - 1]
        variance = slope**2 * variance + sigma2[n] * (1 - rho)
        gaps.append(total - end_point(n, variance))
    assert bool((torch.stack(gaps) > 0).all())
    equal(start + torch.trapezoid(noise_error, lam), total, rtol=2e-2)  # steps of 0.0075 in λ


@pytest.mark.equation("eq-names-sigmoid-slope")
def test_slope_of_the_sigmoid_weight():
    for b in (-2.0, 0.0, 1.5):
        slope = derivative(lambda lam, b=b: 1 / (1 + torch.exp(2 * lam - b)), LAM)
        equal(-slope, 1 / (2 * torch.cosh(LAM - b / 2) ** 2))


# The gradient


@SEEDS
@pytest.mark.equation("eq-names-second-moment")
@pytest.mark.equation("eq-names-cauchy")
@pytest.mark.equation("eq-names-best-density")
def test_second_moment_of_the_gradient(seed):
    """λ takes finitely many values (an integral is a sum), the plain gradient is a random vector at each."""
    random = torch.Generator().manual_seed(seed)
    levels, outcomes = 7, 11
    p, omega = 0.1 + torch.rand(2, levels, generator=random, dtype=F64)
    p = p / p.sum()
    plain = torch.randn(levels, outcomes, 4, generator=random, dtype=F64)  # equally likely outcomes
    G = plain.square().sum(2).mean(1)
    seen = (omega / p)[:, None, None] * plain
    left = (p * seen.square().sum(2).mean(1)).sum()
    equal(left, (omega**2 / p * G).sum())
    lower = (omega * G.sqrt()).sum() ** 2
    equal(lower, ((omega * G.sqrt() / p.sqrt()) * p.sqrt()).sum() ** 2)
    assert float(lower) <= float(left)
    best = omega * G.sqrt()
    best = best / best.sum()
    equal((omega**2 / best * G).sum(), lower)
    for _ in range(20):
        other = best * torch.exp(0.1 * torch.randn(levels, generator=random, dtype=F64))
        assert float((omega**2 / (other / other.sum()) * G).sum()) >= float(lower)


@SEEDS
@pytest.mark.equation("eq-names-signs")
def test_random_signs(seed):
    g = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 5)  # all 32 signs
    equal((every @ g).square().sum(1).mean(), g.square().sum())


# Schedules


@pytest.mark.equation("eq-names-block")
def test_a_block_of_pixels():
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    process = LinearVP()
    alpha, sigma = process.alpha(t), process.sigma(t)
    for size in (64, 128, 256):
        pixels = (size // 64) ** 2
        mean = torch.full((pixels,), 1 / pixels, dtype=F64)
        signal, noise = alpha * mean.sum(), sigma * torch.linalg.vector_norm(mean)
        equal((signal / noise) ** 2, (size / 64) ** 2 * (alpha / sigma) ** 2)


@pytest.mark.equation("eq-names-shift")
def test_a_shifted_clock_divides_the_snr():
    t = torch.linspace(0.05, 0.95, 19, dtype=F64)
    for k in (0.5, 3.0):
        u = k * t / (1 + (k - 1) * t)
        ratio = u / (1 - u)
        equal(ratio, k * t / (1 - t))
        equal(k * t / (1 - t), k * (t / (1 - t)))
        shifted = Shifted(RectifiedFlow(), k)
        snr = (shifted.alpha(t) / shifted.sigma(t)) ** 2
        equal(snr, ((1 - t) / t) ** 2 / k**2)


# The end of the chain


@SEEDS
@pytest.mark.equation("eq-names-component")
def test_signal_to_noise_along_a_direction(seed):
    random = torch.Generator().manual_seed(seed)
    root = torch.randn(5, 5, generator=random, dtype=F64)
    covariance = root @ root.mT
    e = torch.randn(5, generator=random, dtype=F64)
    e = e / e.norm()
    alpha, sigma = 0.3, 0.8
    signal = e @ (alpha**2 * covariance) @ e
    noise = e @ (sigma**2 * torch.eye(5, dtype=F64)) @ e
    c = e @ covariance @ e
    equal(signal / noise, alpha**2 * c / sigma**2)
    equal(alpha**2 * c / sigma**2, c * (alpha / sigma) ** 2)


def at_the_end(seed):
    random = torch.Generator().manual_seed(seed)
    m, c = (0.5 + 2 * torch.rand(2, generator=random, dtype=F64)).tolist()
    process = LinearVP(0.1, 6.0)  # ends early: α_T² = 0.047
    end = torch.ones((), dtype=F64)
    return process, float(process.alpha(end)) ** 2, float(process.sigma(end)) ** 2, m, 10 * c


@SEEDS
@pytest.mark.equation("eq-names-ode-shrink")
def test_the_deterministic_sampler_shrinks(seed):
    """The probability-flow equation dx/dλ = x + … of Gaussian data, by Runge–Kutta, on two starting points."""
    process, alpha2, sigma2, m, c = at_the_end(seed)

    def slope(t, x):
        alpha, sigma = process.alpha(t), process.sigma(t)
        alpha_rate, sigma_rate = process.rates(t)
        x0 = m + alpha * c / (alpha**2 * c + sigma**2) * (x - alpha * m)
        return alpha_rate * x0 + sigma_rate * (x - alpha * x0) / sigma

    x, n = torch.tensor([0.0, 1.0], dtype=F64), 300
    grid = torch.linspace(1, 1e-7**0.25, n + 1, dtype=F64) ** 4  # fine near the data
    x = rk4(slope, x, grid)
    equal((x[1] - x[0]) / math.sqrt(c), 1 / math.sqrt(alpha2 * c + sigma2), rtol=1e-4)


@SEEDS
@pytest.mark.equation("eq-names-sde-shrink")
@pytest.mark.equation("eq-names-grey")
def test_the_exact_reverse_process_from_the_wrong_noise(seed):
    """q(x_0 | x_T) by Bayes' rule on a grid, averaged over x_T ~ N(0, 1)."""
    _, alpha2, sigma2, m, c = at_the_end(seed)
    x0 = torch.linspace(m - 12 * math.sqrt(c), m + 12 * math.sqrt(c), 4001, dtype=F64)
    log = -((x0 - m) ** 2) / (2 * c) - (NODES[:, None] - math.sqrt(alpha2) * x0) ** 2 / (2 * sigma2)
    posterior = torch.softmax(log, 1)
    mixed = WEIGHTS @ posterior
    mean = mixed @ x0
    variance = mixed @ (x0 - mean) ** 2
    total = alpha2 * c + sigma2
    equal(variance / c, alpha2 * c / total**2 + sigma2 / total, rtol=1e-6)
    equal(mean, sigma2 / total * m, rtol=1e-6)


@pytest.mark.equation("eq-names-rescale")
def test_rescaling_to_zero():
    betas = torch.linspace(0.1, 0.3, 5, dtype=F64)
    before = (1 - betas).cumprod(0).sqrt()
    chain = Tabulated(zero_terminal(tuple(betas.tolist())))
    after = chain.alpha(torch.arange(1, 6, dtype=F64) / 5)
    equal(after, before[0] * (before - before[-1]) / (before[0] - before[-1]))
    assert float(after[-1]) == 0.0


# EDM


@SEEDS
@pytest.mark.equation("eq-names-cin")
@pytest.mark.equation("eq-names-cout-square")
@pytest.mark.equation("eq-names-edm")
@pytest.mark.equation("eq-names-edm-weight")
@pytest.mark.equation("eq-names-edm-target")
def test_preconditioning(seed):
    """Moments of x_0 and ε by quadrature, the best skip by minimising on a grid."""
    random = torch.Generator().manual_seed(seed)
    alpha, sigma, s = (0.3 + torch.rand(3, generator=random, dtype=F64)).tolist()
    x0, eps = s * NODES[:, None], NODES[None, :]
    weights = WEIGHTS[:, None] * WEIGHTS
    x = alpha * x0 + sigma * eps

    def variance(values):
        return (weights * values**2).sum()

    q = alpha**2 * s**2 + sigma**2
    equal(variance(x) ** -0.5, 1 / math.sqrt(q))
    for skip in (-0.4, 0.3, 1.1):
        equal(variance(x0 - skip * x), (1 - alpha * skip) ** 2 * s**2 + skip**2 * sigma**2)
    skips = torch.linspace(-1, 3, 40_001, dtype=F64)
    scale2 = (1 - alpha * skips) ** 2 * s**2 + skips**2 * sigma**2
    best = skips[scale2.argmin()]
    equal(best, alpha * s**2 / q, rtol=0, atol=1e-4)
    equal(scale2.min().sqrt(), sigma * s / math.sqrt(q), rtol=1e-6)
    c_skip, c_out = alpha * s**2 / q, sigma * s / math.sqrt(q)
    equal(1 / c_out**2, (alpha**2 * s**2 + sigma**2) / (sigma**2 * s**2))
    equal(1 / c_out**2, (alpha / sigma) ** 2 + 1 / s**2)
    target = (x0 - c_skip * x) / c_out
    theta = math.atan2(sigma, alpha * s)
    equal(variance(target), 1.0)
    equal(target, (sigma * x0 / s - alpha * s * eps) / math.sqrt(q))
    equal(target, math.sin(theta) * x0 / s - math.cos(theta) * eps)


# The width of a network


@SEEDS
@pytest.mark.equation("eq-names-rank")
def test_no_narrow_layer_beats_the_eigenvalues(seed):
    """y* takes 200 equally likely values; h may be anything: the best W and h by alternating least squares."""
    random = torch.Generator().manual_seed(seed)
    d, m = 6, 2
    y = torch.randn(200, d, generator=random, dtype=F64) * torch.linspace(2, 0.3, d, dtype=F64)
    eigenvalues = torch.linalg.eigvalsh(y.mT @ y / 200).flip(0)
    floor = eigenvalues[m:].sum()
    W = torch.randn(d, m, generator=random, dtype=F64)
    for _ in range(300):
        h = torch.linalg.lstsq(W, y.mT).solution
        error = (y.mT - W @ h).square().sum(0).mean()
        assert float(error) >= float(floor) * (1 - 1e-9)
        W = torch.linalg.lstsq(h.mT, y).solution.mT
    equal(error, floor, rtol=1e-6)


def flat(seed, d=7, k=2):
    """Gaussian data in a plane of k of d dimensions (almost), its exact denoiser, and a frame across the plane."""
    random = torch.Generator().manual_seed(seed)
    frame = torch.linalg.qr(torch.randn(d, d, generator=random, dtype=F64)).Q
    plane, across = frame[:, :k], frame[:, k:]
    covariance = plane @ plane.mT + 1e-12 * torch.eye(d, dtype=F64)
    return random, plane, across, Gaussian(LinearVP(), torch.zeros(d, dtype=F64), covariance)


@SEEDS
@pytest.mark.equation("eq-names-across")
@pytest.mark.equation("eq-names-floor")
def test_what_has_to_be_copied(seed):
    d, k, m = 7, 2, 3
    random, _, across, oracle = flat(seed, d, k)
    t = torch.tensor(0.4, dtype=F64)
    alpha, sigma = oracle.process.alpha(t), oracle.process.sigma(t)
    x0 = oracle.sample(4000, random)
    eps = torch.randn(4000, d, generator=random, dtype=F64)
    x = alpha * x0 + sigma * eps
    best = oracle(x, t)
    eps_hat = (x - alpha * best) / sigma
    v_hat = alpha * eps_hat - sigma * best
    equal(best @ across, torch.zeros(4000, d - k), atol=1e-5)
    equal(eps_hat @ across, x @ across / sigma, atol=1e-5)
    equal(v_hat @ across, alpha / sigma * (x @ across), atol=1e-5)
    # the best answer through m units across the plane, for exact second moments: keep m of the d − k directions
    for answer, error_of_x0 in ((alpha, sigma), (1.0, sigma / alpha)):
        second = answer**2 * torch.eye(d - k, dtype=F64)
        lost = torch.linalg.eigvalsh(second)[: d - k - m].sum()
        printed = (alpha * sigma) ** 2 if answer is alpha else (sigma / alpha) ** 2
        equal(error_of_x0**2 * lost, (d - k - m) * printed)
    measured = torch.linalg.eigvalsh((v_hat @ across).mT @ (v_hat @ across) / 4000)
    equal(measured, torch.full((d - k,), float(alpha) ** 2), rtol=0.12)  # 4000 draws: 5 standard errors of the extremes


@pytest.mark.equation("eq-names-lost")
def test_where_lost_directions_end():
    """v̂ = 0 and ε̂ = 0 through the package's algebra and a sampler in many steps, from N(0, I) at t = 1."""

    class Silent(torch.nn.Module):
        def forward(self, x, t, y=None):
            return torch.zeros_like(x)

    process, lost = LinearVP(), 50
    x = torch.randn(400, lost, generator=torch.Generator().manual_seed(0), dtype=F64)
    alpha_T = float(process.alpha(torch.ones((), dtype=F64)))
    grid = times.uniform(400)
    for name, factor in (("v", 1.0), ("eps", 1 / alpha_T)):
        out = last(ddim(Denoiser(Silent(), process, name), x, grid))
        # 400 × 50 normals: the root mean square is within 0.5 per cent (one standard error); steps cost about as much
        equal(out.square().sum(1).mean().sqrt(), math.sqrt(lost) * factor, rtol=0.03)
