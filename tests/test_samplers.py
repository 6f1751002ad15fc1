"""Samplers: exact steps, exact limits, and contracts that every method keeps."""

import itertools
import math

import numpy as np
import pytest
import torch
from mixtures import three as mixture
from processes import FORMULAS, PROCESSES, name
from scipy.integrate import quad
from torch import nn

from minidiff import sample, samplers, times
from minidiff.analytic import Gaussian
from minidiff.denoiser import Denoiser
from minidiff.metrics import CountCalls
from minidiff.process import EDM, VE, CosineVP, LinearVP, RectifiedFlow, Tabulated, TrigFlow
from minidiff.samplers import State, ancestral, angle_grid, ddim, euler, exponential, heun, last, path
from minidiff.samplers.exponential import coordinate, integral_weights

F64 = torch.float64
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
DETERMINISTIC = {
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    **{
        f"exponential-{order}-{variable}{'-corrected' if corrector else ''}": (
            lambda D, x, T, order=order, variable=variable, corrector=corrector: exponential(
                D, x, T, order=order, variable=variable, corrector=corrector
            )
        )
        for order in (1, 2, 3, 4)
        for variable in ("lam", "cos")
        for corrector in (False, True)
    },
}
STOCHASTIC = {
    "ancestral": ancestral,
    "ancestral-forward": lambda D, x, T, **k: ancestral(D, x, T, variance="forward", **k),
    "ddim-0.5": lambda D, x, T, **k: ddim(D, x, T, eta=0.5, **k),
    "ddim-1": lambda D, x, T, **k: ddim(D, x, T, eta=1.0, **k),
}
METHODS = {**DETERMINISTIC, **STOCHASTIC}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


class Point:
    """The data are one point: D = x_0 everywhere, and every path is a straight line in (x/α, r)."""

    sigma_data, coupled = 1.0, False

    def __init__(self, process, x0):
        self.process, self.x0 = process, x0

    def __call__(self, x, t):
        return self.x0.expand_as(x)


def noisy(process, n=4, seed=0, dtype=F64):
    return process.prior((n, 2), gen(seed), dtype=dtype)


# ---- one step of the Gaussian samplers --------------------------------------------------------------------------


def mean_and_std(method, D, x, T):
    """The law of one step from two draws: x_t = m + c z with z known from the generator."""
    ends = [last(method(D, x, T, generator=gen(seed))) for seed in (1, 2)]
    z = [torch.randn(x.shape, generator=gen(seed), dtype=F64) for seed in (1, 2)]
    c = (ends[0] - ends[1]) / (z[0] - z[1])
    return ends[0] - c * z[0], c


@pytest.mark.parametrize("method", ["ancestral", "ddim-1"])
@every_process
def test_the_ancestral_step_is_bayes_rule_on_a_grid(process, method):
    """q(x_t | x_s, x_0) ∝ q(x_t | x_0) q(x_s | x_t), normalised numerically."""
    s, t = torch.tensor([0.7, 0.4], dtype=F64)
    x0, xs = 0.8, 1.3
    (alpha_s, alpha_t), (sigma_s, sigma_t) = (f(torch.stack([s, t])).tolist() for f in (process.alpha, process.sigma))
    ratio = alpha_s / alpha_t
    grid = torch.linspace(-12, 12, 200_001, dtype=F64) * sigma_t + alpha_t * x0
    log_density = -((grid - alpha_t * x0) ** 2) / (2 * sigma_t**2)
    log_density -= (xs - ratio * grid) ** 2 / (2 * (sigma_s**2 - ratio**2 * sigma_t**2))
    p = log_density.softmax(0)
    mean = float((p * grid).sum())
    std = math.sqrt(float((p * (grid - mean) ** 2).sum()))
    x = torch.full((1, 2), xs, dtype=F64)
    D = Point(process, torch.tensor([x0, x0], dtype=F64))
    m, c = mean_and_std(STOCHASTIC[method], D, x, torch.stack([s, t]))
    torch.testing.assert_close(m, torch.full_like(m, mean), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(c, torch.full_like(c, std), rtol=1e-6, atol=1e-9)


@every_process
def test_forward_variance_is_that_of_the_forward_step(process):
    s, t = torch.tensor([0.7, 0.4], dtype=F64)
    D, x = Point(process, torch.zeros(2, dtype=F64)), torch.ones(1, 2, dtype=F64)
    m, c = mean_and_std(STOCHASTIC["ancestral-forward"], D, x, torch.stack([s, t]))
    ratio = process.alpha(s) / process.alpha(t)
    beta = process.sigma(s) ** 2 - ratio**2 * process.sigma(t) ** 2
    torch.testing.assert_close(c**2, beta.expand_as(c), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(m, mean_and_std(ancestral, D, x, torch.stack([s, t]))[0])


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@every_process
def test_ddim_has_the_marginal_of_the_true_x0_for_every_eta(process, eta):
    """Given the true x_0, q_η carries q(x_s | x_0) to q(x_t | x_0): a² σ_s² + c² = σ_t² and a α_s + b = α_t."""
    T = torch.tensor([0.8, 0.3], dtype=F64)
    alpha, sigma = process.alpha(T), process.sigma(T)
    D = Point(process, torch.tensor([0.9, -0.4], dtype=F64))
    x = torch.stack([alpha[0] * D.x0, alpha[0] * D.x0 + sigma[0]])
    method = lambda *a, generator: ddim(*a, eta=eta, generator=generator)  # noqa: E731
    m, c = mean_and_std(method, D, x, T)
    c = c[0, 0]
    torch.testing.assert_close(m[0], alpha[1] * D.x0)
    a = (m[1] - m[0]) / sigma[0]
    torch.testing.assert_close(a**2 * sigma[0] ** 2 + c**2, (sigma[1] ** 2).expand(2))


@every_process
def test_ddim_with_eta_one_is_ancestral(process):
    T = times.uniform(7, end=0.0)
    D, x = mixture(process), noisy(process)
    a = path(ancestral(D, x, T, generator=gen(5)))
    torch.testing.assert_close(a, path(ddim(D, x, T, eta=1.0, generator=gen(5))), rtol=1e-9, atol=1e-9)


# ---- identities and exact cases ---------------------------------------------------------------------------------


@every_process
def test_the_first_order_exponential_integrator_is_ddim(process):
    T = times.uniform(9)
    D, x = mixture(process), noisy(process)
    torch.testing.assert_close(path(exponential(D, x, T, order=1)), path(ddim(D, x, T)), rtol=1e-10, atol=1e-12)


def test_ddim_is_euler_on_the_straight_line():
    T = times.uniform(9)
    D, x = mixture(RectifiedFlow()), noisy(RectifiedFlow())
    torch.testing.assert_close(path(euler(D, x, T)), path(ddim(D, x, T)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("process", [RectifiedFlow(), TrigFlow(0.5), LinearVP(), EDM()], ids=name)
def test_ddim_contracts_a_gaussian_by_the_product_of_cosines(process, std):
    """Centred data of std s: the N-step map is the exact one times Π cos Δθ_i, θ = arctan(r/s)."""
    T = times.uniform(8)
    D = Gaussian(process, torch.zeros(2, dtype=F64), std=std)
    x = noisy(process)
    theta = torch.atan((-process.lam(T)).exp() / std)
    exact = D.flow(x, T[0], T[-1])
    torch.testing.assert_close(last(ddim(D, x, T)), exact * theta.diff().cos().prod(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [m for m in DETERMINISTIC if m not in ("euler", "heun")])
@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_a_constant_denoiser_is_integrated_exactly(process, method):
    """D = x_0: in (x/α, r) the path is the line towards x_0, which no weight with the right sum can leave."""
    T = times.log_snr(process, 6, r_max=20, r_min=0.05)
    D, x = Point(process, torch.tensor([0.9, -0.4], dtype=F64)), noisy(process)
    alpha, sigma = process.alpha(T), process.sigma(T)
    exact = [sigma[i] / sigma[0] * (x - alpha[0] * D.x0) + alpha[i] * D.x0 for i in range(len(T))]
    torch.testing.assert_close(path(DETERMINISTIC[method](D, x, T)), torch.stack(exact), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow(), TrigFlow(0.5)], ids=name)
def test_the_step_to_sigma_zero_is_the_prediction(process, method):
    """From σ_s to σ = 0 every method of one node returns D(x_s, s); those in cos θ extrapolate D instead."""
    T = torch.tensor([0.3, 0.0], dtype=F64)
    D, x = mixture(process), noisy(process)
    states = list(METHODS[method](D, x, T))
    if method in ("euler", "heun") and process.rates(T)[1][0] != 1:
        return  # an Euler step in t reaches x̂_0 only on the straight line
    torch.testing.assert_close(states[-1].x, D(x, T[0]), rtol=1e-12, atol=1e-12)


def test_the_last_step_in_lam_is_first_order_and_in_cos_is_not():
    T = torch.tensor([0.5, 0.3, 0.1, 0.0], dtype=F64)
    D, x = mixture(RectifiedFlow()), noisy(RectifiedFlow())
    states = list(exponential(D, x, T, order=2))
    torch.testing.assert_close(states[-1].x, D(states[-2].x, T[2]))
    in_cos = list(exponential(D, x, T, order=2, variable="cos"))
    assert (in_cos[-1].x - D(in_cos[-2].x, T[2])).abs().max() > 1e-3


@pytest.mark.parametrize("variable", ["lam", "cos"])
@pytest.mark.parametrize(("lam_s", "lam_t"), [(-1.0, -0.9), (-1.0, 0.5), (-3.0, 2.5), (0.3, 0.3001)])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_weights_are_the_integrals_of_the_lagrange_basis(lam_s, lam_t, count, variable):
    """Against adaptive quadrature of the same integral; the weights of all nodes add up to 1 − e^{−h}."""
    sigma_data = 0.5
    nodes = [lam_s - 0.7 * k for k in range(count)]

    def u(lam):
        return lam if variable == "lam" else math.cos(math.atan(math.exp(-lam) / sigma_data))

    def basis(j, lam):
        others = [u(m) for k, m in enumerate(nodes) if k != j]
        return math.prod((u(lam) - o) / (u(nodes[j]) - o) for o in others)

    weights = integral_weights(lam_s, lam_t, nodes, coordinate(variable, LinearVP(), sigma_data))
    for j, weight in enumerate(weights):
        exact = quad(lambda lam, j=j: math.exp(lam - lam_t) * basis(j, lam), lam_s, lam_t, epsabs=1e-14)[0]
        assert weight == pytest.approx(exact, rel=1e-9, abs=1e-12)
    rounding = 1e-14 * sum(map(abs, weights))  # far extrapolation in cos θ: large weights of both signs
    assert sum(weights) == pytest.approx(-math.expm1(lam_s - lam_t), rel=1e-12, abs=rounding)


def test_weights_over_an_infinite_start_are_a_limit():
    nodes = [-1.0, -1.5]
    cos = coordinate("cos", LinearVP(), 0.5)
    far = integral_weights(-35.0, 0.4, nodes, cos)
    assert integral_weights(-math.inf, 0.4, nodes, cos) == pytest.approx(far, rel=1e-10)
    assert integral_weights(0.1, math.inf, nodes, cos) == pytest.approx(
        integral_weights(0.1, 30.0, nodes, cos), abs=1e-9
    )


# ---- calls, states, contracts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize(("order", "start"), [(1, 0), (2, 0), (3, 2), (4, 3)])
def test_calls_of_the_multistep_methods(order, start, n):
    """One a step, and order − 1 more where three or more nodes are collocated."""
    D = CountCalls(mixture(RectifiedFlow()))
    T = times.uniform(n, start=0.9, end=0.1)
    known = min(order, n + 1)
    extra = known - 1 if known >= 3 else 0
    nodes_at_the_end = 1 if known == n + 1 and known >= 3 else 0  # D is then known at the last time as well
    last(exponential(D, noisy(D.process), T, order=order))
    assert D.calls == n + extra + nodes_at_the_end
    assert start in (0, order - 1)


@pytest.mark.parametrize(("end", "calls"), [(0.0, 11), (0.1, 12)])
def test_calls_of_heun(end, calls):
    D = CountCalls(mixture(RectifiedFlow()))
    last(heun(D, noisy(D.process), times.uniform(6, end=end)))
    assert D.calls == calls


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
@every_process
def test_sample_makes_exactly_the_calls_asked_and_ends_finite(process, n):
    D = CountCalls(mixture(process))
    x = sample(D, noisy(process, dtype=torch.float32), n)
    assert D.calls == n
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("std", [0.3, 1.5])
def test_sample_is_the_exponential_integrator_in_the_angle_of_its_data(std):
    """Steps uniform in arctan((r/σ_data)^0.8) down to 0; four values of D, in cos θ, corrected."""
    process = CosineVP()
    D, x = mixture(process, std), noisy(process)
    assert abs(D.sigma_data - 1) > 0.1
    angles = math.pi / 2 * torch.arange(7, 0, -1, dtype=F64) / 7
    T = torch.cat([process.time(-(D.sigma_data * angles.tan() ** 1.25).log()), torch.zeros(1, dtype=F64)])
    T[0] = 1.0
    twin = exponential(D, x, T, order=4, variable="cos", corrector=True, collocate=False)
    torch.testing.assert_close(sample(D, x, 7), last(twin), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 40, 400])
@every_process
def test_the_grid_of_sample_is_uniform_in_its_angle_and_stays_inside_the_process(process, n):
    T = angle_grid(process, n, 0.5)
    assert len(T) == n + 1
    assert float(T[0]) == 1.0
    assert float(T[-1]) == 0.0
    u = torch.atan(((-process.lam(T)).exp() / 0.5) ** 0.8)
    first, least = float(u[0]), float(torch.atan(((-process.lam(T[-1])).exp() / 0.5) ** 0.8))
    if least < first / n:  # the step to 0 is not shorter than the others, unless the process stops before
        torch.testing.assert_close(u[:-1], first * torch.arange(n, 0, -1, dtype=F64) / n, rtol=1e-7, atol=1e-9)
    else:
        torch.testing.assert_close(u.diff(), (least - first) / n * torch.ones(n, dtype=F64), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((0, 1.0), "nfe must be at least 1"), ((3, 0.0), "scale must"), ((3, 1.0, 0.0), "power must")],
)
def test_the_grid_of_sample_refuses(arguments, error):
    with pytest.raises(ValueError, match=error):
        angle_grid(EDM(), *arguments)


@pytest.mark.parametrize(
    ("angle", "error", "message"),
    [
        ((0.0, 0.8, 1.0), ValueError, "scale of angle must"),
        ((-1.0, 0.8, 1.0), ValueError, "scale of angle must"),
        ((math.nan, 0.8, 1.0), ValueError, "scale of angle must"),
        ((1.0, 0.0), ValueError, "power of angle must"),
        ((1.0, 1.5, 1.0), ValueError, "power of angle must"),
        ((1.0, 0.8, 0.0), ValueError, "middle of angle must"),
        ((1.0, 0.8, math.inf), ValueError, "middle of angle must"),
        ((1.0,), TypeError, "an angle is Angle"),
        (0.8, TypeError, "an angle is Angle"),
    ],
)
def test_sample_refuses_an_angle_of_the_call_and_one_of_the_denoiser(angle, error, message):
    D, x = mixture(LinearVP()), noisy(LinearVP())
    with pytest.raises(error, match=message):
        sample(D, x, 4, angle)
    wrapped = CountCalls(D)
    wrapped.angle = angle
    with pytest.raises(error, match=message):
        sample(wrapped, x, 4)
    assert wrapped.calls == 0


@every_process
def test_sample_approaches_the_exact_flow_to_sigma_zero(process):
    """One Gaussian, mean off centre: the flow to σ = 0 is known; where σ(0) > 0 the last stretch is extrapolated."""
    mean = torch.tensor([0.7, -0.3], dtype=F64)
    D = Gaussian(process, mean, std=0.4)
    x = noisy(process, 16)
    zero, one = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)
    at_zero = D.flow(x, one, zero)
    spread = math.hypot(0.4, float(process.sigma(zero))) / 0.4
    exact = mean + (at_zero - mean) / spread
    errors = [(sample(D, x, n) - exact).norm(dim=1).median() for n in (5, 10, 20, 40)]
    assert all(b < a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-4


def test_sample_runs_without_gradients_and_other_samplers_leave_the_mode_alone():
    D = mixture(LinearVP())
    x = noisy(LinearVP()).requires_grad_()
    assert not sample(D, x, 3).requires_grad
    assert last(exponential(D, x, times.log_snr(LinearVP(), 4))).requires_grad
    with torch.no_grad():
        assert not last(heun(D, x, times.log_snr(LinearVP(), 4))).requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_states_come_at_the_times_with_the_prediction_that_made_them(method):
    process = LinearVP()
    D, x, T = mixture(process), noisy(process), times.uniform(6, end=0.1)
    states = list(METHODS[method](D, x, T))
    assert all(isinstance(state, State) for state in states)
    assert [float(state.t) for state in states] == T.tolist()
    assert states[0].x is x
    assert states[0].x0 is None
    assert all(state.x0.shape == x.shape and state.t.ndim == 0 for state in states[1:])
    assert path(METHODS[method](D, x, T, **({"generator": gen()} if method in STOCHASTIC else {}))).shape == (7, 4, 2)


@pytest.mark.parametrize("method", METHODS)
def test_two_calls_are_bit_equal(method):
    D, T = mixture(LinearVP()), times.log_snr(LinearVP(), 7)
    x = noisy(LinearVP())
    runs = [METHODS[method](D, x, T, **({"generator": gen(3)} if method in STOCHASTIC else {})) for _ in range(2)]
    first, second = (path(run) for run in runs)
    assert torch.equal(first, second)
    assert torch.equal(x, noisy(LinearVP()))  # and the start is left as it was


class Elementwise:
    """D acts on every element alone, so that a row cannot see its batch even in rounding."""

    process, sigma_data, coupled = LinearVP(), 1.0, False

    def __call__(self, x, t):
        return torch.tanh(x) * 0.9


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, t, y):
        return self.layers(torch.cat([x, t.expand(len(x), 1) if t.ndim == 0 else t[:, None]], 1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", [False, True])
def test_a_row_of_a_batch_equals_its_single_run(method, network):
    D = Denoiser(SmallNet(), LinearVP(), "v") if network else Elementwise()
    T, x = times.log_snr(LinearVP(), 7), noisy(LinearVP(), 5, dtype=torch.float32)

    def run(rows):
        own = {"generator": [gen(int(i)) for i in rows]} if method in STOCHASTIC else {}
        with torch.no_grad():
            return last(METHODS[method](D, x[rows], T, **own))

    together = run(torch.arange(5))
    for i in range(5):
        alone = run(torch.tensor([i]))[0]
        if network:
            torch.testing.assert_close(together[i], alone, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(together[i], alone)


@pytest.mark.parametrize(
    ("n", "dtype"), [(1, torch.float32), (2, torch.float64), (3, torch.bfloat16), (4, torch.float32)]
)
@every_process
def test_every_method_is_finite_on_every_grid(process, n, dtype):
    D, x = Point(process, torch.tensor([0.9, -0.4], dtype=dtype)), noisy(process, dtype=dtype)
    grids = [times.uniform(n), times.log_snr(process, n), times.karras(process, n, zero=True)]
    for T, method in itertools.product(grids, METHODS.values()):
        x_last = last(method(D, x, T))
        assert x_last.dtype == dtype
        assert torch.isfinite(x_last).all()


BAD_TIMES = [
    (torch.tensor([1.0, 0.5]), TypeError, "times must be a float64 tensor"),
    (torch.tensor([1.0], dtype=F64), ValueError, "n ≥ 1 steps"),
    (torch.tensor([0.5, 0.5], dtype=F64), ValueError, "times must be strictly decreasing"),
    (torch.tensor([0.2, 0.7], dtype=F64), ValueError, "times must be strictly decreasing"),
    (torch.tensor([1.5, 0.5], dtype=F64), ValueError, r"times must lie in \[0, 1\]"),
    (torch.tensor([math.nan, 0.5], dtype=F64), ValueError, "times must be finite"),
    ([1.0, 0.5], TypeError, "times must be a float64 tensor, got list"),
]


@pytest.mark.parametrize("method", METHODS)
def test_bad_arguments_are_refused_at_the_call(method):
    run, D, T = METHODS[method], mixture(LinearVP()), times.uniform(3)
    x = noisy(LinearVP())
    for bad, error, message in BAD_TIMES:
        with pytest.raises(error, match=message):
            run(D, x, bad)
    for bad, error, message in (
        (x.long(), TypeError, "x must be a floating-point tensor, got torch.int64"),
        (x / 0, ValueError, "x must be finite"),
        (x[0], ValueError, r"x must have a batch axis, \(B, \*D\), got shape \(2,\)"),
    ):
        with pytest.raises(error, match=message):
            run(D, bad, T)
    with pytest.raises(TypeError, match="lacks process"):
        run(lambda x, t: x, x, T)


def test_bad_options_are_refused():
    D, x, T = mixture(LinearVP()), noisy(LinearVP()), times.uniform(3)
    for call, error, message in (
        (
            lambda: ancestral(D, x, T, variance="beta"),
            ValueError,
            "variance must be 'posterior' or 'forward', got 'beta'",
        ),
        (lambda: ddim(D, x, T, eta=1.5), ValueError, r"eta must be a finite number in \[0.0, 1.0\], got 1.5"),
        (lambda: exponential(D, x, T, order=0), ValueError, "order must be at least 1, got 0"),
        (lambda: exponential(D, x, T, order=5), ValueError, "order must be at most 4, got 5"),
        (lambda: exponential(D, x, T, order=2.0), TypeError, "order must be an integer"),
        (
            lambda: exponential(D, x, T, variable="rho"),
            ValueError,
            "variable must be among .*'lam', 'cos'.*, got 'rho'",
        ),
        (lambda: exponential(D, x, T, quantity="v"), ValueError, "quantity must be among .*, got 'v'"),
        (lambda: sample(D, x, 0), ValueError, "nfe must be at least 1, got 0"),
        (lambda: sample(D, x, True), TypeError, "nfe must be an integer, got bool"),
        (lambda: sample(lambda x, t: x, x), TypeError, "lacks process"),
        (lambda: last(iter(())), ValueError, "no states"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_prediction_of_the_wrong_shape_is_refused():
    class Broadcasts(Elementwise):
        def __call__(self, x, t):
            return x[:, :1]

    for method in METHODS.values():
        with pytest.raises(ValueError, match=r"shape of x, \(4, 2\), got \(4, 1\)"):
            last(method(Broadcasts(), noisy(LinearVP()), times.uniform(3)))


def test_fresh_noise_is_refused_under_a_coupling():
    D = Denoiser(SmallNet(), RectifiedFlow(), "velocity", coupled=True)
    x, T = noisy(RectifiedFlow(), dtype=torch.float32), times.uniform(3)
    for name_, method in STOCHASTIC.items():
        with pytest.raises(ValueError, match="under a coupling of x0 and eps"):
            method(D, x, T)
        assert name_ in STOCHASTIC
    for method in DETERMINISTIC.values():
        assert torch.isfinite(last(method(D, x, T))).all()


def test_no_noise_is_added_at_the_last_step():
    D, x = mixture(RectifiedFlow()), noisy(RectifiedFlow())
    for method in STOCHASTIC.values():
        ends = [last(method(D, x, torch.tensor([0.4, 0.0], dtype=F64), generator=gen(s))) for s in (0, 1)]
        assert torch.equal(*ends)


# ---- Gaussian data: mean and variance propagated exactly ----------------------------------------------------------


@pytest.mark.parametrize("method", STOCHASTIC)
def test_stochastic_samplers_converge_weakly_on_a_gaussian(method):
    """Every step is affine in (x, z): the variance is propagated from three runs, and its error falls like 1/N.

    Not tested at finite N: that the η-family shares its marginals, which it does only in the limit.
    """
    process, std = LinearVP(), 0.5
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=std)
    errors = []
    for n in (40, 80, 160):
        T = process.time(torch.linspace(-4, 3, n + 1, dtype=F64))
        variance = float(D.process.alpha(T[0])) ** 2 * std**2 + float(D.process.sigma(T[0])) ** 2
        for step in times.pairwise(T):
            x = torch.ones(1, 1, dtype=F64)
            m, c = mean_and_std(STOCHASTIC[method], D, x, torch.stack(step))
            variance = float(m) ** 2 * variance + float(c) ** 2
        exact = float(process.alpha(T[-1])) ** 2 * std**2 + float(process.sigma(T[-1])) ** 2
        errors.append(abs(variance / exact - 1))
    slope = np.log2(errors[0] / errors[2]) / 2
    assert 0.85 < slope < 1.2, errors


# ---- parity with diffusers, on grids where its conventions are sound ----------------------------------------------


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("scheduler", ["DDIM", "DDPM"])
def test_parity_with_diffusers(scheduler, steps):
    """Trailing spacing with N dividing T; the ε-prediction of an exact denoiser; float32 tables there: 1e-5."""
    diffusers = pytest.importorskip("diffusers")
    betas = tuple(torch.linspace(1e-4, 0.02, 1000, dtype=F64).tolist())
    process = Tabulated(betas)
    D, x = mixture(process), noisy(process, 8)
    options = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing", "clip_sample": False}
    if scheduler == "DDIM":
        theirs = diffusers.DDIMScheduler(1000, **options, set_alpha_to_one=True)
        ours = ddim(D, x, times.trailing(steps))
    else:
        theirs = diffusers.DDPMScheduler(1000, **options, variance_type="fixed_small")
        ours = ancestral(D, x, times.trailing(steps), generator=gen(7))
    theirs.set_timesteps(steps)
    y = x
    generator = gen(7)
    for k in theirs.timesteps:
        t = (k.double() + 1) / 1000
        eps = (y - process.alpha(t) * D(y, t)) / process.sigma(t)
        y = theirs.step(eps, k, y, **({"generator": generator} if scheduler == "DDPM" else {})).prev_sample
    torch.testing.assert_close(last(ours), y, rtol=1e-4, atol=2e-4 if scheduler == "DDPM" else 1e-5)


def test_the_public_names():
    assert all(hasattr(samplers, name) for name in samplers.__all__)
    assert sample is samplers.sample
    assert VE().lam_range[1] < 10  # a process with σ(0) > 0 is among those sampled above
