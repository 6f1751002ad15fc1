"""What the chapter on CausalVAE stores: five ways to train it on the vessel, three seeds each.

python -m minidiff.bench causal [train] [weights]     (default: both; about 6 CPU-minutes)

Every way sees the same scenes and takes the same steps. Judged are the arrows, and counterfactual pictures of scenes
not seen in training against the true ones, which the drawing gives. Finished rows are kept in `build/causal` and
reused; delete the folder to start over. weights: the arrows that the price of a factorised encoder predicts for the
way called "labels first", with the sharpness of its images as measured.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import data, likelihood
from minidiff.bench import results, resume, run_stages
from minidiff.data.vessel import NOISE, VESSEL, vessel
from minidiff.families.causal_graph import fit_graph, intervene, linear_scm
from minidiff.families.causal_vae import CausalVAE
from minidiff.train import fit, seeded

FOLDER = Path("build/causal")  # what an interrupted run goes on from
STEPS = 1500
SCENES = 2000
JUDGED = 300
SEEDS = (0, 1, 2)
SPREAD = 0.2
WIDTH = 128
# Where A starts, whether it then stays, what the encoder encodes, and the weight of |u − Aᵀu|².
WAYS: dict[str, tuple[str, bool, str, float]] = {
    "all at once": ("zero", False, "noise", 1.0),
    "labels first": ("labels", False, "noise", 1.0),
    "labels first, weight 16": ("labels", False, "noise", 16.0),
    "concepts encoded": ("labels", False, "concepts", 1.0),
    "graph held": ("labels", True, "concepts", 1.0),
}
DO = ({0: 1.0}, {0: -1.0}, {1: 1.0}, {1: -1.0}, {2: 1.2}, {2: -1.2}, {3: 1.5}, {3: -1.5})


def scenes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n scenes of the true model: images (n, 1, 16, 16) on 17 grey levels, and their concepts (n, 4)."""
    generator = torch.Generator().manual_seed(seed)
    u = linear_scm(VESSEL, NOISE * torch.randn(n, 4, generator=generator))
    return likelihood.quantise(vessel(u), 17), u


def train(way: str, seed: int, steps: int) -> CausalVAE:
    """The model trained in one of the `WAYS`, in evaluation mode; a warm-up of 50 steps, rate 5e-3, batches of 64."""
    start, held, encodes, labels = WAYS[way]
    x, u = scenes(SCENES, 100 + seed)
    with seeded(seed):
        model = CausalVAE(4, SPREAD, encodes, shape=(1, 16, 16), width=WIDTH, dropout=0.0)
    if start == "labels":
        with torch.no_grad():
            model.weights.copy_(fit_graph(u))
    model.weights.requires_grad_(not held)
    generator = torch.Generator().manual_seed(seed)

    def loss(x: Tensor, u: Tensor) -> Tensor:
        noise = torch.randn(len(x), 4, generator=generator)
        return model.loss(x, u, noise, acyclic=10 * labels, labels=labels)

    stream = data.batches(x, u, batch_size=64, seed=seed)
    for _ in fit(loss, model.parameters(), stream, steps=steps, lr=5e-3, warmup=min(50, steps // 2), clip=None):
        pass
    return model.eval()


@torch.no_grad()
def judge(model: CausalVAE, seed: int, threshold: float = 0.3) -> dict[str, Any]:
    """The root mean square error of counterfactual images, over `DO` and new scenes, and what to compare it with.

    alone: the variable is set and nothing follows. factual: the reconstruction of what was seen, below which no
    counterfactual can be expected. jet_per_ball: how far the jet follows the ball, 0.72 in truth. All None where the
    arrows that count make a cycle.
    """
    x, u = scenes(JUDGED, 1000 + seed)
    names = ("error", "alone", "factual", "untouched", "jet_per_ball")
    try:
        as_is = model.counterfactual(x, {}, threshold)
    except ValueError:
        return dict.fromkeys(names)
    squares = torch.zeros(3)
    for do in DO:
        truth = vessel(intervene(VESSEL, u, do))
        alone = as_is.clone()
        for i, value in do.items():
            alone[:, i] = value
        made = [_drawn(model, model.counterfactual(x, do, threshold)), _drawn(model, alone), x]
        squares += torch.stack([(image - truth).square().mean() for image in made]) / len(DO)
    moved = [model.counterfactual(x, {0: v}, threshold)[:, 3] for v in (1.0, -1.0)]
    error, alone, untouched = squares.sqrt().tolist()
    factual = float((_drawn(model, as_is) - x).square().mean().sqrt())
    slope = float((moved[0] - moved[1]).mean()) / 2
    return dict(zip(names, (error, alone, factual, untouched, slope), strict=True))


def _drawn(model: CausalVAE, concepts: Tensor) -> Tensor:
    return model.vae.decode(concepts)[0].clamp(-1, 1)


@torch.no_grad()
def sharpness(model: CausalVAE, x: Tensor) -> Tensor:
    """How precisely image and label fix each concept, (n,): the J for which s_i² = 2/Σ_j C_ji² J_j, encoder's mean s_i.

    The encoder of the noise whose entropy is counted twice has these s where the precision of z is diagonal.
    """
    _, std = model.vae.encode(x)
    C = linear_scm(model.A, torch.eye(model.concepts)).mT.double()
    return torch.linalg.solve(C.square().mT, (2 / std.double().square()).mean(0))


def balance(covariance: Tensor, J: Tensor, labels: float, entropies: float = 2.0) -> Tensor:
    """The A on the true arrows that minimises (labels + ½) E|u − Aᵀu|² + entropies/2 Σ_i log (Cᵀ diag(J) C)_ii."""
    eye = torch.eye(len(J), dtype=torch.float64)
    W = VESSEL.double().requires_grad_()
    support = (VESSEL != 0).double()
    descent = torch.optim.LBFGS([W], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        R = eye - W * support
        C = torch.linalg.inv(R.mT)
        price = entropies / 2 * (C.square().mT @ J).log().sum()
        value = (labels + 0.5) * (R.mT @ covariance @ R).trace() + price
        value.backward()
        return value

    descent.step(loss)
    return (W * support).detach()


def trainings() -> None:
    """causal-ways: every way trained and judged."""

    def row(setting: tuple[int, str]) -> dict[str, Any]:
        seed, way = setting
        start = time.process_time()
        model = train(way, seed, STEPS)
        seconds = time.process_time() - start
        x, u = scenes(SCENES, 100 + seed)
        return {
            "way": way,
            "seed": seed,
            "A": model.A.detach().tolist(),
            "from_labels": fit_graph(u).tolist(),
            "sharpness": sharpness(model, x[:500]).tolist() if model.encodes == "noise" else None,
            **judge(model, seed),
            "cpu_seconds": seconds,
        }

    rows = resume.rows(FOLDER / "rows.json", list(itertools.product(SEEDS, WAYS)), row)
    stored = {"steps": STEPS, "scenes": SCENES, "judged": JUDGED, "table": rows}
    results.save("causal-ways", stored, "python -m minidiff.bench causal train")


def weights() -> None:
    """causal-weights: the arrows predicted for the encoder of the noise, beside those that training found."""
    table = results.load("causal-ways")["data"]["table"]
    C = linear_scm(VESSEL.double(), torch.eye(4, dtype=torch.float64)).mT
    covariance = NOISE**2 * C @ C.mT
    found = []
    for row in table:
        start, held, encodes, labels = WAYS[row["way"]]
        if start == "labels" and not held and encodes == "noise":
            predicted = balance(covariance, torch.tensor(row["sharpness"], dtype=torch.float64), labels)
            found.append({"way": row["way"], "seed": row["seed"], "predicted": predicted.tolist()})
    results.save("causal-weights", {"table": found}, "python -m minidiff.bench causal weights")


STAGES = {"train": trainings, "weights": weights}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or both. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
