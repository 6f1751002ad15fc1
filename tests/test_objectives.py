"""The denoising loss and its weights: one prediction has one loss under all its names, limits, ends and the ELBO."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from processes import PROCESSES

from minidiff import objectives
from minidiff.analytic import Gaussian
from minidiff.denoiser import Denoiser
from minidiff.objectives import denoising_loss
from minidiff.process import VE, CosineVP, LinearVP, RectifiedFlow, TrigFlow

PRESERVING = [LinearVP(), CosineVP(), PROCESSES[-1]]
WEIGHTS = {
    "simple": objectives.simple,
    "snr": objectives.snr,
    "uniform": objectives.uniform,
    "v": objectives.v,
    "velocity": objectives.velocity,
    "elbo": objectives.elbo,
    "likelihood": objectives.likelihood,
    "score": objectives.score,
    "truncated_snr": objectives.truncated_snr,
    "sigmoid": objectives.sigmoid,
    "min_snr": objectives.min_snr,
    "edm": objectives.edm,
    "p2": objectives.p2,
}
T = torch.tensor([1e-3, 0.1, 0.3, 0.5, 0.8, 0.97, 0.999], dtype=torch.float64)


def name(process):
    return type(process).__name__


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fixed(process, prediction):
    """A denoiser that answers `prediction` whatever it is asked."""

    class Fixed:
        def __call__(self, x, t, *y):
            return prediction

    D = Fixed()
    D.process = process
    return D


@pytest.mark.parametrize("process", PROCESSES, ids=name)
class TestOnePrediction:
    """x̂_0 is arbitrary; the other predictions are written out from their definitions at the same x_t."""

    def setup_method(self):
        self.x0, self.eps, self.x0_hat = normal(7, 2, 3), normal(7, 2, 3, seed=1), normal(7, 2, 3, seed=2)

    def loss(self, process, weight):
        return denoising_loss(fixed(process, self.x0_hat), self.x0, T, self.eps, weight=weight)

    def coefficients(self, process):
        values = (process.alpha(T), process.sigma(T), *process.rates(T))
        return [value[:, None, None] for value in values]

    def eps_hat(self, process):
        alpha, sigma, _, _ = self.coefficients(process)
        return (alpha * self.x0 + sigma * self.eps - alpha * self.x0_hat) / sigma

    def close(self, got, target, prediction):
        torch.testing.assert_close(got, (target - prediction).square().mean((1, 2)), rtol=1e-8, atol=1e-12)

    def test_x0_loss(self, process):
        self.close(self.loss(process, objectives.uniform), self.x0, self.x0_hat)

    @pytest.mark.parametrize("weight", [objectives.simple, objectives.snr])
    def test_eps_loss(self, process, weight):
        self.close(self.loss(process, weight), self.eps, self.eps_hat(process))

    def test_v_loss(self, process):
        alpha, sigma, _, _ = self.coefficients(process)
        target = alpha * self.eps - sigma * self.x0
        self.close(self.loss(process, objectives.v), target, alpha * self.eps_hat(process) - sigma * self.x0_hat)

    def test_velocity_loss(self, process):
        _, _, alpha_rate, sigma_rate = self.coefficients(process)
        target = alpha_rate * self.x0 + sigma_rate * self.eps
        prediction = alpha_rate * self.x0_hat + sigma_rate * self.eps_hat(process)
        self.close(self.loss(process, objectives.velocity), target, prediction)

    def test_score_loss(self, process):
        _, sigma, _, _ = self.coefficients(process)
        self.close(self.loss(process, objectives.score), -self.eps / sigma, -self.eps_hat(process) / sigma)

    def test_truncated_snr_loss_is_the_larger_of_two(self, process):
        both = torch.maximum(self.loss(process, objectives.uniform), self.loss(process, objectives.snr))
        torch.testing.assert_close(self.loss(process, objectives.truncated_snr), both)

    @pytest.mark.parametrize("sigma_data", [0.5, 1.0])
    def test_edm_loss_is_the_loss_on_the_preconditioned_network(self, process, sigma_data):
        """F = (x̂_0 − c_skip x)/c_out has unit weight: λ(σ) c_out² = 1 (Karras et al. 2022, section 5)."""
        alpha, sigma, _, _ = self.coefficients(process)
        x, q = alpha * self.x0 + sigma * self.eps, alpha**2 * sigma_data**2 + sigma**2
        c_skip, c_out = alpha * sigma_data**2 / q, sigma * sigma_data / q.sqrt()
        target, prediction = (self.x0 - c_skip * x) / c_out, (self.x0_hat - c_skip * x) / c_out
        self.close(self.loss(process, partial(objectives.edm, sigma_data=sigma_data)), target, prediction)


TARGETS = {
    "eps": ("simple", lambda x0, eps, a, s, da, ds: eps),
    "x0": ("uniform", lambda x0, eps, a, s, da, ds: x0),
    "v": ("v", lambda x0, eps, a, s, da, ds: a * eps - s * x0),
    "velocity": ("velocity", lambda x0, eps, a, s, da, ds: da * x0 + ds * eps),
}


@pytest.mark.parametrize(
    ("process", "predicts"),
    [
        (process, predicts)
        for process in (LinearVP(), VE(), TrigFlow(0.5), RectifiedFlow())
        for predicts in TARGETS
        if predicts != "eps" or isinstance(process, LinearVP | VE)  # ε determines no x_0 where α(1) = 0
    ],
)
def test_a_denoisers_loss_is_the_loss_of_its_network(process, predicts):
    """Through `Denoiser`: the weighted loss on x̂_0 is the plain squared error of the network's own output."""
    weight, target = TARGETS[predicts]
    x0, eps = normal(7, 2), normal(7, 2, seed=1)

    class Network(torch.nn.Module):
        def forward(self, x, t, y=None):
            return torch.tanh(x) + t[:, None]

    a, s, da, ds = (c[:, None] for c in (process.alpha(T), process.sigma(T), *process.rates(T)))
    D = Denoiser(Network(), process, predicts)
    error = target(x0, eps, a, s, da, ds) - Network()(a * x0 + s * eps, T)
    loss = denoising_loss(D, x0, T, eps, weight=WEIGHTS[weight])
    torch.testing.assert_close(loss, error.square().mean(1), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("process", PRESERVING, ids=name)
def test_published_forms_where_alpha2_plus_sigma2_is_one(process):
    ratio = (process.alpha(T) / process.sigma(T)) ** 2
    torch.testing.assert_close(objectives.v(process, T), ratio + 1)
    torch.testing.assert_close(objectives.edm(process, T), ratio + 1)
    on_v, on_eps = ratio + 1, ratio
    small = torch.minimum(ratio, torch.tensor(5.0))
    torch.testing.assert_close(objectives.min_snr(process, T), on_v * (small / (ratio + 1)))  # trap: not min/SNR
    torch.testing.assert_close(objectives.min_snr(process, T), on_eps * (small / ratio))
    torch.testing.assert_close(objectives.p2(process, T), process.alpha(T) ** 2)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_limits_of_the_parameters(process):
    w = SimpleNamespace(**{key: partial(value, process, T) for key, value in WEIGHTS.items()})
    ratio = w.snr()
    torch.testing.assert_close(w.min_snr(gamma=math.inf), w.simple())
    torch.testing.assert_close(w.min_snr(gamma=1e-9) / 1e-9, torch.minimum(ratio / 1e-9, torch.ones_like(ratio)))
    torch.testing.assert_close(w.edm(sigma_data=1e12), w.simple())
    torch.testing.assert_close(w.edm(sigma_data=1e-9) * 1e-18, w.uniform(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(w.p2(gamma=0.0), w.simple())
    torch.testing.assert_close(w.p2(k=0.0), w.uniform())
    torch.testing.assert_close(w.p2(k=0.7, gamma=1.6), ratio / (0.7 + ratio) ** 1.6)
    torch.testing.assert_close(w.sigmoid(bias=60.0), w.elbo())
    torch.testing.assert_close(w.sigmoid(), w.elbo() * torch.sigmoid(-ratio.log()))
    torch.testing.assert_close(w.sigmoid(bias=1.5), w.elbo() * torch.sigmoid(1.5 - ratio.log()))


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_likelihood_weight_is_that_of_the_elbo(process):
    torch.testing.assert_close(objectives.likelihood(process, T), objectives.elbo(process, T), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_elbo_weight_is_minus_half_the_slope_of_the_snr(process):
    h = 1e-6
    slope = (objectives.snr(process, T + h * T) - objectives.snr(process, T - h * T)) / (2 * h * T)
    torch.testing.assert_close(objectives.elbo(process, T), -slope / 2, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_elbo_does_not_depend_on_the_schedule(process):
    """I-MMSE for data N(0, s²): ∫ w mmse dt = ½ log((1 + s² SNR_max)/(1 + s² SNR_min)) between two noise levels."""
    s, lam = 1.6, torch.linspace(4, -3, 20_001, dtype=torch.float64)
    t = process.time(lam)
    alpha, sigma = process.alpha(t), process.sigma(t)
    mmse = s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2)
    integral = torch.trapezoid(objectives.elbo(process, t) * mmse, t)
    truth = 0.5 * math.log((1 + s**2 * math.exp(8)) / (1 + s**2 * math.exp(-6)))
    assert float(integral) == pytest.approx(truth, rel=1e-5)


def test_loss_of_the_exact_denoiser_is_the_posterior_variance():
    """E |x_0 − D|² per coordinate is s²σ²/(α²s² + σ²); 20 000 × 4 draws of a χ² are within 5 standard errors."""
    s, n = 0.7, 20_000
    oracle = Gaussian(LinearVP(), torch.zeros(4).double(), std=s)
    for t in T:
        alpha, sigma = oracle.process.alpha(t), oracle.process.sigma(t)
        loss = denoising_loss(oracle, s * normal(n, 4, seed=3), t, normal(n, 4, seed=4), weight=objectives.uniform)
        truth = float(s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2))
        assert abs(float(loss.mean()) / truth - 1) < 5 * math.sqrt(2 / (4 * n))


ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_weights_have_limits_at_both_ends(process, weight):
    """Never NaN; finite at t = 1, zero terminal SNR included; at t = 0 the limit, checked against t = 1e-9."""
    at_zero, at_one = WEIGHTS[weight](process, ENDS)
    assert math.isfinite(float(at_one)) and float(at_one) >= 0
    near = float(WEIGHTS[weight](process, torch.tensor(1e-9, dtype=torch.float64)))
    assert float(at_zero) == pytest.approx(near, rel=1e-3) or (math.isinf(at_zero) and near > 1e4)


@pytest.mark.parametrize("process", [CosineVP(), RectifiedFlow(), TrigFlow(0.5)], ids=name)
def test_zero_terminal_snr(process):
    """At α = 0 the SNR-like weights are exactly 0 and the loss of any x_0-prediction is finite; v's weight is not 0."""
    x0, t = normal(3, 2), torch.ones(3, dtype=torch.float64)
    for weight in (objectives.simple, objectives.min_snr, objectives.p2):
        loss = denoising_loss(fixed(process, 1 + x0), x0, t, normal(3, 2), weight=weight)
        torch.testing.assert_close(loss, torch.zeros(3, dtype=torch.float64), rtol=0, atol=0)
    for weight in (objectives.v, objectives.edm, objectives.velocity):
        assert float(denoising_loss(fixed(process, 1 + x0), x0, t, normal(3, 2), weight=weight).min()) > 0.2


def test_weights_at_sigma_zero():
    zero = torch.zeros((), dtype=torch.float64)
    assert float(objectives.min_snr(RectifiedFlow(), zero, gamma=3.0)) == 3.0
    assert [float(objectives.p2(RectifiedFlow(), zero, gamma=g)) for g in (0.5, 1.0, 2.0)] == [math.inf, 1.0, 0.0]
    assert math.isinf(objectives.sigmoid(RectifiedFlow(), zero))


@pytest.mark.parametrize("t", [torch.zeros(()), torch.tensor([0.5, 0.0, 0.2])])
def test_an_infinite_weight_is_refused(t):
    with pytest.raises(ValueError, match=r"weight must be finite, got an infinite one at t = 0\.0: draw times inside"):
        denoising_loss(fixed(RectifiedFlow(), normal(3, 2)), normal(3, 2), t, normal(3, 2))
    loss = denoising_loss(
        fixed(RectifiedFlow(), normal(3, 2)), normal(3, 2), t, normal(3, 2), weight=objectives.min_snr
    )
    assert bool(torch.isfinite(loss).all())


@pytest.mark.parametrize("weight", WEIGHTS)
def test_weights_of_low_precision_times_are_float32_and_the_loss_takes_them_in_float64(weight):
    t = torch.tensor([0.3, 0.7]).bfloat16()
    assert WEIGHTS[weight](LinearVP(), t).dtype == torch.float32
    x0, D = normal(2, 3), fixed(LinearVP(), normal(2, 3, seed=2))
    loss, exact = (denoising_loss(D, x0, u, normal(2, 3, seed=1), weight=WEIGHTS[weight]) for u in (t, t.double()))
    torch.testing.assert_close(loss, exact, rtol=1e-14, atol=0)


def test_the_loss_is_a_mean_over_coordinates_of_each_sample():
    x0, x0_hat = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    x0_hat[1, 0, 0] = 6.0
    loss = denoising_loss(fixed(VE(), x0_hat), x0, torch.tensor(0.5), x0, weight=objectives.uniform)
    torch.testing.assert_close(loss, torch.tensor([0.0, 3.0]), rtol=0, atol=0)


def test_the_condition_reaches_the_denoiser():
    seen = []

    class Asked:
        process = VE()

        def __call__(self, *arguments):
            seen.append(arguments)
            return arguments[0]

    x0, t, y = normal(2, 3), torch.tensor([0.2, 0.4]), torch.tensor([1, 0])
    denoising_loss(Asked(), x0, t, torch.zeros_like(x0))
    denoising_loss(Asked(), x0, t, torch.zeros_like(x0), y)
    assert [len(arguments) for arguments in seen] == [2, 3]
    torch.testing.assert_close(seen[1][0], x0)
    assert seen[1][1] is t and seen[1][2] is y


def test_float32_and_gradients():
    x0, eps = normal(4, 3).float(), normal(4, 3, seed=1).float()
    x0_hat = torch.zeros(4, 3, requires_grad=True)
    t = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    loss = denoising_loss(fixed(LinearVP(), x0_hat), x0, t, eps)
    assert loss.dtype == torch.float32 and loss.shape == (4,)
    loss.sum().backward()
    expected = 2 / 3 * objectives.snr(LinearVP(), t)[:, None].float() * (x0_hat - x0)
    torch.testing.assert_close(x0_hat.grad, expected.detach())


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"eps": torch.zeros(2, 4)}, ValueError, r"same shape, got \(2, 3\) and \(2, 4\)"),
        ({"t": torch.zeros(3)}, ValueError, r"got \(3,\) for x \(2, 3\)"),
        ({"t": torch.tensor(1.5)}, ValueError, r"in \[0, 1\]"),
        ({"t": torch.tensor(1)}, TypeError, "floating-point tensor, got torch.int64"),
        ({"x0": torch.zeros(2, 3).long()}, TypeError, "x0 must be a floating-point"),
        ({"D": fixed(VE(), torch.zeros(2, 1))}, ValueError, r"D\(x, t\) must have the same shape, got .* \(2, 1\)"),
    ],
)
def test_bad_arguments_are_named(changed, error, message):
    good = {"D": fixed(VE(), torch.zeros(2, 3)), "x0": torch.zeros(2, 3), "t": torch.tensor(0.5)}
    with pytest.raises(error, match=message):
        denoising_loss(**(good | {"eps": torch.zeros(2, 3)} | changed))
