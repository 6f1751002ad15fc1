"""CausalVAE: its divergence in closed form, the plain VAE at A = 0, interventions on images, and a graph learned."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from minidiff import likelihood, train
from minidiff.families.causal_graph import acyclicity, linear_scm
from minidiff.families.causal_vae import CausalVAE
from minidiff.families.vae import standard_kl

CHAIN = torch.tensor([[0.0, 0.8, 0.0], [0.0, 0.0, -1.1], [0.0, 0.0, 0.0]])


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def model(A=CHAIN, seed=0, **settings):
    with train.seeded(seed):
        of = CausalVAE(len(A), **({"shape": (1, 2, 2), "width": 16, "spread": 0.4} | settings)).eval()
    with torch.no_grad():
        of.weights.copy_(A)
    return of


def images(n, seed=0):
    return torch.randint(17, (n, 1, 2, 2), generator=gen(seed)).float() / 8 - 1


@pytest.mark.parametrize("A", [CHAIN, CHAIN + 0.3 * CHAIN.mT], ids=["acyclic", "cyclic"])
def test_the_divergence_of_the_concepts(A):
    of = model(A).double()
    mean, std, u = torch.randn(3, 5, 3, generator=gen(), dtype=torch.float64).unbind(0)
    std = (std / 2).exp()
    C = torch.linalg.inv(torch.eye(3, dtype=torch.float64) - of.A.detach().mT)
    for row in range(5):
        q = MultivariateNormal(C @ mean[row], C @ torch.diag(std[row] ** 2) @ C.mT)
        p = MultivariateNormal(u[row], 0.4**2 * torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(of.concept_kl(mean, std, u)[row].detach(), kl_divergence(q, p))


def test_the_divergences_of_an_encoder_of_concepts():
    """q(z | x) diagonal, so that q(ε | x) has the covariance (I − Aᵀ) diag s² (I − A)."""
    of = model(encodes="concepts").double()
    mean, std, u = torch.randn(3, 5, 3, generator=gen(), dtype=torch.float64).unbind(0)
    std = (std / 2).exp()
    eye = torch.eye(3, dtype=torch.float64)
    R = eye - of.A.detach().mT
    for row in range(5):
        q = MultivariateNormal(mean[row], torch.diag(std[row] ** 2))
        noise = MultivariateNormal(R @ mean[row], R @ torch.diag(std[row] ** 2) @ R.mT)
        own = kl_divergence(q, MultivariateNormal(u[row], 0.4**2 * eye))
        torch.testing.assert_close(of.concept_kl(mean, std, u)[row].detach(), own)
        of_noise = kl_divergence(noise, MultivariateNormal(torch.zeros(3, dtype=torch.float64), eye))
        torch.testing.assert_close(of.noise_kl(mean, std)[row].detach(), of_noise)


@pytest.mark.parametrize("encodes", ["noise", "concepts"])
def test_the_loss_term_by_term(encodes):
    of, x, u = model(encodes=encodes), images(6), torch.randn(6, 3, generator=gen(1))
    noise = torch.randn(6, 3, generator=gen(2))
    with torch.no_grad():
        mean, std = of.vae.encode(x)
        drawn = mean + std * noise
        eps, z = (drawn, linear_scm(CHAIN, drawn)) if encodes == "noise" else (drawn - drawn @ CHAIN, drawn)
        made = of.masked(z, eps, CHAIN)
        parts = of.noise_kl(mean, std) + of.concept_kl(mean, std, u) - of.vae.log_likelihood(x, made)
        squares = 3 * (u - u @ CHAIN).square().sum(1) + (z - made).square().sum(1)
        torch.testing.assert_close(of.loss(x, u, noise, labels=3.0), parts + squares)


@pytest.mark.parametrize("variable", range(3))
def test_an_encoder_of_concepts_moves_descendants_alone(variable):
    of, x = model(encodes="concepts"), images(7)
    as_is, after = of.counterfactual(x, {}), of.counterfactual(x, {variable: 1.7})
    for j in range(3):
        assert torch.equal(after[:, j], as_is[:, j]) == (j < variable)


def test_without_arrows_it_is_a_vae_with_a_conditional_prior():
    """A = 0, g = 0: z = ε, the concepts' divergence that of diagonal Gaussians, and the likelihood the plain one."""
    of, x, u = model(torch.zeros(3, 3)), images(6), torch.randn(6, 3, generator=gen(1))
    for g in of.mechanisms:
        for p in g[-1].parameters():
            torch.nn.init.zeros_(p)
    noise = torch.randn(6, 3, generator=gen(2))
    with torch.no_grad():
        mean, std = of.vae.encode(x)
        parts = of.vae(x, noise)
        prior = standard_kl((mean - u) / 0.4, std / 0.4)
        loss = of.loss(x, u, noise)
        torch.testing.assert_close(loss, sum(parts) + prior + u.square().sum(1), rtol=1e-5, atol=1e-5)


def test_the_loss_charges_for_cycles():
    A = torch.tensor([[0.0, 0.5, 0.0], [0.7, 0.0, 0.0], [0.0, 0.0, 0.0]])
    of, x, u, noise = model(A), images(4), torch.zeros(4, 3), torch.zeros(4, 3)
    h = float(acyclicity(A))
    with torch.no_grad():
        difference = of.loss(x, u, noise, acyclic=10.0) - of.loss(x, u, noise, acyclic=0.0)
    torch.testing.assert_close(difference, torch.full_like(difference, 10 * (3 * h + h**2)))
    assert h > 0.05


def test_concepts_see_their_causes_alone():
    of, eps = model(), torch.zeros(6, 3)
    z = torch.randn(6, 3, generator=gen())
    with torch.no_grad():
        before = of.masked(z, eps, CHAIN)
        for i in range(3):
            other = z.clone()
            other[:, i] += 1
            moved = (of.masked(other, eps, CHAIN) != before).any(0)
            assert moved.tolist() == (CHAIN[i] != 0).tolist()
        assert torch.equal(of.masked(z, eps + 1, CHAIN), before + 1)


@pytest.mark.parametrize(("variable", "moves"), [(0, (1, 2)), (1, (2,)), (2, ())])
def test_an_intervention_moves_descendants_alone(variable, moves):
    of, x = model(), images(7)
    as_is, after = of.counterfactual(x, {}), of.counterfactual(x, {variable: 1.7})
    assert bool((after[:, variable] == 1.7).all())
    for j in {0, 1, 2} - {variable}:
        assert torch.equal(after[:, j], as_is[:, j]) == (j not in moves)


def test_weak_arrows_count_as_none():
    of, x = model(CHAIN + 0.05 * CHAIN.mT), images(3)
    assert of.counterfactual(x, {0: 1.0}).shape == (3, 3)
    with pytest.raises(ValueError, match="acyclic graph"):
        of.counterfactual(x, {0: 1.0}, threshold=0.01)


def test_samples():
    of, u = model(), torch.randn(4, 3, generator=gen())
    made = of.sample(u, gen(1))
    assert made.shape == (4, 1, 2, 2) and bool((made.abs() <= 1).all()) and torch.equal(made, of.sample(u, gen(1)))
    of.spread = 1e-6
    with torch.no_grad():
        eps = u - u @ CHAIN
        expected = of.vae.decode(of.masked(linear_scm(CHAIN, eps), eps, CHAIN))[0].clamp(-1, 1)
    torch.testing.assert_close(of.sample(u, gen(2)), expected, rtol=1e-3, atol=1e-4)


def test_it_learns_that_one_concept_causes_another():
    """u_2 = 1.2 u_1 + noise: after 250 steps A_12 is well above 0, A_21 is not, and do(u_2) leaves u_1 alone."""
    truth = torch.tensor([[0.0, 1.2], [0.0, 0.0]])
    u = linear_scm(truth, torch.randn(2000, 2, generator=gen()))
    first, second = (u / 4).clamp(-1, 1).unbind(1)
    x = likelihood.quantise(torch.stack([first, second, first, second], 1).reshape(-1, 1, 2, 2), 17)
    of, noise = model(torch.zeros(2, 2)).train(), gen(1)
    stream = ((x[rows], u[rows]) for rows in (torch.randint(2000, (128,), generator=noise) for _ in range(250)))

    def loss(x, u):
        return of.loss(x, u, torch.randn(len(x), 2, generator=noise), acyclic=10.0)

    for _ in train.fit(loss, of.parameters(), stream, steps=250, lr=1e-2):
        pass
    A = of.A.detach()
    assert 0.3 < float(A[0, 1]) < 1.5
    assert abs(float(A[1, 0])) < 0.1
    of.eval()
    assert torch.equal(of.counterfactual(x[:5], {1: 2.0})[:, 0], of.counterfactual(x[:5], {})[:, 0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CausalVAE(0), ValueError, "latent must be at least 1"),
        (lambda: CausalVAE(2, encodes="pixels"), ValueError, "encodes must be 'noise' or 'concepts', got 'pixels'"),
        (lambda: CausalVAE(2, spread=0.0), ValueError, "spread must be"),
        (lambda: CausalVAE(2, spread=math.nan), ValueError, "spread must be"),
        (lambda: model().loss(images(2), torch.zeros(2, 2), torch.zeros(2, 3)), ValueError, r"u must have shape"),
        (lambda: model().loss(images(2), torch.zeros(2, 3), torch.zeros(2, 2)), ValueError, "same shape"),
        (lambda: model().loss(images(2), torch.zeros(2, 3).long(), torch.zeros(2, 3)), TypeError, "floating-point"),
        (lambda: model().counterfactual(images(2), {3: 0.0}), ValueError, "variables 0…2"),
        (lambda: model().counterfactual(images(2), {0: 0.0}, math.nan), ValueError, "threshold must be"),
        (lambda: model().loss(images(2), torch.zeros(1, 3), torch.zeros(2, 3)), ValueError, "u and the mean of the"),
        (lambda: model().sample(torch.zeros(2, 2)), ValueError, r"u must have shape \(B, 3\)"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
