"""What the rows of the benchmark are made from: each family trained for one seed, and what it must be compared with.

Rates and sizes were chosen on seed 7, which is not among those reported; the numbers of steps were doubled after a
first run over the reported seeds had been stopped as too short.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import bound, data, likelihood, noise, times, train
from minidiff.analytic import GaussianMixture
from minidiff.denoiser import Denoiser
from minidiff.families.autoregressive import Autoregressive
from minidiff.families.baselines import neighbour_interpolation, pca_mixture
from minidiff.families.energy import Energy, nce_loss, recovery_loss
from minidiff.families.flow import Flow
from minidiff.families.gan import GAN, play
from minidiff.families.vae import VAE
from minidiff.nets import MLP
from minidiff.nets.perceptron import perceptron
from minidiff.noise import standard_normal
from minidiff.objectives import denoising_loss, simple, velocity
from minidiff.process import VE, LinearVP, RectifiedFlow
from minidiff.samplers import sample
from minidiff.zoo.measure import PART, generate

BATCH = 128
LEVELS = 17
STEPS = {  # about 40 CPU-seconds each
    "VAE": 4500,
    "GAN": 5000,
    "flow": 2200,
    "autoregressive": 1500,
    "energy, NCE": 4500,
    "energy, recovery": 1600,
    "energy, denoising": 5400,
    "diffusion": 5000,
}
COMPONENTS, AXES = 30, 30  # of the mixture of Gaussians
DRAWS = 64  # of the VAE's importance-weighted bound
PROPOSALS = 64  # draws of the noise of NCE, of which one is kept
CONSTANT = 20_000  # draws of it that estimate log Z
RUNGS, CHAIN = 8, 10  # noise levels of the recovery likelihood, and Langevin steps at each
SPREAD = 0.54  # standard deviation of the digits
CALLS = 10  # of the denoisers
BITS_EVERY = 8  # the flow of diffusion is integrated for each eighth held-out digit


@dataclass
class Trained:
    """What a row is made from: how to draw n images, the mean bits per dimension of images if any, and the costs."""

    sample: Callable[[int, torch.Generator], Tensor]
    calls: int
    parameters: int = 0
    bits: Callable[[Tensor], Tensor] | None = None
    kind: str = "none"  # of the likelihood: exact, bound, dequantised (also a bound), or estimated up to its constant


def _fit(model: nn.Module, loss: Callable[..., Tensor], stream: Any, steps: int, lr: float) -> nn.Module:  # noqa: ANN401
    """The average of the model's weights over the last part of the training."""
    ema = train.EMA(model, max(0.9, 1 - 10 / steps))
    for _ in train.fit(loss, model.parameters(), stream, steps=steps, lr=lr, warmup=min(50, steps // 4), ema=ema):
        pass
    return ema.module


def _digits(seed: int) -> Any:  # noqa: ANN401 (an endless stream of batches)
    return data.batches(data.digits("train")[0], batch_size=BATCH, seed=seed)


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _dequantised(log_density: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Bits per dimension of each of the images, an upper bound by one draw of the noise that fills the bins."""
    filled = likelihood.dequantise(x, LEVELS, torch.Generator().manual_seed(0))
    return likelihood.dequantised_bits(log_density(filled).double(), x[0].numel(), LEVELS)


def training_set(seed: int) -> Trained:
    """Copies: images of the training set, drawn with replacement."""
    images, _ = data.digits("train")
    return Trained(lambda n, generator: images[torch.randint(len(images), (n,), generator=generator)], 0)


def neighbours(seed: int) -> Trained:
    """Mixtures of a training image and one of its five nearest."""
    images, _ = data.digits("train")
    return Trained(lambda n, generator: neighbour_interpolation(images, n, 5, generator), 0)


def _mixture(seed: int) -> GaussianMixture:
    """Gaussians along the first principal axes of the dequantised digits."""
    images, generator = data.digits("train")[0], torch.Generator().manual_seed(seed)
    filled = likelihood.dequantise(images, LEVELS, generator).flatten(1)
    return pca_mixture(RectifiedFlow(), filled, COMPONENTS, AXES, ridge=3e-3, generator=generator)


def mixture(seed: int) -> Trained:
    """The mixture as a model of its own."""
    law, start = _mixture(seed), torch.zeros((), dtype=torch.float64)
    components, d = law.means.shape
    return Trained(
        lambda n, generator: law.sample(n, generator).float().reshape(n, 1, 8, 8),
        1,
        d + AXES * d + components * (1 + AXES + AXES * (AXES + 1) // 2),  # mean, axes; weights, means, covariances
        lambda x: _dequantised(lambda y: law.log_prob(y.flatten(1), start), x),
        "dequantised",
    )


def vae(seed: int) -> Trained:
    """A VAE; its likelihood by the importance-weighted bound."""
    generator = torch.Generator().manual_seed(seed + 100)
    model = VAE()

    def loss(x: Tensor) -> Tensor:
        parts = model(x, standard_normal((len(x), model.latent), generator))
        return parts.reconstruction + parts.kl

    fitted = _fit(model, loss, _digits(seed), STEPS["VAE"], 2e-3)

    def bits(x: Tensor) -> Tensor:
        return bound.bits_per_dim(-fitted.log_prob(x, DRAWS, torch.Generator().manual_seed(0)), x[0].numel())

    return Trained(fitted.sample, 1, _size(fitted), bits, "bound")


def gan(seed: int) -> Trained:
    """A GAN with the non-saturating loss and R1; the average of the generator's weights."""
    model, generator = GAN(gamma=0.1), torch.Generator().manual_seed(seed + 100)
    ema = train.EMA(model, 0.995)
    for _ in play(model, _digits(seed), rounds=STEPS["GAN"], generator=generator):
        ema.update()
    return Trained(ema.module.sample, 1, _size(model.generator))


def flow(seed: int) -> Trained:
    """Affine couplings on dequantised digits."""
    generator = torch.Generator().manual_seed(seed + 100)
    model = Flow(dropout=0.1)
    model.standardise(likelihood.dequantise(data.digits("train")[0], LEVELS, generator))

    def loss(x: Tensor) -> Tensor:
        return -model.log_prob(likelihood.dequantise(x, LEVELS, generator))

    fitted = _fit(model, loss, _digits(seed), STEPS["flow"], 1e-3)
    return Trained(fitted.sample, 1, _size(fitted), lambda x: _dequantised(fitted.log_prob, x), "dequantised")


def autoregressive(seed: int) -> Trained:
    """MADE, pixel after pixel."""
    model = Autoregressive(width=512, dropout=0.3)
    fitted = _fit(model, lambda x: -model.log_prob(x), _digits(seed), STEPS["autoregressive"], 2e-3)

    def bits(x: Tensor) -> Tensor:
        return bound.bits_per_dim(-fitted.log_prob(x).double(), x[0].numel())

    return Trained(fitted.sample, fitted.dimensions, _size(fitted), bits, "exact")


def contrast(seed: int) -> Trained:
    """An energy −log p_mixture − G, G by NCE against the mixture; one of its draws for each sample, by weight e^G."""
    law, generator = _mixture(seed), torch.Generator().manual_seed(seed + 100)
    G, start = perceptron(64, 1, 256, 0.3), torch.zeros((), dtype=torch.float64)
    bank = law.sample(CONSTANT, generator).float()

    def loss(x: Tensor) -> Tensor:
        y = bank[torch.randint(len(bank), (len(x),), generator=generator)]
        return nce_loss(G(likelihood.dequantise(x, LEVELS, generator).flatten(1))[:, 0], G(y).mT)

    fitted = _fit(G, loss, _digits(seed), STEPS["energy, NCE"], 1e-3)
    with torch.no_grad():  # log Z = log E e^G over fresh draws
        fresh = fitted(law.sample(CONSTANT, generator).float())[:, 0].double()
    log_z = fresh.logsumexp(0) - math.log(CONSTANT)

    def draw(n: int, generator: torch.Generator) -> Tensor:
        y = law.sample(n * PROPOSALS, generator).float()
        chosen = torch.multinomial(fitted(y).reshape(n, PROPOSALS).softmax(1), 1, generator=generator)[:, 0]
        return y.reshape(n, PROPOSALS, 1, 8, 8)[torch.arange(n), chosen]

    def log_density(x: Tensor) -> Tensor:
        return law.log_prob(x.flatten(1), start) + fitted(x.flatten(1))[:, 0].double() - log_z

    return Trained(draw, PROPOSALS, _size(fitted), lambda x: _dequantised(log_density, x), "estimated")


def recovery(seed: int) -> Trained:
    """An energy at every noise level; Langevin on the law of one level given the next trains and samples it."""
    process, generator = VE(sigma_min=0.1, sigma_max=4.0), torch.Generator().manual_seed(seed + 100)
    model, grid = Energy(process, (1, 8, 8), 256, SPREAD), torch.linspace(1, 0, RUNGS + 1, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        level = int(torch.randint(RUNGS, (), generator=generator))
        return recovery_loss(model, x, grid[level], grid[level + 1], steps=CHAIN, generator=generator)

    fitted = _fit(model, loss, _digits(seed), STEPS["energy, recovery"], 2e-3)
    draw = lambda n, generator: fitted.sample(n, grid, steps=CHAIN, generator=generator)  # noqa: E731
    return Trained(draw, RUNGS * CHAIN + 1, _size(fitted))


def denoising(seed: int) -> Trained:
    """The same energy trained by the denoising loss, which needs no chain, and sampled as diffusion is."""
    return _denoiser(Energy(LinearVP(), (1, 8, 8), 256, SPREAD), simple, 2e-3, "energy, denoising", seed)


def diffusion(seed: int) -> Trained:
    """A perceptron trained here to denoise, without labels; bits by its flow."""
    D = Denoiser(MLP(64), RectifiedFlow(), "velocity", sigma_data=SPREAD)
    return _denoiser(D, velocity, 5e-3, "diffusion", seed)


def _denoiser(D: Any, weight: Callable[..., Tensor], lr: float, family: str, seed: int) -> Trained:  # noqa: ANN401
    stream = train.noised(_digits(seed), times.uniform_density(), seed + 100)

    def loss(x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return denoising_loss(D, x, t, eps, weight=weight)

    fitted = _fit(D, loss, stream, STEPS[family], lr)

    def draw(n: int, generator: torch.Generator) -> Tensor:
        x = D.process.prior((n, 1, 8, 8), generator)
        return torch.cat([sample(fitted, part, CALLS) for part in x.split(PART)])

    return Trained(draw, CALLS, _size(fitted), lambda x: _flow_bits(fitted, x[::BITS_EVERY]), "dequantised")


def zoo_diffusion(seed: int) -> Trained:
    """The zoo's network, each class as often as among the digits, by ten calls of the default sampler."""
    from minidiff import zoo

    D = zoo.load("digits-unet")
    labels, test_labels = (data.digits(split)[1] for split in ("all", "test"))

    def bits(x: Tensor) -> Tensor:
        return _flow_bits(D.given(test_labels[::BITS_EVERY]), x[::BITS_EVERY])

    # Bits do not depend on the seed of the samples: one row has them.
    measured = bits if seed == 0 else None
    return Trained(lambda n, generator: generate(D, labels[:n], 10, seed), 10, _size(D), measured, "dequantised")


def _flow_bits(D: Any, x: Tensor) -> Tensor:  # noqa: ANN401 (a denoiser)
    """Bits per dimension along the probability flow, from where the noise is a tenth of half a bin."""
    grid = torch.linspace((0.1 / (LEVELS - 1)) ** 0.5, 1, 21, dtype=torch.float64).square()
    directions = noise.probes(x, 1, generator=torch.Generator().manual_seed(1))
    return _dequantised(lambda y: likelihood.log_prob(D, y, grid, probes=directions), x)


MAKERS: dict[str, Callable[[int], Trained]] = {
    "training set": training_set,
    "neighbours": neighbours,
    "PCA mixture": mixture,
    "VAE": vae,
    "GAN": gan,
    "flow": flow,
    "autoregressive": autoregressive,
    "energy, NCE": contrast,
    "energy, recovery": recovery,
    "energy, denoising": denoising,
    "diffusion": diffusion,
    "diffusion, zoo": zoo_diffusion,
}
