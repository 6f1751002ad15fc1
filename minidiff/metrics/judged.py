"""Scores given by a classifier; its logits are the argument."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.metrics.samples import check_features


class BoundedScore(NamedTuple):
    """A score and the largest value it can take; prints as `score (of at most ceiling)`."""

    value: float
    ceiling: float

    def __str__(self) -> str:
        return f"{self.value:.3f} (of at most {self.ceiling:g})"


def class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of rows of logits (n, K) whose largest entry is at the label asked for, labels (n,) int64."""
    check_features("logits", logits)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels must be an int64 tensor, got {getattr(labels, 'dtype', type(labels).__name__)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must have shape ({len(logits)},), got {tuple(labels.shape)}")
    return float((logits.argmax(dim=1) == labels).double().mean())


def inception_score(logits: Tensor) -> BoundedScore:
    """exp(mean_x KL(p(y|x) ‖ p(y))) with p(y|x) = softmax of logits (n, K) and p(y) its mean over x.

    It lies between 1 (nothing recognised, or one class only) and K (all certain, classes balanced). It never
    sees the data, ignores diversity within a class, and saturates at its ceiling: read it beside K.

    Source: Salimans et al. 2016, section 4, with a classifier of one's own in Inception's place.
    """
    check_features("logits", logits)
    log_p = logits.double().log_softmax(dim=1)
    log_marginal = log_p.logsumexp(dim=0) - math.log(len(log_p))
    divergence = (log_p.exp() * (log_p - log_marginal)).sum(dim=1).mean()
    return BoundedScore(float(divergence.exp()), float(logits.shape[1]))
