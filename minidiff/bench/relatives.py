"""Five relatives beside diffusion on digits: distance and copies, likelihood, calls and costs (about 12 CPU-minutes).

python -m minidiff.bench relatives

Three seeds a family, each trained from nothing; diffusion is the zoo's `digits-unet`, with three seeds of sampling. The
Fréchet distance is that of as many samples as there are digits to the held-out ones, and must be read beside the copy
rate: whoever returns the training set has the least. Finished rows are kept in `build/relatives` and reused; delete the
folder to start over.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import bound, data, likelihood, metrics, noise, times, train
from minidiff.bench import results, run_stages
from minidiff.families.autoregressive import Autoregressive
from minidiff.families.baselines import neighbour_interpolation, pca_mixture
from minidiff.families.energy import Energy
from minidiff.families.flow import Flow
from minidiff.families.gan import GAN
from minidiff.families.vae import VAE
from minidiff.noise import standard_normal
from minidiff.objectives import denoising_loss
from minidiff.process import LinearVP, RectifiedFlow
from minidiff.zoo.measure import generate

FOLDER = Path("build/relatives")
SEEDS = (0, 1, 2)
BATCH = 128
LEVELS = 17
STEPS = {"VAE": 1500, "GAN": 1500, "flow": 1000, "autoregressive": 600, "energy": 3000}
DRAWS = 64  # of the VAE's importance-weighted bound
CHAIN = 20  # Langevin steps at each noise level of the energy
NOISE_LEVELS = 10
LEAST_NOISE = 2.3  # λ of the last level, where σ/α is 0.1: most of a grey level
BITS_EVERY = 4  # the flow of diffusion is integrated for each fourth held-out digit


@dataclass
class Trained:
    """What a row is made from: how to draw n images, the mean bits per dimension of images if any, and the costs."""

    sample: Callable[[int, torch.Generator], Tensor]
    calls: int
    parameters: int = 0
    bits: Callable[[Tensor], Tensor] | None = None
    kind: str = "none"  # of the likelihood: exact, bound (of one from above) or dequantised (also a bound)


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


def mixture(seed: int) -> Trained:
    """Ten Gaussians along the first principal axes of the dequantised digits."""
    images, _ = data.digits("train")
    generator = torch.Generator().manual_seed(seed)
    filled = likelihood.dequantise(images, LEVELS, generator).flatten(1)
    law, start = pca_mixture(RectifiedFlow(), filled, generator=generator), torch.zeros((), dtype=torch.float64)
    return Trained(
        lambda n, generator: law.sample(n, generator).float().reshape(n, *images.shape[1:]),
        1,
        law.means.numel() + law.means.shape[0] * 20 * 21 // 2,
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
    """A relativistic GAN with both gradient penalties; the average of the generator's weights."""
    model = GAN(relativistic=True)
    ema = train.EMA(model, max(0.9, 1 - 10 / STEPS["GAN"]))

    def pairs(of: int) -> Any:  # noqa: ANN401
        generator = torch.Generator().manual_seed(of)
        return ((x, standard_normal((len(x), model.latent), generator)) for (x,) in _digits(of))

    settings = {"steps": STEPS["GAN"], "lr": 5e-4}
    judge = train.fit(model.discriminator_loss, model.discriminator.parameters(), pairs(2 * seed), **settings)
    forger = train.fit(model.generator_loss, model.generator.parameters(), pairs(2 * seed + 1), **settings, ema=ema)
    for _ in zip(judge, forger, strict=True):
        pass
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
    model = Autoregressive(width=1024, dropout=0.2)
    fitted = _fit(model, lambda x: -model.log_prob(x), _digits(seed), STEPS["autoregressive"], 2e-3)

    def bits(x: Tensor) -> Tensor:
        return bound.bits_per_dim(-fitted.log_prob(x).double(), x[0].numel())

    return Trained(fitted.sample, fitted.dimensions, _size(fitted), bits, "exact")


def energy(seed: int) -> Trained:
    """An energy at every noise level, trained by denoising; samples by Langevin on the recovery conditionals."""
    process = LinearVP()
    model = Energy(process, (1, 8, 8), 256, 0.54)
    one = torch.ones((), dtype=torch.float64)
    grid = process.time(torch.linspace(float(process.lam(one)), LEAST_NOISE, NOISE_LEVELS + 1, dtype=torch.float64))
    stream = train.noised(_digits(seed), times.uniform_density(), seed + 100)
    fitted = _fit(model, lambda x0, t, eps: denoising_loss(model, x0, t, eps), stream, STEPS["energy"], 2e-3)
    calls = NOISE_LEVELS * CHAIN + 1
    return Trained(lambda n, generator: fitted.sample(n, grid, steps=CHAIN, generator=generator), calls, _size(fitted))


def diffusion(nfe: int) -> Callable[[int], Trained]:
    """The zoo's network, each class as often as among the digits, by the default sampler; bits by its flow."""

    def made(seed: int) -> Trained:
        from minidiff import zoo

        D = zoo.load("digits-unet")
        labels, test_labels = (data.digits(split)[1] for split in ("all", "test"))
        first = (0.1 / (LEVELS - 1)) ** 0.5
        grid = torch.linspace(first, 1, 21, dtype=torch.float64).square()

        def bits(x: Tensor) -> Tensor:
            few, of = x[::BITS_EVERY], test_labels[::BITS_EVERY]

            def log_density(y: Tensor) -> Tensor:
                directions = noise.probes(y, 1, generator=torch.Generator().manual_seed(1))
                return likelihood.log_prob(D.given(of), y, grid, probes=directions)

            return _dequantised(log_density, few)

        # Bits do not depend on the sampler, nor on the seed of the samples: one row has them.
        measured = bits if seed == 0 else None
        return Trained(lambda n, generator: generate(D, labels[:n], nfe, seed), nfe, _size(D), measured, "dequantised")

    return made


MAKERS: dict[str, Callable[[int], Trained]] = {
    "training set": training_set,
    "neighbours": neighbours,
    "PCA mixture": mixture,
    "VAE": vae,
    "GAN": gan,
    "flow": flow,
    "autoregressive": autoregressive,
    "energy": energy,
    "diffusion, 10 calls": diffusion(10),
    "diffusion, 35 calls": diffusion(35),
}


def row(family: str, seed: int, judge: nn.Module) -> dict[str, Any]:
    """One training and all that is measured of it."""
    digits, training, test = (data.digits(split)[0] for split in ("all", "train", "test"))
    with train.seeded(seed), metrics.Timer() as training_time:  # seeded: weights at the start, and dropout
        made = MAKERS[family](seed)
    with torch.no_grad():
        with metrics.Timer() as sampling_time:
            x = made.sample(len(digits), torch.Generator().manual_seed(seed))
        features = judge.features(x)
        bits = None if made.bits is None else made.bits(test)
        return {
            "family": family,
            "seed": seed,
            "frechet held-out": metrics.frechet_distance(features, judge.features(test)),
            "frechet all": metrics.frechet_distance(features, judge.features(digits)),
            "copy_rate": metrics.copy_rate(x, training),
            "nearest": float(metrics.nearest_distance(x, training).mean()),
            "bits": None if bits is None else float(bits.mean()),
            "bits error": None if bits is None else float(bits.std()) / len(bits) ** 0.5,
            "likelihood": made.kind,
            "calls": made.calls,
            "parameters": made.parameters,
            "training seconds": training_time.cpu,
            "sampling seconds": sampling_time.cpu,
        }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread (standard deviation over seeds) of the measured columns of one family; costs as they are."""
    found: dict[str, Any] = {key: rows[0][key] for key in ("family", "likelihood", "calls", "parameters")}
    for key in (
        "frechet held-out",
        "frechet all",
        "copy_rate",
        "nearest",
        "bits",
        "training seconds",
        "sampling seconds",
    ):
        values = [r[key] for r in rows if r[key] is not None]
        found[key] = statistics.fmean(values) if values else None
        found[f"{key} spread"] = statistics.stdev(values) if len(values) > 1 else None
    return found


def table() -> None:
    """The stored result `relatives`: every row, their summary, and what held-out digits themselves would score."""
    from minidiff import zoo

    judge, kept = zoo.load("digits-classifier"), FOLDER / "rows.json"
    rows = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    for family, seed in [(family, seed) for family in MAKERS for seed in SEEDS][len(rows) :]:
        rows.append(row(family, seed, judge))
        print(rows[-1], flush=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(rows), encoding="utf-8")
    (training, _), (test, _) = data.digits("train"), data.digits("test")
    with torch.no_grad():
        floor = metrics.frechet_floor(judge.features(data.digits("all")[0]))
    stored = {
        "steps": STEPS,
        "floor": {"mean": floor.mean, "std": floor.std, "n": floor.n},
        "held-out": {
            "copy_rate": metrics.copy_rate(test, training),
            "nearest": float(metrics.nearest_distance(test, training).mean()),
        },
        "rows": rows,
        "table": [summary([r for r in rows if r["family"] == family]) for family in MAKERS],
    }
    results.save("relatives", stored, "python -m minidiff.bench relatives")


def main(argv: Sequence[str]) -> None:
    """Run the stages that argv names, or all of them. Raises ValueError for an unknown name."""
    run_stages({"table": table}, argv)
