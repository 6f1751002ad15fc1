"""Copies, mixtures, and the families that draw at once or pixel after pixel: each trained for one seed."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import bound, data, likelihood, train
from minidiff.analytic import GaussianMixture
from minidiff.bench.relatives.trained import LEVELS, STEPS, Trained, batches, dequantised, fit, size
from minidiff.families.autoregressive import Autoregressive
from minidiff.families.baselines import neighbour_interpolation, pca_mixture
from minidiff.families.flow import Flow
from minidiff.families.gan import GAN, play
from minidiff.families.vae import VAE
from minidiff.noise import standard_normal
from minidiff.process import RectifiedFlow

COMPONENTS, AXES = 30, 30  # of the mixture of Gaussians
DRAWS = 64  # of the VAE's importance-weighted bound


def training_set(seed: int) -> Trained:
    """Copies: images of the training set, drawn with replacement."""
    images, _ = data.digits("train")
    return Trained(lambda n, generator: images[torch.randint(len(images), (n,), generator=generator)], 0)


def neighbours(seed: int) -> Trained:
    """Mixtures of a training image and one of its five nearest."""
    images, _ = data.digits("train")
    return Trained(lambda n, generator: neighbour_interpolation(images, n, 5, generator), 0)


def mixture_law(seed: int) -> GaussianMixture:
    """Gaussians along the first principal axes of the dequantised digits."""
    images, generator = data.digits("train")[0], torch.Generator().manual_seed(seed)
    filled = likelihood.dequantise(images, LEVELS, generator).flatten(1)
    return pca_mixture(RectifiedFlow(), filled, COMPONENTS, AXES, ridge=3e-3, generator=generator)


def mixture(seed: int) -> Trained:
    """The mixture as a model of its own."""
    law, start = mixture_law(seed), torch.zeros((), dtype=torch.float64)
    components, d = law.means.shape
    return Trained(
        lambda n, generator: law.sample(n, generator).float().reshape(n, 1, 8, 8),
        1,
        d + AXES * d + components * (1 + AXES + AXES * (AXES + 1) // 2),  # mean, axes; weights, means, covariances
        lambda x: dequantised(lambda y: law.log_prob(y.flatten(1), start), x),
        "dequantised",
    )


def vae(seed: int) -> Trained:
    """A VAE; its likelihood by the importance-weighted bound."""
    generator = torch.Generator().manual_seed(seed + 100)
    model = VAE()

    def loss(x: Tensor) -> Tensor:
        parts = model(x, standard_normal((len(x), model.latent), generator))
        return parts.reconstruction + parts.kl

    fitted = fit(model, loss, batches(seed), STEPS["VAE"], 2e-3)

    def bits(x: Tensor) -> Tensor:
        return bound.bits_per_dim(-fitted.log_prob(x, DRAWS, torch.Generator().manual_seed(0)), x[0].numel())

    return Trained(fitted.sample, 1, size(fitted), bits, "bound")


def gan(seed: int) -> Trained:
    """A GAN with the non-saturating loss and R1; the average of the generator's weights."""
    model, generator = GAN(gamma=0.1), torch.Generator().manual_seed(seed + 100)
    ema = train.EMA(model, 0.995)
    for _ in play(model, batches(seed), rounds=STEPS["GAN"], generator=generator):
        ema.update()
    return Trained(ema.module.sample, 1, size(model.generator))


def flow(seed: int) -> Trained:
    """Affine couplings on dequantised digits."""
    generator = torch.Generator().manual_seed(seed + 100)
    model = Flow(dropout=0.1)
    model.standardise(likelihood.dequantise(data.digits("train")[0], LEVELS, generator))

    def loss(x: Tensor) -> Tensor:
        return -model.log_prob(likelihood.dequantise(x, LEVELS, generator))

    fitted = fit(model, loss, batches(seed), STEPS["flow"], 1e-3)
    return Trained(fitted.sample, 1, size(fitted), lambda x: dequantised(fitted.log_prob, x), "dequantised")


def autoregressive(seed: int) -> Trained:
    """MADE, pixel after pixel."""
    model = Autoregressive(width=512, dropout=0.3)
    fitted = fit(model, lambda x: -model.log_prob(x), batches(seed), STEPS["autoregressive"], 2e-3)

    def bits(x: Tensor) -> Tensor:
        return bound.bits_per_dim(-fitted.log_prob(x).double(), x[0].numel())

    return Trained(fitted.sample, fitted.dimensions, size(fitted), bits, "exact")
