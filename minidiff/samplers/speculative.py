"""Speculative sampling: draft several steps of a chain cheaply, verify them at once, keep the exact law.

The target is `ancestral`: x_t ~ N(m(x_s), s² I). A draft from N(m̂, s² I) is kept with the probability
min(1, p(y)/p̂(y)), and otherwise reflected at the plane half-way between the means: either way the law is
N(m, s² I), and a draft is kept with the largest probability possible (De Bortoli et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.noise import Generators, standard_normal
from minidiff.samplers.posterior import ancestral_steps
from minidiff.samplers.rows import at_rows
from minidiff.samplers.state import Grid, begin, refuse_coupled


class Speculation(NamedTuple):
    """Samples x (B, *D) and what they cost: rounds (B,), calls (B,), drafted (B,), and tested, accepted (n,).

    rounds: calls of D that had to wait for one another, for each sample. calls: states at which D was evaluated for it.
    drafted: calls of the draft. tested and accepted: for each of the n steps, how many drafts were tried and were kept.
    """

    x: Tensor
    rounds: Tensor
    calls: Tensor
    drafted: Tensor
    tested: Tensor
    accepted: Tensor


def overlap(distance: Tensor) -> Tensor:
    """∫ min(N(x; m, s² I), N(x; m̂, s² I)) dx = 2Φ(−δ/2) for distance δ = ‖m − m̂‖/s: the largest acceptance."""
    return 2 * torch.special.ndtr(-distance / 2)


def reflect(mean: Tensor, draft_mean: Tensor, std: Tensor, z: Tensor, log_u: Tensor) -> tuple[Tensor, Tensor]:
    """(x, kept): the draft y = m̂ + s z if log u ≤ log p(y)/p̂(y) = −δ·z − ‖δ‖²/2, else m + s (z − 2 e (e·z)).

    δ = (m̂ − m)/s and e = δ/‖δ‖. With z ~ N(0, I) and u uniform, x ~ N(m, s² I), and kept has the probability
    `overlap`. mean, draft_mean, z: (R, *D); std and log_u: (R,), std ≥ 0; where it is 0 the answer is the mean, and the
    draft is not kept.
    """
    shape = z.shape
    z, gap = z.flatten(1), (draft_mean - mean).flatten(1)
    s = std[:, None]
    delta = torch.where(s > 0, gap / s, torch.zeros_like(gap))
    square = delta.square().sum(1, keepdim=True)
    along = (delta * z).sum(1, keepdim=True)
    kept = (log_u[:, None] <= -along - square / 2) & (s > 0)
    # (δ·z)/‖δ‖² is 0/0 only where the means agree, and there every draft is kept.
    mirrored = z - 2 * delta * along / square.clamp(min=torch.finfo(z.dtype).tiny)
    x = mean.flatten(1) + torch.where(kept, gap + s * z, s * mirrored)
    return x.reshape(shape), kept[:, 0]


def speculative(
    D: DenoiserLike,
    x: Tensor,
    times: Tensor,
    *,
    length: int = 8,
    draft: DenoiserLike | None = None,
    generator: Generators = None,
) -> Speculation:
    """Samples with the law of `ancestral`, in fewer rounds of calls than steps (De Bortoli et al. 2025, alg. 3).

    A round drafts up to `length` steps with the draft's x̂_0 (None: the last prediction of D, held), evaluates D at all
    states before them in one call, and accepts in order until the first draft that is not kept, which is corrected. So
    each round makes between 1 and `length` steps. Without a draft, the first round is an ordinary step.

    x: (B, *D) at times[0]; times: float64 (n + 1,). Samples of a batch stand at different times; a round is one call of
    D with a time for each row, on at most B·length rows, in float32 or better. Raises what `begin` raises, and
    ValueError for length < 1, a coupled denoiser, and a draft on another process.
    """
    refuse_coupled(D, "speculative")
    grid = begin(D, x, times)
    arguments.positive_integer("length", length)
    if draft is not None:
        check_denoiser(draft)
        if draft.process != D.process:
            raise ValueError(f"the draft must have the process of D, {D.process}, got {draft.process}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return _Chains(D, x, times, grid, draft, generator).run(length)


class _Chains:
    """The chains of a batch, each at its own step."""

    def __init__(
        self, D: DenoiserLike, x: Tensor, times: Tensor, grid: Grid, draft: DenoiserLike | None, generator: Generators
    ) -> None:
        self.D, self.draft, self.generator, self.times = D, draft, generator, times
        self.n, self.x, self.held = len(grid.steps), x.clone(), torch.zeros_like(x)
        self.a, self.b, self.s = (x.new_tensor(values) for values in zip(*ancestral_steps(grid), strict=True))
        if isinstance(generator, Sequence) and len(generator) != len(x):
            raise ValueError(f"one generator a sample needed: got {len(generator)} for a batch of {len(x)}")
        count = torch.zeros(len(x), dtype=torch.int64)
        self.position, self.rounds, self.calls, self.drafted = (count.clone() for _ in range(4))
        self.tested, self.accepted = torch.zeros(2, self.n, dtype=torch.int64).unbind()

    def run(self, length: int) -> Speculation:
        """Rounds until every chain is at its end."""
        if self.draft is None:
            self.round(torch.arange(len(self.x)), 1)
        while len(rows := (self.position < self.n).nonzero()[:, 0]):
            self.round(rows, length)
        return Speculation(self.x, self.rounds, self.calls, self.drafted, self.tested, self.accepted)

    def normal(self, rows: Tensor, *shape: int) -> Tensor:
        one = self.generator is None or isinstance(self.generator, torch.Generator)
        chosen = self.generator if one else [self.generator[i] for i in rows.tolist()]
        return standard_normal((len(rows), *shape), chosen, self.x.dtype, self.x.device)

    def coefficient(self, values: Tensor, steps: Tensor) -> Tensor:
        return arguments.along(values[steps.to(values.device)], self.x)

    def round(self, rows: Tensor, length: int) -> None:
        """Draft, evaluate, verify; for the chains of these rows."""
        y, cold = self.x[rows], self.draft is None and int(self.rounds[0]) == 0
        states, means, noises, steps = [], [], [], []
        for j in range(length):
            step = (self.position[rows] + j).clamp(max=self.n - 1)
            states.append(y)
            steps.append(step)
            noises.append(self.normal(rows, *y.shape[1:]))
            if self.draft is not None:
                guess = at_rows(self.draft, y, self.times[step], rows).to(y.dtype)
                self.drafted[rows] += self.position[rows] + j < self.n
            else:
                guess = self.held[rows]
            means.append(self.coefficient(self.a, step) * y + self.coefficient(self.b, step) * guess)
            y = means[j] + self.coefficient(self.s, step) * noises[j]
        log_u = torch.special.log_ndtr(self.normal(rows, length))
        inside = torch.stack([self.position[rows] + j < self.n for j in range(length)])
        predictions = self.evaluate(torch.stack(states), torch.stack(steps), inside, rows)
        self.rounds[rows] += 1
        self.calls[rows] += inside.sum(0)
        alive = torch.ones(len(rows), dtype=torch.bool)
        for j, (step, x0) in enumerate(zip(steps, predictions, strict=True)):
            alive &= inside[j]
            mean = self.coefficient(self.a, step) * states[j] + self.coefficient(self.b, step) * x0
            std = self.s[step.to(self.s.device)]
            if cold:  # nothing was drafted: an ordinary step
                new, kept = mean + arguments.along(std, mean) * noises[j], torch.zeros(len(rows), dtype=torch.bool)
            else:
                new, kept = reflect(mean, means[j], std, noises[j], log_u[:, j])
                kept = kept.cpu()
                self.tested += torch.bincount(step[alive], minlength=self.n)
                self.accepted += torch.bincount(step[alive & kept], minlength=self.n)
            moved = rows[alive]
            self.x[moved], self.held[moved] = new[alive], x0[alive]
            self.position[moved] += 1
            alive = alive & kept

    def evaluate(self, states: Tensor, steps: Tensor, inside: Tensor, rows: Tensor) -> Tensor:
        """D at the states (L, R, *D) that are inside the chain, in one call; zeros elsewhere."""
        which = rows.expand(len(states), -1)[inside]
        found = at_rows(self.D, states[inside], self.times[steps[inside]], which)
        predictions = torch.zeros_like(states)
        predictions[inside] = found.to(states.dtype)
        return predictions
