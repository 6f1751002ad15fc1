"""Energy-based models: the score against finite differences, NCE and the recovery likelihood on grids, learning."""

import math

import pytest
import torch
from torch.distributions import Normal

from minidiff import arguments, samplers, train
from minidiff.analytic import GaussianMixture
from minidiff.families.energy import Energy, Recovery, nce_loss, recovery_loss
from minidiff.objectives import denoising_loss
from minidiff.process import VE, LinearVP, RectifiedFlow

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def at(t):
    return torch.tensor(t, dtype=F64)


def rough(process=None, shape=(2,), seed=0):
    with train.seeded(seed):
        return Energy(process or LinearVP(), shape, width=16, sigma_data=0.8).double()


class Exact(Energy):
    """The energy −log p_t of a mixture."""

    def __init__(self, process):
        means = torch.tensor([[-1.0], [1.2]], dtype=F64)
        law = GaussianMixture(process, torch.tensor([0.4, 0.6], dtype=F64), means, stds=0.3)
        super().__init__(process, (1,), 4, law.sigma_data)
        self.law = law

    def energy(self, x, t):
        return -self.law.log_prob(x, t)


@pytest.mark.parametrize("process", [LinearVP(), VE(), RectifiedFlow()], ids=["VP", "VE", "RF"])
def test_the_score_is_minus_the_slope_of_the_energy(process):
    model, x, h = rough(process, (1, 2, 2)), torch.randn(3, 1, 2, 2, generator=gen(), dtype=F64), 1e-5
    for t in (at(0.0), at(0.5), torch.tensor([0.1, 0.6, 1.0], dtype=F64)):
        score = model.score(x, t)
        for k in range(4):
            e = torch.zeros(4, dtype=F64)
            e[k] = h
            e = e.reshape(1, 2, 2)
            slope = (model.energy(x + e, t) - model.energy(x - e, t)).detach() / (2 * h)
            torch.testing.assert_close(score.flatten(1)[:, k].detach(), -slope, rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        quiet = model.score(x, t)
    torch.testing.assert_close(quiet, score.detach())
    assert score.requires_grad and not quiet.requires_grad


def test_everything_lives_on_the_device_of_x(monkeypatch):
    """On `meta`, which refuses to mix with another device, as a GPU would, and holds no values to be checked."""
    monkeypatch.setattr(arguments, "unit_interval", lambda name, t: None)
    model, x = rough().float().to("meta"), torch.zeros(3, 2, device="meta")
    for t in (at(0.4), torch.zeros(3, device="meta")):
        assert model.energy(x, t).device.type == "meta"


def test_a_silent_network_is_a_gaussian():
    model, x = rough(), torch.randn(5, 2, generator=gen(), dtype=F64)
    for p in model.net[-1].parameters():
        torch.nn.init.zeros_(p)
    t = at(0.4)
    alpha, sigma = model.process.alpha(t), model.process.sigma(t)
    q = alpha**2 * 0.8**2 + sigma**2
    torch.testing.assert_close(model.energy(x, t), x.square().sum(1) / (2 * q))
    torch.testing.assert_close(model(x, t).detach(), alpha * 0.8**2 / q * x)  # Wiener’s filter


def test_an_exact_energy_is_the_exact_denoiser_and_every_sampler_takes_it():
    model = Exact(LinearVP())
    x = torch.randn(6, 1, generator=gen(), dtype=F64)
    with torch.no_grad():
        torch.testing.assert_close(model(x, at(0.3)), model.law(x, at(0.3)), rtol=1e-8, atol=1e-9)
    z = LinearVP().prior((6, 1), gen(1)).double()
    torch.testing.assert_close(samplers.sample(model, z, 8), samplers.sample(model.law, z, 8), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ratio", [1, 4])
def test_nce_finds_the_normalised_density(ratio):
    """On a table of 12 points with free log p_θ: the minimiser is the true log p, its constant included."""
    p, q = torch.rand(2, 12, generator=gen(3), dtype=F64).log().softmax(1).unbind(0)
    log_p = torch.zeros(12, dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_p], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-16)

    def expected_loss():
        """E over x ~ p and independent y ~ q: the loss is a sum of a term of x and ν terms of y."""
        optimiser.zero_grad()
        G = log_p - q.log()
        far = torch.full((ratio, 12), -math.inf, dtype=F64)
        of_data = nce_loss(G, far)
        of_noise = nce_loss(torch.full((12,), math.inf, dtype=F64), G.expand(ratio, 12))
        loss = (p * of_data).sum() + (q * of_noise).sum()
        loss.backward()
        return loss

    optimiser.step(expected_loss)
    torch.testing.assert_close(log_p.detach(), p.log(), rtol=1e-6, atol=1e-6)


def test_nce_is_the_discriminator_loss_of_a_gan():
    from minidiff.families.gan import discriminator_loss

    a, b = torch.randn(2, 7, generator=gen(), dtype=F64).unbind(0)
    torch.testing.assert_close(nce_loss(a, b[None]), discriminator_loss(a, b))


def test_nce_learns_a_density_with_its_constant():
    """N(0.5, 0.36) from noise N(0, 1): −E itself is log p within 0.15 where 95 % of the data are."""
    model = Energy(VE(), (1,), 16)
    noise_law, start = Normal(0.0, 1.0), at(0.0)

    def loss(x, y):
        rows = [-model.energy(v, start) - noise_law.log_prob(v)[:, 0] for v in (x, y)]
        return nce_loss(rows[0], rows[1][None])

    def stream():
        noise = gen(1)
        while True:
            yield 0.5 + 0.6 * torch.randn(512, 1, generator=noise), torch.randn(512, 1, generator=noise)

    for _ in train.fit(loss, model.parameters(), stream(), steps=300, lr=1e-2):
        pass
    x = torch.linspace(-0.7, 1.7, 25)[:, None]
    truth = Normal(0.5, 0.6).log_prob(x)[:, 0]
    assert float((-model.energy(x, start).detach() - truth).abs().max()) < 0.15


@pytest.mark.parametrize("process", [LinearVP(), VE(sigma_max=5.0)], ids=["VP", "VE"])
def test_the_recovery_conditional_is_bayes_on_a_grid(process):
    """With the exact energy: p(x_t | x_s) ∝ p_t(x_t) q(x_s | x_t), its score by finite differences of that."""
    model, s, t = Exact(process), at(0.6), at(0.3)
    noisy = torch.tensor([[0.7]], dtype=F64)
    recovery = Recovery(model, noisy, s, t)
    grid = torch.linspace(-5, 5, 4001, dtype=F64)[:, None]
    a = float(process.alpha(s) / process.alpha(t))
    v = float(process.sigma(s) ** 2) - a**2 * float(process.sigma(t) ** 2)
    log_p = model.law.log_prob(grid, t) + Normal(a * grid[:, 0], math.sqrt(v)).log_prob(noisy[0, 0])
    # Chapman–Kolmogorov: summed over x_t it is the marginal of x_s.
    torch.testing.assert_close(log_p.exp().sum()[None] * 10 / 4000, model.law.log_prob(noisy, s).exp())
    with torch.no_grad():
        score = recovery.score(grid, t)[1:-1, 0]
    truth = (log_p[2:] - log_p[:-2]) / (2 * 10 / 4000)
    inner = slice(1000, 3000)
    torch.testing.assert_close(score[inner], truth[inner], rtol=1e-3, atol=1e-3)
    with torch.no_grad():  # and its x̂_0 is the one whose score that is
        alpha, sigma = process.alpha(t), process.sigma(t)
        torch.testing.assert_close((alpha * recovery(grid, t) - grid) / sigma**2, recovery.score(grid, t))


def test_recovery_of_gaussian_data_is_exact_at_its_start():
    """A silent network: the start is the conditional of N(0, σ_d²) data, by conditioning a 2 × 2 covariance."""
    model = rough(VE(sigma_max=4.0), (1,))
    for p in model.net[-1].parameters():
        torch.nn.init.zeros_(p)
    s, t = at(0.9), at(0.5)
    var_t, var_s = (0.8**2 + float(model.process.sigma(u)) ** 2 for u in (t, s))
    recovery = Recovery(model, torch.full((40_000, 1), 1.5, dtype=F64), s, t)
    assert recovery.gaussian_variance == pytest.approx(var_t - var_t**2 / var_s, rel=1e-9)
    made = recovery.sample(0.1, 5, gen(0))
    settled = recovery.gaussian_variance / (1 - 0.1 / 4)
    # Five steps carry the variance towards that of the discrete chain, which is 1/(1 − ε/4) larger.
    keep = (1 - 0.1 / 2) ** 10
    expected = settled + keep * (recovery.gaussian_variance - settled)
    assert float(made.mean()) == pytest.approx(1.5 * var_t / var_s, abs=5 * math.sqrt(expected / 40_000))
    assert float(made.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / 40_000))


def test_the_gradient_of_the_recovery_loss_is_zero_at_the_truth():
    """E = −log p_t + θ x: d/dθ of the loss is x_t − x⁻, zero on average at θ = 0 within 5 errors; uphill at θ = ½."""
    model = Exact(VE(sigma_max=3.0))
    theta = torch.zeros((), dtype=F64, requires_grad=True)
    model.energy = lambda x, t: Exact.energy(model, x, t) + theta * x[:, 0]
    x0 = model.law.sample(20_000, gen(1))

    def slope():
        loss = recovery_loss(model, x0, at(0.7), at(0.5), step=0.05, steps=30, generator=gen(2))
        assert loss.shape == (20_000,)
        return float(torch.autograd.grad(loss.mean(), theta)[0])

    # x_t and x⁻ each have at most the conditional standard deviation; the discrete chain is unbiased to 1 % here.
    conditional = Recovery(model, x0[:1], at(0.7), at(0.5)).gaussian_variance ** 0.5
    assert abs(slope()) < 5 * conditional * math.sqrt(2 / 20_000) + 0.01 * conditional
    with torch.no_grad():
        theta += 0.5
    assert slope() > 0.05  # E too steep: x⁻ lies left of the data


def test_it_learns_two_modes_and_samples_them():
    """±1 with noise 0.2: after 200 steps nine samples in ten lie within 0.6 of a mode, a third or more on each side."""
    process, grid = VE(sigma_min=0.1, sigma_max=3.0), torch.linspace(1, 0, 6, dtype=F64)
    with train.seeded(0):
        model = Energy(process, (1,), 32)
    noise = gen(0)

    def loss(x):
        level = int(torch.randint(5, (), generator=noise))
        return recovery_loss(model, x, grid[level], grid[level + 1], steps=10, generator=noise)

    for _ in train.fit(loss, model.parameters(), (row[:1] for row in two_modes(256, noise)), steps=200, lr=1e-2):
        pass
    made = model.sample(1000, grid, generator=gen(5))
    assert float(((made.abs() - 1).abs() < 0.6).double().mean()) > 0.9
    assert 1 / 3 < float((made > 0).double().mean()) < 2 / 3
    assert torch.equal(made, model.sample(1000, grid, generator=gen(5)))


def two_modes(n, noise):
    """x_0 = ±1 with noise 0.2, times and ε, without end."""
    while True:
        side = torch.randint(2, (n, 1), generator=noise) * 2.0 - 1
        eps, t = torch.randn(n, 1, generator=noise), torch.rand(n, generator=noise, dtype=F64)
        yield side + 0.2 * torch.randn(n, 1, generator=noise), t, eps


def test_score_matching_trains_it_too():
    """It is a denoiser: the denoising loss goes through ∇E and finds the two modes that N(0, 1) lacks."""
    with train.seeded(0):
        model = Energy(VE(sigma_min=0.1, sigma_max=3.0), (1,), 32)

    def loss(x0, t, eps):
        return denoising_loss(model, x0, t, eps)

    for _ in train.fit(loss, model.parameters(), two_modes(128, gen(0)), steps=200, lr=1e-2):
        pass
    energy = model.energy(torch.tensor([[-1.0], [0.0], [1.0]]), at(0.3)).tolist()
    assert energy[1] > max(energy[0], energy[2]) + 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Energy(VE(), width=0), ValueError, "width must be at least 1"),
        (lambda: Energy(VE(), sigma_data=0.0), ValueError, "sigma_data must be"),
        (lambda: Energy(VE(), sigma_data=math.nan), ValueError, "sigma_data must be"),
        (lambda: rough().energy(torch.zeros(2, 3), at(0.5)), ValueError, r"x must have shape \(B, 2\), got \(2, 3\)"),
        (lambda: rough().energy(torch.zeros(2, 2).long(), at(0.5)), TypeError, "floating-point"),
        (lambda: rough().energy(torch.zeros(2, 2), at(1.5)), ValueError, r"t must lie in \[0, 1\]"),
        (lambda: rough(RectifiedFlow())(torch.zeros(2, 2).double(), at(1.0)), ValueError, "α"),
        (lambda: rough().sample(0, torch.tensor([1.0, 0.5])), ValueError, "n must be at least 1"),
        (lambda: Recovery(rough(), torch.zeros(2, 2), at(0.3), at(0.3)), ValueError, "s must be noisier than t"),
        (lambda: Recovery(rough(), torch.zeros(2, 2), at(0.3), at(0.0)), ValueError, "and t have noise"),
        (lambda: Recovery(rough(), torch.tensor([[math.nan]]), at(0.3), at(0.1)), ValueError, "noisy must be finite"),
        (lambda: nce_loss(torch.zeros(3), torch.zeros(3)), ValueError, r"noise \(ν, B\)"),
        (lambda: nce_loss(torch.zeros(3), torch.zeros(0, 3)), ValueError, "ν ≥ 1"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
