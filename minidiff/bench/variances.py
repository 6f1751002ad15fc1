"""What the chapter on the covariance of a step stores: digits by few steps, several variances (about 7 CPU-minutes).

python -m minidiff.bench variances [bound] [samples]      (default: both)

Both use the zoo's `digits-unet`. A trained variance and finished rows of samples are kept in `build/variances` and
reused, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import bound, data, noise, times
from minidiff.bench import results, resume, run_stages
from minidiff.denoiser import Denoiser, DenoiserLike
from minidiff.metrics import class_accuracy, frechet_distance, frechet_floor
from minidiff.nets.unet import UNet
from minidiff.objectives.hybrid import step_kl
from minidiff.process import Process
from minidiff.samplers import ddim, last
from minidiff.samplers.reverse_variance import reverse_gaussian, reverse_steps
from minidiff.train import fit, noised, progress, seeded
from minidiff.uncertainty import posterior_errors, tweedie_diagonal

FOLDER = Path("build/variances")
LEVELS = 17
STEPS = (5, 10, 20, 50, 100)
WITH_TWEEDIE = (5, 10)  # where Tweedie's diagonal is evaluated too: a backward pass for each probe
SAMPLED = (5, 10)
METHODS = ("ddim", "least", "forward", "optimal", "optimal, eta = 0")
TRAINING_STEPS = 400


def grid(D: DenoiserLike, n: int) -> Tensor:
    """n steps, uniform in arctan(r/σ_data) down to r = 0.03, half a grey level, and then to the data."""
    return times.cosine_angle(D.process, n, sigma_data=D.sigma_data, r_max=math.inf, r_min=0.03, zero=True)


def error_of(D: Denoiser, schedule: Tensor, every: int = 4) -> tuple[Tensor, Tensor]:
    """E|x_0 − x̂_0|²/d at the start of each step on a part of the training digits: by the residual, by the score."""
    images, labels = (x[::every] for x in data.digits("train"))
    found = posterior_errors(D.given(labels), images, schedule[:-1], torch.Generator().manual_seed(0))
    return found.residual.mean(1), found.score.mean(1).clamp(min=1e-6)


def wiener_error(process: Process, t: Tensor, sigma_data: float) -> Tensor:
    """σ² s²/(α² s² + σ²): the error per coordinate that the best linear denoiser leaves; the shape of t."""
    alpha2, noise2 = process.alpha(t).square() * sigma_data**2, process.sigma(t).square()
    return noise2 * sigma_data**2 / (alpha2 + noise2)


class LearnedError(torch.nn.Module):
    """E[(x_0 − x̂_0)² | x_s] of each pixel, the Wiener error times the exponential of a small U-Net."""

    def __init__(self, D: Denoiser) -> None:
        super().__init__()
        with seeded(0):
            self.net = UNet(channels=16, classes=10)
        self.process, self.sigma_data = D.process, D.sigma_data

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (B, 1, 8, 8), t () or (B,), y (B,): positive, the shape of x."""
        scale = wiener_error(self.process, t.double(), self.sigma_data).to(x)
        return scale.reshape(-1, 1, 1, 1) * self.net(x, t.to(x), y).clamp(-8, 8).exp()


def learned_error(D: Denoiser, steps: int = TRAINING_STEPS) -> LearnedError:
    """Train it on the residuals of D by ½ (log h + (x_0 − x̂_0)²/h), whose least value is at h = E[(x_0 − x̂_0)² | x]."""
    model = LearnedError(D)

    def loss(x0: Tensor, t: Tensor, eps: Tensor, y: Tensor) -> Tensor:
        x = D.process.noise(x0, t, eps)
        with torch.no_grad():
            square = (x0 - D(x, t, y)).square()
        h = model(x, t, y)
        return ((h.log() + square / h) / 2).flatten(1).mean(1)

    # Half of the held-out digits teach the variance: on its training digits the network errs less than it will.
    images, labels = (x[1::2] for x in data.digits("test"))
    density = times.low_discrepancy(times.uniform_density(0.02, 1.0))
    stream = noised(data.batches(images, labels, batch_size=128, seed=0), density, 1)
    checkpoint = FOLDER / f"learned-{steps}.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for _ in progress(
        fit(loss, model.parameters(), stream, steps=steps, lr=2e-3, warmup=min(30, steps), checkpoint=checkpoint), steps
    ):
        pass
    return model.eval().requires_grad_(False)


def bits(D: Denoiser, n: int, learned: LearnedError, seed: int = 0) -> list[dict[str, Any]]:
    """The bound in bits per pixel by n steps for each choice of the variance, on the same noise, with its parts.

    On the half of the test digits that the learned variance has not seen. The decoder is the last step, a Gaussian in
    bins; for β̃ = 0 there its neighbour stands in. The prior term is 0, since α(1) = 0.
    """
    images, labels = (x[::2] for x in data.digits("test"))
    schedule = grid(D, n)
    steps = reverse_steps(D.process, schedule)
    residual, by_score = error_of(D, schedule)
    generator = torch.Generator().manual_seed(seed)
    nats: dict[str, list[Tensor]] = {}
    for i, s in enumerate(schedule[:-1]):
        eps = torch.randn(images.shape, generator=generator)
        x = D.process.noise(images, s, eps)
        with torch.no_grad():
            guess = D(x, s, labels)
            error = {"optimal": residual[i], "score": by_score[i], "learned": learned(x, s, labels).double()}
        if n in WITH_TWEEDIE:
            error["tweedie"] = tweedie(D.given(labels), x, s, residual[i], generator)
        variance = {name: steps.least[i] + steps.reveal[i] ** 2 * value for name, value in error.items()}
        variance["least"] = steps.least[i] if i < n - 1 else steps.least[i - 1]
        variance["forward"] = steps.forward[i]
        square = (images - guess).double().square()
        for name, v in variance.items():
            if i < n - 1:
                term = step_kl(steps, torch.full((len(x),), i), square, v.expand_as(square))
            else:
                term = -bound.discretised_log_prob(images, guess, v.sqrt(), LEVELS)
            nats.setdefault(name, []).append(bound.bits_per_dim(term.flatten(1).sum(1), images[0].numel()))
    return [{"steps": n, "variance": name, **summary(torch.stack(terms, 1))} for name, terms in nats.items()]


def tweedie(D: DenoiserLike, x: Tensor, s: Tensor, fallback: Tensor, generator: torch.Generator) -> Tensor:
    """Tweedie's diagonal by 4 probes of signs, kept within a tenth and ten times of its mean; at α = 0 the error."""
    if float(D.process.alpha(s)) == 0:
        return fallback.expand(x.shape)
    found = tweedie_diagonal(D, x, s, noise.probes(x, 4, generator=generator)).double()
    mean = found.mean().clamp(min=1e-6)
    return found.clamp(mean / 10, 10 * mean)


def summary(terms: Tensor) -> dict[str, float]:
    """Mean and standard error over images of the sum of the terms (B, n) of the steps, its last one the decoder."""
    total = terms.sum(1)
    return {
        "bits": float(total.mean()),
        "standard_error": float(total.std() / len(total) ** 0.5),
        "decoder": float(terms[:, -1].mean()),
    }


def bounds() -> None:
    """variances-bound: bits per pixel for every number of steps and variance, and the errors that they rest on."""
    D = network()
    learned = learned_error(D)
    rows, errors = [], {}
    for n in STEPS:
        rows += bits(D, n, learned)
        residual, by_score = error_of(D, grid(D, n))
        errors[n] = {"times": grid(D, n)[:-1].tolist(), "residual": residual.tolist(), "score": by_score.tolist()}
        print(*rows[-6:], sep="\n", flush=True)
    stored = {"table": rows, "errors": errors, "training_steps": TRAINING_STEPS}
    results.save("variances-bound", stored, "python -m minidiff.bench variances bound")


def draw(D: Denoiser, method: str, n: int, labels: Tensor, seed: int = 0) -> Tensor:
    """One digit for each label by n steps of a method of METHODS; (B, 1, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    x = D.process.prior((len(labels), 1, 8, 8), generator)
    schedule, of_class = grid(D, n), D.given(labels)
    if method == "ddim":
        return last(ddim(of_class, x, schedule))
    steps = reverse_steps(D.process, schedule, eta=0.0 if method.endswith("eta = 0") else 1.0)
    variance = {"least": steps.least, "forward": steps.forward}.get(method)
    if variance is None:
        variance = steps.optimal(error_of(D, schedule)[0])
    eta = 0.0 if method.endswith("eta = 0") else 1.0
    return last(reverse_gaussian(of_class, x, schedule, variance=variance, eta=eta, generator=generator))


@torch.no_grad()
def samples() -> None:
    """variances-samples: the Fréchet distance of 1797 digits to the digits for each number of steps and method."""
    from minidiff import zoo

    D, judge = network(), zoo.load("digits-classifier")
    digits, labels = data.digits("all")
    reference = judge.features(digits).double()

    def row(setting: tuple[int, str]) -> dict[str, Any]:
        n, method = setting
        start = time.process_time()
        made = draw(D, method, n, labels)
        return {
            "steps": n,
            "method": method,
            "frechet": frechet_distance(judge.features(made).double(), reference),
            "as_asked": class_accuracy(judge(made), labels),
            "cpu_seconds": time.process_time() - start,
        }

    rows = resume.rows(FOLDER / "samples.json", list(itertools.product(SAMPLED, METHODS)), row)
    stored = {"n": len(digits), "floor": frechet_floor(reference).mean, "table": rows}
    results.save("variances-samples", stored, "python -m minidiff.bench variances samples")


def network() -> Denoiser:
    """The zoo's digits-unet, fixed."""
    from minidiff import zoo

    return zoo.load("digits-unet").requires_grad_(False)


STAGES = {"bound": bounds, "samples": samples}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or both. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
