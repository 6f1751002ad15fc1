"""Sets of labels said one after another, with no order prescribed (Chen et al. 2018).

A model sees which labels have been said and gives logits for the next one or for "stop". An unordered set has as many
histories as orders; training may follow a fixed order, a random one (masked diffusion with one token a step), or the
one that the model itself finds easiest.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments

#: said (B, K) bool → logits (B, K + 1) of the next label; the last entry is "stop". A label said before cannot recur.
NextLabel = Callable[[Tensor], Tensor]


class Said(NamedTuple):
    """A loss in nats, (B,), and the order it took: rank (B, K), the turn 0, 1, … of each label, −1 for absent ones."""

    loss: Tensor
    rank: Tensor


def _check_labels(labels: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.bool or labels.ndim != 2 or not labels.numel():
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be bool of shape (B, K), got {got}")


def next_log_probabilities(model: NextLabel, said: Tensor) -> Tensor:
    """log p(next | said), (B, K + 1) float64, with −∞ for labels said already.

    Raises ValueError for logits of another shape, with NaN or +∞, or that leave nothing to say.
    """
    logits = model(said)
    if logits.shape != (len(said), said.shape[1] + 1):
        raise ValueError(f"model must return (B, K + 1) = {(len(said), said.shape[1] + 1)}, got {tuple(logits.shape)}")
    gone = torch.nn.functional.pad(said, (0, 1), value=False)
    answer = logits.double().masked_fill(gone, -torch.inf).log_softmax(1)
    if bool(answer.isnan().any()):
        raise ValueError("model must return logits without NaN or +∞, with one above −∞ among those not yet said")
    return answer


def ordered_loss(model: NextLabel, labels: Tensor, order: Tensor) -> Said:
    """−Σ_j log p(o_j | o_1 … o_{j−1}) − log p(stop | all), saying the labels (B, K) in the order of the keys (B, K).

    order: any real keys, the smallest first; only those of present labels count. A fixed order is one row of keys for
    all, a random one fresh noise. Raises ValueError for shapes that differ or NaN among the keys.
    """
    _check_labels(labels)
    arguments.same_shape("order", order, "labels", labels)
    arguments.finite("order", order)
    keys = order.double().masked_fill(~labels, torch.inf).argsort(1).argsort(1).masked_fill(~labels, labels.shape[1])
    return _said(model, labels, lambda log_p, left: torch.where(left, -keys.double(), -torch.inf))


def self_ordered_loss(model: NextLabel, labels: Tensor) -> Said:
    """The loss along the model's own order: at each turn the present label, not yet said, that it finds most probable.

    This is greedy: the order of least loss may be another (`extreme_losses`). Source: Chen et al. 2018, section 3.
    """
    _check_labels(labels)
    return _said(model, labels, lambda log_p, left: log_p[:, :-1].detach().masked_fill(~left, -torch.inf))


def _said(model: NextLabel, labels: Tensor, rating: Callable[[Tensor, Tensor], Tensor]) -> Said:
    said, rank = torch.zeros_like(labels), torch.full(labels.shape, -1, device=labels.device)
    loss = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    stop = labels.shape[1]
    for turn in range(int(labels.sum(1).max()) + 1):
        left = labels & ~said
        active = left.any(1)
        log_p = next_log_probabilities(model, said)
        chosen = torch.where(active, rating(log_p, left).argmax(1), stop)
        if turn == 0:
            finished = torch.zeros_like(active)
        loss = loss - torch.where(finished, 0.0, log_p.gather(1, chosen[:, None])[:, 0])
        finished = finished | ~active
        new = torch.nn.functional.one_hot(chosen, stop + 1).bool()[:, :stop]
        said, rank = said | new, torch.where(new, turn, rank)
    return Said(loss, rank)


class Extremes(NamedTuple):
    """Least, mean and greatest loss over all orders, and −log Σ_orders p(order), the loss of the set; (B,) each."""

    least: Tensor
    mean: Tensor
    greatest: Tensor
    of_set: Tensor


def extreme_losses(model: NextLabel, labels: Tensor) -> Extremes:
    """The losses over every order of the labels, for rows with one number c ≤ 6 of labels.

    mean ≥ of_set + log c! by Jensen's inequality, with equality when every order is as probable. Raises ValueError for
    rows with different numbers of labels.
    """
    _check_labels(labels)
    counts = labels.sum(1)
    c = int(counts[0])
    if not bool((counts == c).all()) or c > 6:
        raise ValueError(f"every row must have the same number ≤ 6 of labels, got {counts.tolist()[:8]}")
    index = labels.long().cumsum(1).clamp_min(1) - 1  # which present label it is
    losses = torch.stack(
        [
            ordered_loss(model, labels, torch.tensor(turns or (0,), device=labels.device).double()[index]).loss
            for turns in permutations(range(c))
        ]
    )
    return Extremes(losses.amin(0), losses.mean(0), losses.amax(0), -(-losses).logsumexp(0))


def beam_search(model: NextLabel, classes: int, width: int) -> list[tuple[float, tuple[int, ...]]]:
    """Finished label sequences with their log-probability, the most probable first, by a beam of `width` histories.

    Said labels leave the pool, so none recurs. Width large enough (the number of all histories) makes it exhaustive.
    Raises ValueError for sizes below 1.
    """
    arguments.positive_integer("classes", classes)
    arguments.positive_integer("width", width)
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    done: list[tuple[float, tuple[int, ...]]] = []
    while beam:
        said = torch.zeros(len(beam), classes, dtype=torch.bool)
        for row, (_, history) in enumerate(beam):
            said[row, list(history)] = True
        log_p = next_log_probabilities(model, said).tolist()
        grown = []
        for (score, history), row in zip(beam, log_p, strict=True):
            done.append((score + row[-1], history))
            grown += [(score + row[k], (*history, k)) for k in range(classes) if k not in history]
        beam = heapq.nlargest(width, grown)
    return heapq.nlargest(width, done)
