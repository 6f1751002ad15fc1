"""Super-resolution of digits with structured noise: trained with the paper's factor, the released code's, and none.

The high-resolution picture is the truth x, the low-resolution one its means over 2 × 2 pixels, enlarged again; a
perceptron is given the enlarged picture u and denoises the residual (x − u)/c, as in the work on which SAM-DiffSR
builds (SRDiff, Li et al. 2022). Regions are the connected parts of ink and of paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff import data, inverse, metrics, zoo
from minidiff.bench import ddpm, results, resume
from minidiff.nets import MLP
from minidiff.process import Tabulated
from minidiff.samplers import ancestral, ddim
from minidiff.train import EMA, fit, seeded

KEPT = Path("build/inverse/structured.json")
SEEDS = (0, 1, 2)  # of a training: weights, batches, steps of the chain and noise
FORMS = ("none", "released", "paper")
STEPS = 1000  # of training
BATCH = 128
WIDTH = 128
CALLS = 100
DRAWS = 2  # of each test digit


class Pictures(NamedTuple):
    """Pictures x and enlarged low-resolution pictures u (B, 1, 8, 8), region labels (B, 8, 8), E (B, 1, 8, 8)."""

    x: Tensor
    u: Tensor
    regions: Tensor
    pattern: Tensor


def schedules() -> dict[str, Tensor]:
    """Name → β (T,): the cosine of 100 steps that the authors train with, and DDPM's line of 1000."""
    return {
        "cosine, T = 100": torch.tensor(ddpm.cosine(100), dtype=torch.float64),
        "linear, T = 1000": torch.tensor(ddpm.linear(1000), dtype=torch.float64),
    }


def factors(form: str, betas: Tensor) -> Tensor:
    """φ_k (T,) of a form of FORMS; "none" is DDPM."""
    if form == "none":
        return torch.zeros_like(betas)
    return {"paper": inverse.paper_factors, "released": inverse.released_factors}[form](betas)


def segmented(images: Tensor) -> Tensor:
    """Labels (B, 8, 8), from 0, of the connected parts of what lies above and below Otsu's threshold of each image."""
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    regions = []
    for picture in images[:, 0].double().numpy():
        ink = picture > threshold_otsu(picture)
        regions.append(torch.from_numpy(label(ink + 1, background=0, connectivity=1)).long() - 1)
    return torch.stack(regions)


def pictures(split: str) -> Pictures:
    """The digits of a split with their regions and region pictures E."""
    x = data.digits(split)[0]
    u = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bicubic").clamp(-1, 1)
    regions = segmented(x)
    pattern = inverse.region_pattern(regions, inverse.rotary_code(*x.shape[-2:]))
    return Pictures(x, u, regions, pattern[:, None].to(x.dtype))


class Restorer:
    """The denoiser x̂_0 = (x − σ_t ε̂′)/α_t of the residual, kept where the picture u + c x̂_0 lies in [−1, 1].

    It calls itself uncoupled, though the structured forms train coupled networks: the paper runs the ancestral sampler
    all the same, and that is what is measured.
    """

    coupled, sigma_data = False, 1.0

    def __init__(self, net: nn.Module, betas: Tensor, u: Tensor, scale: float) -> None:
        self.process = Tabulated(tuple(betas.tolist()))
        self.net, self.u, self.scale = net, u, scale

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 of x (B, 1, 8, 8) at a time t ()."""
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        x0 = (x - sigma * answer(self.net, x, self.u, t)) / alpha
        return torch.clamp(x0, (-1 - self.u) / self.scale, (1 - self.u) / self.scale)


def answer(net: nn.Module, x: Tensor, u: Tensor, t: Tensor) -> Tensor:
    """ε̂′ of x given u (both (B, 1, 8, 8)) at the time t = k/T, () or (B,)."""
    return net(torch.cat([x, u], 1), t.to(x.dtype))[:, :1]


def batches(train: Pictures, scale: float, steps: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Endless (x_0, u, E, k, ε) with x_0 the residual, the same for every form."""
    generator = torch.Generator().manual_seed(seed)
    stream = data.batches((train.x - train.u) / scale, train.u, train.pattern, batch_size=BATCH, seed=seed)
    for x0, u, pattern in stream:
        k = torch.randint(1, steps + 1, (BATCH,), generator=generator)
        yield x0, u, pattern, k, torch.randn(x0.shape, generator=generator)


def trained(form: str, betas: Tensor, train: Pictures, scale: float, seed: int) -> nn.Module:
    """The averaged network after STEPS steps on ‖ε̂′ − ε′‖²."""
    with seeded(seed):
        net = MLP(2 * train.x[0].numel(), width=WIDTH)
    phi = factors(form, betas)

    def loss(x0: Tensor, u: Tensor, pattern: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        x, target = inverse.structured_noise(x0, k, eps, pattern, betas, phi)
        return (answer(net, x, u, k / len(betas)) - target).square().flatten(1).mean(1)

    ema = EMA(net, 0.99)
    stream = batches(train, scale, len(betas), seed)
    for _ in fit(loss, net.parameters(), stream, steps=STEPS, lr=2e-3, warmup=min(100, STEPS), ema=ema):
        pass
    return ema.module


def judged(made: Tensor, test: Pictures, labels: Tensor, judge: nn.Module) -> dict[str, float]:
    """Scores of draws (n, B, 1, 8, 8) of the test pictures.

    psnr: decibels, mean over pictures and draws. same_class: share that the judge reads as the label. frechet: distance
    of the first draws from the truths. bias: root mean square over regions of the mean error in a region, over its
    pixels and the draws; ink and paper: that mean error itself, averaged over the regions of either kind.
    """
    error = (made - test.x).double()
    square = error.square().flatten(2).mean(-1)
    mean_error, is_ink = per_region(error.mean(0)[:, 0], test)
    return {
        "psnr": float((10 * (4 / square.clamp(min=1e-12)).log10()).mean()),
        "same_class": float((judge(made.flatten(0, 1)).argmax(1) == labels.repeat(len(made))).double().mean()),
        "frechet": metrics.frechet_distance(judge.features(made[0]).double(), judge.features(test.x).double()),
        "bias": float(mean_error.square().mean().sqrt()),
        "ink": float(mean_error[is_ink].mean()),
        "paper": float(mean_error[~is_ink].mean()),
    }


def per_region(error: Tensor, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """(mean of error (B, 8, 8) over each region of each picture, whether the region is brighter than the picture)."""
    count = int(pictures.regions.max()) + 1
    chosen = F.one_hot(pictures.regions.flatten(1), count).double()
    size = chosen.sum(1)
    mean, shade = (torch.einsum("bpm,bp->bm", chosen, v.flatten(1).double()) / size for v in (error, pictures.x))
    there = size > 0
    return mean[there], (shade > pictures.x.flatten(1).mean(1, keepdim=True))[there]


@torch.no_grad()
def draws(
    net: nn.Module, form: str, betas: Tensor, train: Pictures, test: Pictures, scale: float
) -> dict[tuple[str, str], Tensor]:
    """(sampler, start) → draws (DRAWS, B, 1, 8, 8): ancestral or DDIM, from N(0, I) or N(φ_T E, I).

    E is that of the truth, which no one has at the time of use, or the mean of the training pictures' E.
    """
    T = len(betas)
    times = torch.arange(T, -1, -(T // CALLS), dtype=torch.float64) / T
    D = Restorer(net, betas, test.u.repeat(DRAWS, 1, 1, 1), scale)
    means = {"none": torch.zeros_like(test.x)}
    if form != "none":
        end = float(factors(form, betas)[-1])
        means |= {"mean": end * train.pattern.mean(0).expand_as(test.x), "true": end * test.pattern}
    made = {}
    for start, mean in means.items():
        generator = torch.Generator().manual_seed(100)
        x = mean.repeat(DRAWS, 1, 1, 1) + torch.randn(D.u.shape, generator=generator)
        for sampler, states in (
            ("ancestral", ancestral(D, x, times, generator=generator)),
            ("ddim", ddim(D, x, times)),
        ):
            *_, last = states
            made[sampler, start] = (D.u + scale * last.x).unflatten(0, (DRAWS, -1))
    return made


def measure() -> None:
    """inverse-structured: super-resolved digits after training with plain and structured noise."""
    judge = zoo.load("digits-classifier").requires_grad_(False)
    train, test, labels = pictures("train"), pictures("test"), data.digits("test")[1]
    scale = float((train.x - train.u).square().mean().sqrt())

    def row(setting: tuple[str, str, int]) -> dict[str, Any]:
        schedule, form, seed = setting
        betas = schedules()[schedule]
        net = trained(form, betas, train, scale, seed)
        made = draws(net, form, betas, train, test, scale)
        runs = [
            {"sampler": sampler, "start": start, **judged(x, test, labels, judge)}
            for (sampler, start), x in made.items()
        ]
        return {"schedule": schedule, "form": form, "seed": seed, "runs": runs}

    table = resume.rows(KEPT, list(itertools.product(schedules(), FORMS, SEEDS)), row)
    ends = {
        name: {form: [float(factors(form, b)[-1]), float(factors(form, b).max())] for form in FORMS}
        for name, b in schedules().items()
    }
    spread = test.pattern - test.pattern.mean((-2, -1), keepdim=True)
    stored = {
        "training_steps": STEPS,
        "calls": CALLS,
        "draws": DRAWS,
        "pictures": len(test.x),
        "enlarged": judged(test.u[None], test, labels, judge),
        "truth": float((judge(test.x).argmax(1) == labels).double().mean()),
        "factors": ends,  # [at the last step, largest]
        "pattern": {"square": float(test.pattern.square().mean()), "within": float(spread.square().mean())},
        "table": table,
    }
    results.save("inverse-structured", stored, "python -m minidiff.bench inverse structured")
