"""The families that draw in many steps, energies and diffusion: each trained for one seed, and the zoo's network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import data, likelihood, noise, times, train
from minidiff.bench.relatives.generators import mixture_law
from minidiff.bench.relatives.trained import LEVELS, SPREAD, STEPS, Trained, batches, dequantised, fit, size
from minidiff.denoiser import Denoiser, DenoiserLike
from minidiff.families.energy import Energy, nce_loss, recovery_loss
from minidiff.nets import MLP
from minidiff.nets.perceptron import perceptron
from minidiff.objectives import denoising_loss, simple, velocity
from minidiff.process import VE, LinearVP, RectifiedFlow
from minidiff.samplers import sample
from minidiff.zoo.measure import PART, generate

PROPOSALS = 64  # draws of the noise of NCE, of which one is kept
CONSTANT = 20_000  # draws of it that estimate log Z
RUNGS, CHAIN = 8, 10  # noise levels of the recovery likelihood, and Langevin steps at each
CALLS = 10  # of the denoisers
BITS_EVERY = 8  # the flow of diffusion is integrated for each eighth held-out digit


def contrast(seed: int) -> Trained:
    """An energy −log p_mixture − G, G by NCE against the mixture; one of its draws for each sample, by weight e^G."""
    law, generator = mixture_law(seed), torch.Generator().manual_seed(seed + 100)
    G, start = perceptron(64, 1, 256, 0.3), torch.zeros((), dtype=torch.float64)
    bank = law.sample(CONSTANT, generator).float()

    def loss(x: Tensor) -> Tensor:
        y = bank[torch.randint(len(bank), (len(x),), generator=generator)]
        return nce_loss(G(likelihood.dequantise(x, LEVELS, generator).flatten(1))[:, 0], G(y).mT)

    fitted = fit(G, loss, batches(seed), STEPS["energy, NCE"], 1e-3)
    with torch.no_grad():  # log Z = log E e^G over fresh draws
        fresh = fitted(law.sample(CONSTANT, generator).float())[:, 0].double()
    log_z = fresh.logsumexp(0) - math.log(CONSTANT)

    def draw(n: int, generator: torch.Generator) -> Tensor:
        y = law.sample(n * PROPOSALS, generator).float()
        chosen = torch.multinomial(fitted(y).reshape(n, PROPOSALS).softmax(1), 1, generator=generator)[:, 0]
        return y.reshape(n, PROPOSALS, 1, 8, 8)[torch.arange(n), chosen]

    def log_density(x: Tensor) -> Tensor:
        return law.log_prob(x.flatten(1), start) + fitted(x.flatten(1))[:, 0].double() - log_z

    return Trained(draw, PROPOSALS, size(fitted), lambda x: dequantised(log_density, x), "estimated")


def recovery(seed: int) -> Trained:
    """An energy at every noise level; Langevin on the law of one level given the next trains and samples it."""
    process, generator = VE(sigma_min=0.1, sigma_max=4.0), torch.Generator().manual_seed(seed + 100)
    model, grid = Energy(process, (1, 8, 8), 256, SPREAD), torch.linspace(1, 0, RUNGS + 1, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        level = int(torch.randint(RUNGS, (), generator=generator))
        return recovery_loss(model, x, grid[level], grid[level + 1], steps=CHAIN, generator=generator)

    fitted = fit(model, loss, batches(seed), STEPS["energy, recovery"], 2e-3)
    draw = lambda n, generator: fitted.sample(n, grid, steps=CHAIN, generator=generator)  # noqa: E731
    return Trained(draw, RUNGS * CHAIN + 1, size(fitted))


def denoising(seed: int) -> Trained:
    """The same energy trained by the denoising loss, which needs no chain, and sampled as diffusion is."""
    return _denoiser(Energy(LinearVP(), (1, 8, 8), 256, SPREAD), simple, 2e-3, "energy, denoising", seed)


def diffusion(seed: int) -> Trained:
    """A perceptron trained here to denoise, without labels; bits by its flow."""
    D = Denoiser(MLP(64), RectifiedFlow(), "velocity", sigma_data=SPREAD)
    return _denoiser(D, velocity, 5e-3, "diffusion", seed)


def _denoiser(D: Denoiser | Energy, weight: Callable[..., Tensor], lr: float, family: str, seed: int) -> Trained:
    stream = train.noised(batches(seed), times.uniform_density(), seed + 100)

    def loss(x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return denoising_loss(D, x, t, eps, weight=weight)

    fitted = fit(D, loss, stream, STEPS[family], lr)

    def draw(n: int, generator: torch.Generator) -> Tensor:
        x = D.process.prior((n, 1, 8, 8), generator)
        return torch.cat([sample(fitted, part, CALLS) for part in x.split(PART)])

    return Trained(draw, CALLS, size(fitted), lambda x: _flow_bits(fitted, x[::BITS_EVERY]), "dequantised")


def zoo_diffusion(seed: int) -> Trained:
    """The zoo's network, each class as often as among the digits, by ten calls of the default sampler."""
    from minidiff import zoo

    D = zoo.load("digits-unet")
    labels, test_labels = (data.digits(split)[1] for split in ("all", "test"))

    def bits(x: Tensor) -> Tensor:
        return _flow_bits(D.given(test_labels[::BITS_EVERY]), x[::BITS_EVERY])

    # Bits do not depend on the seed of the samples: one row has them.
    measured = bits if seed == 0 else None
    return Trained(lambda n, generator: generate(D, labels[:n], 10, seed), 10, size(D), measured, "dequantised")


def _flow_bits(D: DenoiserLike, x: Tensor) -> Tensor:
    """Bits per dimension along the probability flow, from where the noise is a tenth of half a bin."""
    grid = torch.linspace((0.1 / (LEVELS - 1)) ** 0.5, 1, 21, dtype=torch.float64).square()
    directions = noise.probes(x, 1, generator=torch.Generator().manual_seed(1))
    return dequantised(lambda y: likelihood.log_prob(D, y, grid, probes=directions), x)
