"""What better spent calls are worth on digits: parallel sweeps, late starts, selection (about 7 CPU-minutes).

python -m minidiff.bench calls [parallel] [late] [selection]      (default: all three)

All with the zoo's `digits-unet`. Finished rows are kept in `build/calls` and reused; delete the folder to start over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import data, metrics, times, train
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.bench import results, run_stages
from minidiff.denoiser import DenoiserLike
from minidiff.families.vae import VAE
from minidiff.linear import Wiener
from minidiff.process import Process
from minidiff.samplers import (
    best_of,
    ddim,
    heun,
    last,
    late_start,
    parareal,
    picard,
    sample,
    search_noise,
    speculative,
    steered,
)
from minidiff.train import device

FOLDER = Path("build/calls")
BATCH = 20  # trajectories of the first stage
REFERENCE = 150  # steps of Heun's method
STEPS = (16, 36, 64, 144)
CHAINS = (25, 50, 100, 200, 400)  # steps of the chains that are speculated on
DRAFTS = 16
STEP = 0.1  # of a late start
STARTS = (0.8, 0.6, 0.4, 0.2, 0.0)
VAE_STEPS = 1500
BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128)  # draws to choose from
SEARCHED = (1, 2, 4, 8, 16, 32)
PARTICLES = (4, 8, 16)
NFE, CHAIN = 10, 20  # calls of a draw, and of a particle
TARGETS = 10  # of each class
RADIUS = 0.5


def rows(kept: Path, settings: Sequence[Any], row: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """row(setting) for each setting, those already in the file `kept` taken from there."""
    found = json.loads(kept.read_text()) if kept.exists() else []
    for setting in settings[len(found) :]:
        found.append(row(setting))
        print(found[-1], flush=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found))
    return found


def run_parallel(D: nn.Module, settings: Sequence[tuple[Any, ...]], kept: Path) -> dict[str, Any]:
    """Depth, calls and error of sequential and parallel methods on the same trajectories, and speculation on chains."""
    labels = torch.arange(BATCH, device=device()) % 10
    of_class = D.given(labels)
    shape = data.digits("test")[0].shape[1:]
    z = D.process.prior((BATCH, *shape), torch.Generator().manual_seed(0)).to(device())
    reference = last(heun(of_class, z, times.uniform(REFERENCE)))
    cheap_draft = Wiener.of_data(D.process, data.digits("train")[0].to(device()))

    def error(x: Tensor, goal: Tensor) -> float:
        return float(metrics.path_error(x, goal, D.sigma_data).mean())

    def row(setting: tuple[Any, ...]) -> dict[str, Any]:
        name, n, *rest = setting
        found: dict[str, Any] = {"method": name, "steps": n}
        grid = times.uniform(n)
        if name == "default":
            return found | {"depth": n, "calls": n, "error": error(sample(of_class, z, n), reference)}
        if name == "ddim":
            return found | {"depth": n, "calls": n, "error": error(last(ddim(of_class, z, grid)), reference)}
        if name == "speculative":
            draft = None if rest[0] == "held" else cheap_draft
            with_seed = torch.Generator().manual_seed(1)
            made = speculative(of_class, z, grid, length=DRAFTS, draft=draft, generator=with_seed)
            return found | {
                "draft": rest[0],
                "length": DRAFTS,
                "depth": float(made.rounds.double().mean()),
                "calls": float(made.calls.double().mean()),
                "accepted": int(made.accepted.sum()) / int(made.tested.sum()),
                "rejected at": _rejections(made.tested, made.accepted),
            }
        if name == "picard":
            cheap, window, tolerance = rest
            sweeps = picard(of_class, z, grid, cheap=cheap, window=window, tolerance=tolerance)
            found |= {"cheap": cheap, "window": window, "tolerance": tolerance}
        else:
            blocks, tolerance = rest
            sweeps = parareal(of_class, z, grid, blocks=blocks, tolerance=tolerance)
            found |= {"blocks": blocks, "tolerance": tolerance}
        goal, curve = last(ddim(of_class, z, grid)), []
        for sweep in sweeps:
            curve.append({"depth": sweep.depth, "calls": sweep.calls, "to sequential": error(sweep.x, goal)})
            if curve[-1]["to sequential"] < 1e-6 and tolerance == 0:
                break
        return found | curve[-1] | {"sweeps": len(curve) - 1, "error": error(sweep.x, reference), "curve": curve}

    return {"batch": BATCH, "reference steps": REFERENCE, "table": rows(kept, settings, row)}


def _rejections(tested: Tensor, accepted: Tensor, bins: int = 5) -> list[float]:
    """The share of drafts that were not kept, in equal parts of the chain from noise to data."""
    parts = zip(tested.tensor_split(bins), accepted.tensor_split(bins), strict=True)
    return [1 - int(kept.sum()) / max(1, int(tried.sum())) for tried, kept in parts]


def _parallel_settings() -> list[tuple[Any, ...]]:
    settings: list[tuple[Any, ...]] = [
        *(("default", n) for n in (4, 6, 8, 12, 20)),
        *(("ddim", n) for n in (8, *STEPS)),
    ]
    for n in STEPS:
        settings += [("picard", n, "linear", None, 1e-2), ("picard", n, "identity", None, 1e-2)]
        settings += [("parareal", n, math.isqrt(n), 1e-2)]
    settings += [("picard", 64, "linear", None, 0.0), ("picard", 64, "identity", None, 0.0), ("parareal", 64, 8, 0.0)]
    settings += [("picard", 64, "linear", window, 1e-2) for window in (8, 16, 32)]
    return [*settings, *(("speculative", n, "held") for n in CHAINS), ("speculative", 100, "Wiener")]


def parallel() -> None:
    """Stage 1, stored as calls-parallel."""
    from minidiff import zoo

    D = zoo.load("digits-unet").to(device())
    with torch.no_grad():
        stored = run_parallel(D, _parallel_settings(), FOLDER / "parallel.json")
    results.save("calls-parallel", stored, "python -m minidiff.bench calls parallel")


def fitted_priors(
    process: Process, images: Tensor, labels: Tensor, steps: int
) -> dict[str, Callable[[int, torch.Generator], Tensor]]:
    """Generators of digits that need no call: an isotropic Gaussian, a Gaussian, one for each class, and a VAE."""
    flat = images.flatten(1).double().cpu()
    means, covariances = zip(*(_moments(flat[labels.cpu() == k]) for k in range(10)), strict=True)
    shares = torch.bincount(labels.cpu(), minlength=10).double()
    spread = float((flat - flat.mean(0)).square().mean().sqrt())
    laws = {
        "isotropic": Gaussian(process, flat.mean(0), std=spread),
        "Gaussian": Gaussian(process, *_moments(flat)),
        "a Gaussian a class": GaussianMixture(process, shares, torch.stack(means), torch.stack(covariances)),
    }
    shape = images.shape[1:]

    def from_law(law: GaussianMixture, n: int, generator: torch.Generator) -> Tensor:
        return law.sample(n, generator).reshape(n, *shape).float()

    vae = fitted_vae(images, labels, steps)
    return {name: partial(from_law, law) for name, law in laws.items()} | {
        "VAE": lambda n, generator: vae.sample(n, generator).cpu()
    }


def _moments(flat: Tensor, floor: float = 1e-4) -> tuple[Tensor, Tensor]:
    mean = flat.mean(0)
    return mean, torch.cov(flat.T, correction=0) + floor * torch.eye(flat.shape[1], dtype=flat.dtype)


def fitted_vae(images: Tensor, labels: Tensor, steps: int) -> VAE:
    """A VAE of the training digits after that many steps, in evaluation mode."""
    with train.seeded(0):
        vae = VAE().to(device())
    noise = torch.Generator(device()).manual_seed(1)

    def loss(x: Tensor, _: Tensor) -> Tensor:
        parts = vae(x, torch.randn(len(x), vae.latent, generator=noise, device=x.device))
        return parts.reconstruction + parts.kl

    batches = data.batches(images, labels, batch_size=128, seed=0)
    for _ in train.fit(loss, vae.parameters(), batches, steps=steps, lr=2e-3, warmup=min(50, steps)):
        pass
    return vae.eval()


def run_late(
    D: DenoiserLike,
    judge: nn.Module,
    priors: dict[str, Callable[[int, torch.Generator], Tensor]],
    kept: Path,
) -> dict[str, Any]:
    """Fréchet distance, copies and nearest distance of samples that start at each time from each prior."""
    digits, training = (data.digits(split)[0].to(device()) for split in ("all", "train"))
    features = judge.features(digits).double()

    def row(setting: tuple[str, float]) -> dict[str, Any]:
        name, start = setting
        generator = torch.Generator().manual_seed(0)
        x = priors[name](len(digits), generator)
        calls = round(start / STEP)
        if calls:
            x = late_start(D, x, start, generator).to(device())
            grid = times.uniform(calls, start=start)
            x = torch.cat([last(ddim(D, part, grid)) for part in x.split(300)])
        x = x.to(device())
        return {
            "prior": name,
            "start": start,
            "calls": calls,
            "frechet": metrics.frechet_distance(judge.features(x).double(), features),
            "copy_rate": metrics.copy_rate(x, training),
            "nearest": float(metrics.nearest_distance(x, training).mean()),
        }

    settings = [("Gaussian", 1.0), *((name, start) for name in priors for start in STARTS)]
    return {
        "n": len(digits),
        "step": STEP,
        "floor": metrics.frechet_floor(features).mean,
        "table": rows(kept, settings, row),
    }


def late() -> None:
    """Stage 2, stored as calls-late."""
    from minidiff import zoo

    D, judge = zoo.load("digits-unet").to(device()), zoo.load("digits-classifier").to(device())
    images, labels = (x.to(device()) for x in data.digits("train"))
    priors = fitted_priors(D.process, images, labels, VAE_STEPS)
    with torch.no_grad():
        stored = run_late(D, judge, priors, FOLDER / "late.json")
    results.save("calls-late", stored, "python -m minidiff.bench calls late")


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log p/(1 − p) of the class asked for; logits (n, K), labels (n,) → (n,)."""
    asked = logits.gather(1, labels[:, None])[:, 0]
    return asked - logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)


def run_selection(D: DenoiserLike, judge: nn.Module, second: nn.Module, kept: Path) -> dict[str, Any]:
    """An unconditional network asked for a class, by choosing: best of n, search among noises, steering."""
    labels = (torch.arange(10).repeat(TARGETS)).to(device())
    count, (training, _), (unseen, unseen_labels) = len(labels), data.digits("train"), data.digits("test")
    shape = training.shape[1:]

    def draw(z: Tensor) -> Tensor:
        return torch.cat([sample(D, part, NFE) for part in z.split(300)])

    largest = max(BUDGETS)
    generator = torch.Generator().manual_seed(0)
    pool_size = TARGETS * largest
    pool = draw(torch.randn(pool_size, *shape, generator=generator).to(device()))

    def marks(method: str, draws: float, calls: int, x: Tensor, asked: Tensor) -> dict[str, Any]:
        near = torch.cdist(x.flatten(1).cpu(), unseen.flatten(1)).topk(5, largest=False).indices
        votes = unseen_labels[near].mode(1).values
        return {
            "method": method,
            "draws": draws,
            "calls": calls,
            "reward": float(log_odds(judge(x), asked).mean()),
            "accuracy": metrics.class_accuracy(judge(x), asked),
            "second reward": float(log_odds(second(x), asked).mean()),
            "second accuracy": metrics.class_accuracy(second(x), asked),
            "neighbours agree": float((votes == asked.cpu()).double().mean()),
            "spread": _spread(x, asked),
            "copy_rate": metrics.copy_rate(x.cpu(), training),
            "nearest": float(metrics.nearest_distance(x.cpu(), training).mean()),
        }

    def best(n: int) -> dict[str, Any]:
        # Target i of a class takes its own n draws of the pool; the classes share the pool.
        start = torch.arange(count) // 10 * n
        x = pool[(start[None] + torch.arange(n)[:, None]).to(device())]
        rewards = torch.stack([log_odds(judge(part), labels) for part in x])
        return marks("best of n", n, n * NFE, best_of(x, rewards), labels)

    state: dict[str, Any] = {}

    def searched(n: int) -> dict[str, Any]:
        if not state:
            state["z"] = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1)).to(device())
            state["draws"], state["noise"] = 1, torch.Generator().manual_seed(2)
            state["x"] = draw(state["z"])
        if n > state["draws"]:
            found = search_noise(
                draw,
                lambda x: log_odds(judge(x), labels),
                state["z"],
                rounds=n - state["draws"],
                radius=RADIUS,
                generator=state["noise"],
            )
            state.update(z=found.z, x=found.x, draws=n)
        return marks("search", n, n * NFE, state["x"], labels)

    def steer(n: int) -> dict[str, Any]:
        systems = 5 * 10  # each gives two particles, drawn by their weights
        asked = torch.arange(10).repeat(5).to(device())
        noise = torch.Generator().manual_seed(3)
        x = torch.randn(systems, n, *shape, generator=noise).to(device())
        repeated = asked.repeat_interleave(n)
        made = steered(
            D,
            x,
            times.uniform(CHAIN),
            lambda x: judge(x).log_softmax(1).gather(1, repeated[:, None])[:, 0],
            generator=noise,
        )
        chosen = torch.multinomial(made.log_weights.softmax(1).cpu(), 1, generator=noise)[:, 0]
        picked = made.x[torch.arange(systems), chosen.to(device())]
        return marks("steering", n * CHAIN / NFE, n * CHAIN, picked, asked) | {
            "particles": n,
            "resampled": float(made.resampled.double().mean()),
        }

    def row(setting: tuple[str, int]) -> dict[str, Any]:
        return {"best": best, "search": searched, "steer": steer}[setting[0]](setting[1])

    settings = [*(("best", n) for n in BUDGETS), *(("search", n) for n in SEARCHED), *(("steer", n) for n in PARTICLES)]
    return {
        "targets": count,
        "real": marks("held-out digits", 0, 0, unseen.to(device()), unseen_labels.to(device())),
        "correlation": _correlation(judge, second, pool),
        "table": rows(kept, settings, row),
    }


def _spread(x: Tensor, labels: Tensor) -> float:
    """Mean Euclidean distance between two samples of one class."""
    distances = [torch.pdist(x[labels == k].flatten(1)).mean() for k in labels.unique()]
    return float(torch.stack(distances).mean())


def _correlation(judge: nn.Module, second: nn.Module, pool: Tensor) -> float:
    """Of the two judges' log odds of a class, among the draws that both put into it; mean over classes with three."""
    found = []
    for k in range(10):
        asked = torch.full((len(pool),), k, device=pool.device)
        both = torch.stack([log_odds(judge(pool), asked), log_odds(second(pool), asked)])
        shared = both[:, (both > 0).all(0)]
        if shared.shape[1] > 2:
            found.append(torch.corrcoef(shared)[0, 1])
    return float(torch.stack(found).mean())


def selection() -> None:
    """Stage 3, stored as calls-selection; the second judge is the same classifier trained from another seed."""
    from minidiff import zoo
    from minidiff.zoo.recipes import train_model

    D, judge = zoo.load("digits-unet").to(device()), zoo.load("digits-classifier").to(device())
    second = train_model("digits-classifier", seed=1).to(device()).eval()
    with torch.no_grad():
        stored = run_selection(D, judge, second, FOLDER / "selection.json")
    results.save("calls-selection", stored, "python -m minidiff.bench calls selection")


def main(argv: Sequence[str]) -> None:
    """Run the stages that argv names, or all of them. Raises ValueError for an unknown name."""
    run_stages({"parallel": parallel, "late": late, "selection": selection}, argv)
