"""Selection: an unconditional network asked for a class, by best of n, by search among noises and by steering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import data, metrics, times
from minidiff.bench import results, resume
from minidiff.denoiser import DenoiserLike
from minidiff.samplers import best_of, sample, search_noise, steered
from minidiff.train import device

KEPT = Path("build/calls/selection.json")
BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128)  # draws to choose from
SEARCHED = (1, 2, 4, 8, 16, 32)
PARTICLES = (4, 8, 16)
NFE, CHAIN = 10, 20  # calls of a draw, and of a particle
TARGETS = 10  # of each class
RADIUS = 0.5


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log p/(1 − p) of the class asked for; logits (n, K), labels (n,) → (n,)."""
    asked = logits.gather(1, labels[:, None])[:, 0]
    return asked - logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)


def chosen_by(D: DenoiserLike, judge: nn.Module, second: nn.Module, kept: Path) -> dict[str, Any]:
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
        "table": resume.rows(kept, settings, row),
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


def measure() -> None:
    """The stage `selection`, stored as calls-selection; the second judge is the classifier from another seed."""
    from minidiff import zoo
    from minidiff.zoo.recipes import train_model

    D, judge = zoo.load("digits-unet").to(device()), zoo.load("digits-classifier").to(device())
    second = train_model("digits-classifier", seed=1).to(device()).eval()
    with torch.no_grad():
        stored = chosen_by(D, judge, second, KEPT)
    results.save("calls-selection", stored, "python -m minidiff.bench calls selection")
