"""Adversarial training: the optimal discriminator and its value on a grid, both losses, penalties, and the game."""

import math

import pytest
import torch
from torch.distributions import Normal

from minidiff import data, train
from minidiff.families.gan import GAN, discriminator_loss, generator_loss, gradient_penalty, optimal_logit, play

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def tables(points=9, seed=0):
    """Two probability tables p and q."""
    return torch.rand(2, points, generator=gen(seed), dtype=F64).log().softmax(1).unbind(0)


def value(logit, p, q):
    """E_p log D + E_q log(1 − D), exactly: minus the loss over all pairs of the two tables."""
    pairs = discriminator_loss(logit[:, None].expand(len(p), len(q)), logit[None].expand(len(p), len(q)))
    return -(p[:, None] * q * pairs).sum()


@pytest.mark.parametrize("seed", range(4))
def test_the_value_at_the_optimum_is_the_jensen_shannon_divergence(seed):
    p, q = tables(seed=seed)
    middle = (p + q) / 2
    js = ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2
    best = value(optimal_logit(p.log(), q.log()), p, q)
    torch.testing.assert_close(best, 2 * js - math.log(4), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value(torch.zeros(9, dtype=F64), p, q), torch.tensor(-math.log(4), dtype=F64))


def test_the_optimal_logit_is_the_optimum():
    """The slope of the value is zero there, and no other table of logits does better."""
    p, q = tables(seed=7)
    logit = optimal_logit(p.log(), q.log()).requires_grad_()
    (slope,) = torch.autograd.grad(value(logit, p, q), logit)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    torch.testing.assert_close(logit.sigmoid(), p / (p + q))
    for k in range(20):
        other = logit + 0.3 * torch.randn(9, generator=gen(k), dtype=F64)
        assert value(other, p, q) < value(logit, p, q)


def test_the_losses_are_their_formulas():
    real, fake = torch.randn(2, 30, generator=gen(), dtype=F64).unbind(0)
    D_real, D_fake = real.sigmoid(), fake.sigmoid()
    torch.testing.assert_close(discriminator_loss(real, fake), -D_real.log() - (1 - D_fake).log())
    torch.testing.assert_close(generator_loss(real, fake), -D_fake.log())
    torch.testing.assert_close(discriminator_loss(real, fake, True), -(real - fake).sigmoid().log())
    torch.testing.assert_close(generator_loss(real, fake, True), -(fake - real).sigmoid().log())


def test_the_non_saturating_loss_has_a_slope_where_the_discriminator_is_sure():
    fake = torch.tensor([-30.0], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(generator_loss(torch.zeros(1, dtype=F64), fake).sum(), fake)
    (saturating,) = torch.autograd.grad((1 - fake.sigmoid()).log().sum(), fake)
    assert float(slope) == pytest.approx(-1, abs=1e-9)
    assert abs(float(saturating)) < 1e-9


def test_the_relativistic_loss_sees_differences_alone():
    real, fake = torch.randn(2, 9, generator=gen(), dtype=F64).unbind(0)
    for loss in (discriminator_loss, generator_loss):
        torch.testing.assert_close(loss(real, fake, True), loss(real + 5, fake + 5, True))
        assert not torch.allclose(loss(real, fake), loss(real + 5, fake + 5))


def test_the_gradient_penalty():
    """On L = wᵀx + ½ a |x|² it is ½ |w + a x|², and it can itself be differentiated."""
    w, a = torch.randn(3, generator=gen(), dtype=F64), torch.tensor(0.7, dtype=F64, requires_grad=True)
    x = torch.randn(5, 3, generator=gen(1), dtype=F64)
    penalty = gradient_penalty(lambda x: x @ w + a / 2 * x.square().sum(1), x)
    torch.testing.assert_close(penalty, (w + a * x).square().sum(1) / 2)
    (slope,) = torch.autograd.grad(penalty.sum(), a)
    torch.testing.assert_close(slope, ((w + 0.7 * x) * x).sum())
    with torch.no_grad():
        assert torch.equal(gradient_penalty(lambda x: x @ w + a / 2 * x.square().sum(1), x), penalty)


@pytest.mark.parametrize("relativistic", [False, True])
def test_the_loss_of_the_model_is_put_together_from_its_parts(relativistic):
    with train.seeded(0):
        gan = GAN((2,), latent=3, width=8, gamma=0.4, relativistic=relativistic).double()
    x, z = torch.randn(6, 2, generator=gen(), dtype=F64), torch.randn(6, 3, generator=gen(1), dtype=F64)
    made = gan.generate(z).detach()
    expected = discriminator_loss(gan.logit(x), gan.logit(made), relativistic)
    expected = expected + 0.4 * gradient_penalty(gan.logit, x)
    if relativistic:
        expected = expected + 0.4 * gradient_penalty(gan.logit, made)
    loss = gan.discriminator_loss(x, z)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert all(p.grad is None for p in gan.generator.parameters())
    assert all(p.grad is not None for p in gan.discriminator[:-1].parameters())
    torch.testing.assert_close(
        gan.generator_loss(x, z), generator_loss(gan.logit(x), gan.logit(gan.generate(z)), relativistic)
    )
    gan.gamma = 0.0
    torch.testing.assert_close(
        gan.discriminator_loss(x, z), discriminator_loss(gan.logit(x), gan.logit(made), relativistic)
    )


def test_a_trained_discriminator_knows_the_log_ratio():
    """Data N(1, 0.25), samples N(0, 1), both fixed: the logit comes to log p/q within 0.25 where both have mass."""
    with train.seeded(0):
        gan = GAN((1,), latent=1, width=32, gamma=0.0, limit=None)
    gan.generate = lambda z: z

    def stream():
        noise = gen(0)
        while True:
            yield 1 + 0.5 * torch.randn(512, 1, generator=noise), torch.randn(512, 1, generator=noise)

    params = gan.discriminator.parameters()
    for _ in train.fit(gan.discriminator_loss, params, stream(), steps=400, lr=1e-2):
        pass
    x = torch.linspace(-0.3, 2, 24)[:, None]
    truth = optimal_logit(Normal(1.0, 0.5).log_prob(x), Normal(0.0, 1.0).log_prob(x))[:, 0]
    assert float((gan.logit(x).detach() - truth).abs().max()) < 0.25


def gaussian(seed, n=128):
    """Batches of a Gaussian at (2, −1), without end."""
    noise = gen(seed)
    while True:
        yield (torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(n, 2, generator=noise),)


def player(relativistic=False, gamma=1.0):
    with train.seeded(0):
        return GAN((2,), latent=2, width=32, gamma=gamma, relativistic=relativistic, limit=None)


@pytest.mark.parametrize("relativistic", [False, True])
def test_the_game_moves_samples_to_the_data(relativistic):
    """300 rounds at least halve the distance of the samples' mean to that of the data, which it circles."""
    gan, target = player(relativistic), torch.tensor([2.0, -1.0])
    start = float((gan.sample(500, gen()).mean(0) - target).norm())
    losses = list(play(gan, gaussian(0), rounds=300, generator=gen(1), every=1))
    assert len(losses) == 300 and all(math.isfinite(v) for pair in losses for v in pair)
    assert float((gan.sample(500, gen()).mean(0) - target).norm()) < start / 2


def test_a_round_of_the_game():
    """Its first loss is that of the model before the step, the penalty `every` times as heavy; one seed, one result."""
    gan, again, third = player(), player(), player()
    (x,), noise = next(gaussian(0)), gen(1)
    z = torch.randn(128, 2, generator=noise)
    with torch.no_grad():
        plain = gan.discriminator_loss(x, z, 0).mean()
    penalty = gradient_penalty(gan.logit, x).mean().detach()
    game = play(gan, gaussian(0), rounds=4, generator=gen(1), every=3)
    (first, second), *_ = game
    assert first == pytest.approx(float(plain + 3 * penalty), rel=1e-5)
    for _ in play(again, gaussian(0), rounds=1, generator=gen(1), every=3):
        pass
    assert second > 0 and not torch.equal(gan.generator[0].weight, player().generator[0].weight)
    for _ in play(third, gaussian(0), rounds=1, generator=gen(1), every=3):
        pass
    for p, q in zip(again.parameters(), third.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_penalty_is_lazy():
    """From the second round on without a penalty, until the next `every`-th: γ then does not matter to the loss."""
    gan = player(gamma=5.0)
    x, z = next(gaussian(0))[0], torch.randn(128, 2, generator=gen(3))
    plain = discriminator_loss(gan.logit(x), gan.logit(gan.generate(z)))
    torch.testing.assert_close(gan.discriminator_loss(x, z, 0), plain)
    torch.testing.assert_close(gan.discriminator_loss(x, z, 2), plain + 10 * gradient_penalty(gan.logit, x))


def test_samples():
    with train.seeded(0):
        gan = GAN(limit=0.5)
    made = gan.sample(4, gen(1))
    assert made.shape == (4, 1, 8, 8) and torch.equal(made, gan.sample(4, gen(1)))
    assert bool((made.abs() < 0.5).all())
    torch.testing.assert_close(gan.sample(2, [gen(5), gen(6)])[1:], gan.sample(1, [gen(6)]))
    assert gan.logit(data.digits("test")[0][:3]).shape == (3,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GAN(latent=0), ValueError, "latent must be at least 1"),
        (lambda: GAN(width=0), ValueError, "width must be at least 1"),
        (lambda: GAN(gamma=-1.0), ValueError, "gamma must be"),
        (lambda: GAN(gamma=math.nan), ValueError, "gamma must be"),
        (lambda: GAN(limit=0.0), ValueError, "limit must be"),
        (lambda: GAN().generate(torch.zeros(2, 3)), ValueError, r"z must have shape \(B, 16\), got \(2, 3\)"),
        (lambda: GAN().logit(torch.zeros(2, 3)), ValueError, r"x must have shape \(B, 1, 8, 8\)"),
        (lambda: GAN().logit(torch.zeros(2, 1, 8, 8).long()), TypeError, "floating-point"),
        (lambda: GAN().sample(0), ValueError, "n must be at least 1"),
        (lambda: next(play(GAN(), [], rounds=0)), ValueError, "rounds must be at least 1"),
        (lambda: next(play(GAN(), [], rounds=1, every=0)), ValueError, "every must be at least 1"),
        (
            lambda: list(play(GAN(), [(torch.zeros(2, 1, 8, 8),)], rounds=3)),
            ValueError,
            "for 3 rounds, they ended after 1",
        ),
        (lambda: optimal_logit(torch.zeros(2), torch.zeros(3)), ValueError, "same shape"),
        (lambda: discriminator_loss(torch.zeros(2), torch.zeros(3)), ValueError, "same shape"),
        (lambda: generator_loss(torch.zeros(2), torch.zeros(3)), ValueError, "same shape"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
