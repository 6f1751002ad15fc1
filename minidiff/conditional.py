"""An exact conditional denoiser: a Gaussian mixture whose components carry class labels."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.analytic import GaussianMixture
from minidiff.denoiser import Given
from minidiff.process import Process


class LabelledMixture(GaussianMixture):
    """Data x_0 ~ Σ_k π_k N(m_k, C_k) where component k belongs to class labels[k]: D(x, t), D(x, t | y), p(y | x_t).

    labels (K,) int64 from 0 to C − 1, each of them present; the rest as in `GaussianMixture`. `classes[y]` is
    the law of a class, a `GaussianMixture`, and `priors` (C,) are their probabilities; Σ_y p(y | x_t) D(x, t | y) is
    D(x, t).
    Raises ValueError for labels of another shape or dtype, and for a class without a component.
    """

    angle = None

    def __init__(
        self,
        process: Process,
        weights: Tensor,
        means: Tensor,
        labels: Tensor,
        covariances: Tensor | None = None,
        stds: Tensor | float | None = None,
    ) -> None:
        super().__init__(process, weights, means, covariances, stds)
        if labels.dtype != torch.int64 or labels.shape != weights.shape:
            raise ValueError(f"labels must be int64 ({len(weights)},), got {labels.dtype} {tuple(labels.shape)}")
        if labels.unique().tolist() != list(range(int(labels.max()) + 1)):
            raise ValueError(f"every class 0 … C − 1 needs a component, got the labels {labels.tolist()}")
        stds = None if stds is None else self.variances[:, 0].sqrt()
        parts = [labels == y for y in range(int(labels.max()) + 1)]
        self.labels = labels
        self.priors = torch.stack([self.weights[part].sum() for part in parts])
        self.classes = tuple(
            GaussianMixture(
                process,
                weights[part],
                means[part],
                None if covariances is None else covariances[part],
                None if stds is None else stds[part],
            )
            for part in parts
        )

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t = x, y] for labels y (B,), E[x_0 | x_t = x] without; (B, D).

        Raises ValueError for a y of another batch size or dtype, or outside 0 … C − 1.
        """
        if y is None:
            return super().__call__(x, t)
        self._check(y, x)
        x0 = torch.empty_like(x)
        for label in y.unique().tolist():
            rows = y == label
            x0[rows] = self.classes[label](x[rows], t[rows] if t.ndim else t)
        return x0

    def given(self, y: Tensor) -> Given:
        """The exact denoiser of (x, t) with its labels y (B,) bound."""
        return Given(self, y)

    def log_posterior(self, x: Tensor, t: Tensor) -> Tensor:
        """log p(y | x_t = x) of every class, the exact classifier of noisy data; (B, C), differentiable in x."""
        joint = torch.stack(
            [part.log_prob(x, t) + float(p.log()) for part, p in zip(self.classes, self.priors, strict=True)], 1
        )
        return joint.log_softmax(1)

    def _check(self, y: Tensor, x: Tensor) -> None:
        arguments.floating("x", x)
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a tensor with one label a sample, got {type(y).__name__}")
        if y.dtype != torch.int64 or y.shape != x.shape[:1]:
            raise ValueError(f"y must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(self.classes):
            raise ValueError(f"labels must lie in 0 … {len(self.classes) - 1}, got {int(y.min())} … {int(y.max())}")
